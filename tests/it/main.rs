//! The whole cluster under test, with real processes and real servers.

mod admin;
mod cluster;
mod registry;
mod reload;
mod walk;
