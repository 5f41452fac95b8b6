//! Starts a whole cluster on this machine with one command, and steers it from a second terminal.
//!
//! | file | tells |
//! |---|---|
//! | `command_line` | what can be typed |
//! | `up` | the life of the cluster, from the first line printed to the last |
//! | `data` | the folder that a cluster lives in |
//! | `settings` | what the balancer and the nodes are told |
//! | `cluster` | the nodes that run, and who they are |
//! | `member` | one node on its own thread, and its two ways to end |
//! | `control` | how a second terminal is heard |
//! | `steer` | how it speaks |
//! | `order` | what the two say to each other |
//!
//! Nothing here decides or serves: the balancer and the nodes are the programs that also run apart, on a registry in
//! memory.

mod cluster;
mod command_line;
mod control;
mod data;
mod exchange;
mod member;
mod order;
mod settings;
mod steer;
mod up;

use std::{error::Error, process::ExitCode};

use command_line::Command;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let command = match command_line::parse() {
        Ok(command) => command,
        Err(code) => return code,
    };
    match obey(&command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("colonnade: {error}");
            ExitCode::FAILURE
        }
    }
}

fn obey(command: &Command) -> Result<(), Box<dyn Error>> {
    match command {
        Command::Up(args) => up::run(args)?,
        Command::Status(args) => steer::status(args)?,
        Command::Scale(args) => steer::scale(args)?,
        Command::Kill(args) => steer::kill(args)?,
        Command::Leave(args) => steer::leave(args)?,
    }
    Ok(())
}
