//! The cores decide and do nothing else: no socket, runtime, clock or dice anywhere in what they are built from.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, Metadata};
use syn::{
    Attribute, ImplItemFn, ItemFn, ItemMod, Macro, Path,
    visit::{self, Visit},
};

use crate::{directions::metadata, tree};

/// The packages that must stay pure.
const CORES: [&str; 2] = ["balancer-core", "node-core"];

/// Crates that own sockets, timers or a runtime, directly or through others.
const ACTING: [&str; 9] = [
    "async-std",
    "axum",
    "etcd-client",
    "h2",
    "hyper",
    "mio",
    "smol",
    "tokio",
    "tonic",
];

/// What a core is given as an argument, and so has no business asking for.
const ASKED_FOR: [&str; 6] = [
    "Instant::now",
    "SystemTime::now",
    "thread::sleep",
    "thread::spawn",
    "Rng::new",
    "rand::random",
];

/// Who depends on whom, by package name, as linked into a program.
type Graph = BTreeMap<String, BTreeSet<String>>;

#[test]
fn the_cores_are_built_without_sockets_and_runtimes() {
    let graph = linked(&metadata());
    assert!(
        CORES.iter().all(|core| graph.contains_key(*core)),
        "the graph holds the cores"
    );
    tree::hold(
        &CORES
            .iter()
            .flat_map(|core| acting_crates(&graph, core))
            .collect::<Vec<_>>(),
    );
}

#[test]
fn the_cores_are_told_the_time_and_given_their_dice() {
    let files = tree::rust_files();
    let of_cores = files.iter().filter(|file| is_core_source(&file.path));
    tree::hold(
        &of_cores
            .flat_map(|file| asked_for(&file.path, &file.text))
            .collect::<Vec<_>>(),
    );
}

fn linked(metadata: &Metadata) -> Graph {
    let resolve = metadata
        .resolve
        .as_ref()
        .expect("cargo was asked for the resolved graph");
    let name_of = |id| metadata[id].name.to_string();
    let mut graph = Graph::new();
    for node in &resolve.nodes {
        let linked = node.deps.iter().filter(|it| {
            it.dep_kinds
                .iter()
                .any(|kind| kind.kind == DependencyKind::Normal)
        });
        graph
            .entry(name_of(&node.id))
            .or_default()
            .extend(linked.map(|it| name_of(&it.pkg)));
    }
    graph
}

fn acting_crates(graph: &Graph, core: &str) -> Vec<String> {
    let mut reached = BTreeSet::from([core]);
    let mut open = vec![core];
    while let Some(name) = open.pop() {
        let next = graph.get(name).into_iter().flatten().map(String::as_str);
        open.extend(next.filter(|name| reached.insert(name)));
    }
    let acting = ACTING.iter().filter(|name| reached.contains(*name));
    acting.map(|name| format!("{core} reaches {name}: move what needs it to the shell (`cargo tree -p {core} -i {name}`)")).collect()
}

fn is_core_source(path: &str) -> bool {
    (path.starts_with("balancer/core/src/") || path.starts_with("node/core/src/"))
        && !path.ends_with("/tests.rs")
}

fn asked_for(path: &str, text: &str) -> Vec<String> {
    let mut asking = Asking {
        path,
        findings: Vec::new(),
    };
    asking.visit_file(&syn::parse_file(text).expect("a source that compiles can be parsed"));
    asking.findings
}

struct Asking<'a> {
    path: &'a str,
    findings: Vec<String>,
}

impl Asking<'_> {
    fn look_at(&mut self, line: usize, text: &str) {
        for asked in ASKED_FOR.iter().filter(|asked| text.contains(*asked)) {
            self.findings.push(format!(
                "{}:{line}: `{asked}` in a core: take it as an argument",
                self.path
            ));
        }
    }
}

impl<'ast> Visit<'ast> for Asking<'_> {
    // A test is its core's shell: it may read a clock to have a first instant to count from.
    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        if !is_for_tests(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast ItemFn) {
        if !is_for_tests(&item.attrs) {
            visit::visit_item_fn(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast ImplItemFn) {
        if !is_for_tests(&item.attrs) {
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_path(&mut self, path: &'ast Path) {
        let parts: Vec<String> = path
            .segments
            .iter()
            .map(|segment| segment.ident.to_string())
            .collect();
        let line = path
            .segments
            .first()
            .map_or(0, |segment| segment.ident.span().start().line);
        self.look_at(line, &parts.join("::"));
        visit::visit_path(self, path);
    }

    // What stands inside a macro call is only tokens, so it is read as text.
    fn visit_macro(&mut self, call: &'ast Macro) {
        let text: String = call.tokens.to_string().split_whitespace().collect();
        let line = call
            .path
            .segments
            .first()
            .map_or(0, |segment| segment.ident.span().start().line);
        self.look_at(line, &text);
        visit::visit_macro(self, call);
    }
}

fn is_for_tests(attrs: &[Attribute]) -> bool {
    attrs.iter().any(|attr| match &attr.meta {
        syn::Meta::Path(path) => path.is_ident("test"),
        syn::Meta::List(list) => {
            list.path.is_ident("cfg") && list.tokens.to_string().contains("test")
        }
        syn::Meta::NameValue(_) => false,
    })
}

#[test]
fn a_runtime_three_crates_down_is_found() {
    let edges = [
        ("balancer-core", "calm"),
        ("calm", "lively"),
        ("lively", "tokio"),
        ("lively", "calm"),
        ("node-core", "calmer"),
    ];
    let mut graph = Graph::new();
    for (from, to) in edges {
        graph
            .entry(from.to_owned())
            .or_default()
            .insert(to.to_owned());
    }
    let findings = acting_crates(&graph, "balancer-core");
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(findings[0].starts_with("balancer-core reaches tokio"));
    assert_eq!(acting_crates(&graph, "node-core"), Vec::<String>::new());
}

#[test]
fn a_core_that_reads_the_clock_is_found_and_its_tests_are_not() {
    let text = "
        fn late() -> bool { std::time::Instant::now() > DUE }
        fn loud() { log!(SystemTime::now()); }
        fn dice() -> u64 { fastrand::Rng::new().u64(..) }
        #[cfg(test)] mod tests { fn start() -> Instant { Instant::now() } }
        #[test] fn one() { Instant::now(); }
        fn told(now: Instant) -> Instant { now }";
    let findings = asked_for("node/core/src/late.rs", text);
    assert_eq!(findings.len(), 3, "{findings:?}");
    assert!(findings[0].starts_with("node/core/src/late.rs:2: `Instant::now`"));
    assert!(findings[1].contains(":3: `SystemTime::now`"));
    assert!(findings[2].contains(":4: `Rng::new`"));
}
