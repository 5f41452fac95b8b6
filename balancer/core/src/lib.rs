//! What the balancer decides: plain state machines that own no socket, no clock and no runtime.
//!
//! Time, bytes and randomness come in as arguments; what should happen comes out as a value.

pub mod forwarded;
mod host;
pub mod name;
pub mod preface;
