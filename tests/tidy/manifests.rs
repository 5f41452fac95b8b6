//! One version of everything, written once, at the top: the members only point there.

use toml::{Table, Value};

use crate::tree::{self, File};

/// The tables of a manifest that name other packages.
const KINDS: [&str; 3] = ["dependencies", "dev-dependencies", "build-dependencies"];

/// Not a member: what is fuzzed is built apart, with counters in it.
const FUZZ: &str = "tests/fuzz/Cargo.toml";

/// What every member inherits, so that it is said once.
const INHERITED: [&str; 5] = ["version", "edition", "rust-version", "license", "publish"];

#[test]
fn shared_versions_are_exact_enough() {
    let text = tree::read("Cargo.toml").expect("the workspace has a manifest");
    tree::hold(&shared_versions(&text));
}

#[test]
fn members_take_everything_from_the_workspace() {
    let members = manifests();
    assert!(
        members.len() >= 9,
        "the members' manifests were found: {}",
        members.len()
    );
    tree::hold(
        &members
            .iter()
            .flat_map(|file| member(&file.path, &file.text))
            .collect::<Vec<_>>(),
    );
}

fn manifests() -> Vec<File> {
    tree::text_files()
        .into_iter()
        .filter(|file| file.path.ends_with("/Cargo.toml") && file.path != FUZZ)
        .collect()
}

fn shared_versions(text: &str) -> Vec<String> {
    let manifest: Table = text.parse().expect("cargo read this manifest before");
    let shared = manifest["workspace"]
        .get("dependencies")
        .and_then(Value::as_table)
        .expect("versions are shared");
    let loose = shared
        .iter()
        .filter(|(_, value)| !is_path(value) && !is_pinned(version_of(value)));
    loose
        .map(|(name, _)| {
            format!("Cargo.toml: {name}: give a version (`1.2`) or, for one of ours, a path")
        })
        .collect()
}

fn is_path(value: &Value) -> bool {
    value.get("path").is_some_and(Value::is_str) && value.get("git").is_none()
}

fn version_of(value: &Value) -> Option<&str> {
    value
        .as_str()
        .or_else(|| value.get("version").and_then(Value::as_str))
}

fn is_pinned(version: Option<&str>) -> bool {
    version.is_some_and(|text| {
        text.starts_with(|c: char| c.is_ascii_digit() || "=^~".contains(c)) && !text.contains('*')
    })
}

fn member(path: &str, text: &str) -> Vec<String> {
    let manifest: Table = text.parse().expect("cargo read this manifest before");
    let mut findings = Vec::new();
    for (name, value) in KINDS
        .iter()
        .flat_map(|kind| manifest.get(*kind).and_then(Value::as_table))
        .flatten()
    {
        if !is_inherited(value) {
            findings.push(format!(
                "{path}: {name}: write `{name}.workspace = true`, and its version in Cargo.toml"
            ));
        }
    }
    if manifest.contains_key("target") {
        findings.push(format!("{path}: target: dependencies of one platform only: agree on it in tests/tidy/manifests.rs"));
    }
    let package = manifest
        .get("package")
        .and_then(Value::as_table)
        .cloned()
        .unwrap_or_default();
    let own = INHERITED
        .iter()
        .filter(|key| !package.get(**key).is_some_and(is_inherited));
    findings
        .extend(own.map(|key| format!("{path}: package.{key}: write `{key}.workspace = true`")));
    if !manifest.get("lints").is_some_and(is_inherited) {
        findings.push(format!("{path}: lints: write `[lints] workspace = true`"));
    }
    findings
}

fn is_inherited(value: &Value) -> bool {
    value.get("workspace").and_then(Value::as_bool) == Some(true)
}

#[test]
fn a_loose_version_is_found() {
    let check = |line: &str| shared_versions(&format!("[workspace.dependencies]\n{line}\n")).len();
    for good in [
        "a = \"1\"",
        "a = \"=1.2.3\"",
        "a = { path = \"a\" }",
        "a = { version = \"0.3\", features = [\"b\"] }",
    ] {
        assert_eq!(check(good), 0, "{good}");
    }
    for bad in [
        "a = \"*\"",
        "a = \"1.*\"",
        "a = \">=1\"",
        "a = { git = \"https://example.org/a\" }",
        "a = { features = [] }",
    ] {
        assert_eq!(check(bad), 1, "{bad}");
    }
}

#[test]
fn a_member_with_a_version_of_its_own_is_found() {
    let head: String = INHERITED
        .iter()
        .map(|key| format!("{key}.workspace = true\n"))
        .collect();
    let check = |tail: &str| {
        member(
            "a/Cargo.toml",
            &format!("[package]\nname = \"a\"\n{head}\n[lints]\nworkspace = true\n{tail}"),
        )
    };
    assert_eq!(
        check("[dependencies]\nserde = { workspace = true, features = [\"rc\"] }"),
        Vec::<String>::new()
    );
    assert_eq!(check("[dev-dependencies]\nserde = \"1\"").len(), 1);
    assert_eq!(
        check("[build-dependencies]\nserde = { path = \"../serde\" }").len(),
        1
    );
    assert_eq!(
        check("[target.'cfg(unix)'.dependencies]\nserde.workspace = true").len(),
        1
    );
    assert_eq!(
        member(
            "a/Cargo.toml",
            "[package]\nname = \"a\"\nversion = \"2.0.0\"\n"
        )
        .len(),
        6
    );
}
