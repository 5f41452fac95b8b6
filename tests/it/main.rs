//! The whole cluster under test, with real processes and real servers.

mod admin;
mod attack;
mod cluster;
mod conformance;
mod registry;
mod reload;
mod traps;
mod walk;
