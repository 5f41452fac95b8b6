//! Every key an operator can write is explained twice: on the field that reads it, and in an example to copy from.

use std::collections::BTreeSet;

use syn::{
    Attribute, Field, Fields, ItemEnum, ItemStruct,
    visit::{self, Visit},
};

use crate::tree;

/// Whose keys must stand in which examples, commented or not. A package reads its keys in `config.rs` and below `config/`.
const READERS: [(&str, &[&str]); 3] = [
    ("balancer/src/", &["deploy/balancer.toml"]),
    ("node/src/", &["deploy/node.toml"]),
    (
        "proto/registry/src/",
        &["deploy/balancer.toml", "deploy/node.toml"],
    ),
];

/// Sources of these packages that read text which no operator writes.
const NOT_SETTINGS: [&str; 5] = [
    // What the admin API is asked, in a body and in a query.
    "balancer/src/admin/exchanges.rs",
    "balancer/src/admin/orders.rs",
    // Records of its own, made up for the drivers' tests.
    "proto/registry/src/contract.rs",
    // What programs tell each other through the registry.
    "proto/registry/src/record.rs",
    // What two balancers tell each other when one takes over.
    "balancer/src/takeover/wire.rs",
];

/// One key, and what its field tells of it.
#[derive(Debug, PartialEq, Eq)]
struct Key {
    name: String,
    line: usize,
    is_documented: bool,
}

#[test]
fn every_key_is_documented_and_shown() {
    let files = tree::rust_files();
    let mut findings = Vec::new();
    for (package, examples) in READERS {
        let readers = files
            .iter()
            .filter(|file| reads_settings(package, &file.path));
        let sources: Vec<(&str, &str)> = readers
            .map(|file| (file.path.as_str(), file.text.as_str()))
            .collect();
        assert!(
            sources.iter().any(|(_, text)| !keys(text).is_empty()),
            "{package} has keys: correct the list of readers"
        );
        findings.extend(
            sources
                .iter()
                .flat_map(|(path, text)| undocumented(path, text)),
        );
        for example in examples {
            let shown = tree::read(example).unwrap_or_default();
            findings.extend(
                sources
                    .iter()
                    .flat_map(|(path, text)| not_shown(path, text, example, &shown)),
            );
        }
    }
    tree::hold(&findings);
}

#[test]
fn keys_are_read_where_this_rule_looks() {
    let files = tree::rust_files();
    let others = files.iter().filter(|file| {
        let in_package = |(package, _): &(&str, _)| {
            file.path.starts_with(package) && !reads_settings(package, &file.path)
        };
        READERS.iter().any(in_package) && !NOT_SETTINGS.contains(&file.path.as_str())
    });
    tree::hold(
        &others
            .flat_map(|file| settings_elsewhere(&file.path, &file.text))
            .collect::<Vec<_>>(),
    );
}

fn reads_settings(package: &str, path: &str) -> bool {
    let within = path.strip_prefix(package);
    within.is_some_and(|path| {
        path == "config.rs" || path.starts_with("config/") && path != "config/tests.rs"
    })
}

fn undocumented(path: &str, source: &str) -> Vec<String> {
    let keys = keys(source).into_iter().filter(|key| !key.is_documented);
    keys.map(|Key { name, line, .. }| {
        format!("{path}:{line}: {name}: document the key: what it does, its unit, its default")
    })
    .collect()
}

fn not_shown(path: &str, source: &str, example: &str, text: &str) -> Vec<String> {
    let shown = words(text);
    let hidden = keys(source)
        .into_iter()
        .filter(|key| !shown.contains(&key.name));
    hidden
        .map(|Key { name, line, .. }| {
            format!("{path}:{line}: {name}: show the key in {example}, commented if it is rare")
        })
        .collect()
}

/// What reads text without being asked to look like a key is either settings in hiding, or something else with a reason.
fn settings_elsewhere(path: &str, text: &str) -> Vec<String> {
    let keys = keys(text);
    let found = keys.first().map(|key| {
        format!(
            "{path}:{}: {}: if an operator writes this, move it to a config.rs; else list the file in tests/tidy/keys.rs",
            key.line, key.name
        )
    });
    found.into_iter().collect()
}

fn keys(source: &str) -> Vec<Key> {
    let mut reader = Reader::default();
    reader.visit_file(&syn::parse_file(source).expect("a source that compiles can be parsed"));
    reader.keys
}

#[derive(Default)]
struct Reader {
    keys: Vec<Key>,
}

impl Reader {
    fn read(&mut self, attrs: &[Attribute], fields: &Fields) {
        let style = serde_value(attrs, "rename_all");
        let read = fields.iter().filter(|field| {
            !serde_has(&field.attrs, "skip") && !serde_has(&field.attrs, "flatten")
        });
        self.keys
            .extend(read.filter_map(|field| key(field, style.as_deref())));
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item_struct(&mut self, item: &'ast ItemStruct) {
        if reads_text(&item.attrs) {
            self.read(&item.attrs, &item.fields);
        }
        visit::visit_item_struct(self, item);
    }

    fn visit_item_enum(&mut self, item: &'ast ItemEnum) {
        if reads_text(&item.attrs) {
            item.variants
                .iter()
                .for_each(|variant| self.read(&variant.attrs, &variant.fields));
        }
        visit::visit_item_enum(self, item);
    }
}

fn key(field: &Field, style: Option<&str>) -> Option<Key> {
    let ident = field.ident.as_ref()?;
    let written = ident.to_string().trim_start_matches("r#").to_owned();
    let styled = if style == Some("kebab-case") {
        written.replace('_', "-")
    } else {
        written
    };
    Some(Key {
        name: serde_value(&field.attrs, "rename").unwrap_or(styled),
        line: ident.span().start().line,
        is_documented: field.attrs.iter().any(|attr| attr.path().is_ident("doc")),
    })
}

fn reads_text(attrs: &[Attribute]) -> bool {
    attrs
        .iter()
        .any(|attr| attr.path().is_ident("derive") && tokens(attr).contains("Deserialize"))
}

fn serde_has(attrs: &[Attribute], word: &str) -> bool {
    attrs.iter().any(|attr| {
        attr.path().is_ident("serde") && tokens(attr).split(',').any(|part| part == word)
    })
}

/// The value behind `word = "…"` in a `#[serde(…)]`.
fn serde_value(attrs: &[Attribute], word: &str) -> Option<String> {
    let start = format!("{word}=\"");
    let texts = attrs
        .iter()
        .filter(|attr| attr.path().is_ident("serde"))
        .map(tokens);
    texts
        .filter_map(|text| {
            Some(
                text.split(',')
                    .find_map(|part| part.strip_prefix(&start))?
                    .trim_end_matches('"')
                    .to_owned(),
            )
        })
        .next()
}

/// What stands between the brackets, without its spaces.
fn tokens(attr: &Attribute) -> String {
    match &attr.meta {
        syn::Meta::List(list) => list.tokens.to_string().split_whitespace().collect(),
        _ => String::new(),
    }
}

/// The keys that a TOML text holds, whether they are in force or behind a `#`: what stands before a `=`, and the parts
/// of a table's name.
fn words(text: &str) -> BTreeSet<String> {
    let mut words = BTreeSet::new();
    for line in text.lines().map(|line| line.trim_start_matches(['#', ' '])) {
        if let Some(name) = line
            .strip_prefix('[')
            .and_then(|rest| rest.split(']').next())
        {
            words.extend(
                name.trim_start_matches('[')
                    .split('.')
                    .map(|part| part.trim().to_owned()),
            );
        }
        let before_signs = line.split('=').map(|part| {
            part.trim_end()
                .rsplit([' ', '{', ','])
                .next()
                .unwrap_or_default()
        });
        let parts = before_signs
            .take(line.matches('=').count())
            .flat_map(|name| name.split('.'));
        words.extend(parts.map(|part| part.trim_matches('"').to_owned()));
    }
    words
}

#[cfg(test)]
const EXAMPLE: &str = "
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = \"kebab-case\")]
pub struct Config {
    /// Where it listens.
    pub address: SocketAddr,
    pub head_timeout: Duration,
    /// Renamed.
    #[serde(default, rename = \"type\")]
    kind: Kind,
    #[serde(skip)]
    inner: u8,
}
pub struct NotRead { pub a: u8 }
#[derive(Deserialize)]
enum Probe { Http { path: String }, Tcp }
";

#[test]
fn keys_are_found_in_structs_and_variants() {
    let names: Vec<(String, bool)> = keys(EXAMPLE)
        .into_iter()
        .map(|key| (key.name, key.is_documented))
        .collect();
    let expected = [
        ("address", true),
        ("head-timeout", false),
        ("type", true),
        ("path", false),
    ];
    assert_eq!(
        names,
        expected.map(|(name, is_documented)| (name.to_owned(), is_documented))
    );
}

#[test]
fn a_key_nobody_explains_is_found() {
    let findings = undocumented("config.rs", EXAMPLE);
    assert_eq!(findings.len(), 2, "{findings:?}");
    assert!(findings[0].starts_with("config.rs:7: head-timeout: document"));
}

#[test]
fn a_key_that_no_example_shows_is_found() {
    let full = "address = \"a=b\"\n# head-timeout = \"10s\"\n[[probe.type]]\nprobe = { x.y = 1, path = \"/\" }\n";
    assert_eq!(
        not_shown("config.rs", EXAMPLE, "a.toml", full),
        Vec::<String>::new()
    );
    let findings = not_shown(
        "config.rs",
        EXAMPLE,
        "a.toml",
        "# address and path are keys\n[type]\nhead-timeout = 1\n",
    );
    assert_eq!(findings.len(), 2, "{findings:?}");
}

#[test]
fn settings_in_an_unwatched_file_are_found() {
    assert_eq!(settings_elsewhere("node/src/hidden.rs", EXAMPLE).len(), 1);
    assert_eq!(
        settings_elsewhere("node/src/open.rs", "pub struct Open { pub a: u8 }\n").len(),
        0
    );
    assert!(
        reads_settings("node/src/", "node/src/config.rs")
            && reads_settings("node/src/", "node/src/config/raw.rs")
    );
    assert!(
        !reads_settings("node/src/", "node/src/app.rs")
            && !reads_settings("node/src/", "balancer/src/config.rs")
    );
}
