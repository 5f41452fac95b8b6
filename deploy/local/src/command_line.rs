//! What can be typed: `up` and the four commands that steer what is up.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand, error::ErrorKind};

use crate::cluster::NODES_MAX;

/// What the shell is told when the command line itself is wrong.
const USAGE_ERROR: u8 = 2;

/// A whole Colonnade cluster on this machine: a balancer, its nodes, one address.
#[derive(Debug, Parser)]
#[command(name = "colonnade", version, args_conflicts_with_subcommands = true)]
struct CommandLine {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    up: Up,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a cluster and keep it up until Ctrl-C; this is what happens without a command.
    Up(Up),
    /// Tell which nodes run, in which state.
    Status(Status),
    /// Start nodes until there are N, or let the newest ones leave politely.
    Scale(Scale),
    /// End a node at once, as a crash would.
    Kill(Named),
    /// Let a node leave politely: it is announced, its work ends, then it goes.
    Leave(Named),
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Up {
    /// How many nodes to start.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=i64::from(NODES_MAX)))]
    pub(crate) nodes: u32,
    #[command(flatten)]
    pub(crate) data: DataArg,
    /// Where clients are served.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub(crate) http: SocketAddr,
    /// Where the balancer shows its metrics and its state.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9901")]
    pub(crate) admin: SocketAddr,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) data: DataArg,
    /// Print JSON, for programs.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Scale {
    /// How many nodes there should be.
    #[arg(value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(NODES_MAX)))]
    pub(crate) nodes: u32,
    #[command(flatten)]
    pub(crate) data: DataArg,
}

#[derive(Debug, Args)]
pub(crate) struct Named {
    /// The node's id, as `status` shows it.
    #[arg(value_name = "NODE")]
    pub(crate) node: String,
    #[command(flatten)]
    pub(crate) data: DataArg,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct DataArg {
    /// The folder the cluster lives in [default: $XDG_STATE_HOME/colonnade, else ~/.local/state/colonnade].
    #[arg(long = "data", value_name = "DIR")]
    pub(crate) folder: Option<PathBuf>,
}

/// Reads the command line; when there is nothing to do but to explain, that is done, and the code to exit with comes back.
pub(crate) fn parse() -> Result<Command, ExitCode> {
    match CommandLine::try_parse() {
        Ok(line) => Ok(line.command.unwrap_or(Command::Up(line.up))),
        Err(error) => Err(explain(&error)),
    }
}

fn explain(error: &clap::Error) -> ExitCode {
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    ) {
        // A closed pipe is the reader's choice.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    eprintln!(
        "colonnade: {} (see `colonnade --help`)",
        one_line(&error.to_string())
    );
    ExitCode::from(USAGE_ERROR)
}

/// The parser's first paragraph is what is wrong; the rest is advice that `--help` gives too.
fn one_line(text: &str) -> String {
    let paragraph = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.is_empty());
    let joined = paragraph.collect::<Vec<_>>().join(" ");
    joined.trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        use clap::CommandFactory;
        CommandLine::command().debug_assert();
    }

    #[test]
    fn without_a_command_the_cluster_starts() {
        for line in [
            &["colonnade", "--nodes", "5"][..],
            &["colonnade", "up", "--nodes", "5"],
        ] {
            match parsed(line).expect("this can be typed") {
                Command::Up(up) => {
                    assert_eq!((up.nodes, up.http.port(), up.admin.port()), (5, 8080, 9901));
                }
                other => panic!("{line:?} became {other:?}"),
            }
        }
    }

    #[test]
    fn a_bad_line_is_told_in_one() {
        check(
            &["--nodes", "0"],
            "invalid value '0' for '--nodes <N>': 0 is not in 1..=64",
        );
        check(
            &["scale", "many"],
            "invalid value 'many' for '<N>': invalid digit found in string",
        );
        check(&["--wings"], "unexpected argument '--wings' found");
        check(
            &["kill"],
            "the following required arguments were not provided: <NODE>",
        );
        check(
            &["up", "--http", "8080"],
            "invalid value '8080' for '--http <ADDR>': invalid socket address syntax",
        );
    }

    fn check(args: &[&str], expected: &str) {
        let line: Vec<&str> = ["colonnade"].iter().chain(args).copied().collect();
        let error = parsed(&line).expect_err("this cannot be typed");
        assert_eq!(one_line(&error.to_string()), expected);
    }

    fn parsed(line: &[&str]) -> Result<Command, clap::Error> {
        let line = CommandLine::try_parse_from(line)?;
        Ok(line.command.unwrap_or(Command::Up(line.up)))
    }
}
