//! Who may do what at the admin address and socket; nobody else decides it.
//!
//! Through the UNIX socket, which only those come to whom its file lets in, everything may be done. At the address anybody may ask for
//! health; to read needs the token if there is one, else a Host that no other web site can have pointed here; to give orders always
//! needs the token. So a page in a browser on this machine can neither read (no `Access-Control-*` is ever answered, and a name that
//! was rebound to 127.0.0.1 is refused) nor give orders.

use std::{fmt, net::IpAddr, path::Path, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::Response,
};
use subtle::ConstantTimeEq;
use thiserror::Error;

use super::{Admin, Shared, refuse};

/// A token that can be guessed is worse than none, because it is trusted.
const TOKEN_BYTES_MIN: usize = 16;
const TOKEN_BYTES_MAX: usize = 4096;

/// Over what a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caller {
    Address,
    /// The socket, from a process of this user.
    Socket {
        uid: u32,
    },
}

/// Who asks, once admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    Anybody,
    Token,
    User(u32),
}

/// The secret that lets its holder in. It is never shown.
pub(crate) struct Token(String);

#[derive(Debug, Error)]
pub enum TokenError {
    #[error("reading the admin token: {0}")]
    Read(#[from] std::io::Error),
    #[error(
        "the admin token is not {TOKEN_BYTES_MIN} to {TOKEN_BYTES_MAX} letters, digits and signs of ASCII"
    )]
    Weak,
}

/// What a request is after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wants {
    Health,
    Read,
    Change,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
enum Refusal {
    #[error(
        "this needs the token: `Authorization: Bearer …`, or `--token-file` of the command line"
    )]
    NeedsToken,
    #[error("orders are taken through the UNIX socket, or with the token of `[admin] token_file`")]
    OrdersElsewhere,
    #[error("ask by IP address or as localhost: the Host is somebody else's name")]
    ForeignHost,
}

/// Lets a request through to its handler with [`Who`] it is from, or answers it here.
pub(super) async fn guard(
    State(admin): Shared,
    caller: axum::Extension<Caller>,
    mut request: Request,
    next: Next,
) -> Response {
    let token = match token_for(&admin, *caller).await {
        Ok(token) => token,
        Err(err) => {
            tracing::error!(%err, "the admin address is shut");
            return refuse(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the token cannot be read",
            );
        }
    };
    let wants = wants(request.method(), request.uri().path());
    match admit(*caller, wants, request.headers(), token.as_ref()) {
        Ok(who) => {
            request.extensions_mut().insert(who);
            next.run(request).await
        }
        Err(refusal) => refusal.answer(),
    }
}

/// The token is read at each use, so that it can be changed while the balancer runs.
async fn token_for(admin: &Arc<Admin>, caller: Caller) -> Result<Option<Token>, TokenError> {
    let config = admin.config.load_full();
    match (&config.admin.token_file, caller) {
        (Some(path), Caller::Address) => {
            let text = tokio::fs::read_to_string(path).await?;
            Token::parse(&text).map(Some)
        }
        _ => Ok(None),
    }
}

fn wants(method: &Method, path: &str) -> Wants {
    match (method, path) {
        (&Method::GET | &Method::HEAD, "/livez" | "/readyz") => Wants::Health,
        (&Method::GET | &Method::HEAD, _) => Wants::Read,
        _ => Wants::Change,
    }
}

fn admit(
    caller: Caller,
    wants: Wants,
    headers: &HeaderMap,
    token: Option<&Token>,
) -> Result<Who, Refusal> {
    match (caller, wants, token) {
        (Caller::Socket { uid }, ..) => Ok(Who::User(uid)),
        (_, Wants::Health, _) => Ok(Who::Anybody),
        (.., Some(token)) => match token.is_shown_in(headers) {
            true => Ok(Who::Token),
            false => Err(Refusal::NeedsToken),
        },
        (_, Wants::Change, None) => Err(Refusal::OrdersElsewhere),
        (_, Wants::Read, None) => match headers.get(header::HOST).is_some_and(is_nobodys_name) {
            true => Ok(Who::Anybody),
            false => Err(Refusal::ForeignHost),
        },
    }
}

/// An address, or localhost: nothing that a name server could have answered for.
fn is_nobodys_name(host: &HeaderValue) -> bool {
    let Some(authority) = host
        .to_str()
        .ok()
        .and_then(|it| it.parse::<http::uri::Authority>().ok())
    else {
        return false;
    };
    let host = authority.host();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.parse::<IpAddr>().is_ok() || host.eq_ignore_ascii_case("localhost")
}

impl Token {
    /// # Errors
    /// When the file cannot be read, or holds what is too easily guessed to be a token.
    pub(crate) fn read(path: &Path) -> Result<Self, TokenError> {
        Self::parse(&std::fs::read_to_string(path)?)
    }

    fn parse(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        let is_strong = (TOKEN_BYTES_MIN..=TOKEN_BYTES_MAX).contains(&text.len());
        match is_strong && text.bytes().all(|it| it.is_ascii_graphic()) {
            true => Ok(Self(text.to_owned())),
            false => Err(TokenError::Weak),
        }
    }

    /// The value of the field that shows it.
    pub(crate) fn bearer(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// Takes as long for a token that is nearly right as for one that is all wrong.
    fn is_shown_in(&self, headers: &HeaderMap) -> bool {
        let shown = headers
            .get(header::AUTHORIZATION)
            .and_then(|it| it.as_bytes().split_at_checked("Bearer ".len()))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "));
        shown.is_some_and(|(_, shown)| shown.ct_eq(self.0.as_bytes()).into())
    }
}

impl Refusal {
    fn answer(self) -> Response {
        let status = match self {
            Self::NeedsToken => StatusCode::UNAUTHORIZED,
            Self::OrdersElsewhere => StatusCode::FORBIDDEN,
            Self::ForeignHost => StatusCode::MISDIRECTED_REQUEST,
        };
        let mut answer = refuse(status, self);
        if status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer");
            answer
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, scheme);
        }
        answer
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anybody => f.write_str("anybody"),
            Self::Token => f.write_str("token"),
            Self::User(uid) => write!(f, "uid {uid}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "0123456789abcdef";

    #[test]
    fn without_a_token_the_address_answers_reads_and_takes_no_orders() {
        let check = |wants, host| admit(Caller::Address, wants, &asked(&[("host", host)]), None);
        for host in [
            "127.0.0.1:9901",
            "localhost:9901",
            "[::1]:9901",
            "LOCALHOST",
        ] {
            assert_eq!(check(Wants::Read, host), Ok(Who::Anybody), "{host}");
            assert_eq!(check(Wants::Change, host), Err(Refusal::OrdersElsewhere));
        }
    }

    #[test]
    fn a_name_that_was_rebound_to_this_machine_reads_nothing() {
        for host in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "",
        ] {
            let headers = asked(&[("host", host)]);
            let read = admit(Caller::Address, Wants::Read, &headers, None);
            assert_eq!(read, Err(Refusal::ForeignHost), "{host}");
            let health = admit(Caller::Address, Wants::Health, &headers, None);
            assert_eq!(health, Ok(Who::Anybody), "probes ask by any name");
        }
    }

    #[test]
    fn with_a_token_nothing_but_health_is_open() {
        let token = Token::parse(SECRET).expect("it is long enough");
        let check = |wants, shown: &str| {
            let headers = asked(&[("host", "balancer.internal"), ("authorization", shown)]);
            admit(Caller::Address, wants, &headers, Some(&token))
        };
        for wants in [Wants::Read, Wants::Change] {
            assert_eq!(check(wants, &token.bearer()), Ok(Who::Token));
            assert_eq!(check(wants, "bearer 0123456789abcdef"), Ok(Who::Token));
            for wrong in [
                "",
                "Bearer ",
                "Bearer 0123456789abcdeg",
                "Basic 0123456789abcdef",
            ] {
                assert_eq!(check(wants, wrong), Err(Refusal::NeedsToken), "{wrong}");
            }
        }
        assert_eq!(check(Wants::Health, ""), Ok(Who::Anybody));
    }

    #[test]
    fn who_came_through_the_socket_may_do_everything() {
        let socket = Caller::Socket { uid: 7 };
        let order = admit(socket, Wants::Change, &HeaderMap::new(), None);
        assert_eq!(order, Ok(Who::User(7)));
    }

    #[test]
    fn every_method_but_two_is_an_order() {
        assert_eq!(wants(&Method::GET, "/api/v1/status"), Wants::Read);
        assert_eq!(wants(&Method::HEAD, "/readyz"), Wants::Health);
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
            assert_eq!(wants(&method, "/readyz"), Wants::Change);
        }
    }

    #[test]
    fn a_token_is_long_enough_and_never_shown() {
        for weak in ["", "short", "fifteen-letters", "with a space in the middle"] {
            assert!(
                matches!(Token::parse(weak), Err(TokenError::Weak)),
                "{weak}"
            );
        }
        let token = Token::parse(&format!("{SECRET}\n")).expect("a last line end is no part of it");
        assert_eq!(format!("{token:?}"), "Token");
    }

    fn asked(fields: &[(&'static str, &str)]) -> HeaderMap {
        let value = |it: &str| HeaderValue::from_str(it).expect("a test's value is valid");
        let fields = fields.iter().map(|(name, it)| (*name, value(it)));
        fields
            .map(|(name, it)| (header::HeaderName::from_static(name), it))
            .collect()
    }
}
