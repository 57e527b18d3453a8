//! When free slots run low, and when they are back.

use std::collections::BTreeSet;

use crate::queue::{GpuId, HqdStatus};

/// Slots of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeStatus {
    /// Which.
    pub gpu: GpuId,
    /// Its slots.
    pub status: HqdStatus,
}

/// A node's free slots crossed a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alert {
    /// Which node.
    pub gpu: GpuId,
    /// Which way.
    pub kind: AlertKind,
    /// Its free slots.
    pub free: u32,
    /// Its slots.
    pub total: u32,
}

/// Which way a node's free slots went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AlertKind {
    /// Below the low-water mark.
    Low,
    /// Back at or above the high-water mark.
    Recovered,
}

/// Two marks with hysteresis, for every node by itself: low once free slots fall below `low`, and until they reach
/// `high` again. Marks are fractions of the node's slots.
#[derive(Clone, Debug)]
pub struct Watch {
    low: f64,
    high: f64,
    low_nodes: BTreeSet<GpuId>,
}

impl Watch {
    /// No node is low yet. `low <= high`.
    pub fn new(low: f64, high: f64) -> Watch {
        Watch { low, high, low_nodes: BTreeSet::new() }
    }

    /// Takes a look at all nodes that answer; says which crossed a mark since the last one.
    pub fn observe(&mut self, nodes: &[NodeStatus]) -> Vec<Alert> {
        let mut alerts = Vec::new();
        for &NodeStatus { gpu, status: HqdStatus { free, total, .. } } in nodes {
            let fraction = |mark: f64| mark * f64::from(total);
            let kind = if f64::from(free) < fraction(self.low) {
                if !self.low_nodes.insert(gpu) {
                    continue;
                }
                AlertKind::Low
            } else if f64::from(free) >= fraction(self.high) && self.low_nodes.remove(&gpu) {
                AlertKind::Recovered
            } else {
                continue;
            };
            alerts.push(Alert { gpu, kind, free, total });
        }
        alerts
    }

    /// Whether a node is low.
    pub fn is_low(&self, gpu: GpuId) -> bool {
        self.low_nodes.contains(&gpu)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(gpu: u32, free: u32) -> NodeStatus {
        NodeStatus { gpu: GpuId(gpu), status: HqdStatus { total: 24, free, ..HqdStatus::default() } }
    }

    fn kinds(alerts: &[Alert]) -> Vec<(u32, AlertKind, u32)> {
        alerts.iter().map(|alert| (alert.gpu.0, alert.kind, alert.free)).collect()
    }

    #[test]
    fn warns_once_per_crossing_and_rearms_at_the_high_mark_only() {
        // 24 slots: low below 6, high at 12.
        let mut watch = Watch::new(0.25, 0.5);
        let seen: Vec<_> = [6, 5, 0, 5, 6, 11, 5, 12, 24, 5].map(|free| kinds(&watch.observe(&[node(1, free)]))).into();
        let none = Vec::new;
        assert_eq!(
            seen,
            [
                none(),
                vec![(1, AlertKind::Low, 5)],
                none(),
                none(),
                none(),
                none(),
                none(),
                vec![(1, AlertKind::Recovered, 12)],
                none(),
                vec![(1, AlertKind::Low, 5)],
            ]
        );
    }

    #[test]
    fn nodes_cross_by_themselves() {
        let mut watch = Watch::new(0.25, 0.5);
        assert_eq!(kinds(&watch.observe(&[node(1, 0), node(2, 24)])), [(1, AlertKind::Low, 0)]);
        assert_eq!(
            kinds(&watch.observe(&[node(1, 24), node(2, 0)])),
            [(1, AlertKind::Recovered, 24), (2, AlertKind::Low, 0)]
        );
        assert!(!watch.is_low(GpuId(1)) && watch.is_low(GpuId(2)));
    }

    #[test]
    fn a_node_that_did_not_answer_once_warns_no_second_time() {
        let mut watch = Watch::new(0.25, 0.5);
        watch.observe(&[node(1, 0)]);
        assert_eq!(watch.observe(&[]), []);
        assert_eq!(watch.observe(&[node(1, 0)]), []);
        assert_eq!(kinds(&watch.observe(&[node(1, 24)])), [(1, AlertKind::Recovered, 24)]);
    }

    #[test]
    fn a_node_without_slots_is_never_low() {
        let mut watch = Watch::new(1.0, 1.0);
        let none = NodeStatus { gpu: GpuId(1), status: HqdStatus::default() };
        assert_eq!(watch.observe(&[none]), []);
    }
}
