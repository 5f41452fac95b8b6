//! Which of our packages may depend on which: balancer and node never name each other, and the cores name nobody.

use std::collections::BTreeSet;

use cargo_metadata::{Metadata, MetadataCommand};

use crate::tree;

/// Every package of ours and all that it may name, for building, for running and for testing alike.
const ALLOWED: [(&str, &[&str]); 9] = [
    ("balancer", &["balancer-core", "registry", "settings"]),
    ("balancer-core", &[]),
    ("colonnade", &["balancer", "node", "registry"]),
    ("node", &["node-core", "proto", "registry", "settings"]),
    ("node-core", &[]),
    ("proto", &[]),
    ("registry", &[]),
    ("settings", &[]),
    (
        "tests",
        &[
            "balancer",
            "balancer-core",
            "node",
            "node-core",
            "proto",
            "registry",
            "settings",
        ],
    ),
];

/// One package naming another.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Edge {
    from: String,
    to: String,
}

#[test]
fn our_packages_only_look_where_they_may() {
    let (packages, edges) = ours(&metadata());
    assert!(
        packages.contains("balancer") && packages.contains("node"),
        "cargo told of our packages: {packages:?}"
    );
    tree::hold(&directions(&packages, &edges));
}

/// What cargo says about the workspace; only for the platform at hand, so that nothing is fetched for another.
pub(crate) fn metadata() -> Metadata {
    let options = ["--locked", "--filter-platform", "host-tuple"].map(str::to_owned);
    MetadataCommand::new()
        .manifest_path(tree::root().join("Cargo.toml"))
        .other_options(options)
        .exec()
        .expect("cargo can describe the workspace")
}

fn ours(metadata: &Metadata) -> (BTreeSet<String>, BTreeSet<Edge>) {
    let members = metadata.workspace_packages();
    let names: BTreeSet<String> = members
        .iter()
        .map(|package| package.name.to_string())
        .collect();
    let edges = members
        .iter()
        .flat_map(|package| {
            package
                .dependencies
                .iter()
                .map(move |it| (package.name.to_string(), it.name.clone()))
        })
        .filter(|(_, to)| names.contains(to))
        .map(|(from, to)| Edge { from, to })
        .collect();
    (names, edges)
}

fn directions(packages: &BTreeSet<String>, edges: &BTreeSet<Edge>) -> Vec<String> {
    let allowed_for = |name: &str| {
        ALLOWED
            .iter()
            .find(|(from, _)| *from == name)
            .map(|(_, to)| *to)
    };
    let unknown = packages
        .iter()
        .filter(|name| allowed_for(name).is_none())
        .map(|name| {
            format!(
                "{name}: a new package: write in tests/tidy/directions.rs what it may depend on"
            )
        });
    let forbidden = edges
        .iter()
        .filter(|edge| allowed_for(&edge.from).is_some_and(|allowed| !allowed.contains(&edge.to.as_str())))
        .map(|Edge { from, to }| {
            format!("{from} -> {to}: not an agreed direction: let them meet in the registry or on the wire")
        });
    unknown.chain(forbidden).collect()
}

#[test]
fn a_forbidden_direction_is_found() {
    let check = |from: &str, to: &str| {
        let packages = [from, to].map(str::to_owned).into();
        let edges = [Edge {
            from: from.to_owned(),
            to: to.to_owned(),
        }]
        .into();
        directions(&packages, &edges)
    };
    assert_eq!(check("balancer", "balancer-core"), Vec::<String>::new());
    for (from, to) in [
        ("balancer", "node"),
        ("node", "balancer"),
        ("node-core", "registry"),
        ("registry", "tests"),
    ] {
        let findings = check(from, to);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(findings[0].starts_with(&format!("{from} -> {to}: not an agreed direction")));
    }
}

#[test]
fn a_package_nobody_agreed_on_is_found() {
    let findings = directions(&["toolbox".to_owned()].into(), &BTreeSet::new());
    assert_eq!(findings.len(), 1, "{findings:?}");
}
