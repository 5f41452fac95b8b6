//! `[admin]`: where the balancer is asked about itself, and who may steer it.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use settings::Error;

use super::{check::Keys, value};

/// What the kernel's address of a UNIX socket has room for (unix(7)), less the byte that ends it.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Where the balancer is asked about itself: metrics, health, the configuration in force; and steered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Admin {
    /// Reads are open to whoever reaches it, unless there is a token. Default: `127.0.0.1:9901`.
    pub address: SocketAddr,
    /// A UNIX socket for the same user and root: `auto`, `off`, or a path with a slash in it. Default: `auto`, which is
    /// `/tmp/colonnade-UID/balancer-PORT.sock`.
    pub socket: AdminSocket,
    /// Who may connect to the socket, as `chmod` takes it. Default: `"0600"`, the same user and root.
    pub socket_mode: SocketMode,
    /// The file that holds the bearer token, which is read again at each use. Required where `address` is not of loopback. Default:
    /// none, and nothing can be changed through `address`.
    #[serde(deserialize_with = "value::path")]
    pub token_file: Option<PathBuf>,
}

/// Where the UNIX socket is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum AdminSocket {
    /// In a folder of this user's own, by the port of the address; where it cannot be made, there is none.
    #[default]
    Auto,
    Off,
    Path(PathBuf),
}

/// The permission bits of the socket's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketMode(pub u32);

impl Admin {
    /// A stranger's reach wants a secret.
    pub(super) fn check(&self, keys: &Keys<'_>) -> Result<(), Error> {
        match self.address.ip().is_loopback() || self.token_file.is_some() {
            true => Ok(()),
            false => Err(keys.refuse(
                "address",
                "others than this machine could reach it: set `token_file` too, or an address of 127.0.0.0/8",
            )),
        }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            address: (Ipv4Addr::LOCALHOST, 9901).into(),
            socket: AdminSocket::default(),
            socket_mode: SocketMode(0o600),
            token_file: None,
        }
    }
}

impl TryFrom<String> for AdminSocket {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            path if path.len() > SOCKET_PATH_BYTES_MAX => Err(format!(
                "`{path}` is longer than the {SOCKET_PATH_BYTES_MAX} bytes a socket's path may have"
            )),
            path if path.contains('/') && !path.ends_with('/') => Ok(Self::Path(path.into())),
            _ => Err(format!(
                "`{text}` is none of `auto`, `off` and a path such as `/run/colonnade/admin.sock`"
            )),
        }
    }
}

impl Serialize for AdminSocket {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Off => serializer.serialize_str("off"),
            Self::Path(path) => serializer.collect_str(&path.display()),
        }
    }
}

impl fmt::Display for SocketMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

impl Serialize for SocketMode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SocketMode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bits = u32::from_str_radix(&text, 8).ok();
        bits.filter(|bits| *bits <= 0o777).map(Self).ok_or_else(|| {
            D::Error::custom(format_args!(
                "`{text}` is not an octal mode such as \"0600\" or \"0660\""
            ))
        })
    }
}
