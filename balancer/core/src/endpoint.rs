//! A node's address for one service, seen from a balancer, with what the balancer knows of its load.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use crate::{load::Load, name::NodeId};

/// The weight of a node that names none; a node of twice the weight gets twice the share.
pub const WEIGHT: u32 = 100;

#[derive(Debug)]
pub struct Endpoint {
    pub node: NodeId,
    /// Which life of the node this is; zero for endpoints that nobody announced.
    pub incarnation: u64,
    pub address: SocketAddr,
    pub zone: Option<String>,
    pub weight: u32,
    /// Shared with every other object for the same node and service, so that counts survive each change of membership.
    pub load: Arc<Load>,
    suspected: AtomicBool,
}

/// What a pool may hold: an endpoint, or whatever a core keeps beside one.
pub trait Member {
    fn endpoint(&self) -> &Endpoint;
}

impl Member for Endpoint {
    fn endpoint(&self) -> &Endpoint {
        self
    }
}

impl<M: Member> Member for Arc<M> {
    fn endpoint(&self) -> &Endpoint {
        (**self).endpoint()
    }
}

impl Endpoint {
    pub fn new(
        node: NodeId,
        incarnation: u64,
        address: SocketAddr,
        zone: Option<String>,
        weight: u32,
        load: Arc<Load>,
    ) -> Self {
        Self {
            node,
            incarnation,
            address,
            zone,
            weight,
            load,
            suspected: AtomicBool::new(false),
        }
    }

    /// The same endpoint with another weight; it is trusted until somebody suspects it.
    pub fn with_weight(&self, weight: u32) -> Self {
        Self::new(
            self.node.clone(),
            self.incarnation,
            self.address,
            self.zone.clone(),
            weight,
            self.load.clone(),
        )
    }

    /// Somebody could not reach it a moment ago: every core looks elsewhere first until a probe has spoken.
    ///
    /// Returns whether this is news.
    pub fn suspect(&self) -> bool {
        !self.suspected.swap(true, Relaxed)
    }

    pub fn trust(&self) {
        self.suspected.store(false, Relaxed);
    }

    pub fn is_suspected(&self) -> bool {
        self.suspected.load(Relaxed)
    }

    /// Whether connections to `other` are connections to this very life of the node.
    pub fn is_same_life(&self, other: &Endpoint) -> bool {
        self.address == other.address && self.incarnation == other.incarnation
    }

    /// Whether nothing but the life differs between the two descriptions.
    pub fn is_described_as(&self, other: &Endpoint) -> bool {
        self.zone == other.zone && self.weight == other.weight
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An endpoint called `n` and a number, of which nothing is known.
    pub(crate) fn endpoint(n: usize, weight: u32) -> Arc<Endpoint> {
        let address = ([127, 0, 0, 1], 1000 + n as u16).into();
        let load = Arc::new(Load::default());
        let node = format!("n{n}").into();
        Arc::new(Endpoint::new(node, 0, address, None, weight, load))
    }
}
