//! Which balancer is meant, and how it is reached: what is said nearest to the command counts.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use super::{CliError, Options};
use crate::{
    admin::{Token, default_path},
    config::{Admin, AdminSocket, Config},
};

/// The variable that names the balancer, for those who do not want to say it each time.
const VARIABLE: &str = "COLONNADE_ADMIN";

/// The ways to one balancer. The socket comes first, because through it orders may be given without a token.
#[derive(Debug, Default)]
pub(super) struct Reach {
    pub(super) socket: Option<PathBuf>,
    pub(super) address: Option<SocketAddr>,
    pub(super) token: Option<Token>,
}

pub(super) fn find(options: &Options, config: Option<&Path>) -> Result<Reach, CliError> {
    let named = options
        .admin
        .clone()
        .or_else(|| std::env::var(VARIABLE).ok());
    let config = config
        .map(|file| Config::load(Some(file), settings::environment()))
        .transpose()?;
    let admin = config.as_ref().map(|it| &it.admin);
    let mut reach = match (named, admin) {
        (Some(text), _) => by_text(&text)?,
        (None, Some(admin)) => by_config(admin),
        (None, None) => by_config(&Admin::default()),
    };
    reach.token = token(options, admin)?;
    Ok(reach)
}

fn by_text(text: &str) -> Result<Reach, CliError> {
    if let Some(path) = text.strip_prefix("unix:") {
        return Ok(Reach {
            socket: Some(path.into()),
            ..Reach::default()
        });
    }
    let rest = text.strip_prefix("http://").unwrap_or(text);
    let rest = rest.trim_end_matches('/');
    let address = rest.replace("localhost:", "127.0.0.1:").parse();
    let address: SocketAddr = address.map_err(|_| {
        CliError::Usage(format!(
            "`{text}` is neither `http://` with an IP address and a port, such as http://127.0.0.1:9901, nor `unix:` with a path"
        ))
    })?;
    Ok(Reach {
        socket: customary(address),
        address: Some(address),
        token: None,
    })
}

fn by_config(admin: &Admin) -> Reach {
    let mut address = admin.address;
    if address.ip().is_unspecified() {
        address.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    let socket = match &admin.socket {
        AdminSocket::Off => None,
        AdminSocket::Path(path) => Some(path.clone()),
        AdminSocket::Auto => Some(default_path(address.port())),
    };
    Reach {
        socket,
        address: Some(address),
        token: None,
    }
}

/// The socket that a balancer on this machine with this address has by custom.
fn customary(address: SocketAddr) -> Option<PathBuf> {
    address
        .ip()
        .is_loopback()
        .then(|| default_path(address.port()))
}

/// A token that was asked for must be there; the configuration's may be for other eyes, and the socket may do.
fn token(options: &Options, admin: Option<&Admin>) -> Result<Option<Token>, CliError> {
    if let Some(file) = &options.token_file {
        let read = Token::read(file);
        let token = read.map_err(|err| CliError::Usage(format!("{}: {err}", file.display())))?;
        return Ok(Some(token));
    }
    let configured = admin.and_then(|it| it.token_file.as_deref());
    Ok(configured.and_then(|it| Token::read(it).ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_balancer_is_named_by_address_or_by_socket() {
        let address = |text: &str| by_text(text).expect("it is good").address;
        let expected = Some(([127, 0, 0, 1], 9901).into());
        for text in [
            "http://127.0.0.1:9901",
            "127.0.0.1:9901",
            "http://localhost:9901/",
        ] {
            assert_eq!(address(text), expected, "{text}");
        }
        let by_socket = by_text("unix:/run/c.sock").expect("it is good");
        assert_eq!(by_socket.socket, Some("/run/c.sock".into()));
        assert_eq!(by_socket.address, None);
    }

    #[test]
    fn only_a_balancer_of_this_machine_has_a_socket_by_custom() {
        let socket = |text: &str| by_text(text).expect("it is good").socket;
        assert_eq!(socket("http://127.0.0.1:7"), Some(default_path(7)));
        assert_eq!(socket("http://10.0.0.1:7"), None);
    }

    #[test]
    fn what_is_no_place_is_refused_with_an_example() {
        for text in [
            "https://127.0.0.1:9901",
            "balancer.example:9901",
            "http://",
            "",
        ] {
            let err = by_text(text).expect_err("it must be refused").to_string();
            assert!(err.contains("http://127.0.0.1:9901"), "{err}");
        }
    }

    #[test]
    fn an_address_for_everybody_is_asked_on_this_machine() {
        let admin = Admin {
            address: ([0, 0, 0, 0], 7).into(),
            ..Admin::default()
        };
        let asked = by_config(&admin).address.map(|it| it.to_string());
        assert_eq!(asked.as_deref(), Some("127.0.0.1:7"));
    }
}
