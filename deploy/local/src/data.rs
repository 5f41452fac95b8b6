//! The folder that a cluster lives in: one cluster at a time, its sites, its socket and what it remembers.

use std::{
    env,
    fs::{self, DirBuilder, File, TryLockError},
    io::{self, Read, Seek, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf, absolute},
};

use thiserror::Error;

use crate::command_line::DataArg;

/// Only the owner steers the cluster and reads its logs.
const FOLDER_MODE: u32 = 0o700;
/// The page that the first start puts into the default site.
const DEMO_PAGE: &str = include_str!("site/index.html");
/// How much of a lock file is read: a process id is shorter.
const LOCK_BYTES_MAX: u64 = 32;

/// A path to a folder that a cluster may live in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place(PathBuf);

/// A folder that this process alone has, until it ends.
pub(crate) struct Data {
    place: Place,
    /// The lock goes when this is dropped, or when the process ends in any way.
    _lock: File,
}

#[derive(Debug, Error)]
pub(crate) enum DataError {
    #[error("there is no home folder to keep the cluster in: choose one with --data DIR")]
    Homeless,
    #[error("cannot use {}: its name is not UTF-8", .0.display())]
    NotText(PathBuf),
    #[error("cannot write in {}: {error}", .path.display())]
    Unwritable { path: PathBuf, error: io::Error },
    #[error("a cluster runs in {} already (process {pid}): stop it, or choose another folder with --data DIR", .path.display())]
    Taken { path: PathBuf, pid: String },
}

// === impl Place ===

impl Place {
    /// The folder that was asked for, else the one where a user's programs keep their state.
    pub(crate) fn new(asked: &DataArg) -> Result<Self, DataError> {
        let home = |name| env::var_os(name).map(PathBuf::from);
        Self::choose(asked.folder.clone(), home("XDG_STATE_HOME"), home("HOME"))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The socket on which a cluster in this folder is steered.
    pub(crate) fn socket(&self) -> PathBuf {
        self.0.join("control.sock")
    }

    /// The name of something in the folder, as it is written in a configuration.
    pub(crate) fn text(&self, name: &str) -> String {
        self.0
            .join(name)
            .to_str()
            .expect("a place is made from a UTF-8 name")
            .to_owned()
    }

    /// A state home that is not absolute does not count (XDG Base Directory Specification, "Environment variables").
    fn choose(
        asked: Option<PathBuf>,
        state: Option<PathBuf>,
        home: Option<PathBuf>,
    ) -> Result<Self, DataError> {
        let state = state.filter(|path| path.is_absolute());
        let from_home = || {
            home.filter(|path| path.is_absolute())
                .map(|home| home.join(".local/state"))
        };
        let path = match asked {
            Some(path) => path,
            None => state
                .or_else(from_home)
                .ok_or(DataError::Homeless)?
                .join("colonnade"),
        };
        let path = absolute(&path).map_err(|error| DataError::Unwritable { path, error })?;
        if path.to_str().is_none() {
            return Err(DataError::NotText(path));
        }
        Ok(Self(path))
    }
}

// === impl Data ===

impl Data {
    /// Makes the folder if it is missing, takes it, and puts a site into it if there is none.
    pub(crate) fn open(place: Place) -> Result<Self, DataError> {
        let unwritable = |error| DataError::Unwritable {
            path: place.0.clone(),
            error,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(FOLDER_MODE)
            .create(&place.0)
            .map_err(unwritable)?;
        let lock = lock(&place.0)?;
        furnish(&place.0.join("sites")).map_err(unwritable)?;
        Ok(Self { place, _lock: lock })
    }

    pub(crate) fn place(&self) -> &Place {
        &self.place
    }
}

fn lock(folder: &Path) -> Result<File, DataError> {
    let unwritable = |error| DataError::Unwritable {
        path: folder.to_owned(),
        error,
    };
    let path = folder.join("lock");
    let mut options = File::options();
    let mut file = options
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .map_err(unwritable)?;
    match file.try_lock() {
        Ok(()) => note_holder(&mut file).map_err(unwritable)?,
        Err(TryLockError::WouldBlock) => {
            return Err(DataError::Taken {
                path: folder.to_owned(),
                pid: holder(file),
            });
        }
        Err(TryLockError::Error(error)) => return Err(unwritable(error)),
    }
    Ok(file)
}

fn note_holder(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

fn holder(file: File) -> String {
    let mut text = String::new();
    match file.take(LOCK_BYTES_MAX).read_to_string(&mut text) {
        Ok(_) if !text.trim().is_empty() => text.trim().to_owned(),
        _ => "unknown".to_owned(),
    }
}

/// What is there is the user's, even when it is empty.
fn furnish(sites: &Path) -> io::Result<()> {
    let default = sites.join("default");
    if default.exists() {
        return Ok(());
    }
    fs::create_dir_all(&default)?;
    fs::write(default.join("index.html"), DEMO_PAGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_the_one_asked_for_or_where_state_is_kept() {
        check(Some("/a/b"), Some("/state"), Some("/h"), "/a/b");
        check(None, Some("/state"), Some("/h"), "/state/colonnade");
        check(None, Some("state"), Some("/h"), "/h/.local/state/colonnade");
        check(None, None, Some("/h"), "/h/.local/state/colonnade");
        let none = Place::choose(None, None, None);
        assert!(matches!(none, Err(DataError::Homeless)), "{none:?}");
    }

    #[test]
    fn a_folder_holds_one_cluster_at_a_time() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let open = || Data::open(Place(folder.path().join("deep/data")));
        let first = open().expect("nobody has it");
        let message = open().err().expect("it is taken").to_string();
        assert!(
            message.contains(&format!("(process {})", std::process::id())),
            "{message}"
        );
        drop(first);
        assert!(open().is_ok(), "the lock went with its holder");
    }

    #[test]
    fn the_first_start_brings_a_site_and_later_ones_leave_it_alone() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let page = folder.path().join("sites/default/index.html");
        let open =
            || drop(Data::open(Place(folder.path().to_owned())).expect("the folder is ours"));
        open();
        assert_eq!(fs::read_to_string(&page).expect("a page"), DEMO_PAGE);
        fs::remove_file(&page).expect("the page is there");
        open();
        assert!(!page.exists(), "an emptied site stays empty");
    }

    #[test]
    fn a_folder_below_a_file_is_refused_in_one_line() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let message = Data::open(Place(file.path().join("data")))
            .err()
            .expect("no folder can be there")
            .to_string();
        assert!(
            message.starts_with("cannot write in ") && !message.contains('\n'),
            "{message}"
        );
    }

    fn check(asked: Option<&str>, state: Option<&str>, home: Option<&str>, expected: &str) {
        let place = Place::choose(
            asked.map(Into::into),
            state.map(Into::into),
            home.map(Into::into),
        );
        assert_eq!(place.expect("there is a place").path(), Path::new(expected));
    }
}
