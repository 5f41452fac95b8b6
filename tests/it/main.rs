//! The whole cluster under test, with real processes and real servers.

mod registry;
mod walk;
