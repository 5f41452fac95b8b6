//! The balancer as a program: reads its configuration, runs until it is told to go, and leaves politely.

use std::{path::PathBuf, process::ExitCode};

use balancer::{app::Balancer, cli, config::Config};
use clap::Parser;
use registry::Registry;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Small allocations in bursts are what a proxy does; the system's allocator takes noticeably more time for them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Accepts clients at one address and routes them to interchangeable nodes.
#[derive(Debug, Parser)]
#[command(name = "balancer", version)]
struct Args {
    /// The configuration, in TOML. Every key can also be set as COLONNADE_SECTION__KEY in the environment.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Checks the configuration and exits.
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    asking: cli::Options,
    #[command(subcommand)]
    command: Option<cli::Command>,
}

/// The configuration is at fault; nothing was started.
const BAD_CONFIG: u8 = 2;

fn main() -> ExitCode {
    let mut args = Args::parse();
    match args.command.take() {
        None | Some(cli::Command::Run) => {}
        Some(cli::Command::Check) => args.check = true,
        Some(command) => return cli::run(command, &args.asking, args.config),
    }
    let config = match Config::load(args.config.as_deref(), settings::environment()) {
        Ok(config) => config,
        Err(err) => return fail(BAD_CONFIG, &err),
    };
    // Reads the credentials' files too; it opens no connection.
    let registry = match config.registry.as_ref().map(Registry::open).transpose() {
        Ok(registry) => registry,
        Err(err) => return fail(BAD_CONFIG, &err),
    };
    if args.check {
        println!("the configuration is good");
        return ExitCode::SUCCESS;
    }
    log_to_stderr(&config.log.level);
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(err) => return fail(1, &err),
    };
    runtime.block_on(run(config, registry))
}

async fn run(config: Config, registry: Option<Registry>) -> ExitCode {
    let (mut terminate, mut interrupt) = match (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) {
        (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
        (Err(err), _) | (_, Err(err)) => return fail(1, &err),
    };
    let balancer = match Balancer::start(config, registry) {
        Ok(balancer) => balancer,
        Err(err) => return fail(1, &err),
    };
    for (name, address) in balancer.listeners() {
        tracing::info!(name, %address, "listening");
    }
    tracing::info!(address = %balancer.admin(), "admin");
    told_to_go(&mut terminate, &mut interrupt).await;
    tracing::info!("leaving; a second signal ends at once");
    tokio::select! {
        () = balancer.leave() => ExitCode::SUCCESS,
        () = told_to_go(&mut terminate, &mut interrupt) => ExitCode::FAILURE,
    }
}

async fn told_to_go(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// The access log may be on stdout; what the program says about itself goes to stderr.
fn log_to_stderr(level: &str) {
    let filter = EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .json()
        .init();
}

fn fail(code: u8, err: &dyn std::error::Error) -> ExitCode {
    eprintln!("balancer: {err}");
    ExitCode::from(code)
}
