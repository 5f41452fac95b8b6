//! Starts children from one thread that lives as long as the process.
//!
//! The kernel ties "die with your parent" to the parent's *thread*: a child started from a short-lived thread of a
//! runtime would die when that thread retires.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::mpsc::{self, Sender};
use std::thread;

use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::{CpuSet, sched_setaffinity};

use super::Core;

/// One start to make, and where its result goes.
struct Order {
    command: Command,
    reply: Sender<io::Result<Child>>,
}

/// Starts `command`, pinned to `core` when one is given.
pub(super) fn spawn(mut command: Command, core: Option<Core>) -> io::Result<Child> {
    prepare(&mut command, core);
    let (reply, result) = mpsc::channel();
    spawner()
        .send(Order { command, reply })
        .expect("the spawner thread lives as long as the process");
    result
        .recv()
        .expect("the spawner thread answers every order")
}

#[expect(
    unsafe_code,
    reason = "the standard library offers no safe way to act between fork and exec"
)]
fn prepare(command: &mut Command, core: Option<Core>) {
    let cores = core.map(|Core(number)| {
        let mut set = CpuSet::new();
        set.set(number);
        set
    });
    let before_exec = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        cores
            .as_ref()
            .map_or(Ok(()), |set| sched_setaffinity(None, set))?;
        Ok(())
    };
    // SAFETY: the closure makes two system calls and touches no lock and no heap, as the child of a fork must.
    unsafe { command.pre_exec(before_exec) };
}

fn spawner() -> Sender<Order> {
    static SPAWNER: OnceLock<Sender<Order>> = OnceLock::new();
    SPAWNER.get_or_init(start_spawner).clone()
}

fn start_spawner() -> Sender<Order> {
    let (sender, orders) = mpsc::channel::<Order>();
    let work = move || {
        for Order { mut command, reply } in orders {
            // A caller that no longer waits has panicked; its child is dropped with the reply.
            let _ = reply.send(command.spawn());
        }
    };
    thread::Builder::new()
        .name("spawner".into())
        .spawn(work)
        .expect("a thread can be started");
    sender
}
