//! One batch over processes of different tiers: a call per tier, one after the other, and the outcomes in the caller's order.

use std::time::Duration;

use nix::errno::Errno;

use super::TieredDriver;
use crate::driver::{Batch, Capabilities, Outcome, Selector};
use crate::error::Result;
use crate::queue::QueueState;

/// Which way a batch goes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Way {
    Unmap(Duration),
    Remap,
}

/// The selectors of one rung, with their places in the batch.
#[derive(Debug, Default)]
struct Share {
    places: Vec<usize>,
    selectors: Vec<Selector>,
}

impl TieredDriver {
    pub(super) fn batch(&self, selectors: &[Selector], way: Way) -> Result<Batch> {
        let began = self.host.now();
        let blank =
            |selector: &Selector| Outcome { selector: *selector, errno: None, queues: 0, state: QueueState::empty() };
        let mut batch = Batch { outcomes: selectors.iter().map(blank).collect(), ..Batch::default() };
        let mut shares: Vec<Share> = self.rungs.iter().map(|_| Share::default()).collect();
        for (place, selector) in selectors.iter().enumerate() {
            match self.share_of(selector, way) {
                Ok(rung) => {
                    shares[rung].places.push(place);
                    shares[rung].selectors.push(self.as_rung_takes_it(rung, selector));
                }
                Err(errno) => batch.outcomes[place].errno = Some(errno),
            }
        }
        for (rung, share) in self.rungs.iter().zip(&shares).filter(|(_, share)| !share.places.is_empty()) {
            let answer = match way {
                Way::Unmap(grace) => rung.unmap(&share.selectors, grace),
                Way::Remap => rung.remap(&share.selectors),
            };
            match answer {
                // Nothing else was asked for, so nothing was changed.
                Err(error) if share.places.len() == selectors.len() => return Err(error),
                Err(error) => {
                    tracing::debug!(%error, tier = %rung.tier(), "the share of one tier failed");
                    share.places.iter().for_each(|&place| batch.outcomes[place].errno = Some(error.errno()));
                }
                Ok(part) => {
                    for (&place, outcome) in share.places.iter().zip(&part.outcomes) {
                        batch.outcomes[place] = Outcome { selector: selectors[place], ..*outcome };
                    }
                    // Two tiers may have queues on one node: no more than these were touched.
                    batch.nodes += part.nodes;
                    batch.rounds += part.rounds;
                    batch.slowest_node = batch.slowest_node.max(part.slowest_node);
                    batch.grace = batch.grace.max(part.grace);
                }
            }
        }
        batch.elapsed = self.host.now().saturating_sub(began);
        Ok(batch)
    }

    /// The rung that a selector goes to, or why it goes nowhere.
    fn share_of(&self, selector: &Selector, way: Way) -> Result<usize, Errno> {
        let rung = match self.bindings.rung(selector.pid) {
            Some(rung) => rung,
            None => self.bind(selector.pid).map_err(|error| error.errno())?.0,
        };
        let unguarded = !self.rungs[rung].capabilities().contains(Capabilities::POLICY);
        if matches!(way, Way::Unmap(_)) && unguarded && selector.pid != self.own_pid {
            // What the patched kernel refuses is refused where the kernel knows no marks, too.
            if !self.bindings.allows(selector) {
                return Err(Errno::EPERM);
            }
        }
        Ok(rung)
    }

    /// Where new queues cannot start held, the next look of whoever asked for it finds them.
    fn as_rung_takes_it(&self, rung: usize, selector: &Selector) -> Selector {
        let hold_new = selector.hold_new && self.rungs[rung].capabilities().contains(Capabilities::HOLD_NEW);
        Selector { hold_new, ..*selector }
    }
}
