//! A real balancer under test: its configuration written, its program started, what it says of itself read.
//!
//! Every test starts its own, on leased ports and with a folder of its own, so that tests can run side by side.

use std::{
    fmt::Write as _,
    net::SocketAddr,
    path::PathBuf,
    process::ExitStatus,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    origin::Dialogue,
    ports::{self, PortLease},
    process::{Memory, Process, Program, Ready, memory, ours},
};

/// How long a balancer may take to answer; far more than it needs, on a machine that builds something else meanwhile.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How long a condition may take to hold; far more than it needs, for the same reason.
const HOLDS_WITHIN: Duration = Duration::from_secs(20);

/// What a balancer is told before it starts. Endpoints are not probed unless a test asks for it, so that every connection that an
/// origin sees is a client's.
#[derive(Debug)]
pub struct Setup {
    top: String,
    admin: String,
    listeners: Vec<(String, PortLease, String)>,
    services: Vec<Service>,
    routes: Vec<String>,
    hands_over: bool,
}

#[derive(Debug)]
struct Service {
    keys: String,
    probe: String,
}

/// A running balancer; dropped, it is killed.
#[derive(Debug)]
pub struct Balancer {
    process: Process,
    dir: TempDir,
    admin: PortLease,
    listeners: Vec<(String, PortLease)>,
}

impl Setup {
    /// One listener for HTTP, `web`, and one service behind it, `app`.
    pub fn http(endpoints: &[SocketAddr]) -> Self {
        Self::empty()
            .listener("web", "")
            .service("app", endpoints)
            .route("service = 'app'")
    }

    /// One listener of another protocol, `entry`, and one service behind it, `app`.
    pub fn relay(protocol: &str, endpoints: &[SocketAddr]) -> Self {
        let keys = format!("protocol = '{protocol}'\nservice = 'app'");
        Self::empty()
            .listener("entry", &keys)
            .service("app", endpoints)
    }

    pub fn empty() -> Self {
        Self {
            top: "id = 'under-test'\nworkers = 1".to_owned(),
            admin: String::new(),
            listeners: Vec::new(),
            services: Vec::new(),
            routes: Vec::new(),
            hands_over: false,
        }
    }

    /// Lets the balancer be succeeded by another.
    #[must_use]
    pub fn handing_over(mut self) -> Self {
        self.hands_over = true;
        self
    }

    /// Adds keys that belong to no table.
    #[must_use]
    pub fn top(mut self, keys: &str) -> Self {
        self.top = format!("{}\n{keys}", self.top);
        self
    }

    /// Adds keys to the admin table, and tables after it; `{dir}` stands for the balancer's own folder.
    #[must_use]
    pub fn administered(mut self, keys: &str) -> Self {
        self.admin = format!("{}{keys}\n", self.admin);
        self
    }

    /// Lets so many threads carry traffic; one does unless a test asks for more.
    #[must_use]
    pub fn workers(mut self, n: usize) -> Self {
        self.top = self.top.replace("workers = 1", &format!("workers = {n}"));
        self
    }

    /// Adds a listener on a port of its own.
    #[must_use]
    pub fn listener(mut self, name: &str, keys: &str) -> Self {
        let lease = ports::free().expect("a port is free");
        self.listeners
            .push((name.to_owned(), lease, keys.to_owned()));
        self
    }

    /// Adds keys to the listener added last.
    #[must_use]
    pub fn listening(mut self, keys: &str) -> Self {
        let (.., text) = self.listeners.last_mut().expect("a listener comes first");
        *text = format!("{text}\n{keys}");
        self
    }

    /// Adds a service with fixed endpoints.
    #[must_use]
    pub fn service(self, name: &str, endpoints: &[SocketAddr]) -> Self {
        let endpoints: Vec<_> = endpoints.iter().map(|it| format!("'{it}'")).collect();
        let endpoints = endpoints.join(", ");
        self.discovering(
            name,
            &format!("discover = 'static'\nendpoints = [{endpoints}]"),
        )
    }

    /// Adds a service that finds its endpoints as `keys` say.
    #[must_use]
    pub fn discovering(mut self, name: &str, keys: &str) -> Self {
        let service = Service {
            keys: format!("name = '{name}'\n{keys}"),
            probe: "kind = 'off'\ninterval = '200ms'".to_owned(),
        };
        self.services.push(service);
        self
    }

    /// Adds keys to the service added last.
    #[must_use]
    pub fn serving(mut self, keys: &str) -> Self {
        let service = self.services.last_mut().expect("a service comes first");
        service.keys = format!("{}\n{keys}", service.keys);
        self
    }

    /// Says how the endpoints of the service added last are probed.
    #[must_use]
    pub fn probing(mut self, keys: &str) -> Self {
        let service = self.services.last_mut().expect("a service comes first");
        keys.clone_into(&mut service.probe);
        self
    }

    #[must_use]
    pub fn route(mut self, keys: &str) -> Self {
        self.routes.push(keys.to_owned());
        self
    }

    /// Starts the balancer and waits until it is ready.
    pub async fn start(self) -> Balancer {
        let dir = TempDir::new().expect("a temporary folder can be made");
        let admin = ports::free().expect("a port is free");
        let file = dir.path().join("balancer.toml");
        let text = self.text(admin.address(), dir.path());
        std::fs::write(&file, text).expect("a temporary folder is writable");
        let program = Program::new(ours("balancer").expect("the balancer can be built"));
        let process = program.argument("--config").argument(&file).start();
        let mut process = process.expect("the balancer can be started");
        let ready = Ready::Url {
            address: admin.address(),
            path: "/readyz".to_owned(),
        };
        process
            .ready(&ready, READY_WITHIN)
            .await
            .expect("a good configuration starts");
        let listeners = self.listeners.into_iter();
        Balancer {
            process,
            dir,
            admin,
            listeners: listeners.map(|(name, lease, _)| (name, lease)).collect(),
        }
    }

    fn text(&self, admin: SocketAddr, dir: &std::path::Path) -> String {
        let dir = dir.display();
        let mut text = format!(
            "{}\n[admin]\naddress = '{admin}'\n{}[log]\nlevel = 'info'\naccess = '{dir}/access.log'\n",
            self.top,
            self.admin.replace("{dir}", &dir.to_string()),
        );
        if self.hands_over {
            let _ = writeln!(text, "[takeover]\nsocket = '{dir}/takeover.sock'");
        }
        let mut add = |part: String| text.push_str(&part);
        for (name, lease, keys) in &self.listeners {
            let address = lease.address();
            add(format!(
                "[[listener]]\nname = '{name}'\naddress = '{address}'\n{keys}\n"
            ));
        }
        for Service { keys, probe } in &self.services {
            add(format!("[[service]]\n{keys}\n[service.probe]\n{probe}\n"));
        }
        for keys in &self.routes {
            add(format!("[[route]]\n{keys}\n"));
        }
        text
    }
}

impl Balancer {
    /// The address of its first listener.
    pub fn entry(&self) -> SocketAddr {
        self.listeners[0].1.address()
    }

    /// The address of a listener.
    pub fn entry_of(&self, name: &str) -> SocketAddr {
        let listener = self.listeners.iter().find(|(it, _)| it == name);
        listener
            .expect("the test has set up a listener of that name")
            .1
            .address()
    }

    /// Where it is asked about itself.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin.address()
    }

    /// Its own folder, with its configuration and its access log.
    pub fn folder(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// What it was told.
    pub fn config(&self) -> String {
        std::fs::read_to_string(self.config_file()).expect("the test has written it")
    }

    /// Replaces its configuration's file, which it may or may not notice.
    pub fn rewrite(&self, text: &str) {
        let beside = self.dir.path().join("beside.toml");
        std::fs::write(&beside, text).expect("a temporary folder is writable");
        std::fs::rename(beside, self.config_file()).expect("a temporary folder is writable");
    }

    /// Has it read its configuration again; what it says came of that.
    pub async fn reload(&mut self) -> Value {
        let before = self.last_reload().await;
        self.process.hang_up().expect("it runs");
        let mut last = Value::Null;
        until("a reload", async || {
            last = self.last_reload().await;
            last != before
        })
        .await;
        last
    }

    /// How it last read its configuration again.
    pub async fn last_reload(&self) -> Value {
        let status: Value = serde_json::from_str(&self.admin("/api/v1/status").await)
            .expect("the admin API speaks JSON");
        status["last_reload"].clone()
    }

    /// Starts another program with the same configuration, to take over from this one.
    pub fn start_successor(&self) -> Process {
        let program = Program::new(ours("balancer").expect("the balancer can be built"));
        let program = program.argument("--config").argument(self.config_file());
        let started = program.argument("--takeover").start();
        started.expect("the balancer can be started")
    }

    /// Waits until the successor has taken over, and gives back the process that was there before.
    pub async fn succeeded_by(&mut self, successor: Process) -> Process {
        let before = std::mem::replace(&mut self.process, successor);
        until("the successor to serve", async || {
            let ended = self.process.ended().expect("it can be looked at");
            let output = self.process.output().unwrap_or_default();
            assert_eq!(ended, None, "the successor must live: {output}");
            output.contains("\"message\":\"listening\"")
        })
        .await;
        before
    }

    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The memory that the program has for itself.
    pub fn memory(&self) -> Memory {
        memory(self.process.pid()).expect("a running program's memory is readable")
    }

    /// `GET`s from the admin address; the body of the answer.
    pub async fn admin(&self, path: &str) -> String {
        let mut dialogue = Dialogue::with(self.admin.address()).await;
        let host = self.admin.address();
        let mut request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n");
        request.push_str("connection: close\r\n\r\n");
        dialogue.say(request).await;
        let head = dialogue.head().await;
        assert_eq!(
            head.status(),
            200,
            "{path} of the admin address must answer"
        );
        String::from_utf8(dialogue.rest().await).expect("what the admin address says is text")
    }

    /// One metric's value, by its name with all labels; 0 where it is not there yet.
    pub async fn metric(&self, name: &str) -> f64 {
        let all = self.admin("/metrics").await;
        let value = all
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0.0, |it| it.parse().expect("a metric is a number"))
    }

    /// What the balancer knows of the endpoint at this address.
    pub async fn endpoint(&self, address: SocketAddr) -> Option<Value> {
        let all: Value = serde_json::from_str(&self.admin("/api/v1/endpoints").await)
            .expect("the admin API speaks JSON");
        let endpoints = all["endpoints"].as_array().cloned().unwrap_or_default();
        let address = address.to_string();
        endpoints.into_iter().find(|it| it["address"] == address)
    }

    /// Waits until new work may or may not go to an endpoint.
    pub async fn until_offered(&self, address: SocketAddr, offered: bool) {
        until("the endpoint's offer to change", async || {
            let endpoint = self.endpoint(address).await;
            endpoint.is_some_and(|it| it["offered"] == offered)
        })
        .await;
    }

    /// The access log's line about the exchange with this path; lines are written a moment after the end.
    pub async fn line(&self, path: &str) -> Value {
        let mut found = None;
        until("an access line", async || {
            found = self.lines().into_iter().find(|it| it["path"] == path);
            found.is_some()
        })
        .await;
        found.expect("it was waited for")
    }

    /// All lines of the access log so far.
    pub fn lines(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.access_log()).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole
            .lines()
            .map(|it| serde_json::from_str(it).expect("an access line is JSON"))
            .collect()
    }

    pub async fn exit(&mut self, patience: Duration) -> ExitStatus {
        let exited = self.process.exit(patience).await;
        exited.expect("a balancer that was told to leave ends")
    }

    fn config_file(&self) -> PathBuf {
        self.dir.path().join("balancer.toml")
    }

    fn access_log(&self) -> PathBuf {
        self.dir.path().join("access.log")
    }
}

impl Drop for Balancer {
    /// The balancer says `ERROR` only where it is itself at fault, so that no test may cause one.
    fn drop(&mut self) {
        let output = self.process.output().unwrap_or_default();
        let faults: Vec<_> = output
            .lines()
            .filter(|it| it.contains("\"level\":\"ERROR\"") || it.contains("panicked at"))
            .collect();
        assert!(
            faults.is_empty() || std::thread::panicking(),
            "the balancer must not be at fault: {faults:#?}"
        );
        if std::thread::panicking() {
            let mut shown = String::new();
            for line in self.lines() {
                let _ = writeln!(shown, "{line}");
            }
            eprintln!("the balancer's access log:\n{shown}and its output:\n{output}");
        }
    }
}

/// Waits until the condition holds.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + HOLDS_WITHIN;
    while !holds().await {
        assert!(Instant::now() < deadline, "waited too long for {what}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Asks the program itself what it thinks of a configuration: its exit code and all that it said.
pub async fn check(text: &str) -> (Option<i32>, String) {
    let dir = TempDir::new().expect("a temporary folder can be made");
    let file = dir.path().join("b.toml");
    std::fs::write(&file, text).expect("a temporary folder is writable");
    let program = Program::new(ours("balancer").expect("the balancer can be built"));
    let program = program.argument("--config").argument(&file);
    let started = program.argument("--check").start();
    let mut process = started.expect("the balancer can be started");
    let status = process.exit(READY_WITHIN).await.expect("a check ends");
    let said = process.output().expect("output is kept");
    let folder = format!("{}/", dir.path().display());
    (status.code(), said.replace(&folder, "").trim().to_owned())
}
