//! The UNIX socket's file: where it is, who may come to it, and how one takes the place of another.
//!
//! It is made beside its place, given its mode before anybody can connect, and moved over: there is no moment without a socket, and a
//! balancer that takes over from another does not have to wait for the other to clean up.

use std::{
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use thiserror::Error;

use crate::{
    config::{self, SocketMode},
    net,
};

/// Bits that let others in than the same user.
const OTHERS: u32 = 0o066;

/// A socket that listens; dropping it removes its file, unless another has taken its place.
#[derive(Debug)]
pub(crate) struct AdminSocket {
    pub(crate) listener: std::os::unix::net::UnixListener,
    pub(crate) path: PathBuf,
    mode: SocketMode,
    inode: u64,
}

#[derive(Debug, Error)]
pub enum SocketError {
    #[error("{0}: {1}")]
    Io(PathBuf, io::Error),
    #[error("{0}: the folder is not this user's alone")]
    Shared(PathBuf),
}

impl AdminSocket {
    /// The socket that is configured, for a balancer whose admin address has this port. The customary one is done without where it
    /// cannot be made: nobody asked for it.
    ///
    /// # Errors
    /// When the one that was asked for cannot be made.
    pub(crate) fn open(config: &config::Admin, port: u16) -> Result<Option<Self>, SocketError> {
        let mode = config.socket_mode;
        match &config.socket {
            config::AdminSocket::Off => Ok(None),
            config::AdminSocket::Path(path) => Self::at(path.clone(), mode).map(Some),
            config::AdminSocket::Auto => match Self::at_default(port, mode) {
                Ok(socket) => Ok(Some(socket)),
                Err(err) => {
                    tracing::warn!(%err, "there is no admin socket: set `[admin] socket`");
                    Ok(None)
                }
            },
        }
    }

    fn at_default(port: u16, mode: SocketMode) -> Result<Self, SocketError> {
        let path = default_path(port);
        let folder = path.parent().unwrap_or(Path::new("/"));
        own_folder(folder)?;
        Self::at(path, mode)
    }

    fn at(path: PathBuf, mode: SocketMode) -> Result<Self, SocketError> {
        let failed = |err| SocketError::Io(path.clone(), err);
        let beside = path.with_extension(format!("{}.new", std::process::id()));
        // What lies there is left over from a process of the same number.
        let _ = std::fs::remove_file(&beside);
        let bound = net::bind_unix(&beside).map_err(failed)?;
        let settled = settle(&beside, &path, mode).map_err(failed);
        let inode = settled.inspect_err(|_| drop(std::fs::remove_file(&beside)))?;
        let listener = net::listen_unix(bound).map_err(failed)?;
        Ok(Self {
            listener,
            path,
            mode,
            inode,
        })
    }

    /// Whether a process of this user may come in: the same and root always, others where the file's mode says so.
    pub(super) fn lets_in(&self, uid: u32) -> bool {
        let own = rustix::process::geteuid().as_raw();
        uid == own || uid == 0 || self.mode.0 & OTHERS != 0
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        let is_ours = |it: std::fs::Metadata| it.ino() == self.inode;
        if std::fs::symlink_metadata(&self.path).is_ok_and(is_ours) {
            // Who removed it meanwhile did what was to be done.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Where the customary socket of a balancer with this admin port is: the command line finds it by the same rule.
pub(crate) fn default_path(port: u16) -> PathBuf {
    let uid = rustix::process::geteuid().as_raw();
    format!("/tmp/colonnade-{uid}/balancer-{port}.sock").into()
}

/// `/tmp` is everybody's: only a folder that is this user's, and no link to elsewhere, is believed.
fn own_folder(folder: &Path) -> Result<(), SocketError> {
    let failed = |err| SocketError::Io(folder.to_owned(), err);
    match std::fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(err) if err.kind() != io::ErrorKind::AlreadyExists => return Err(failed(err)),
        _ => {}
    }
    let found = std::fs::symlink_metadata(folder).map_err(failed)?;
    let is_own = found.is_dir()
        && found.uid() == rustix::process::geteuid().as_raw()
        && found.mode() & 0o022 == 0;
    match is_own {
        true => Ok(()),
        false => Err(SocketError::Shared(folder.to_owned())),
    }
}

/// Nobody can connect yet, so that the mode holds from the first connection on.
fn settle(beside: &Path, path: &Path, mode: SocketMode) -> io::Result<u64> {
    std::fs::set_permissions(beside, std::fs::Permissions::from_mode(mode.0))?;
    let inode = std::fs::symlink_metadata(beside)?.ino();
    std::fs::rename(beside, path)?;
    Ok(inode)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_socket_has_its_mode_and_goes_with_its_owner() {
        let place = Place::new("mode");
        let socket = place.open(0o640);
        assert_eq!(place.mode(), 0o640);
        UnixStream::connect(&place.path).expect("it listens");
        drop(socket);
        assert!(!place.path.exists(), "it takes its file along");
    }

    #[test]
    fn a_later_socket_takes_the_place_and_the_earlier_leaves_it_alone() {
        let place = Place::new("later");
        let (earlier, _later) = (place.open(0o600), place.open(0o600));
        drop(earlier);
        UnixStream::connect(&place.path).expect("the later one listens");
    }

    #[test]
    fn others_come_in_only_where_the_mode_lets_them() {
        let place = Place::new("others");
        let own = rustix::process::geteuid().as_raw();
        let closed = place.open(0o600);
        assert!(closed.lets_in(own) && closed.lets_in(0) && !closed.lets_in(own + 7));
        assert!(place.open(0o660).lets_in(own + 7));
    }

    struct Place {
        folder: PathBuf,
        path: PathBuf,
    }

    impl Place {
        fn new(name: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
            std::fs::create_dir_all(&folder).expect("a temporary folder can be made");
            let path = folder.join("admin.sock");
            Self { folder, path }
        }

        fn open(&self, mode: u32) -> AdminSocket {
            AdminSocket::at(self.path.clone(), SocketMode(mode)).expect("the folder is writable")
        }

        fn mode(&self) -> u32 {
            let found = std::fs::symlink_metadata(&self.path).expect("it is there");
            found.mode() & 0o777
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}
