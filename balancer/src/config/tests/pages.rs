//! The examples in the operators' pages load as they stand, so that what is copied from there is understood.
//!
//! The files that they name are read when a balancer starts, not when its settings are checked: here they may be absent.

use std::{fs, path::Path};

use super::*;

/// Where the pages for operators are, from this package.
const PAGES: &str = "../docs/balancer";

/// What begins an example, and what ends it.
const BEGIN: &str = "```toml\n";
const END: &str = "\n```";

#[test]
fn every_example_of_every_page_loads() {
    let pages = pages();
    assert!(pages.len() > 10, "the pages were not found: {pages:?}");
    for (name, text) in pages {
        for (idx, example) in examples(&text).enumerate() {
            let res = Config::from_toml(&name, example);
            assert!(res.is_ok(), "example {idx} of {name}: {res:?}\n{example}");
        }
    }
}

#[test]
fn examples_are_what_stands_between_the_fences() {
    let page = "# A\n```toml\na = 1\n```\n```sh\nls\n```\n```toml\nb = 2\nc = 3\n```\n";
    let found: Vec<_> = examples(page).collect();
    assert_eq!(found, ["a = 1", "b = 2\nc = 3"]);
}

fn examples(page: &str) -> impl Iterator<Item = &str> {
    let begun = page.split(BEGIN).skip(1);
    begun.filter_map(|it| it.split_once(END).map(|(example, _)| example))
}

fn pages() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGES);
    let entries = fs::read_dir(folder).expect("the pages lie beside the package");
    let paths = entries.map(|it| it.expect("the folder can be read").path());
    let named = paths.map(|path| {
        let text = fs::read_to_string(&path).expect("a page is text");
        (path.display().to_string(), text)
    });
    named.collect()
}
