//! Functions stay short enough to be read at one glance; the few that cannot are listed, and the list only shrinks.

use syn::{
    Block, ImplItemFn, ItemFn, Signature, TraitItemFn,
    visit::{self, Visit},
};

use crate::tree;

/// Lines a function may have, from `fn` to its closing brace. The median is about eight; this is where even an
/// exception ends.
const LINES_MAX: usize = 80;

/// Functions that are longer: `path::name`, the lines they may have, and why they cannot be cut.
const LONGER: [(&str, usize, &str); 0] = [];

/// One function that was measured.
#[derive(Debug)]
struct Measured {
    name: String,
    lines: usize,
}

#[test]
fn functions_are_short() {
    let files = tree::rust_files();
    let measured: Vec<Measured> = files
        .iter()
        .flat_map(|file| measure(&file.path, &file.text))
        .collect();
    tree::hold(&too_long(&measured, &LONGER));
}

fn measure(path: &str, text: &str) -> Vec<Measured> {
    let mut ruler = Ruler {
        path,
        measured: Vec::new(),
    };
    ruler.visit_file(&syn::parse_file(text).expect("a source that compiles can be parsed"));
    ruler.measured
}

fn too_long(measured: &[Measured], longer: &[(&str, usize, &str)]) -> Vec<String> {
    let allowance = |name: &str| {
        longer
            .iter()
            .find(|(it, ..)| *it == name)
            .map_or(LINES_MAX, |(_, lines, _)| *lines)
    };
    let long = measured
        .iter()
        .filter(|it| it.lines > allowance(&it.name))
        .map(|Measured { name, lines }| {
            format!(
                "{name}: {lines} lines, {} allowed: give its parts names",
                allowance(name)
            )
        });
    let needed = |name: &str| {
        measured
            .iter()
            .any(|it| it.name == name && it.lines > LINES_MAX)
    };
    let stale = longer.iter().filter(|(name, ..)| !needed(name));
    long.chain(
        stale.map(|(name, ..)| {
            format!("{name}: short enough: strike it from the list of longer ones")
        }),
    )
    .collect()
}

struct Ruler<'a> {
    path: &'a str,
    measured: Vec<Measured>,
}

impl Ruler<'_> {
    fn lay_on(&mut self, sig: &Signature, block: &Block) {
        let first = sig.fn_token.span.start().line;
        let last = block.brace_token.span.close().end().line;
        self.measured.push(Measured {
            name: format!("{}::{}", self.path, sig.ident),
            lines: last - first + 1,
        });
    }
}

impl<'ast> Visit<'ast> for Ruler<'_> {
    fn visit_item_fn(&mut self, item: &'ast ItemFn) {
        self.lay_on(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast ImplItemFn) {
        self.lay_on(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast TraitItemFn) {
        if let Some(block) = &item.default {
            self.lay_on(&item.sig, block);
        }
        visit::visit_trait_item_fn(self, item);
    }
}

#[test]
fn functions_are_measured_wherever_they_stand() {
    let text = "fn a() {\n    fn inner() {}\n}\nimpl A {\n    fn b(\n        c: u8,\n    ) {\n    }\n}\ntrait T { fn d() {} fn e(); }\n";
    let lengths: Vec<(String, usize)> = measure("x.rs", text)
        .into_iter()
        .map(|it| (it.name, it.lines))
        .collect();
    let expected = [
        ("x.rs::a", 3),
        ("x.rs::inner", 1),
        ("x.rs::b", 4),
        ("x.rs::d", 1),
    ];
    assert_eq!(
        lengths,
        expected.map(|(name, lines)| (name.to_owned(), lines))
    );
}

#[test]
fn a_long_function_is_found_and_so_is_a_stale_exception() {
    let text = format!(
        "fn long() {{\n{}}}\n",
        "    step();\n".repeat(LINES_MAX - 1)
    );
    let measured = measure("x.rs", &text);
    assert_eq!(measured[0].lines, LINES_MAX + 1);
    assert_eq!(too_long(&measured, &[]).len(), 1);
    assert_eq!(
        too_long(&measured, &[("x.rs::long", LINES_MAX + 1, "a table")]).len(),
        0
    );
    assert_eq!(
        too_long(
            &measured,
            &[
                ("x.rs::long", LINES_MAX + 1, "a table"),
                ("x.rs::gone", 99, "")
            ]
        )
        .len(),
        1
    );
}
