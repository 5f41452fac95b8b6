//! The balancer.

pub mod config;
