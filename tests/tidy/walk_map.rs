//! The map of the walk names files and functions, and what it names is there.

use crate::tree;

/// The page that leads a newcomer through the sources.
const MAP: &str = "docs/ARCHITECTURE.md";

/// What the name behind `::` may be.
const KINDS: [&str; 9] = [
    "fn", "struct", "enum", "trait", "type", "mod", "const", "static", "union",
];

#[test]
fn the_map_names_what_is_there() {
    if let Some(map) = tree::read(MAP) {
        tree::hold(&misnamed(&map, &|path| tree::read(path)));
    }
}

/// A place is written `path/file.rs` or `path/file.rs::name`, from the top of the repository.
fn misnamed(map: &str, read: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
    let mut findings = Vec::new();
    for (index, line) in map.lines().enumerate() {
        for place in line
            .split('`')
            .skip(1)
            .step_by(2)
            .filter(|span| is_place(span))
        {
            if let Some(reason) = wrong(place, read) {
                findings.push(format!("{MAP}:{}: {place}: {reason}", index + 1));
            }
        }
    }
    findings
}

fn is_place(span: &str) -> bool {
    (span.ends_with(".rs") || span.contains(".rs::")) && !span.contains(' ')
}

fn wrong(place: &str, read: &dyn Fn(&str) -> Option<String>) -> Option<&'static str> {
    let (path, name) = place
        .split_once("::")
        .map_or((place, None), |(path, name)| (path, Some(name)));
    let Some(source) = read(path) else {
        return Some("no such file: write its path from the top, without braces or stars");
    };
    // `Type::method` is looked up by its last part.
    let last = name.map(|name| {
        name.rsplit("::")
            .next()
            .unwrap_or(name)
            .trim_end_matches("()")
    });
    last.is_some_and(|name| !defines(&source, name))
        .then_some("the file has nothing of this name: the walk changed, so change its map")
}

fn defines(source: &str, name: &str) -> bool {
    source
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .any(|line| {
            let words: Vec<&str> = line
                .split(|c: char| !c.is_alphanumeric() && c != '_')
                .filter(|word| !word.is_empty())
                .collect();
            words
                .windows(2)
                .any(|pair| KINDS.contains(&pair[0]) && pair[1] == name)
        })
}

#[test]
fn a_place_that_moved_is_found() {
    let read = |path: &str| {
        (path == "a/b.rs").then(|| {
            "/// fn gone\npub(crate) async fn walk<T>(it: T) {}\nstruct Step;\n".to_owned()
        })
    };
    let check = |place: &str| misnamed(&format!("It starts in `{place}`.\n"), &read).len();
    for good in [
        "a/b.rs",
        "a/b.rs::walk",
        "a/b.rs::Step",
        "a/b.rs::Step::walk()",
        "cargo test",
        "b.toml",
    ] {
        assert_eq!(check(good), 0, "{good}");
    }
    for bad in ["b.rs", "a/b.rs::gone", "a/{b,c}.rs", "a/b.rs::wal"] {
        assert_eq!(check(bad), 1, "{bad}");
    }
}
