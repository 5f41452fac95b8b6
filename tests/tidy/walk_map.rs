//! The map of the walk and the list of traps name files and functions, and what they name is there.

use crate::tree;

/// The page that leads a newcomer through the sources, and the list of the tests that others' mistakes have become.
const MAPS: [&str; 2] = ["docs/ARCHITECTURE.md", TRAPS];

/// Each row of its table names the tests of one trap.
const TRAPS: &str = "tests/it/traps.rs";

/// What a row of that table begins with.
const ROW: &str = "//! | ";

/// What the name behind `::` may be.
const KINDS: [&str; 9] = [
    "fn", "struct", "enum", "trait", "type", "mod", "const", "static", "union",
];

#[test]
fn the_map_names_what_is_there() {
    for path in MAPS {
        let map = tree::read(path).expect("the map is there");
        tree::hold(&misnamed(path, &map, &|path| tree::read(path)));
    }
}

#[test]
fn every_trap_has_a_test() {
    let table = tree::read(TRAPS).expect("the table is there");
    tree::hold(&without_a_test(&table));
}

fn without_a_test(table: &str) -> Vec<String> {
    let rows = table.lines().filter(|it| it.starts_with(ROW)).skip(1);
    let lacking = rows.filter(|row| !spans(row).any(is_place));
    lacking
        .map(|row| format!("{TRAPS}: {row}: name the test, as `path/file.rs::name`"))
        .collect()
}

/// A place is written `path/file.rs` or `path/file.rs::name`, from the top of the repository.
fn misnamed(map_path: &str, map: &str, read: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
    let mut findings = Vec::new();
    for (index, line) in map.lines().enumerate() {
        for place in spans(line).filter(|span| is_place(span)) {
            if let Some(reason) = wrong(place, read) {
                findings.push(format!("{map_path}:{}: {place}: {reason}", index + 1));
            }
        }
    }
    findings
}

/// What stands between backticks.
fn spans(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
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
    let check =
        |place: &str| misnamed("MAP.md", &format!("It starts in `{place}`.\n"), &read).len();
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

#[test]
fn a_trap_without_a_test_is_found() {
    let table = |row: &str| format!("//! | trap | test |\n//! |---|---|\n//! | {row} |\n");
    assert_eq!(without_a_test(&table("a | `a/b.rs::c`")).len(), 0);
    assert_eq!(without_a_test(&table("a | beside `the` pickers")).len(), 1);
}
