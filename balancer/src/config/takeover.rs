//! How the next program takes over the sockets of the running one.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use settings::Error;

use super::{check::Keys, value};

/// What the kernel takes for the path of a UNIX socket.
const SOCKET_BYTES_MAX: usize = 107;

/// `[takeover]`: a socket through which sockets are handed on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Takeover {
    /// An absolute path.
    pub socket: PathBuf,
    /// How long the next program may take from its first word to being ready. Default: 30 s.
    #[serde(serialize_with = "humantime_serde::serialize")]
    pub ready_timeout: Duration,
}

#[derive(Debug, Deserialize)]
#[serde(default)]
pub(super) struct Raw {
    /// The absolute path of the UNIX socket at which the running program hands on its sockets; only its own user and root can
    /// use it. Default: none, no sockets are handed on.
    #[serde(deserialize_with = "value::path")]
    socket: Option<PathBuf>,
    /// How long the next program may take from its first word to being ready; past it the running one goes on alone.
    /// Default: `"30s"`.
    #[serde(deserialize_with = "value::span")]
    ready_timeout: Duration,
}

impl Raw {
    pub(super) fn check(self, keys: &Keys<'_>) -> Result<Option<Takeover>, Error> {
        let Some(socket) = self.socket else {
            return Ok(None);
        };
        if !socket.is_absolute() {
            return Err(keys.refuse("socket", "is not an absolute path"));
        }
        keys.at_most("socket", socket.as_os_str().len(), SOCKET_BYTES_MAX)?;
        Ok(Some(Takeover {
            socket,
            ready_timeout: self.ready_timeout,
        }))
    }
}

impl Default for Raw {
    fn default() -> Self {
        Self {
            socket: None,
            ready_timeout: Duration::from_secs(30),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    #[test]
    fn a_socket_is_an_absolute_path_that_the_kernel_takes() {
        let check = |keys: &str, expected: Result<(), &str>| {
            let text = format!(
                "id = 'b'\n[takeover]\n{keys}\n[[listener]]\nname = 'web'\naddress = '127.0.0.1:0'\n"
            );
            let checked = Config::from_toml("b.toml", &text);
            let said = checked.map(drop).map_err(|it| it.to_string());
            assert_eq!(said, expected.map_err(str::to_owned), "{keys}");
        };
        check("socket = '/run/colonnade/takeover.sock'", Ok(()));
        check("ready_timeout = '1s'", Ok(()));
        check(
            "socket = 'takeover.sock'",
            Err("b.toml:3: takeover.socket: is not an absolute path"),
        );
        check(
            &format!("socket = '/{}'", "x".repeat(107)),
            Err("b.toml:3: takeover.socket: 108 are more than the 107 there may be"),
        );
        check(
            "socket = '/s'\nready_timeout = '0s'",
            Err("b.toml:4: takeover.ready_timeout: `0s` is not within 1ms to 30days"),
        );
    }
}
