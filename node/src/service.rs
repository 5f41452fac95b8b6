//! What a node serves, each under a name of its own in the registry.

mod health;
pub(crate) mod web;
pub(crate) mod whoami;
