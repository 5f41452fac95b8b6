//! The harness.

pub mod etcd;
