//! Starts a proxy with one worker on one core, set up for a row: ours, HAProxy, nginx or Envoy.
//!
//! All HTTP setups keep upstream connections, forward the client's address and make a request id, as ours always does.

mod envoy;
mod find;
mod haproxy;
mod nginx;
mod ours;

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

use crate::backend::{Backend, BackendAddr};
use crate::certificate::Certificate;
use crate::row::Setup;

/// How long a proxy may take until it listens.
const START_PATIENCE: Duration = Duration::from_secs(10);

/// What is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Proxy {
    Ours(PathBuf),
    Haproxy(PathBuf, Splice),
    Nginx(PathBuf),
    Envoy(PathBuf),
}

/// Whether HAProxy may have the kernel move bytes that it only relays; where it relays in bulk, both ways are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Splice {
    On,
    Off,
}

/// What all proxies stand on.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) backend: Backend,
    pub(crate) certificate: Certificate,
    /// Where the proxy runs.
    pub(crate) core: Option<Core>,
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
    certificate: &'a Certificate,
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
    #[error("it would do the same as without its option")]
    SameAsOther,
}

// === impl Proxy ===

impl Proxy {
    /// Our balancer, built.
    pub(crate) fn ours() -> Result<Self, OursError> {
        ::tests::process::ours("balancer").map(Self::Ours)
    }

    /// HAProxy, where it is installed.
    pub(crate) fn haproxy(splice: Splice) -> Option<Self> {
        find::program("haproxy").map(|path| Self::Haproxy(path, splice))
    }

    /// nginx, where it is installed.
    pub(crate) fn nginx() -> Option<Self> {
        find::program("nginx").map(Self::Nginx)
    }

    /// Envoy, where it is installed.
    pub(crate) fn envoy() -> Option<Self> {
        find::program("envoy").map(Self::Envoy)
    }

    /// Whether another proxy is the same program.
    pub(crate) fn is_variant(&self) -> bool {
        matches!(self, Self::Haproxy(_, Splice::On))
    }

    /// What it says of its version.
    pub(crate) fn version(&self) -> Option<String> {
        let (program, flag) = match self {
            Self::Ours(path) | Self::Envoy(path) => (path, "--version"),
            Self::Haproxy(path, _) | Self::Nginx(path) => (path, "-v"),
        };
        let said = Command::new(program).arg(flag).output().ok()?;
        let said = [said.stdout, said.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        let first = said.lines().map(str::trim).find(|it| !it.is_empty())?;
        // Some name their own path before their version.
        let (_, version) = first.split_once("version: ").unwrap_or(("", first));
        Some(version.to_owned())
    }

    /// Starts it and waits until it accepts connections.
    pub(crate) async fn start(&self, setup: Setup, site: &Site) -> Result<Running, ProxyError> {
        let (entry, admin, folder) = (ports::free()?, ports::free()?, TempDir::new()?);
        let place = Place {
            setup,
            entry: &entry,
            admin: &admin,
            upstream: setup.relay.upstream(&site.backend),
            certificate: &site.certificate,
            folder: folder.path(),
        };
        let program = self.program(&place)?;
        let program = site.core.map_or(program.clone(), |core| program.on(core));
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
            Self::Haproxy(path, splice) => haproxy::program(path, place, *splice),
            Self::Nginx(path) => nginx::program(path, place),
            Self::Envoy(path) => envoy::program(path, place),
        }
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ours(_) => crate::table::OURS,
            Self::Haproxy(_, Splice::Off) => "haproxy",
            Self::Haproxy(_, Splice::On) => "haproxy-splice",
            Self::Nginx(_) => "nginx",
            Self::Envoy(_) => "envoy",
        })
    }
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
