//! How much the balancer takes on: connections by source, requests by rate, concurrency by latency, and memory.
//!
//! Each limit is told what happens and says yes or no; none owns a clock, a socket or the answer that a refused client reads.

pub mod adaptive;
pub mod memory;
pub mod rate;
mod recent;
pub mod source;
