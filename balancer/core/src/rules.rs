//! What a route asks of a request beyond its host and path, and what it does to the request and its answer.
//!
//! Everything here is checked when the configuration is read, and then applied to heads without failing. Nothing here touches bodies.

pub use self::{
    condition::{Conditions, FieldCondition},
    encoding::{Coding, Compression, Wanted, choose_coding},
    fields::{FieldRules, RuleError, Side},
    fixed::FixedAnswer,
    redirect::{Location, Redirect, RedirectError, is_location_host},
    rewrite::{Rewrite, replace_prefix},
    template::{Template, TemplateError, Variables},
};

mod condition;
mod encoding;
mod fields;
mod fixed;
mod redirect;
mod rewrite;
mod template;
