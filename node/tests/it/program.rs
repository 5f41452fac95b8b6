//! The program as a shell sees it: its one line when something is wrong, its signals and its exit codes.

use std::{
    io::{BufRead, BufReader},
    net::TcpListener,
    process::{Child, Command, Output, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

#[test]
fn a_bad_setting_is_one_line_and_two() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("n.toml");
    std::fs::write(&file, "[web]\nadress = '127.0.0.1:0'\n").expect("a file");
    let output = run(
        &["--check", "--config", file.to_str().expect("a path")],
        &[],
    );
    let line = format!(
        "node: {}:2: web.adress: unknown key, expected one of `address`, ",
        file.display()
    );
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        stderr.starts_with(&line) && stderr.lines().count() == 1,
        "{stderr}"
    );
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_bad_variable_is_named() {
    let output = run(&["--check"], &[("COLONNADE_NODE__WEIGHT", "heavy")]);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        stderr.starts_with("node: COLONNADE_NODE__WEIGHT: node.weight: "),
        "{stderr}"
    );
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        run(&["--check"], &[("COLONNADE_NODE__ID", "7")])
            .status
            .code(),
        Some(0)
    );
}

#[test]
fn a_busy_port_is_one_line_and_one() {
    let busy = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = busy.local_addr().expect("an address").to_string();
    let output = run(&[], &[("COLONNADE_WEB__ADDRESS", &address)]);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        stderr.starts_with(&format!("node: cannot listen on web.address {address}: ")),
        "{stderr}"
    );
    assert_eq!((stderr.lines().count(), output.status.code()), (1, Some(1)));
}

#[test]
fn a_signal_makes_it_leave_politely() {
    let (mut child, _) = serving(&[]);
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let (mut child, mut lines) = serving(&[("COLONNADE_LOG__LEVEL", "debug")]);
    signal(&child, Signal::TERM);
    let announced = lines.find(|line| line.contains("Announce"));
    assert!(announced.is_some(), "it begins to leave");
    signal(&child, Signal::INT);
    assert_eq!(child.wait().expect("it ends").code(), Some(130));
}

fn run(args: &[&str], env: &[(&str, &str)]) -> Output {
    command(args, env).output().expect("the program runs")
}

/// The program once it serves, and the lines it logs from then on.
fn serving(env: &[(&str, &str)]) -> (Child, impl Iterator<Item = String>) {
    let mut child = command(&[], env)
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let stderr = child.stderr.take().expect("its log is ours to read");
    let mut lines = BufReader::new(stderr).lines().map_while(Result::ok);
    assert!(
        lines.any(|line| line.contains("\"serving\"")),
        "it says when it serves"
    );
    (child, lines)
}

fn command(args: &[&str], env: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_node"));
    command
        .args(args)
        .env("COLONNADE_NODE__ID", "n1")
        .env("COLONNADE_ADMIN__ADDRESS", "127.0.0.1:0")
        .env("COLONNADE_WEB__ADDRESS", "127.0.0.1:0")
        .envs(env.iter().copied());
    command
}

fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(child.id() as i32).expect("a process has an id");
    kill_process(pid, signal).expect("the process is ours");
}
