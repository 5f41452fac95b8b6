//! Links between our pages lead somewhere: to a file that is there, and to a heading that it has.

use crate::tree;

#[test]
fn links_between_our_pages_resolve() {
    let pages = tree::markdown_files();
    let resolve = |path: &str| {
        if tree::exists(path) {
            Some(tree::read(path).unwrap_or_default())
        } else {
            None
        }
    };
    tree::hold(
        &pages
            .iter()
            .flat_map(|page| broken_links(&page.path, &page.text, &resolve))
            .collect::<Vec<_>>(),
    );
}

/// `resolve` answers with the text of a file, an empty one for a folder, and nothing for what is not there.
fn broken_links(path: &str, text: &str, resolve: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
    let mut findings = Vec::new();
    for (number, line) in prose_lines(text) {
        for target in targets(line).filter(|target| is_ours(target)) {
            if let Some(reason) = broken(path, text, target, resolve) {
                findings.push(format!("{path}:{number}: {target}: {reason}"));
            }
        }
    }
    findings
}

fn broken(
    path: &str,
    text: &str,
    target: &str,
    resolve: &dyn Fn(&str) -> Option<String>,
) -> Option<&'static str> {
    let (file, heading) = target
        .split_once('#')
        .map_or((target, None), |(file, heading)| (file, Some(heading)));
    let page = if file.is_empty() {
        Some(text.to_owned())
    } else {
        resolve(&beside(path, file))
    };
    let Some(page) = page else {
        return Some("there is no such file: correct the link");
    };
    let is_there = |heading: &str| {
        page.lines()
            .filter(|line| line.starts_with('#'))
            .any(|line| anchor(line) == heading)
    };
    heading
        .is_some_and(|heading| !is_there(heading))
        .then_some("the page has no such heading: correct the link")
}

/// Lines outside of fenced code, with their numbers.
fn prose_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut is_code = false;
    text.lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line))
        .filter(move |(_, line)| {
            let is_fence = line.trim_start().starts_with("```");
            is_code ^= is_fence;
            !is_code && !is_fence
        })
}

/// The places that `[words](place)` and `[word]: place` point to.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    let inline = line
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split([')', ' ']).next());
    let reference = line
        .strip_prefix('[')
        .and_then(|rest| rest.split_once("]: "))
        .map(|(_, place)| place.trim());
    inline.chain(reference)
}

fn is_ours(target: &str) -> bool {
    !target.contains("://") && !target.starts_with("mailto:")
}

/// A path from the top of the repository, for one that is written relative to a page.
fn beside(page: &str, file: &str) -> String {
    let mut parts: Vec<&str> = page.split('/').collect();
    parts.pop();
    for part in file.split('/') {
        match part {
            "." | "" => {}
            ".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    parts.join("/")
}

/// The anchor that code hosts give a heading: lower case, spaces as dashes, no punctuation.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    text.chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

#[test]
fn a_link_that_leads_nowhere_is_found() {
    let resolve = |path: &str| match path {
        "docs/WORDS.md" => Some("# Words\n## The `node`, again\n".to_owned()),
        "deploy" => Some(String::new()),
        _ => None,
    };
    let check =
        |link: &str| broken_links("docs/MAP.md", &format!("# Map\nsee {link}.\n"), &resolve).len();
    for good in [
        "[w](WORDS.md)",
        "[w](./WORDS.md#the-node-again)",
        "[d](../deploy)",
        "[m](#map)",
        "[x](https://example.org/x.md)",
        "`a[0]`",
    ] {
        assert_eq!(check(good), 0, "{good}");
    }
    for bad in [
        "[w](words.md)",
        "[w](WORDS.md#a-door)",
        "[m](#nowhere)",
        "[w](../WORDS.md)",
        "[a](WORDS.md) and [b](gone.md)",
    ] {
        assert_eq!(check(bad), 1, "{bad}");
    }
    assert_eq!(
        broken_links("a.md", "```\n[a](gone.md)\n```\n", &resolve).len(),
        0,
        "code is not a link"
    );
    assert_eq!(broken_links("a.md", "[gone]: gone.md\n", &resolve).len(), 1);
}
