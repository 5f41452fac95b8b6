//! The whole cluster under test, with real processes and real servers.

mod attack;
mod cluster;
mod conformance;
mod registry;
mod traps;
mod walk;
