//! Measures the balancer beside its peers.
fn main() {}
