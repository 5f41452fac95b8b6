//! Ways to choose one endpoint of many.

pub mod p2c;
