//! Chooses the certificate that a client gets, by the name it asks for and the signatures it can read.

use std::sync::Arc;

use balancer_core::server_names::{ServerNamePattern, ServerNames};
use rustls::{
    SignatureScheme,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use crate::config::ListenerTls;

use super::{TlsLoadError, material};

/// The certificates of one listener.
#[derive(Debug)]
pub(super) struct Certificates {
    /// Several for one name differ in the kind of their keys.
    by_name: ServerNames<Vec<Arc<CertifiedKey>>>,
    /// For whoever asks for no name that is known.
    default: Option<Arc<CertifiedKey>>,
    /// When each ends, in the order of the configuration.
    pub(super) not_after: Vec<i64>,
}

impl Certificates {
    pub(super) fn load(tls: &ListenerTls) -> Result<Self, TlsLoadError> {
        let mut all = Self {
            by_name: ServerNames::default(),
            default: None,
            not_after: Vec::with_capacity(tls.certificates.len()),
        };
        for (idx, files) in tls.certificates.iter().enumerate() {
            let (key, said) = material::certified_key(files)?;
            let key = Arc::new(key);
            let is_default = idx == 0 && !tls.strict_sni;
            if all.add(&key, &said.names.dns) == 0 && !is_default {
                return Err(TlsLoadError::NamesNobody(files.cert.clone()));
            }
            if is_default {
                all.default = Some(key);
            }
            all.not_after.push(said.not_after);
        }
        Ok(all)
    }

    /// Under how many names it can be asked for. Names that TLS cannot ask for are passed over.
    fn add(&mut self, key: &Arc<CertifiedKey>, names: &[String]) -> usize {
        let mut count = 0;
        for pattern in names
            .iter()
            .filter_map(|it| ServerNamePattern::new(it).ok())
        {
            let keys = self.by_name.entry(pattern, Vec::new);
            keys.push(key.clone());
            count += 1;
        }
        count
    }

    fn choose(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let Some(keys) = name.and_then(|it| self.by_name.find(it)) else {
            return self.default.clone();
        };
        let can_be_read = |it: &&Arc<CertifiedKey>| it.key.choose_scheme(schemes).is_some();
        keys.iter().find(can_be_read).or(keys.first()).cloned()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(hello.server_name(), hello.signature_schemes())
    }
}
