//! The balancer as a program: reads its configuration, runs until it is told to go, and leaves politely.

use std::{path::PathBuf, process::ExitCode};

use balancer::{
    app::{Balancer, Beginning, LogReopener},
    cli,
    config::Config,
    notify,
    reload::{self, Cause},
    takeover::Heir,
};
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
    /// Takes over the sockets of the balancer that runs with the same [takeover] socket, if there is one.
    #[arg(long)]
    takeover: bool,
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
    let source = reload::Source::new(args.config.clone());
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
    if args.takeover && config.takeover.is_none() {
        eprintln!("balancer: --takeover needs `socket` under [takeover] in the configuration");
        return ExitCode::from(BAD_CONFIG);
    }
    log_to_stderr(&config.log.level);
    let running = config.takeover.as_ref().filter(|_| args.takeover);
    let heir = match running.map(|it| Heir::ask(&it.socket)).transpose() {
        Ok(heir) => heir.flatten(),
        Err(err) => return fail(1, &err),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(err) => return fail(1, &err),
    };
    runtime.block_on(run(Beginning {
        config,
        registry,
        source: Some(source),
        heir,
    }))
}

async fn run(beginning: Beginning) -> ExitCode {
    let listening = (
        Signals::new(),
        signal(SignalKind::hangup()),
        signal(SignalKind::user_defined1()),
    );
    let (mut signals, hang_up, rotated) = match listening {
        (Ok(signals), Ok(hang_up), Ok(rotated)) => (signals, hang_up, rotated),
        (Err(err), ..) | (_, Err(err), _) | (.., Err(err)) => return fail(1, &err),
    };
    let mut balancer = match Balancer::begin(beginning) {
        Ok(balancer) => balancer,
        Err(err) => return fail(1, &err),
    };
    let reloads = balancer.reloads();
    tokio::spawn(reopen_on_signal(rotated, balancer.log()));
    tokio::select! {
        taken_over = balancer.take_over() => if let Err(err) = taken_over {
            fail(1, &err);
            leave(balancer, signals).await;
            return ExitCode::FAILURE;
        },
        () = signals.told_to_go() => return leave(balancer, signals).await,
    }
    for (name, address) in balancer.listeners() {
        tracing::info!(name, %address, "listening");
    }
    tracing::info!(address = %balancer.admin(), "admin");
    notify::ready();
    tokio::spawn(reload_on_signal(hang_up, reloads));
    tokio::select! {
        () = signals.told_to_go() => notify::stopping(),
        () = balancer.succeeded() => tracing::info!("another process has taken over"),
    }
    leave(balancer, signals).await
}

async fn reload_on_signal(mut hang_up: Signal, reloads: reload::Handle) {
    while hang_up.recv().await.is_some() {
        reloads.reload(Cause::Signal).await;
    }
}

/// Who rotates logs moves the file away, then sends SIGUSR1.
async fn reopen_on_signal(mut rotated: Signal, log: LogReopener) {
    while rotated.recv().await.is_some() {
        log.reopen();
    }
}

async fn leave(balancer: Balancer, mut signals: Signals) -> ExitCode {
    tracing::info!("leaving; a second signal ends at once");
    tokio::select! {
        () = balancer.leave() => ExitCode::SUCCESS,
        () = signals.told_to_go() => ExitCode::FAILURE,
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn told_to_go(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
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
