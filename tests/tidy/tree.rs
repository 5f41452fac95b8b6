//! Reads the repository once, as plain text, for the rules to look at.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// One text file of the repository.
pub(crate) struct File {
    /// Where it is, from the top of the repository, with `/` between the parts.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// The top of the repository.
pub(crate) fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests
        .parent()
        .expect("the package lies one folder below the top")
        .to_owned()
}

/// What lies in the top folder, without what git ignores.
pub(crate) fn top_names() -> Vec<String> {
    let ignored = read("/.gitignore").unwrap_or_default();
    names_in(&root())
        .into_iter()
        .filter(|name| name != ".git" && !is_ignored(&ignored, name))
        .collect()
}

/// Every Rust source, in the order of their paths.
pub(crate) fn rust_files() -> Vec<File> {
    files_that_end_in(".rs")
}

/// Every page of prose.
pub(crate) fn markdown_files() -> Vec<File> {
    files_that_end_in(".md")
}

/// Every text file of any kind; what is not UTF-8 (an icon, an archive) is not text.
pub(crate) fn text_files() -> Vec<File> {
    files_that_end_in("")
}

/// The text of one file, if it is there.
pub(crate) fn read(path: &str) -> Option<String> {
    fs::read_to_string(root().join(path.trim_start_matches('/'))).ok()
}

/// Is there a file or folder at this path?
pub(crate) fn exists(path: &str) -> bool {
    root().join(path).exists()
}

/// Ends the test with all findings at once, since one run should be enough to mend them all.
pub(crate) fn hold(findings: &[String]) {
    assert!(
        findings.is_empty(),
        "{} finding(s):\n  {}\n",
        findings.len(),
        findings.join("\n  ")
    );
}

fn files_that_end_in(ending: &str) -> Vec<File> {
    let mut files = Vec::new();
    for name in top_names() {
        collect(&root().join(&name), &name, ending, &mut files);
    }
    files
}

fn collect(place: &Path, path: &str, ending: &str, files: &mut Vec<File>) {
    if place.is_dir() {
        for name in names_in(place).into_iter().filter(|name| name != "target") {
            collect(&place.join(&name), &format!("{path}/{name}"), ending, files);
        }
    } else if path.ends_with(ending)
        && let Ok(text) = fs::read_to_string(place)
    {
        files.push(File {
            path: path.to_owned(),
            text,
        });
    }
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("the repository can be read");
    let mut names: Vec<String> = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Knows the two shapes that our `.gitignore` uses for the top folder: a name, and a name with one star at either end.
fn is_ignored(gitignore: &str, name: &str) -> bool {
    gitignore
        .lines()
        .map(|line| line.trim().trim_matches('/'))
        .any(
            |pattern| match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
                (Some(end), _) if !end.is_empty() => name.ends_with(end),
                (_, Some(start)) if !start.is_empty() => name.starts_with(start),
                _ => name == pattern,
            },
        )
}

#[test]
fn what_git_ignores_is_not_looked_at() {
    let gitignore = "/target\n*.profraw\nperf.data*\n";
    let ignored: Vec<&str> = ["target", "a.profraw", "perf.data.old", "proto", "README.md"]
        .into_iter()
        .filter(|name| is_ignored(gitignore, name))
        .collect();
    assert_eq!(ignored, ["target", "a.profraw", "perf.data.old"]);
}

#[test]
fn the_walk_over_the_files_finds_this_one() {
    let files = rust_files();
    let this = files
        .iter()
        .find(|file| file.path == "tests/tidy/tree.rs")
        .expect("this file is found");
    assert!(this.text.starts_with("//! Reads the repository"));
    assert!(
        !files.iter().any(|file| file.path.contains("target/")),
        "built files are nobody's to tidy"
    );
}
