//! One SLO: its ticks on their way into the two tests.
//!
//! A tick waits for its successor, is compared with the worst of the stable ticks beside it (if
//! that one is clearly worse: scrape skew), is pooled with others until there is something to
//! compare, and is then played. What is left out, pooled or compared with which neighbour depends
//! on request counts and on stable's errors alone, never on the canary's, and only ever makes
//! stable look worse; so E stays an e-process.

use serde::{Deserialize, Serialize};

use super::burn::Burn;
use super::eprocess::{Bet, Nats, Purse, ratio};
use super::{Count, Judgement, Sample, Slo, Test, Verdict, power};

/// A block of ticks is played once stable has this many requests ...
const BLOCK_REQUESTS: u64 = 20;
/// ... or after this many ticks, if stable had any.
const BLOCK_TICKS: u32 = 5;
/// Canary requests wait this long for any request at stable. Then they are let go: too long ago to
/// be compared.
const CARRY_TICKS: u32 = 60;
/// Stable serves nothing any more: so many canary requests in so many ticks without one at stable.
const ALONE_REQUESTS: u64 = 20;
const ALONE_TICKS: u32 = 5;
/// A neighbouring stable tick is clearly worse: standard deviations of the difference.
const CLEARLY: f64 = 2.0;
/// "Proven better" in an outage: 5 %, a question of holding only.
const BETTER: f64 = 3.0;

/// Ticks pooled until there is something to compare. A service with one request a second has an arm
/// without any in most ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Block {
    sum: Sample,
    ticks: u32,
}

impl Block {
    fn add(&mut self, sample: Sample) {
        self.sum.add(sample);
        self.ticks = self.ticks.saturating_add(1);
    }

    fn comparable(&self) -> bool {
        let stable = self.sum.stable.total;
        stable >= BLOCK_REQUESTS || (stable > 0 && self.ticks >= BLOCK_TICKS)
    }

    fn take(&mut self) -> Sample {
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

    fn ratio(self) -> f64 {
        if self.stable == 0 { 0.0 } else { self.canary as f64 / self.stable as f64 }
    }
}

/// A Bad verdict: final.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Bad {
    test: Test,
    evidence: Nats,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Track {
    slo: Slo,
    run: Sample,
    step: Sample,
    /// Canary requests of this step that the tests have seen.
    judged: u64,
    /// Stable requests that would make the ratio of the arms what bets were made by.
    matched: u64,
    bad: Option<Bad>,

    /// The tick that waits for its successor, and stable's tick before it.
    held: Option<Sample>,
    before: Count,

    versus: Purse,
    versus_block: Block,
    lately: Lately,

    /// Over the objective, and worse than stable: on ticks in which stable keeps the objective.
    over: Purse,
    worse: Purse,
    objective_block: Block,
    /// Stable serves nothing any more, so there is nobody to share a fault with.
    alone: bool,

    stable_burn: Burn,
    canary_burn: Burn,
    /// Stable over its objective at the held tick, and at the one before.
    burning: [bool; 2],
    /// Canary better than stable, since stable's outage began.
    better: Purse,
}

impl Track {
    pub(super) fn new(slo: &Slo) -> Self {
        let versus = Bet::Worse { relative: slo.relative, absolute: slo.absolute };
        Self {
            slo: slo.clone(),
            run: Sample::default(),
            step: Sample::default(),
            judged: 0,
            matched: 0,
            bad: None,
            held: None,
            before: Count::default(),
            versus: Purse::new(versus),
            versus_block: Block::default(),
            lately: Lately::default(),
            over: Purse::new(OVER_ANY),
            worse: Purse::new(WORSE),
            objective_block: Block::default(),
            alone: false,
            stable_burn: Burn::new(),
            canary_burn: Burn::new(),
            burning: [false; 2],
            better: Purse::new(Bet::Better),
        }
    }

    pub(super) fn begin_step(&mut self) {
        self.step = Sample::default();
        self.judged = 0;
        self.matched = 0;
    }

    /// Puts a share of the run's money to work in each test.
    pub(super) fn bet(&mut self, share: f64) {
        for purse in [&mut self.versus, &mut self.over, &mut self.worse] {
            purse.add(share);
        }
    }

    /// `in_step`: the held tick belongs to the step under way.
    pub(super) fn fold(&mut self, now: Sample, idle: f64, threshold: f64, in_step: bool) {
        self.run.add(now);
        self.step.add(now);
        self.stable_burn.push(now.stable, self.slo.objective);
        self.canary_burn.push(now.canary, self.slo.objective);
        let burns = self.stable_burn.any();

        if let Some(held) = self.held.replace(now) {
            let judged = (self.judged, self.matched);
            let stable = worst(held.stable, [self.before, now.stable]);
            let comparable = Sample { stable, ..held };
            self.play_versus(comparable);
            if !burns && self.burning == [false; 2] {
                self.play_objective(comparable);
            }
            self.play_better(held);
            self.settle(idle, threshold);
            if !in_step {
                (self.judged, self.matched) = judged;
            }
            self.before = held.stable;
        }
        self.burning = [burns, self.burning[0]];
    }

    fn play_versus(&mut self, sample: Sample) {
        self.versus_block.add(sample);
        if !self.versus_block.comparable() {
            if self.versus_block.ticks >= CARRY_TICKS {
                self.versus_block.take();
            }
            return;
        }
        let block = self.versus_block.take();
        // Not the block's ratio alone: retries within a tick make its counts depend on its errors,
        // and errors at stable that are retried at stable would lower it. The ratio before the
        // block is fixed before its errors. Not the old ratio alone: when weights rise it is too
        // small, and E[LR] > 1. The larger of the two is at least the block's own, so E[LR] <= 1.
        let rho = ratio(block.canary, block.stable).max(self.lately.ratio());
        let bet = Bet::Worse { relative: self.slo.relative, absolute: self.slo.absolute };
        self.versus.play(bet, block, rho);
        self.lately.push(block);
        self.judged = self.judged.saturating_add(block.canary.total);
        if rho > 0.0 {
            let matched = (block.canary.total as f64 / rho).round() as u64;
            self.matched = self.matched.saturating_add(matched);
        }
    }

    fn play_objective(&mut self, sample: Sample) {
        if sample.stable.total > 0 {
            self.alone = false;
        }
        self.objective_block.add(sample);
        let Block { sum, ticks } = self.objective_block;
        if sum.stable.total == 0 && sum.canary.total >= ALONE_REQUESTS && ticks >= ALONE_TICKS {
            self.alone = true;
        }
        let over = Bet::Over { objective: self.slo.objective };
        if self.objective_block.comparable() {
            let block = self.objective_block.take();
            let rho = ratio(block.canary, block.stable).max(self.lately.ratio());
            self.over.play(over, block, rho);
            self.worse.play(WORSE, block, rho);
        } else if self.alone {
            let block = self.objective_block.take();
            self.over.play(over, block, 0.0);
            self.worse.play(over, block, 0.0);
            self.judged = self.judged.saturating_add(block.canary.total);
        }
    }

    /// Starts anew with each time that stable burns, one tick late: the tick that gives the outage
    /// away is no fair evidence against stable.
    fn play_better(&mut self, held: Sample) {
        if self.burning[1] {
            self.better.play(Bet::Better, held, ratio(held.canary, held.stable));
        } else {
            self.better = Purse::new(Bet::Better);
            self.better.add(1.0);
        }
    }

    fn settle(&mut self, idle: f64, threshold: f64) {
        let (test, evidence) = self.nearest(idle);
        if self.bad.is_none() && evidence >= threshold {
            self.bad = Some(Bad { test, evidence: Nats::new(evidence) });
        }
    }

    fn bet_ratio(&self) -> Option<f64> {
        (self.matched > 0).then(|| self.judged as f64 / self.matched as f64)
    }

    pub(super) fn is_bad(&self) -> bool {
        self.bad.is_some()
    }

    fn nearest(&self, idle: f64) -> (Test, f64) {
        let versus = self.versus.ln_e(idle);
        // The null hypothesis is "within the objective, or no worse than stable": the smaller of
        // the two e-processes is one against both.
        let objective = self.over.ln_e(idle).min(self.worse.ln_e(idle));
        if objective > versus { (Test::Objective, objective) } else { (Test::VersusStable, versus) }
    }

    pub(super) fn judge(&self, idle: f64, threshold: f64, to_win: f64) -> Judgement {
        let power = power::needed(&self.slo, self.step, self.bet_ratio(), to_win);
        let (test, evidence) = match self.bad {
            Some(bad) => (bad.test, bad.evidence.get()),
            None => self.nearest(idle),
        };
        let verdict = if self.bad.is_some() {
            Verdict::Bad
        } else if self.step.canary.total == 0 {
            Verdict::NoData
        } else if self.judged >= power.needed {
            Verdict::Good
        } else {
            Verdict::Undecided
        };
        let blamed = match verdict {
            Verdict::Good => true,
            Verdict::Undecided => self.canary_burn.any(),
            Verdict::Bad | Verdict::NoData => false,
        };
        let better = self.better.ln_e(0.0) >= BETTER;
        Judgement {
            name: self.slo.name.clone(),
            verdict,
            test,
            evidence,
            threshold,
            canary: self.run.canary,
            stable: self.run.stable,
            step: self.step,
            needed: power.needed,
            effect: power.effect,
            power: power::POWER,
            shared_fault: blamed && self.stable_burn.outage() && !better,
        }
    }
}

/// Worse than stable, without any tolerance.
const WORSE: Bet = Bet::Worse { relative: 1.0, absolute: 0.0 };
/// For the shape of the purse only.
const OVER_ANY: Bet = Bet::Over { objective: 0.0 };

/// The tick itself, or the worst of its neighbours if that one is clearly worse. An outage that
/// the canary's scrape saw one tick before stable's is then compared with stable's outage; and so
/// is, at its end, the one that stable got rid of first.
fn worst(own: Count, neighbours: [Count; 2]) -> Count {
    let mut worst = own;
    for other in neighbours {
        let (Some(here), Some(there)) = (own.ratio(), other.ratio()) else {
            continue;
        };
        let (n, m) = (own.total as f64, other.total as f64);
        let pooled = (own.bad as f64 + other.bad as f64) / (n + m);
        let deviation = (pooled * (1.0 - pooled) * (1.0 / n + 1.0 / m)).sqrt();
        if there - here > CLEARLY * deviation && other.ratio() > worst.ratio() {
            worst = other;
        }
    }
    worst
}
