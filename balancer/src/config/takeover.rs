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
    /// use it. Required.
    #[serde(deserialize_with = "value::path")]
    socket: Option<PathBuf>,
    /// How long the next program may take from its first word to being ready; past it the running one goes on alone.
    /// Default: `"30s"`.
    #[serde(deserialize_with = "value::span")]
    ready_timeout: Duration,
}

impl Raw {
    pub(super) fn check(self, keys: &Keys<'_>) -> Result<Takeover, Error> {
        let socket = keys.required("socket", self.socket)?;
        if !socket.is_absolute() {
            return Err(keys.refuse("socket", "is not an absolute path"));
        }
        keys.at_most("socket", socket.as_os_str().len(), SOCKET_BYTES_MAX)?;
        Ok(Takeover {
            socket,
            ready_timeout: self.ready_timeout,
        })
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
