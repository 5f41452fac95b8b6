//! A whole cluster of real processes: etcd, balancers and nodes, and the faults that real ones have.
//!
//! Every process listens on loopback ports of this cluster alone and ends with it. When a test fails, what each process said last is
//! printed with the failure.

mod ask;
mod settings;

use std::{
    fmt, io,
    path::PathBuf,
    process::ExitStatus,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{
    etcd::{Etcd, EtcdOptions},
    load::EntryAddr,
    ports::{self, PortLease},
    process::{Process, Program, ours},
};

pub use ask::{AdminAddr, AskError, Endpoint, RegistryStatus, Told};

/// How long anything may take that should happen soon, on a machine that builds something else meanwhile.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How much of each process's output a failed test shows.
const OUTPUT_SHOWN_MAX: usize = 16 << 10;

/// How a cluster is set up.
#[derive(Clone, Copy, Debug)]
pub struct ClusterOptions {
    /// Default: 1.
    pub n_balancers: usize,
    /// Default: 3.
    pub n_nodes: usize,
    /// From SIGTERM to the end of a node, whatever is under way. Default: 20 s.
    pub leave_deadline: Duration,
    /// How long a record outlives its process; etcd's own least is 2 s. Default: 3 s.
    pub lease_ttl: Duration,
    /// Default: TCP, at the balancer's own interval.
    pub probe: Probe,
    /// How long a node may take to begin its answer. Default: the balancer's own.
    pub response_head_timeout: Option<Duration>,
}

/// How the balancers see whether a node lives.
#[derive(Clone, Copy, Debug)]
pub enum Probe {
    Off,
    Tcp,
    Http {
        path: &'static str,
        interval: Duration,
        timeout: Duration,
    },
}

/// A node of this cluster, counted from 0; no number is used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeNr(usize);

/// A balancer of this cluster, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BalancerNr(pub usize);

/// How a process was killed.
#[derive(Clone, Copy, Debug)]
pub struct Killed {
    /// Just before the signal.
    pub at: Instant,
    /// When its sockets were closed for certain.
    pub gone: Instant,
}

/// How a process left.
#[derive(Clone, Copy, Debug)]
pub struct Departed {
    pub status: ExitStatus,
    /// From SIGTERM to the end.
    pub took: Duration,
}

/// A running cluster.
pub struct Cluster {
    options: ClusterOptions,
    etcd: Etcd,
    balancers: Vec<Balancer>,
    nodes: Vec<Node>,
    programs: Programs,
    /// Dropped last: the processes write into it.
    dir: TempDir,
}

struct Programs {
    balancer: PathBuf,
    node: PathBuf,
}

struct Balancer {
    ports: BalancerPorts,
    /// The last one is the present one.
    lives: Vec<Process>,
}

struct Node {
    ports: NodePorts,
    process: Process,
}

struct BalancerPorts {
    web: PortLease,
    raw: PortLease,
    admin: PortLease,
}

struct NodePorts {
    web: PortLease,
    admin: PortLease,
}

/// Waits until `holds`, and fails the test when that takes longer than [`PATIENCE`].
pub async fn until(what: impl fmt::Display, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(
            Instant::now() < deadline,
            "{what}: not so after {PATIENCE:?}"
        );
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            n_balancers: 1,
            n_nodes: 3,
            leave_deadline: Duration::from_secs(20),
            lease_ttl: Duration::from_secs(3),
            probe: Probe::Tcp,
            response_head_timeout: None,
        }
    }
}

// === impl Cluster ===

impl Cluster {
    /// Starts everything and waits until every balancer offers every node; None where etcd is not installed.
    pub async fn start(options: ClusterOptions) -> Option<Self> {
        let etcd = Etcd::start(EtcdOptions::default()).await?;
        let ours = |name| ours(name).expect("our programs can be built");
        let mut cluster = Self {
            options,
            etcd,
            balancers: Vec::new(),
            nodes: Vec::new(),
            programs: Programs {
                balancer: ours("balancer"),
                node: ours("node"),
            },
            dir: TempDir::new().expect("a temporary folder can be made"),
        };
        let nodes: Vec<_> = (0..options.n_nodes).map(|_| cluster.start_node()).collect();
        let balancers = (0..options.n_balancers).map(|_| cluster.start_balancer());
        let balancers: Vec<_> = balancers.collect();
        for balancer in balancers {
            cluster.until_offered(balancer, &nodes).await;
        }
        Some(cluster)
    }

    pub fn etcd(&mut self) -> &mut Etcd {
        &mut self.etcd
    }

    /// The nodes there ever were, in the order of their start.
    pub fn nodes(&self) -> Vec<NodeNr> {
        (0..self.nodes.len()).map(NodeNr).collect()
    }

    /// Starts one more node, which may not be ready yet.
    pub fn start_node(&mut self) -> NodeNr {
        let nr = NodeNr(self.nodes.len());
        let ports = NodePorts {
            web: lease(),
            admin: lease(),
        };
        let settings = settings::OfNode {
            id: nr.to_string(),
            ports: &ports,
            etcd: &self.etcd.endpoints(),
            options: &self.options,
        };
        let file = self.write(&format!("{nr}.toml"), &settings.to_string());
        let process = run(&self.programs.node, &file);
        self.nodes.push(Node { ports, process });
        nr
    }

    /// Starts one more balancer, which may not be ready yet.
    pub fn start_balancer(&mut self) -> BalancerNr {
        let nr = BalancerNr(self.balancers.len());
        let ports = BalancerPorts {
            web: lease(),
            raw: lease(),
            admin: lease(),
        };
        let settings = settings::OfBalancer {
            id: nr.to_string(),
            ports: &ports,
            snapshot: &self.snapshot_file(nr),
            etcd: &self.etcd.endpoints(),
            options: &self.options,
        };
        let file = self.write(&format!("{nr}.toml"), &settings.to_string());
        let lives = vec![run(&self.programs.balancer, &file)];
        self.balancers.push(Balancer { ports, lives });
        nr
    }

    /// Starts a balancer that has ended once more, with the settings and the snapshot it had.
    pub fn restart_balancer(&mut self, nr: BalancerNr) {
        let file = self.dir.path().join(format!("{nr}.toml"));
        let process = run(&self.programs.balancer, &file);
        self.balancers[nr.0].lives.push(process);
    }

    pub fn node(&mut self, nr: NodeNr) -> &mut Process {
        &mut self.nodes[nr.0].process
    }

    pub fn balancer(&mut self, nr: BalancerNr) -> &mut Process {
        let lives = &mut self.balancers[nr.0].lives;
        lives.last_mut().expect("a balancer has been started")
    }

    /// Where a balancer takes HTTP.
    pub fn entry(&self, nr: BalancerNr) -> EntryAddr {
        EntryAddr(self.balancers[nr.0].ports.web.address())
    }

    /// Where a balancer relays bytes to the web service.
    pub fn raw_entry(&self, nr: BalancerNr) -> EntryAddr {
        EntryAddr(self.balancers[nr.0].ports.raw.address())
    }

    pub fn balancer_admin(&self, nr: BalancerNr) -> AdminAddr {
        AdminAddr(self.balancers[nr.0].ports.admin.address())
    }

    pub fn node_admin(&self, nr: NodeNr) -> AdminAddr {
        AdminAddr(self.nodes[nr.0].ports.admin.address())
    }

    /// Where a node serves; clients do not go there.
    pub fn node_web(&self, nr: NodeNr) -> EntryAddr {
        EntryAddr(self.nodes[nr.0].ports.web.address())
    }

    /// `kill -9`.
    pub async fn kill(&mut self, nr: NodeNr) -> Killed {
        let process = self.node(nr);
        let at = Instant::now();
        process.kill().expect("a process of ours can be signalled");
        process.exit(PATIENCE).await.expect("a killed process ends");
        Killed {
            at,
            gone: Instant::now(),
        }
    }

    /// SIGTERM, and the end that follows it.
    pub async fn leave(&mut self, nr: NodeNr) -> Departed {
        depart(self.node(nr)).await
    }

    /// SIGTERM, and the end that follows it.
    pub async fn stop_balancer(&mut self, nr: BalancerNr) -> Departed {
        depart(self.balancer(nr)).await
    }

    /// Waits until a balancer offers exactly these nodes new work.
    pub async fn until_offered(&self, balancer: BalancerNr, nodes: &[NodeNr]) {
        let mut expected: Vec<String> = nodes.iter().map(NodeNr::to_string).collect();
        expected.sort();
        let admin = self.balancer_admin(balancer);
        until(format_args!("{balancer} offers {expected:?}"), async || {
            offered(admin).await.is_some_and(|it| it == expected)
        })
        .await;
    }

    /// What a balancer knows of its endpoints.
    pub async fn endpoints(&self, balancer: BalancerNr) -> Vec<Endpoint> {
        let admin = self.balancer_admin(balancer);
        let endpoints = admin.endpoints().await;
        endpoints.expect("a balancer that runs tells its endpoints")
    }

    pub async fn registry(&self, balancer: BalancerNr) -> RegistryStatus {
        let admin = self.balancer_admin(balancer);
        let status = admin.registry().await;
        let status = status.expect("a balancer that runs tells its state");
        status.expect("it is configured with a registry")
    }

    /// What a balancer keeps on disk, when it has written it.
    pub fn snapshot(&self, nr: BalancerNr) -> io::Result<String> {
        std::fs::read_to_string(self.snapshot_file(nr))
    }

    fn snapshot_file(&self, nr: BalancerNr) -> PathBuf {
        self.dir.path().join(format!("{nr}.json"))
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let file = self.dir.path().join(name);
        std::fs::write(&file, text).expect("a temporary folder is writable");
        file
    }

    fn print_outputs(&self) {
        for (nr, balancer) in self.balancers.iter().enumerate() {
            balancer
                .lives
                .iter()
                .for_each(|life| print_output(&BalancerNr(nr), life));
        }
        for (nr, node) in self.nodes.iter().enumerate() {
            print_output(&NodeNr(nr), &node.process);
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_outputs();
        }
    }
}

impl NodeNr {
    /// The node that was started first.
    pub const FIRST: Self = Self(0);
}

impl fmt::Display for NodeNr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

impl fmt::Display for BalancerNr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b{}", self.0)
    }
}

fn lease() -> PortLease {
    ports::free().expect("loopback has free ports")
}

fn run(program: &PathBuf, settings: &PathBuf) -> Process {
    let program = Program::new(program)
        .argument("--config")
        .argument(settings);
    program.start().expect("our programs can be started")
}

async fn depart(process: &mut Process) -> Departed {
    let began = Instant::now();
    process
        .terminate()
        .expect("a process of ours can be signalled");
    let status = process
        .exit(PATIENCE)
        .await
        .expect("a program that is told to leave ends");
    Departed {
        status,
        took: began.elapsed(),
    }
}

/// The nodes that are offered, in order; None when the balancer does not answer.
async fn offered(admin: AdminAddr) -> Option<Vec<String>> {
    let endpoints = admin.endpoints().await.ok()?;
    let offered = endpoints.into_iter().filter(|it| it.offered);
    let mut nodes: Vec<_> = offered.map(|it| it.node).collect();
    nodes.sort();
    Some(nodes)
}

fn print_output(who: &dyn fmt::Display, process: &Process) {
    let output = process
        .output()
        .unwrap_or_else(|cause| format!("no output: {cause}"));
    let from = output.len().saturating_sub(OUTPUT_SHOWN_MAX);
    let from = (from..=output.len())
        .find(|at| output.is_char_boundary(*at))
        .unwrap_or_default();
    eprintln!("\n=== {who} ===\n{}", &output[from..]);
}
