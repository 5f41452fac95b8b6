//! The harness: real servers and programs under test, the load they get, and what is measured of them.

pub mod cluster;
pub mod etcd;
pub mod load;
pub mod origin;
pub mod ports;
pub mod process;
pub mod raw;
pub mod secure;
pub mod whole_cluster;
