//! Canary against stable on one pair of counts: its ticks on their way into the bet.
//!
//! A tick waits for its successor, is compared with the worst of the stable ticks beside it (if that
//! one is clearly worse: scrape skew), is pooled with others until there is something to compare, and
//! is then played. What is left out, pooled or compared with which neighbour depends on request counts
//! and on stable's errors alone, never on the canary's, and only ever makes stable look worse; so E
//! stays an e-process. The bet that the canary is as good is the same in the mirror: the best of
//! stable's ticks.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use super::eprocess::{Bet, Mixture, Phi, Purse, ratio};
use super::{Count, Sample};

/// A block of ticks is played once stable has this many requests ...
pub(super) const BLOCK_REQUESTS: u64 = 20;
/// ... or after this many ticks, if stable had any.
pub(super) const BLOCK_TICKS: u32 = 5;
/// Canary requests wait this long for any request at stable. Then they are let go: too long ago to
/// be compared.
pub(super) const CARRY_TICKS: u32 = 60;
/// A neighbouring stable tick is clearly worse: standard deviations of the difference.
const CLEARLY: f64 = 2.0;

/// Arms are not read at the same instant: a tick waits here until its neighbours are known.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Lag {
    /// The tick that waits for its successor, and stable's tick before it.
    held: Option<Sample>,
    before: Count,
}

/// A tick that has met its neighbours.
pub(super) struct Met {
    /// As it was counted.
    pub(super) own: Sample,
    /// Beside the worst of stable's ticks around it.
    pub(super) comparable: Sample,
    /// Beside the best of them: for a bet that the canary is as good.
    pub(super) demanding: Sample,
}

impl Lag {
    pub(super) fn push(&mut self, now: Sample) -> Option<Met> {
        let own = self.held.replace(now)?;
        let beside = [self.before, now.stable];
        self.before = own.stable;
        let stable = |order| Sample { stable: extreme(own.stable, beside, order), ..own };
        Some(Met { own, comparable: stable(Ordering::Greater), demanding: stable(Ordering::Less) })
    }
}

/// Ticks pooled until there is something to compare. A service with one request a second has an arm
/// without any in most ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Block {
    pub(super) sum: Sample,
    pub(super) ticks: u32,
}

impl Block {
    pub(super) fn add(&mut self, sample: Sample) {
        self.sum.add(sample);
        self.ticks = self.ticks.saturating_add(1);
    }

    pub(super) fn comparable(&self) -> bool {
        let stable = self.sum.stable.total;
        stable >= BLOCK_REQUESTS || (stable > 0 && self.ticks >= BLOCK_TICKS)
    }

    /// Stable has had no request for longer than a block takes.
    pub(super) fn stale(&self) -> bool {
        self.sum.stable.total == 0 && self.ticks >= BLOCK_TICKS
    }

    pub(super) fn take(&mut self) -> Sample {
        std::mem::take(self).sum
    }
}

/// Requests of the last few blocks, in thousandths, older ones fading: the ratio of the arms as it
/// was before the block that is about to be played.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Lately {
    canary: u64,
    stable: u64,
}

impl Lately {
    fn push(&mut self, sample: Sample) {
        let fade = |old: u64, new: u64| (old - old / 4).saturating_add(new.saturating_mul(1000));
        self.canary = fade(self.canary, sample.canary.total);
        self.stable = fade(self.stable, sample.stable.total);
    }

    fn ratio(self) -> Option<f64> {
        (self.stable > 0).then(|| self.canary as f64 / self.stable as f64)
    }
}

/// A block that was played.
pub(super) struct Played {
    pub(super) block: Sample,
    /// The ratio of the arms that the bet was made by.
    pub(super) rho: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Versus {
    purse: Purse,
    block: Block,
    lately: Lately,
}

impl Versus {
    pub(super) fn new(bet: Bet) -> Self {
        Self { purse: Purse::new(bet), block: Block::default(), lately: Lately::default() }
    }

    pub(super) fn add(&mut self, share: f64) {
        self.purse.add(share);
    }

    /// `prepared`: see [`Mixture::kept`].
    pub(super) fn play(
        &mut self,
        bet: Bet,
        comparable: Sample,
        phi: Phi,
        prepared: &mut Option<Mixture>,
    ) -> Option<Played> {
        self.block.add(comparable);
        if !self.block.comparable() {
            if self.block.ticks >= CARRY_TICKS {
                self.block.take();
            }
            return None;
        }
        let block = self.block.take();
        let rho = self.rho(bet, block);
        self.purse.play_mixture(Mixture::kept(prepared, bet, rho), block, phi);
        self.lately.push(block);
        Some(Played { block, rho })
    }

    /// The ratio of the arms to bet by. Not the block's alone: retries within a tick make its counts
    /// depend on its errors, and errors at stable that are retried at stable would lower it. The ratio
    /// before the block is fixed before its errors. Not the old ratio alone: when weights rise it is
    /// too small, and E[LR] > 1. The larger of the two is at least the block's own, so E[LR] <= 1; the
    /// smaller one, for the bet in the mirror.
    pub(super) fn rho(&self, bet: Bet, block: Sample) -> f64 {
        let own = ratio(block.canary, block.stable);
        match (bet, self.lately.ratio()) {
            (_, None) => own,
            (Bet::Worse { .. } | Bet::Over { .. }, Some(lately)) => own.max(lately),
            (Bet::Better | Bet::NotInferior { .. }, Some(lately)) => own.min(lately),
        }
    }

    /// All money back to the start, and bet at once.
    pub(super) fn restart(&mut self, bet: Bet) {
        self.purse = Purse::new(bet);
        self.purse.add(1.0);
        self.block = Block::default();
    }

    pub(super) fn ln_e(&self, idle: f64) -> f64 {
        self.purse.ln_e(idle)
    }
}

/// The tick itself, or the worst (`Greater`) or best (`Less`) of its neighbours if that one clearly is.
/// An outage that the canary's scrape saw one tick before stable's is then compared with stable's
/// outage; and so is, at its end, the one that stable got rid of first.
fn extreme(own: Count, neighbours: [Count; 2], order: Ordering) -> Count {
    let mut extreme = own;
    for other in neighbours {
        let (Some(here), Some(there), Some(most)) = (own.ratio(), other.ratio(), extreme.ratio()) else {
            continue;
        };
        let (n, m) = (own.total as f64, other.total as f64);
        let pooled = (own.bad as f64 + other.bad as f64) / (n + m);
        let deviation = (pooled * (1.0 - pooled) * (1.0 / n + 1.0 / m)).sqrt();
        if (there - here).abs() > CLEARLY * deviation && there.total_cmp(&most) == order {
            extreme = other;
        }
    }
    extreme
}
