//! What an operator orders about a node, by hand and on this balancer alone: it stands above what the node says of itself.
//!
//! An order lives by node id, so that it survives every re-announcement, and is kept across a restart with the rest of the memory.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::name::NodeId;

/// Nodes that may be overridden at once. Orders are given by hand; whoever has more of them wants a configuration.
pub const OVERRIDES_MAX: usize = 10_000;

/// An order about one node. The default orders nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Override {
    /// It gets no new work; what it has in flight may end.
    pub drained: bool,
    /// Its weight, whatever it announces; 0 gives it no work either.
    pub weight: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OverrideError {
    #[error("no node of that id is known")]
    UnknownNode,
    #[error("{OVERRIDES_MAX} nodes are overridden already")]
    TooMany,
}

/// All orders in force.
#[derive(Clone, Debug, Default)]
pub struct Overrides(BTreeMap<NodeId, Override>);

impl Override {
    pub fn is_none(self) -> bool {
        self == Self::default()
    }

    /// The weight that counts for a node that announces this one.
    pub fn weight_above(self, announced: u32) -> u32 {
        self.weight.unwrap_or(announced)
    }
}

impl Overrides {
    pub fn of(&self, node: &NodeId) -> Override {
        self.0.get(node).copied().unwrap_or_default()
    }

    /// # Errors
    /// When there is no room for another.
    pub fn set(&mut self, node: NodeId, order: Override) -> Result<(), OverrideError> {
        if order.is_none() {
            self.0.remove(&node);
            return Ok(());
        }
        if self.0.len() >= OVERRIDES_MAX && !self.0.contains_key(&node) {
            return Err(OverrideError::TooMany);
        }
        self.0.insert(node, order);
        Ok(())
    }

    pub fn all(&self) -> impl Iterator<Item = (&NodeId, Override)> {
        self.0.iter().map(|(node, order)| (node, *order))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_that_orders_nothing_is_not_kept() {
        let mut it = Overrides::default();
        it.set("n1".into(), DRAINED).expect("there is room");
        assert_eq!(it.of(&"n1".into()), DRAINED);
        it.set("n1".into(), Override::default())
            .expect("to forget needs no room");
        assert_eq!(it.all().count(), 0);
    }

    #[test]
    fn orders_are_bounded_and_those_in_force_can_still_be_changed() {
        let mut it = Overrides::default();
        for n in 0..OVERRIDES_MAX {
            it.set(format!("n{n}").into(), DRAINED)
                .expect("there is room");
        }
        assert_eq!(it.set("more".into(), DRAINED), Err(OverrideError::TooMany));
        let lighter = Override {
            weight: Some(7),
            ..DRAINED
        };
        assert_eq!(it.set("n1".into(), lighter), Ok(()));
        assert_eq!(it.of(&"n1".into()).weight_above(100), 7);
    }

    const DRAINED: Override = Override {
        drained: true,
        weight: None,
    };
}
