//! The balancer's walk, seen from both of its ends: the real program between test clients and test origins.

mod client;
mod exchange;
mod forerunners;
mod streaming;
