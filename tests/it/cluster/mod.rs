//! One address, many nodes: what clients notice while nodes, balancers and etcd come, go, hang and die.

mod emptied;
mod etcd_dead;
mod examples;
mod leaving;
mod lost;
mod many;
mod one_command;
mod programs;
mod rollover;
mod traffic;

/// Starts a cluster, or ends the test where there is no etcd.
macro_rules! cluster_or_return {
    ($options:expr) => {
        match ::tests::whole_cluster::Cluster::start($options).await {
            Some(cluster) => cluster,
            None => return,
        }
    };
}
use cluster_or_return;
