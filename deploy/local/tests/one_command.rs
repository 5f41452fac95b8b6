//! The one command as a newcomer meets it: the program is started, steered from outside, and its output is read.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc,
        mpsc::{Receiver, channel},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

/// How long anything here may take, on a machine that builds something else meanwhile.
const PATIENCE: Duration = Duration::from_secs(60);
/// The last line of what `up` prints when all is well.
const LAST_LINE: &str = "Ctrl-C lets everybody leave.";
/// So many that a node which takes its share is not left out by chance.
const REQUESTS_PER_NODE: usize = 20;
/// Far more than sockets hold between a node and a client that does not read.
const DOWNLOAD_BYTES: u64 = 1 << 28;

#[test]
fn a_cluster_serves_while_nodes_come_and_go() {
    let cluster = Running::start(&[]);
    assert_eq!(
        cluster.states(),
        [
            ("node-1", "ready"),
            ("node-2", "ready"),
            ("node-3", "ready")
        ]
        .map(pair)
    );
    assert!(
        cluster.get("/").contains("One address, many nodes"),
        "the demo site is served"
    );
    cluster.until_answered_by(["node-1", "node-2", "node-3"]);

    assert_eq!(cluster.steer(&["kill", "node-2"]), "node-2 was killed");
    cluster.until_answered_by(["node-1", "node-3"]);
    let running =
        |states: Vec<(String, String)>| states.into_iter().filter(|(_, state)| state != "dead");
    assert_eq!(
        running(cluster.states()).count(),
        2,
        "a killed node does not run"
    );

    assert_eq!(
        cluster.steer(&["scale", "4"]),
        "4 nodes run; before, it was 2"
    );
    cluster.until_answered_by(["node-1", "node-3", "node-4", "node-5"]);
    assert_eq!(cluster.steer(&["leave", "node-1"]), "node-1 has left");
    assert_eq!(
        cluster.steer(&["scale", "2"]),
        "2 nodes run; before, it was 3"
    );
    let left: Vec<_> = running(cluster.states()).collect();
    assert_eq!(
        left,
        [("node-3", "ready"), ("node-4", "ready")].map(pair),
        "the newest leave first"
    );
    cluster.until_answered_by(["node-3", "node-4"]);
}

#[test]
fn the_status_tells_programs_all_that_is_printed() {
    let cluster = Running::start(&["--nodes", "1"]);
    let status = cluster.status();
    assert_eq!(status["entry"], cluster.entry.to_string());
    assert!(
        status["admin"]
            .as_str()
            .is_some_and(|text| text.parse::<SocketAddr>().is_ok()),
        "{status}"
    );
    let node = &status["nodes"][0];
    assert!(
        node["address"]
            .as_str()
            .is_some_and(|text| text.starts_with("127.0.0.1:")),
        "{status}"
    );
    assert!(node["incarnation"].as_u64().is_some(), "{status}");
    assert!(
        cluster.steer(&["status"]).contains("node-1  ready"),
        "people read a table"
    );
}

#[test]
fn an_interrupt_ends_the_cluster_cleanly() {
    let mut cluster = Running::start(&["--nodes", "2"]);
    cluster.signal("INT");
    let status = cluster.child.wait().expect("the program is ours");
    assert!(status.success(), "{status}");
    refused(&cluster.run(&["status"]), "no cluster runs in ");
}

#[test]
fn a_second_interrupt_ends_all_at_once() {
    let mut cluster = Running::start(&["--nodes", "1"]);
    let _client = cluster.never_ending_download();
    cluster.signal("INT");
    until_printed(&cluster.printed, |line| {
        line.starts_with("Leaving: ").then_some(())
    });
    assert!(
        cluster
            .child
            .try_wait()
            .expect("the program is ours")
            .is_none(),
        "it waits for the client"
    );
    cluster.signal("INT");
    let status = cluster.child.wait().expect("the program is ours");
    assert_eq!(
        status.code(),
        Some(130),
        "as a shell reports what Ctrl-C ended"
    );
}

#[test]
fn a_crash_leaves_nothing_behind_that_hinders_the_next_start() {
    let mut cluster = Running::start(&["--nodes", "1"]);
    cluster.child.kill().expect("the program is ours");
    cluster.child.wait().expect("the program is ours");
    refused(&cluster.run(&["scale", "2"]), "no cluster runs in ");
    let Running { data, .. } = &cluster;
    let again = Running::start_in(Arc::clone(data), &["--nodes", "1"]);
    again.until_answered_by(["node-1"]);
}

#[test]
fn a_folder_with_a_cluster_is_not_shared() {
    let cluster = Running::start(&["--nodes", "1"]);
    refused(
        &cluster.run(&["up", "--http", "127.0.0.1:0", "--admin", "127.0.0.1:0"]),
        "a cluster runs in ",
    );
    refused(
        &cluster.run(&["kill", "node-9"]),
        "there is no node node-9; running: node-1",
    );
    assert_eq!(
        cluster.states(),
        [("node-1", "ready")].map(pair),
        "nothing changed"
    );
}

#[test]
fn what_cannot_be_done_is_said_in_one_line() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let busy = taken.local_addr().expect("it is bound").to_string();
    let folder = TempDir::new().expect("a temporary folder");
    let run = |args: &[&str]| finished(command(folder.path()).args(args));
    refused(
        &run(&["up", "--http", &busy, "--admin", "127.0.0.1:0"]),
        &format!("{busy} is busy"),
    );
    refused(
        &run(&["up", "--http", "127.0.0.1:0", "--admin", &busy]),
        &format!("{busy} is busy"),
    );
    refused(
        &run(&["up", "--http", &busy, "--admin", &busy]),
        "--http and --admin both say ",
    );
    refused(
        &run(&["up", "--wings"]),
        "unexpected argument '--wings' found",
    );
    refused(&run(&["scale", "65"]), "invalid value '65'");
    refused(&run(&["leave", "node-1"]), "no cluster runs in ");
    let file = folder.path().join("file");
    std::fs::write(&file, "").expect("the folder can be written to");
    refused(
        &finished(
            Command::new(PROGRAM)
                .args(["up", "--data"])
                .arg(file.join("data")),
        ),
        "cannot write in ",
    );
}

const PROGRAM: &str = env!("CARGO_BIN_EXE_colonnade");

/// A cluster of this test's own, on ports that the kernel chose.
struct Running {
    child: Child,
    printed: Receiver<String>,
    entry: SocketAddr,
    data: Arc<TempDir>,
}

impl Running {
    fn start(args: &[&str]) -> Self {
        Self::start_in(Arc::new(TempDir::new().expect("a temporary folder")), args)
    }

    fn start_in(data: Arc<TempDir>, args: &[&str]) -> Self {
        let mut up = command(data.path());
        up.args(["up", "--http", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .args(args);
        let mut child = up
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program can be started");
        let printed = lines_of(child.stdout.take().expect("its output is piped"));
        let nowhere = ([127, 0, 0, 1], 0).into();
        // Built before it is up, so that one which does not come up is ended like any other.
        let mut cluster = Self {
            child,
            printed,
            entry: nowhere,
            data,
        };
        cluster.entry = until_printed(&cluster.printed, |line| {
            line.trim().strip_prefix("entry  http://")?.parse().ok()
        });
        until_printed(&cluster.printed, |line| (line == LAST_LINE).then_some(()));
        cluster
    }

    /// Asks the cluster something from a second terminal, and returns what that prints.
    fn steer(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(
            output.status.success(),
            "{args:?}: {}",
            text(&output.stderr)
        );
        text(&output.stdout).trim_end().to_owned()
    }

    fn run(&self, args: &[&str]) -> Output {
        finished(command(self.data.path()).args(args))
    }

    fn status(&self) -> Value {
        serde_json::from_str(&self.steer(&["status", "--json"])).expect("the status is JSON")
    }

    fn states(&self) -> Vec<(String, String)> {
        let status = self.status();
        let nodes = status["nodes"].as_array().expect("nodes are a list");
        nodes
            .iter()
            .map(|node| pair((word(&node["id"]), word(&node["state"]))))
            .collect()
    }

    /// Sends requests until exactly these nodes answered a run of them; every request must succeed.
    fn until_answered_by<const N: usize>(&self, expected: [&str; N]) {
        let expected: BTreeSet<String> = expected.map(str::to_owned).into();
        let start = Instant::now();
        loop {
            let answered: BTreeSet<String> = (0..N * REQUESTS_PER_NODE)
                .map(|_| self.who_answers())
                .collect();
            if answered == expected {
                return;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "answers came from {answered:?}, not from {expected:?}"
            );
        }
    }

    fn who_answers(&self) -> String {
        let body: Value =
            serde_json::from_str(&self.get("/whoami")).expect("whoami answers with JSON");
        word(&body["node_id"]).to_owned()
    }

    /// The body of a successful answer.
    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.entry).expect("the entry is open");
        stream
            .set_read_timeout(Some(PATIENCE))
            .expect("a time that is not zero");
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
            self.entry
        );
        stream
            .write_all(request.as_bytes())
            .expect("the entry takes a request");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("the answer ends");
        let answer = text(&answer);
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
        assert!(head.starts_with("HTTP/1.1 200 "), "{answer}");
        body.to_owned()
    }

    /// A client in the middle of an answer that is larger than all buffers on its way.
    fn never_ending_download(&self) -> TcpStream {
        let file = File::create(self.data.path().join("colonnade/sites/default/big"))
            .expect("the site is there");
        file.set_len(DOWNLOAD_BYTES).expect("a file may have holes");
        let mut stream = TcpStream::connect(self.entry).expect("the entry is open");
        stream
            .write_all(b"GET /big HTTP/1.1\r\nHost: big\r\n\r\n")
            .expect("the entry takes a request");
        let mut start = [0; 12];
        stream.read_exact(&mut start).expect("an answer begins");
        assert_eq!(&start, b"HTTP/1.1 200");
        stream
    }

    fn signal(&self, name: &str) {
        // The shell's own kill, since the program of that name is not on every machine.
        let sent = Command::new("sh")
            .arg("-c")
            .arg(format!("kill -{name} {}", self.child.id()))
            .status();
        assert!(sent.expect("there is a shell").success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended already needs neither.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(data: &Path) -> Command {
    let mut command = Command::new(PROGRAM);
    // The default folder is tested with it, and the user's own is left alone.
    command.env("XDG_STATE_HOME", data).env_remove("RUST_LOG");
    command.stdin(Stdio::null());
    command
}

fn finished(command: &mut Command) -> Output {
    command.output().expect("the program can be started")
}

/// The program said no: a code other than zero, and one line that holds what is expected.
fn refused(output: &Output, expected: &str) {
    let said = text(&output.stderr);
    assert!(!output.status.success(), "it said: {said}");
    assert!(said.contains(expected), "it said: {said}");
    assert_eq!(said.lines().count(), 1, "it said: {said}");
}

fn lines_of(output: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    thread::spawn(move || {
        BufReader::new(output)
            .lines()
            .map_while(Result::ok)
            .try_for_each(|line| sender.send(line))
    });
    lines
}

/// Reads on until a line is what is looked for.
fn until_printed<T>(printed: &Receiver<String>, found: impl Fn(&str) -> Option<T>) -> T {
    loop {
        let line = printed.recv_timeout(PATIENCE).expect("the line is printed");
        if let Some(it) = found(&line) {
            return it;
        }
    }
}

fn pair((id, state): (&str, &str)) -> (String, String) {
    (id.to_owned(), state.to_owned())
}

fn word(value: &Value) -> &str {
    value.as_str().expect("a string")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
