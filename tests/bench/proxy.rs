//! Starts a proxy with one worker on one core, set up for a row: ours, HAProxy or nginx.
//!
//! All HTTP setups keep upstream connections, forward the client's address and make a request id, as ours always does.

mod haproxy;
mod nginx;
mod ours;

use std::env;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ::tests::load::EntryAddr;
use ::tests::ports::{self, NoFreePort, PortLease};
use ::tests::process::{Core, OursError, Pid, Process, ProcessError, Program, Ready};
use tempfile::TempDir;

use crate::backend::BackendAddr;
use crate::row::Setup;

/// How long a proxy may take until it listens.
const START_PATIENCE: Duration = Duration::from_secs(10);

/// Where servers lie that `PATH` may leave out.
const SERVER_FOLDERS: [&str; 2] = ["/usr/local/sbin", "/usr/sbin"];

/// What is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Proxy {
    Ours(PathBuf),
    Haproxy(PathBuf),
    Nginx(PathBuf),
}

/// A proxy that runs; dropped, it ends, and its files go.
#[derive(Debug)]
pub(crate) struct Running {
    process: Process,
    entry: PortLease,
    _admin: PortLease,
    _folder: TempDir,
}

/// What a configuration is made from.
#[derive(Debug)]
struct Place<'a> {
    setup: Setup,
    entry: &'a PortLease,
    admin: &'a PortLease,
    upstream: BackendAddr,
    folder: &'a Path,
}

/// Why a proxy does not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProxyError {
    #[error(transparent)]
    Port(#[from] NoFreePort),
    #[error("cannot write its configuration: {0}")]
    Configuration(#[from] io::Error),
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error("its build cannot do this")]
    Unable,
}

// === impl Proxy ===

impl Proxy {
    /// Our balancer, built.
    pub(crate) fn ours() -> Result<Self, OursError> {
        ::tests::process::ours("balancer").map(Self::Ours)
    }

    /// HAProxy, where it is installed.
    pub(crate) fn haproxy() -> Option<Self> {
        installed("haproxy").map(Self::Haproxy)
    }

    /// nginx, where it is installed.
    pub(crate) fn nginx() -> Option<Self> {
        installed("nginx").map(Self::Nginx)
    }

    /// What it says of its version.
    pub(crate) fn version(&self) -> Option<String> {
        let (program, flag) = match self {
            Self::Ours(path) => (path, "--version"),
            Self::Haproxy(path) | Self::Nginx(path) => (path, "-v"),
        };
        let said = Command::new(program).arg(flag).output().ok()?;
        let said = [said.stdout, said.stderr].concat();
        let first = String::from_utf8_lossy(&said)
            .lines()
            .next()
            .unwrap_or_default()
            .trim()
            .to_owned();
        Some(first)
    }

    /// Starts it and waits until it accepts connections.
    pub(crate) async fn start(
        &self,
        setup: Setup,
        upstream: BackendAddr,
        core: Option<Core>,
    ) -> Result<Running, ProxyError> {
        let (entry, admin, folder) = (ports::free()?, ports::free()?, TempDir::new()?);
        let place = Place {
            setup,
            entry: &entry,
            admin: &admin,
            upstream,
            folder: folder.path(),
        };
        let program = self.program(&place)?;
        let program = core.map_or(program.clone(), |core| program.on(core));
        let mut process = program.start()?;
        process
            .ready(&Ready::Port(entry.address()), START_PATIENCE)
            .await?;
        Ok(Running {
            process,
            entry,
            _admin: admin,
            _folder: folder,
        })
    }

    fn program(&self, place: &Place<'_>) -> Result<Program, ProxyError> {
        match self {
            Self::Ours(path) => ours::program(path, place),
            Self::Haproxy(path) => haproxy::program(path, place),
            Self::Nginx(path) => nginx::program(path, place),
        }
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ours(_) => "colonnade",
            Self::Haproxy(_) => "haproxy",
            Self::Nginx(_) => "nginx",
        })
    }
}

/// Debian keeps servers in directories that are not on everybody's `PATH`.
fn installed(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(SERVER_FOLDERS.map(PathBuf::from));
    folders.map(|it| it.join(program)).find(|it| it.is_file())
}

// === impl Running ===

impl Running {
    pub(crate) fn entry(&self) -> EntryAddr {
        EntryAddr(self.entry.address())
    }

    pub(crate) fn pid(&self) -> Pid {
        self.process.pid()
    }
}

// === impl Place ===

impl Place<'_> {
    /// Writes the configuration and gives its path.
    fn write(&self, name: &str, text: &str) -> io::Result<PathBuf> {
        let path = self.folder.join(name);
        fs::write(&path, text)?;
        Ok(path)
    }

    fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }
}
