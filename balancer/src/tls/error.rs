//! Why a handshake failed, told apart as far as somebody would do something different about it.

use std::io;

use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};
use thiserror::Error;

#[derive(Debug, Error)]
pub(crate) enum TlsError {
    #[error("the handshake took too long")]
    Timeout,
    #[error("no certificate for the name that was asked for")]
    UnknownName,
    #[error("the peer showed no certificate")]
    CertificateMissing,
    #[error("the peer's certificate is not good: {0}")]
    CertificateInvalid(CertificateError),
    #[error("no version, cipher or key exchange in common: {0:?}")]
    Incompatible(PeerIncompatible),
    #[error("no application protocol in common")]
    NoProtocol,
    /// The alert that the peer sent.
    #[error("the peer refused: {0:?}")]
    Refused(AlertDescription),
    #[error("the peer does not speak TLS as it should: {0}")]
    Malformed(Error),
    #[error("the client speaks HTTP in the clear")]
    PlainHttp,
    #[error("the connection broke off: {0}")]
    Io(io::Error),
    /// A fault of ours, such as an empty pool of randomness.
    #[error("the handshake cannot be continued: {0}")]
    Internal(Error),
}

/// [`TlsError`] as a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    Timeout,
    UnknownName,
    CertificateMissing,
    CertificateInvalid,
    Incompatible,
    NoProtocol,
    Refused,
    Malformed,
    PlainHttp,
    Io,
    Internal,
}

impl TlsError {
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::Timeout => Reason::Timeout,
            Self::UnknownName => Reason::UnknownName,
            Self::CertificateMissing => Reason::CertificateMissing,
            Self::CertificateInvalid(_) => Reason::CertificateInvalid,
            Self::Incompatible(_) => Reason::Incompatible,
            Self::NoProtocol => Reason::NoProtocol,
            Self::Refused(_) => Reason::Refused,
            Self::Malformed(_) => Reason::Malformed,
            Self::PlainHttp => Reason::PlainHttp,
            Self::Io(_) => Reason::Io,
            Self::Internal(_) => Reason::Internal,
        }
    }
}

impl Reason {
    pub(crate) const ALL: [Self; 11] = [
        Self::Timeout,
        Self::UnknownName,
        Self::CertificateMissing,
        Self::CertificateInvalid,
        Self::Incompatible,
        Self::NoProtocol,
        Self::Refused,
        Self::Malformed,
        Self::PlainHttp,
        Self::Io,
        Self::Internal,
    ];

    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::UnknownName => "unknown_name",
            Self::CertificateMissing => "certificate_missing",
            Self::CertificateInvalid => "certificate_invalid",
            Self::Incompatible => "incompatible",
            Self::NoProtocol => "no_protocol",
            Self::Refused => "refused",
            Self::Malformed => "malformed",
            Self::PlainHttp => "plain_http",
            Self::Io => "io",
            Self::Internal => "internal",
        }
    }
}

/// A handshake over a stream wraps what went wrong in TLS into an error of the stream.
impl From<io::Error> for TlsError {
    fn from(error: io::Error) -> Self {
        let inner = error.get_ref().and_then(|it| it.downcast_ref::<Error>());
        match inner.cloned() {
            Some(inner) => inner.into(),
            None => Self::Io(error),
        }
    }
}

impl From<Error> for TlsError {
    fn from(error: Error) -> Self {
        match error {
            // The library has no kind of its own for a resolver that found nothing, and uses this one for nothing else that a
            // peer of ours can bring about.
            Error::General(_) => Self::UnknownName,
            Error::NoCertificatesPresented => Self::CertificateMissing,
            Error::InvalidCertificate(cause) => Self::CertificateInvalid(cause),
            Error::PeerIncompatible(cause) => Self::Incompatible(cause),
            Error::NoApplicationProtocol => Self::NoProtocol,
            Error::AlertReceived(alert) => Self::Refused(alert),
            Error::InappropriateMessage { .. }
            | Error::InappropriateHandshakeMessage { .. }
            | Error::InvalidMessage(_)
            | Error::PeerMisbehaved(_)
            | Error::DecryptError
            | Error::PeerSentOversizedRecord => Self::Malformed(error),
            _ => Self::Internal(error),
        }
    }
}
