//! House rules that a machine can check, so that a reviewer does not have to.
//!
//! Each rule is a function from text to findings, and has two kinds of tests: one that holds it against this repository,
//! and some that show it finding what it is for. A finding says what to do about it. An exception is a line in the list
//! beside the rule, with its reason.

mod directions;
mod keys;
mod leftovers;
mod links;
mod manifests;
mod measures;
mod metric_names;
mod purity;
mod top_level;
mod tree;
mod walk_map;
