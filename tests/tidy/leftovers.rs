//! What a source must open with, and what nobody leaves lying in one.

use crate::tree;

/// Macros that mark unfinished work. They are put together here so that this file does not find itself.
const UNFINISHED: [&str; 3] = [
    concat!("to", "do!("),
    concat!("unimpl", "emented!("),
    concat!("db", "g!("),
];

/// How a path begins that exists on somebody's machine and on no other.
const MACHINES: [&str; 4] = [
    concat!("/ho", "me/"),
    concat!("/ro", "ot/"),
    concat!("/Us", "ers/"),
    concat!("/wo", "rk/"),
];

#[test]
fn every_source_opens_with_its_reason() {
    let files = tree::rust_files();
    tree::hold(
        &files
            .iter()
            .filter_map(|file| opening(&file.path, &file.text))
            .collect::<Vec<_>>(),
    );
}

#[test]
fn nothing_unfinished_is_left() {
    let files = tree::rust_files();
    tree::hold(
        &files
            .iter()
            .flat_map(|file| unfinished(&file.path, &file.text))
            .collect::<Vec<_>>(),
    );
}

#[test]
fn no_file_names_a_path_of_one_machine() {
    let files = tree::text_files();
    tree::hold(
        &files
            .iter()
            .flat_map(|file| machine_paths(&file.path, &file.text))
            .collect::<Vec<_>>(),
    );
}

/// The first paragraph of `//!` lines must be a sentence: a beginning, some words, an end.
fn opening(path: &str, text: &str) -> Option<String> {
    let paragraph: Vec<&str> = text
        .lines()
        .map_while(|line| line.strip_prefix("//!"))
        .map(str::trim)
        .take_while(|line| !line.is_empty())
        .collect();
    let sentence = paragraph.join(" ");
    // Not all begin with a capital: nginx and gRPC do not.
    let is_sentence = sentence.starts_with(|c: char| c.is_alphanumeric() || c == '`')
        && sentence.split_whitespace().count() >= 2
        && sentence.ends_with(['.', ':', '!', '?']);
    (!is_sentence).then(|| {
        format!("{path}:1: open with `//! ` and one sentence that says why this file exists")
    })
}

fn unfinished(path: &str, text: &str) -> Vec<String> {
    lines_with(text, |line| {
        UNFINISHED.iter().any(|mark| line.contains(mark))
    })
    .map(|number| {
        format!("{path}:{number}: finish it, or leave it out until it has something to do")
    })
    .collect()
}

fn machine_paths(path: &str, text: &str) -> Vec<String> {
    lines_with(text, |line| {
        MACHINES.iter().any(|start| names_machine(line, start))
    })
    .map(|number| {
        format!("{path}:{number}: a path of one machine: make it relative, or an argument")
    })
    .collect()
}

/// Is the path absolute here? Behind a name, a dot or another slash it is part of a longer one.
fn names_machine(line: &str, start: &str) -> bool {
    line.match_indices(start).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || "./_-~}$".contains(c))
    })
}

fn lines_with(text: &str, is_bad: impl Fn(&str) -> bool) -> impl Iterator<Item = usize> {
    text.lines()
        .enumerate()
        .filter(move |(_, line)| is_bad(line))
        .map(|(index, _)| index + 1)
}

#[test]
fn a_source_without_a_reason_is_found() {
    for good in [
        "//! Dials nodes.\n",
        "//! Dials nodes,\n//! and hangs up.\n//!\n//! More\nfn a() {}\n",
        "//! `proto` on the wire.\n",
    ] {
        assert_eq!(opening("a.rs", good), None, "{good}");
    }
    for bad in [
        "",
        "fn a() {}\n",
        "// Dials nodes.\n",
        "//!\n",
        "//! dials nodes\n",
        "//! Dials.\n",
        "#![x]\n//! Dials nodes.\n",
    ] {
        assert!(opening("a.rs", bad).is_some(), "{bad}");
    }
}

#[test]
fn unfinished_work_is_found() {
    for mark in UNFINISHED {
        assert_eq!(
            unfinished("a.rs", &format!("fn a() {{\n    {mark})\n}}\n")).len(),
            1,
            "{mark}"
        );
    }
    assert_eq!(
        unfinished("a.rs", "fn a() { method!(1) }\n"),
        Vec::<String>::new()
    );
}

#[test]
fn a_path_of_one_machine_is_found() {
    for start in MACHINES {
        assert_eq!(
            machine_paths("a.md", &format!("see {start}ada/notes")).len(),
            1,
            "{start}"
        );
        assert_eq!(
            machine_paths(
                "a.md",
                &format!("`{start}x`\nGET http://a.example{start}x, ..{start}")
            )
            .len(),
            1,
            "{start}"
        );
    }
}
