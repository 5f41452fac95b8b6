//! The harness.
pub mod load;
pub mod ports;
pub mod process;
