//! Whether a file has changed: cheap to ask every second, and not fooled by a file that was only touched or put there again.

use std::{
    fs::{self, Metadata},
    hash::{DefaultHasher, Hasher},
    io::Read,
    os::unix::fs::MetadataExt,
    path::Path,
};

/// More than any configuration has; of a larger file only so much is compared.
const COMPARED_BYTES_MAX: u64 = 64 << 20;

/// A file as it was at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Look {
    outside: Outside,
    text: u64,
}

/// What can be seen without reading it. Of a link it is that of the file behind it, so that moving a link is seen too.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outside {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

impl Look {
    /// None while there is no readable file.
    pub(super) fn at(path: &Path) -> Option<Self> {
        Self::again(path, None)
    }

    /// Reads the file only if something about it differs from `before`.
    pub(super) fn again(path: &Path, before: Option<&Self>) -> Option<Self> {
        let outside = Outside::of(&fs::metadata(path).ok()?);
        match before {
            Some(before) if before.outside == outside => Some(before.clone()),
            _ => Some(Self {
                text: hash(path)?,
                outside,
            }),
        }
    }

    pub(super) fn is_same_text(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Outside {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

fn hash(path: &Path) -> Option<u64> {
    let mut bytes = Vec::new();
    let file = fs::File::open(path).ok()?;
    file.take(COMPARED_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    let mut hasher = DefaultHasher::new();
    hasher.write(&bytes);
    Some(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_another_text_is_a_change() {
        let path = std::env::temp_dir().join(format!("colonnade-look-{}", std::process::id()));
        assert_eq!(Look::at(&path), None);
        let write = |text: &str| fs::write(&path, text).expect("a temporary file is writable");
        write("a");
        let first = Look::at(&path).expect("it is there");
        fs::remove_file(&path).expect("it is there");
        write("a");
        let again = Look::again(&path, Some(&first)).expect("it is there");
        assert!(first.is_same_text(&again));
        write("b");
        let other = Look::again(&path, Some(&again)).expect("it is there");
        assert!(!again.is_same_text(&other));
        fs::remove_file(&path).expect("it is there");
    }
}
