//! The program `node`: reads its settings, serves until it is told to leave, leaves.

use std::{io, path::PathBuf, process::ExitCode};

use clap::Parser;
use node::{
    app::Node,
    config::{Config, LogLevel},
};
use registry::Registry;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A node of Colonnade. SIGTERM or SIGINT makes it leave politely; a second one ends it at once.
#[derive(Parser)]
#[command(name = "node", version)]
struct Args {
    /// Settings as TOML; `COLONNADE_WEB__ADDRESS` and the like in the environment lie above them.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check the settings and end.
    #[arg(long)]
    check: bool,
}

const BAD_SETTINGS: u8 = 2;
const CANNOT_START: u8 = 1;
/// What a shell reports for a program that SIGINT ended.
const ENDED_AT_ONCE: u8 = 130;

fn main() -> ExitCode {
    let args = Args::parse();
    let config = match Config::load(args.config.as_deref(), settings::environment()) {
        Ok(config) => config,
        Err(error) => return failed(&error, BAD_SETTINGS),
    };
    if args.check {
        return ExitCode::SUCCESS;
    }
    log_from(config.log_level);
    match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime.block_on(serve(config)),
        Err(error) => failed(&error, CANNOT_START),
    }
}

async fn serve(config: Config) -> ExitCode {
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => return failed(&error, CANNOT_START),
    };
    let registry = match config.open_registry() {
        Ok(registry) => registry,
        Err(error) => return failed(&error, BAD_SETTINGS),
    };
    match start(config, registry).await {
        Ok(node) => until_left(&node, &mut signals).await,
        Err(code) => code,
    }
}

async fn start(config: Config, registry: Registry) -> Result<Node, ExitCode> {
    let node = Node::start(config, registry)
        .await
        .map_err(|error| failed(&error, CANNOT_START))?;
    tracing::info!(node = %node.id(), web = %node.web_address(), admin = %node.admin_address(), "serving");
    Ok(node)
}

async fn until_left(node: &Node, signals: &mut Signals) -> ExitCode {
    signals.next().await;
    tokio::select! {
        left = node.leave() => {
            tracing::info!(is_confirmed = left.is_confirmed, is_cut = left.is_cut, "left");
            ExitCode::SUCCESS
        }
        () = signals.next() => ExitCode::from(ENDED_AT_ONCE),
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn failed(error: &dyn std::error::Error, code: u8) -> ExitCode {
    eprintln!("node: {error}");
    ExitCode::from(code)
}

fn log_from(level: LogLevel) {
    tracing_subscriber::fmt()
        .json()
        .with_writer(io::stderr)
        // Whoever reads the log may go before the node does: a line that cannot be written is no reason to panic.
        .log_internal_errors(false)
        .with_env_filter(EnvFilter::new(level.as_str()))
        .init();
}
