//! The top folder holds what was agreed and nothing else, so that a newcomer's first listing stays one screen.

use crate::tree;

/// What must be there.
const AGREED: [&str; 19] = [
    ".cargo",
    ".ci",
    ".editorconfig",
    ".gitattributes",
    ".gitignore",
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "balancer",
    "clippy.toml",
    "deny.toml",
    "deploy",
    "docs",
    "node",
    "proto",
    "tests",
];

/// What may be there: the formatter's settings, and folders that appear when they have something to hold.
const ALLOWED: [&str; 3] = [".dockerignore", "k8s", "rustfmt.toml"];

/// Names that say nothing about what is inside.
const NAMELESS: [&str; 6] = ["common", "util", "utils", "helpers", "misc", "shared"];

#[test]
fn the_top_folder_is_the_agreed_list() {
    tree::hold(&top_level(&tree::top_names()));
}

#[test]
fn every_file_is_named_after_what_it_holds() {
    let files = tree::text_files();
    tree::hold(&nameless(files.iter().map(|file| file.path.as_str())));
}

fn top_level(names: &[String]) -> Vec<String> {
    let is_known =
        |name: &&String| AGREED.contains(&name.as_str()) || ALLOWED.contains(&name.as_str());
    let extra = names.iter().filter(|name| !is_known(name)).map(|name| {
        format!("{name}: not on the agreed list: put it below a folder that is, or agree on it in tests/tidy/top_level.rs")
    });
    let missing = AGREED
        .iter()
        .filter(|agreed| !names.iter().any(|name| name == *agreed));
    extra
        .chain(missing.map(|name| format!("{name}: agreed on, but not there")))
        .collect()
}

fn nameless<'a>(paths: impl Iterator<Item = &'a str>) -> Vec<String> {
    paths
        .filter(|path| {
            path.split('/')
                .any(|part| NAMELESS.contains(&part.split('.').next().unwrap_or(part)))
        })
        .map(|path| {
            format!("{path}: name it after what it holds, or move its parts to those who use them")
        })
        .collect()
}

#[test]
fn a_stray_file_and_a_missing_one_are_found() {
    let mut names: Vec<String> = AGREED.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(top_level(&names), Vec::<String>::new());
    names.retain(|name| name != "README.md");
    names.push("notes.txt".to_owned());
    let findings = top_level(&names);
    assert_eq!(findings.len(), 2, "{findings:?}");
    assert!(findings[0].starts_with("notes.txt: not on the agreed list"));
    assert!(findings[1].starts_with("README.md: agreed on"));
}

#[test]
fn a_drawer_for_everything_is_found() {
    let paths = [
        "node/src/util.rs",
        "balancer/src/common/mod.rs",
        "node/src/commonly.rs",
        "proto/src/lib.rs",
    ];
    let findings = nameless(paths.into_iter());
    assert_eq!(findings.len(), 2, "{findings:?}");
}
