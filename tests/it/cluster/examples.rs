//! The example configurations are what an operator starts from, so they are started: an etcd, nodes and a balancer from the very
//! files of `deploy`, with no other changes than the places where this test has its ports.

use std::{fs, path::Path};

use tempfile::TempDir;
use tests::{
    etcd::{Etcd, EtcdOptions},
    ports::{self, PortLease},
    process::{Process, Program, ours},
    whole_cluster::{AdminAddr, until},
};

/// How often a client asks once a node is dead.
const ASKED: usize = 50;

#[tokio::test]
async fn the_examples_serve_together() {
    let Some(etcd) = Etcd::start(EtcdOptions::default()).await else {
        return;
    };
    let place = Place::new(&etcd);
    let mut nodes = [place.node("node-1"), place.node("node-2")];
    let balancer = place.balancer();
    until_offered(&balancer, &["node-1", "node-2"]).await;
    assert_eq!(
        balancer.entry.get("/whoami").await.ok().map(|it| it.status),
        Some(200)
    );
    assert_eq!(
        balancer.entry.get("/").await.ok().map(|it| it.status),
        Some(200)
    );

    nodes[0].process.kill().expect("it runs");
    for n in 0..ASKED {
        let told = balancer.entry.get("/whoami").await;
        let told = told.unwrap_or_else(|err| panic!("request {n}: {err}"));
        assert_eq!(told.status, 200, "request {n}: {}", told.body);
        assert!(told.body.contains("node-2"), "request {n}: {}", told.body);
    }
    until_offered(&balancer, &["node-2"]).await;
}

#[tokio::test]
async fn the_routes_of_the_example_do_what_they_say() {
    let Some(etcd) = Etcd::start(EtcdOptions::default()).await else {
        return;
    };
    let place = Place::new(&etcd);
    let _node = place.node("node-1");
    let balancer = place.balancer();
    until_offered(&balancer, &["node-1"]).await;
    let robots = balancer.entry.get("/robots.txt").await.expect("it answers");
    assert_eq!(
        (robots.status, robots.body.as_str()),
        (200, "User-agent: *\n")
    );
    let old = balancer.entry.get("/old/page").await.expect("it answers");
    assert_eq!(old.status, 308);
}

/// Where the changed files are, and who announces what where.
struct Place {
    dir: TempDir,
    etcd: String,
}

struct Node {
    process: Process,
    _ports: [PortLease; 2],
}

struct Balancer {
    entry: AdminAddr,
    admin: AdminAddr,
    _process: Process,
    _ports: [PortLease; 3],
}

impl Place {
    fn new(etcd: &Etcd) -> Self {
        Self {
            dir: TempDir::new().expect("a temporary folder can be made"),
            etcd: etcd.endpoints().remove(0),
        }
    }

    fn node(&self, id: &str) -> Node {
        let ports = [lease(), lease()];
        let [web, admin] = ports.each_ref().map(|it| it.address().to_string());
        let changes = [
            ("\"node-1\"", format!("{id:?}")),
            ("\"127.0.0.1:8000\"", format!("{web:?}")),
            ("127.0.0.1:9902", admin),
            ("http://127.0.0.1:2379", self.etcd.clone()),
        ];
        Node {
            process: self.start("node", id, &changes),
            _ports: ports,
        }
    }

    fn balancer(&self) -> Balancer {
        let ports = [lease(), lease(), lease()];
        let [web, game, admin] = ports.each_ref().map(PortLease::address);
        // The admin address and etcd's are defaults there, shown as remarks.
        let changes = [
            ("0.0.0.0:8080", web.to_string()),
            ("0.0.0.0:7000", game.to_string()),
            (
                "#address = \"127.0.0.1:9901\"",
                format!("address = \"{admin}\""),
            ),
            (
                "#endpoints = [\"http://127.0.0.1:2379\"]",
                format!("endpoints = [{:?}]", self.etcd),
            ),
        ];
        Balancer {
            _process: self.start("balancer", "balancer", &changes),
            entry: AdminAddr(web),
            admin: AdminAddr(admin),
            _ports: ports,
        }
    }

    fn start(&self, program: &str, name: &str, changes: &[(&str, String)]) -> Process {
        let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
        let example = fs::read_to_string(deploy.join(format!("{program}.toml")))
            .expect("the example is there");
        let text = changes.iter().fold(example, |text, (place, address)| {
            assert!(text.contains(place), "{program}.toml has {place}");
            text.replace(place, address)
        });
        let file = self.dir.path().join(format!("{name}.toml"));
        fs::write(&file, text).expect("a temporary folder is writable");
        let program = Program::new(ours(program).expect("our programs can be built"));
        let program = program.argument("--config").argument(&file);
        program.start().expect("the program can be started")
    }
}

/// These nodes serve the web, and no others.
async fn until_offered(balancer: &Balancer, nodes: &[&str]) {
    until(format_args!("{nodes:?} are offered"), async || {
        let endpoints = balancer.admin.endpoints().await.unwrap_or_default();
        let offered = endpoints
            .iter()
            .filter(|it| it.service == "web" && it.offered);
        let mut names: Vec<_> = offered.map(|it| it.node.as_str()).collect();
        names.sort_unstable();
        names == nodes
    })
    .await;
}

fn lease() -> PortLease {
    ports::free().expect("loopback has free ports")
}
