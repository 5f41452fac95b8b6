//! The metrics page lists what the programs count: no series without an explanation, no explanation without a series.

use std::collections::BTreeSet;

use syn::{
    LitStr, Macro,
    visit::{self, Visit},
};

use crate::tree;

/// Where the series are explained.
const PAGE: &str = "docs/METRICS.md";

/// What every series of ours begins with.
const PREFIX: &str = "colonnade_";

/// What a histogram's or summary's name grows at the end when it is scraped.
const SCRAPED: [&str; 3] = ["_bucket", "_count", "_sum"];

#[test]
fn the_page_lists_what_is_counted() {
    let files = tree::rust_files();
    let counted = files
        .iter()
        .filter(|file| is_observer(&file.path))
        .flat_map(|file| names_in_source(&file.text))
        .collect();
    if let Some(page) = tree::read(PAGE) {
        tree::hold(&differences(&counted, &names_in_page(&page)));
    }
}

#[test]
fn every_series_has_an_alert_or_the_reason_for_none() {
    if let Some(page) = tree::read(PAGE) {
        tree::hold(&without_alert(&page));
    }
}

/// A series is listed where its name begins a row. Its alert is wherever else it is named, or in the row itself after `Alert:`.
fn without_alert(page: &str) -> Vec<String> {
    let listed = names_in_page_rows(page);
    let has_alert = |name: &str| {
        let rest = page.lines().filter_map(|line| after_first_cell(line, name));
        let mut others = rest.flat_map(|rest| names_in(rest).collect::<Vec<_>>());
        let in_row = page
            .lines()
            .filter(|line| begins_row(line, name))
            .any(|line| line.contains("Alert:") || line.contains("no alert"));
        in_row || others.any(|it| is_named(it, name))
    };
    let lacking = listed.iter().filter(|name| !has_alert(name));
    lacking
        .map(|name| format!("{name}: say in {PAGE} when to be alerted, or `no alert` and why"))
        .collect()
}

fn names_in_page_rows(page: &str) -> BTreeSet<String> {
    let rows = page.lines().filter_map(|it| it.strip_prefix("| `"));
    rows.filter_map(|it| names_in(it).next().filter(|name| it.starts_with(name)))
        .map(str::to_owned)
        .collect()
}

fn begins_row(line: &str, name: &str) -> bool {
    let first = line.strip_prefix("| `").and_then(|it| names_in(it).next());
    first == Some(name)
}

/// What a line says besides listing the series.
fn after_first_cell<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    match begins_row(line, name) {
        true => line.split_once("` |").map(|(_, rest)| rest),
        false => Some(line),
    }
}

fn is_named(it: &str, name: &str) -> bool {
    it == name || SCRAPED.iter().any(|end| it.strip_suffix(end) == Some(name))
}

fn is_observer(path: &str) -> bool {
    path.ends_with("/observe.rs") || path.contains("/observe/")
}

fn differences(counted: &BTreeSet<String>, listed: &BTreeSet<String>) -> Vec<String> {
    let unlisted = counted.iter().filter(|name| !listed.contains(*name));
    let unlisted = unlisted.map(|name| format!("{name}: counted: explain it in {PAGE}"));
    let is_counted = |name: &str| {
        counted.contains(name)
            || SCRAPED
                .iter()
                .filter_map(|end| name.strip_suffix(end))
                .any(|it| counted.contains(it))
    };
    let uncounted = listed.iter().filter(|name| !is_counted(name));
    unlisted
        .chain(uncounted.map(|name| format!("{name}: explained in {PAGE}, but nothing counts it")))
        .collect()
}

fn names_in_source(text: &str) -> BTreeSet<String> {
    let mut finder = Finder::default();
    finder.visit_file(&syn::parse_file(text).expect("a source that compiles can be parsed"));
    finder.names
}

#[derive(Default)]
struct Finder {
    names: BTreeSet<String>,
}

impl<'ast> Visit<'ast> for Finder {
    fn visit_lit_str(&mut self, literal: &'ast LitStr) {
        let text = literal.value();
        if text.starts_with(PREFIX) && names_in(&text).next().is_some_and(|name| name == text) {
            self.names.insert(text);
        }
    }

    fn visit_macro(&mut self, call: &'ast Macro) {
        let tokens = call.tokens.to_string();
        // Every second piece between quotes is a literal; a name holds nothing that would have to be escaped.
        let literals = tokens.split('"').skip(1).step_by(2);
        let named = literals.filter(|text| names_in(text).next().is_some_and(|name| name == *text));
        self.names.extend(named.map(str::to_owned));
        visit::visit_macro(self, call);
    }
}

/// On the page a name stands between backticks, perhaps with its labels or inside a query.
fn names_in_page(text: &str) -> BTreeSet<String> {
    names_in(text).map(str::to_owned).collect()
}

fn names_in(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices(PREFIX)
        .map(move |(at, _)| &text[at..])
        .map(|rest| {
            rest.split(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit() && c != '_')
                .next()
                .unwrap_or(rest)
        })
        .filter(|name| name.len() > PREFIX.len() && !name.ends_with('_'))
}

#[test]
fn names_are_found_in_calls_and_constants() {
    let text = r#"
        const REQUESTS: &str = "colonnade_requests_total";
        fn new() { counter!("colonnade_picks_total", "service" => name); describe("colonnade_node_leaving", "colonnade_x is not one"); }"#;
    let expected = [
        "colonnade_node_leaving",
        "colonnade_picks_total",
        "colonnade_requests_total",
    ];
    assert_eq!(names_in_source(text), expected.map(str::to_owned).into());
}

#[test]
fn a_series_on_one_side_only_is_found() {
    let counted = ["colonnade_a_total", "colonnade_b_seconds"]
        .map(str::to_owned)
        .into();
    let check = |page: &str| differences(&counted, &names_in_page(page)).len();
    assert_eq!(
        check(
            "| `colonnade_a_total{code}` | `colonnade_b_seconds` |\n`rate(colonnade_b_seconds_bucket[1m])`"
        ),
        0
    );
    assert_eq!(check("| `colonnade_a_total` |"), 1);
    assert_eq!(
        check("| `colonnade_a_total` | `colonnade_b_seconds` | `colonnade_c` |"),
        1
    );
}

#[test]
fn a_series_without_an_alert_is_found() {
    let table =
        "| `colonnade_a_total` | counter | | a |\n| `colonnade_b_seconds` | histogram | | b |\n";
    assert_eq!(without_alert(table).len(), 2);
    let check = |more: &str| without_alert(&format!("{table}{more}")).len();
    assert_eq!(check("`rate(colonnade_b_seconds_bucket[1m]) > 1`\n"), 1);
    assert_eq!(
        check(
            "| `colonnade_a_total` | no alert: traffic |\n| `colonnade_b_seconds` | x | `colonnade_b_seconds_sum > 1` |\n"
        ),
        0
    );
}
