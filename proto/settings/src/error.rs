//! What is wrong with settings, in one line that names the place, the key and the reason.

use std::{fmt, io, sync::Arc};

/// Why settings were refused. Its text is one line.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{file}: {source}")]
    Read { file: String, source: io::Error },
    #[error("{place}{message}")]
    Syntax { place: Place, message: String },
    #[error("{place}{}{message}", labelled(key))]
    Key {
        place: Place,
        key: String,
        message: String,
    },
}

/// Where a key was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nobody set it: there is no file, and no variable names it.
    Nowhere,
    File(Arc<str>),
    /// A line of a file, counted from one.
    Line(Arc<str>, usize),
    /// A variable of the environment.
    Variable(Arc<str>),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nowhere => Ok(()),
            Self::File(name) | Self::Variable(name) => write!(f, "{name}: "),
            Self::Line(name, line) => write!(f, "{name}:{line}: "),
        }
    }
}

fn labelled(key: &str) -> String {
    match key {
        "" => String::new(),
        key => format!("{key}: "),
    }
}
