//! What a node decides: plain state machines and functions that own no socket, no clock, no file and no runtime.
//!
//! Time and bytes come in as arguments; what should happen comes out as a value.

pub mod client;
pub mod conditional;
pub mod leaving;
pub mod negotiate;
pub mod pace;
pub mod range;
pub mod site;
