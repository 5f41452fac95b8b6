//! The balancer's own command line for those that run it: asks a running balancer through its admin API and shows what it says.
//!
//! It holds no state and decides nothing that the API does not: `--json` prints what the API answered, everything else is a table.

use std::{
    io::{self, IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::Subcommand;
use serde_json::Value;
use thiserror::Error;

mod client;
mod explained;
mod orders;
mod reach;
mod shown;
mod table;
mod top;

use client::Client;
use table::Style;

/// What was asked for could not be done.
const FAILED: u8 = 1;
/// The command or the configuration is at fault.
const USAGE: u8 = 2;
/// No balancer answers.
const UNREACHABLE: u8 = 3;

/// How to find the balancer that is meant.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Options {
    /// Where the balancer is asked: http://IP:PORT or unix:PATH. Default: $COLONNADE_ADMIN, else what --config says, else the
    /// socket and address of a balancer with defaults on this machine.
    #[arg(
        long,
        global = true,
        value_name = "URL",
        help_heading = "Asking a balancer"
    )]
    pub admin: Option<String>,
    /// The file that holds the admin token. Default: what --config says.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        help_heading = "Asking a balancer"
    )]
    pub token_file: Option<PathBuf>,
    /// Prints the API's JSON instead of a table.
    #[arg(long, global = true, help_heading = "Asking a balancer")]
    pub json: bool,
}

#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Runs the balancer: the same as no command.
    Run,
    /// Checks the configuration and exits: the same as --check.
    Check,
    /// How the balancer does: ready or not, its registry, its endpoints.
    Status,
    /// What goes through it, every second: services, endpoints, listeners.
    Top(top::TopArgs),
    /// Every endpoint: whether it gets new work, and why.
    Endpoints {
        /// Only those of this service.
        service: Option<String>,
    },
    /// Every service, with its endpoints counted.
    Services,
    /// Every listener.
    Listeners,
    /// Which requests go to which service.
    Routes,
    /// Gives a node no new work from this balancer; what it has under way may end.
    Drain {
        node: String,
        /// Returns when nothing is in flight there any more.
        #[arg(long)]
        wait: bool,
        /// Waits no longer than this, such as 30s or 5m, and fails then.
        #[arg(long, requires = "wait", value_parser = humantime::parse_duration, value_name = "TIME")]
        timeout: Option<Duration>,
    },
    /// Takes a drain back.
    Undrain { node: String },
    /// Weighs a node otherwise than it announces; a node that names no weight has 100, and 0 gives it no new work.
    Weight {
        node: String,
        /// A number from 0 to 10000, or `announced` to take it back.
        #[arg(value_parser = orders::weight)]
        weight: orders::WeightArg,
    },
    /// What became of an exchange: where it was tried and why there, how long it took, why it ended.
    Explain {
        /// The id of a request (X-Request-Id) or of a trace, or the number of a connection. Without one: the newest.
        id: Option<String>,
        /// Without an id: only those that failed or are under way.
        #[arg(long)]
        notable: bool,
        /// Without an id: how many.
        #[arg(long, default_value_t = 20)]
        limit: usize,
    },
    /// The configuration in force, with every default; of secrets only their files.
    Config,
    /// Reads the configuration's file again.
    Reload,
}

#[derive(Debug, Error)]
enum CliError {
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Config(#[from] settings::Error),
    #[error("no balancer answers at {place}; is it running? ({cause})")]
    Unreachable { place: String, cause: io::Error },
    #[error("{place}: {cause}")]
    Http { place: String, cause: hyper::Error },
    #[error("{place} did not answer in {waited:?}")]
    Silent { place: String, waited: Duration },
    /// The balancer's own words.
    #[error("{0}")]
    Refused(String),
    #[error("the answer is not understood, another version may be running: {0}")]
    Answer(String),
    #[error("{0}")]
    Failed(String),
    #[error("writing: {0}")]
    Output(#[from] io::Error),
}

/// Does what the command asks of a running balancer. `Run` and `Check` are the program's own.
pub fn run(command: Command, options: &Options, config: Option<PathBuf>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let done = match runtime {
        Ok(runtime) => runtime.block_on(obey(command, options, config)),
        Err(err) => Err(err.into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read along has seen enough.
        Err(CliError::Output(err)) if err.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("balancer: {err}");
            ExitCode::from(err.code())
        }
    }
}

async fn obey(
    command: Command,
    options: &Options,
    config: Option<PathBuf>,
) -> Result<(), CliError> {
    let client = Client::new(reach::find(options, config.as_deref())?);
    let out = Out::of(options);
    match command {
        Command::Run | Command::Check => Err(CliError::Usage("this is not asked".to_owned())),
        Command::Status => status(&client, &out).await,
        Command::Top(args) => top::run(&client, &out, &args).await,
        Command::Endpoints { service } => {
            let path = "/api/v1/endpoints";
            show(&client, &out, path, |it| {
                shown::endpoints(it, service.as_deref(), out.style)
            })
            .await
        }
        Command::Services => show(&client, &out, "/api/v1/services", shown::services).await,
        Command::Listeners => show(&client, &out, "/api/v1/listeners", shown::listeners).await,
        Command::Routes => show(&client, &out, "/api/v1/routes", shown::routes).await,
        Command::Config => show(&client, &out, "/api/v1/config", shown::config).await,
        Command::Drain {
            node,
            wait,
            timeout,
        } => {
            orders::give(&client, &out, &node, "drain", None).await?;
            match wait {
                true => orders::until_idle(&client, &out, &node, timeout).await,
                false => Ok(()),
            }
        }
        Command::Undrain { node } => orders::give(&client, &out, &node, "undrain", None).await,
        Command::Weight { node, weight } => {
            orders::give(&client, &out, &node, "weight", Some(weight)).await
        }
        Command::Explain { id: Some(id), .. } => {
            let path = format!("/api/v1/exchanges/{}", orders::escaped(&id));
            show(&client, &out, &path, explained::stories).await
        }
        Command::Explain { notable, limit, .. } => {
            let path = format!("/api/v1/exchanges?limit={limit}&notable={notable}");
            show(&client, &out, &path, |it| explained::table(it, out.style)).await
        }
        Command::Reload => {
            let answer = client.post("/api/v1/reload", None).await?;
            out.answer(&answer, |it| shown::word(it, "outcome"))
        }
    }
}

async fn show(
    client: &Client,
    out: &Out,
    path: &str,
    text: impl Fn(&Value) -> String,
) -> Result<(), CliError> {
    let answer = client.get(path).await?;
    out.answer(&answer, text)
}

async fn status(client: &Client, out: &Out) -> Result<(), CliError> {
    let status = client.get("/api/v1/status").await?;
    if out.json {
        return out.json(&status);
    }
    let endpoints = client.get("/api/v1/endpoints").await?;
    out.text(&shown::status(&status, &endpoints, out.style))
}

/// Where results go, and in which form.
struct Out {
    json: bool,
    style: Style,
}

impl Out {
    fn of(options: &Options) -> Self {
        Self {
            json: options.json,
            style: Style::of_stdout(),
        }
    }

    fn answer(&self, answer: &Value, text: impl Fn(&Value) -> String) -> Result<(), CliError> {
        match self.json {
            true => self.json(answer),
            false => self.text(&text(answer)),
        }
    }

    fn json(&self, value: &Value) -> Result<(), CliError> {
        self.text(&value.to_string())
    }

    /// Lines that do not fit the terminal are cut, so that a table stays one.
    fn text(&self, text: &str) -> Result<(), CliError> {
        let mut stdout = io::stdout().lock();
        for line in text.lines() {
            match self.json {
                true => writeln!(stdout, "{line}")?,
                false => writeln!(stdout, "{}", self.style.cut(line))?,
            }
        }
        stdout.flush()?;
        Ok(())
    }
}

impl CliError {
    fn code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Config(_) => USAGE,
            Self::Unreachable { .. } | Self::Silent { .. } | Self::Http { .. } => UNREACHABLE,
            Self::Refused(_) | Self::Answer(_) | Self::Failed(_) | Self::Output(_) => FAILED,
        }
    }
}

fn is_terminal() -> bool {
    io::stdout().is_terminal()
}
