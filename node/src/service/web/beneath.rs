//! Opens files beneath a folder and nowhere else, whatever symbolic links stand on the way.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags};

/// How often a lookup is tried again when a rename crossed it.
const TRIES: usize = 8;

/// A folder that is held open. It is found again by name only where the kernel cannot look beneath a descriptor.
pub(super) struct Folder {
    fd: OwnedFd,
    path: PathBuf,
}

impl Folder {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let fd = rustix::fs::open(
            path,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        Ok(Self {
            fd,
            path: path.to_owned(),
        })
    }

    /// A folder beneath this one.
    pub(super) fn folder(&self, name: &str) -> io::Result<Self> {
        let fd = self.lookup(name, OFlags::DIRECTORY)?;
        Ok(Self {
            fd,
            path: self.path.join(name),
        })
    }

    /// A file or folder beneath this one, to read. Opening a named pipe does not wait for its writer.
    pub(super) fn file(&self, path: &str) -> io::Result<File> {
        let fd = self.lookup(path, OFlags::NONBLOCK | OFlags::NOCTTY)?;
        Ok(File::from(fd))
    }

    fn lookup(&self, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC;
        match self.lookup_at_once(path, flags) {
            // An old kernel, or a container whose filter does not know the call.
            Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => {
                self.lookup_by_name(path, flags)
            }
            result => Ok(result?),
        }
    }

    #[cfg(target_os = "linux")]
    fn lookup_at_once(&self, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        use rustix::{fs::ResolveFlags, io::Errno};

        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let open = || rustix::fs::openat2(&self.fd, path, flags, Mode::empty(), resolve);
        let mut result = open();
        for _ in 1..TRIES {
            match result {
                Err(Errno::AGAIN) => result = open(),
                result => return result,
            }
        }
        result
    }

    #[cfg(not(target_os = "linux"))]
    fn lookup_at_once(&self, _: &str, _: OFlags) -> rustix::io::Result<OwnedFd> {
        Err(rustix::io::Errno::NOSYS)
    }

    /// Resolves all links first and opens what is then a path without any. Who may write to the folder could swap a
    /// name in between; a client cannot.
    fn lookup_by_name(&self, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
        let root = fs::canonicalize(&self.path)?;
        let target = fs::canonicalize(root.join(path))?;
        if !target.starts_with(&root) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let flags = (flags | OFlags::NOFOLLOW).bits();
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(flags as i32)
            .open(target)?;
        Ok(file.into())
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn a_link_is_followed_within_and_refused_beyond() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("a")).expect("a folder");
        fs::write(dir.path().join("secret"), "secret").expect("a file");
        fs::write(root.join("a/file"), "file").expect("a file");
        symlink("a/file", root.join("within")).expect("a link");
        symlink("../a/../a/file", root.join("a/about")).expect("a link");
        symlink("../secret", root.join("beyond")).expect("a link");
        symlink(dir.path().join("secret"), root.join("absolute")).expect("a link");
        symlink("..", root.join("up")).expect("a link");
        let folder = Folder::open(&root).expect("the root");
        let by_name = |path: &str| folder.lookup_by_name(path, OFlags::RDONLY).map(File::from);
        for (path, expected) in [
            ("a/file", Some("file")),
            ("within", Some("file")),
            ("a/about", Some("file")),
            ("beyond", None),
            ("absolute", None),
            ("up/secret", None),
            ("absent", None),
            ("a/file/x", None),
        ] {
            assert_eq!(text(folder.file(path)).as_deref(), expected, "{path}");
            assert_eq!(text(by_name(path)).as_deref(), expected, "{path} by name");
        }
    }

    fn text(file: io::Result<File>) -> Option<String> {
        let mut text = String::new();
        file.ok()?.read_to_string(&mut text).ok()?;
        Some(text)
    }
}
