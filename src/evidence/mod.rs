//! Counts in, verdicts out. Pure: no IO, no clock, no randomness.
//!
//! A run feeds one [`Sample`] per SLO and tick (about a second) into [`Evidence`] and asks it to
//! [`judge`](Evidence::judge) as often as it likes. Two tests stand behind each verdict, both of
//! them e-processes (see `eprocess`), so looking at every tick costs nothing:
//!
//! * [`Test::VersusStable`]: the canary is worse than `relative` x stable + `absolute`;
//! * [`Test::Objective`]: the canary is over its objective **and** worse than stable, both proven
//!   on ticks in which stable itself kept the objective. (An outage that hits both versions is not
//!   the new version's fault.)
//!
//! The opposite question has a test of its own, of each step: is the canary proven not to be worse than
//! tolerated ([`Proof`])? It ends a step early and convicts nobody, so it has a budget of its own: 5 % in
//! each step, for all SLOs together, as all of them must be proven.
//!
//! The false-alarm budget `alpha` of a run is shared evenly: each test of each of the m SLOs gets
//! alpha / 2m, so by Ville's inequality and the union bound at most a share `alpha` of healthy
//! releases ever sees a Bad verdict, whatever their length. Late onset: half of the money is bet at
//! the first step, the other steps share the rest; of each step's money three quarters are bet at
//! its begin and one quarter drips in over the step's ticks (1/(n(n+1)) of it at the n-th). Money
//! not yet bet counts as itself, so E is at any time an average of e-processes that started at
//! different times, with fixed weights that sum to 1.
//!
//! An SLO may have facets (see `watch`): further bounds of its histogram, label values. They share its
//! budget. [`Test::VersusStable`] then speaks of their mean.
//!
//! Requests that fail together are counted once: see `dispersion`.
//!
//! A tick is taken into account when the next one is known: arms are not scraped at the same
//! instant, so an outage may show in one arm a tick before the other.

mod burn;
mod conservation;
mod crowd;
mod detection;
mod dispersion;
mod eprocess;
mod fold;
mod harm;
mod multinomial;
mod power;
mod sample_ratio;
#[cfg(test)]
mod simulation;
mod slo;
mod split;
mod tail;
#[cfg(test)]
mod testing;
mod versus;
mod watch;
mod windows;

use serde::{Deserialize, Serialize};

use conservation::Conservation;
pub use conservation::{Lost, Router, Sent};
pub use crowd::Suspect;
pub use detection::{Detection, Leg, Rules, seconds_to_go_on};
pub use dispersion::{Dispersion, Learnt};
pub use eprocess::{Bet, Phi, Purse};
pub use fold::{Blind, Fold, Tick};
pub use harm::{Harm, REACTION, cap_of_budget, ticks_to_react};
pub use sample_ratio::{Mismatch, Off, SampleRatio};
pub use split::{ArmSeconds, Silent, Split};
pub use tail::{MOST_OTHERS, NoBounds, TailBounds};
pub use watch::{Facet, Watch};
pub use windows::{QueryReading, QueryRule, Windowed, Windows};

use slo::{Canary, Money, Track};

/// For serde, which gives a reference.
fn is_zero(requests: &u64) -> bool {
    *requests == 0
}

/// One SLO as the evidence needs it. Ratios are shares of BAD requests, 0..1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Slo {
    pub name: String,
    /// Allowed share of bad requests, e.g. 0.01 for an objective of 99 %.
    pub objective: f64,
    /// r0 >= 1: the canary may be so many times as bad as stable ...
    pub relative: f64,
    /// ... d0: plus this share of bad requests.
    pub absolute: f64,
}

impl Slo {
    /// Numbers that make sense: callers validate, this keeps NaN out. Rounded to nine digits, so
    /// that they come back from any JSON exactly as they went.
    fn sane(&self) -> Self {
        let within = |x: f64, low: f64, high: f64, otherwise: f64| {
            let x = if x.is_nan() { otherwise } else { x };
            (x.clamp(low, high) * 1e9).round() / 1e9
        };
        Self {
            name: self.name.clone(),
            objective: within(self.objective, 0.0, 1.0, 1.0),
            relative: within(self.relative, 1.0, 1e6, 1.0),
            absolute: within(self.absolute, 0.0, 1.0, 0.0),
        }
    }
}

/// Requests of one arm, and how many of them were bad.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    pub bad: u64,
    pub total: u64,
}

impl Count {
    fn clamped(self) -> Self {
        Self { bad: self.bad.min(self.total), total: self.total }
    }

    fn add(&mut self, other: Self) {
        self.bad = self.bad.saturating_add(other.bad);
        self.total = self.total.saturating_add(other.total);
    }

    /// Without those of a part.
    fn less(self, part: Self) -> Self {
        let less = |all: u64, part: u64| all.saturating_sub(part);
        Self { bad: less(self.bad, part.bad), total: less(self.total, part.total) }.clamped()
    }

    /// Share of bad requests; `None` without requests.
    pub fn ratio(self) -> Option<f64> {
        (self.total > 0).then(|| self.bad.min(self.total) as f64 / self.total as f64)
    }
}

/// One SLO, one tick (or a sum of ticks).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    pub canary: Count,
    pub stable: Count,
}

impl Sample {
    fn clamped(self) -> Self {
        Self { canary: self.canary.clamped(), stable: self.stable.clamped() }
    }

    fn add(&mut self, other: Self) {
        self.canary.add(other.canary);
        self.stable.add(other.stable);
    }
}

/// What one pod did in one tick.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodTick {
    /// Unique over time: the UID.
    pub pod: String,
    /// All its requests. Fewer may be judged: those of a pod that warms up have no latency yet.
    pub requests: u64,
    /// In the order of the tick's samples: for each SLO its own, then its facets'.
    pub counts: Vec<Count>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Verdict {
    /// Enough requests to have seen a regression, and none seen: nor do the odds against the canary stand at 20 to 1.
    Good,
    /// Proven worse. Final: once Bad, always Bad.
    Bad,
    /// Not enough requests yet, or too much against the canary to call it good.
    Undecided,
    /// The canary had no request in this step.
    NoData,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Test {
    /// Canary against `relative` x stable + `absolute`.
    VersusStable,
    /// Canary against the objective, while stable keeps it.
    Objective,
}

/// What is known about one SLO, with everything that is needed to explain it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    pub name: String,
    pub verdict: Verdict,
    /// The test that is nearest to its threshold, or the one that went past it.
    pub test: Test,
    /// ln E of that test in nats; after a Bad verdict its value at that moment.
    pub evidence: f64,
    /// ln(1/alpha_i) in nats: from here on the verdict is Bad.
    pub threshold: f64,
    /// Sums of the run.
    pub canary: Count,
    pub stable: Count,
    /// Sums since this step began.
    pub step: Sample,
    /// Canary requests of this step that could be judged: outages of stable left out.
    pub judged: u64,
    /// So many of them to have seen a regression to `effect` with probability `power`.
    pub needed: u64,
    /// The canary's bad ratio that `needed` speaks of: the bound at stable's ratio plus five times
    /// the objective.
    pub effect: f64,
    pub power: f64,
    /// Stable is in an outage now, and so is the canary, or it would otherwise be called Good; and
    /// it is not proven to be better than stable. A reason to hold, and never to roll back.
    pub shared_fault: bool,
    /// Proven in this step not to be worse than tolerated, and nothing speaks against it: a reason to
    /// end the step before its time. Silence proves nothing.
    pub not_inferior: bool,
    pub proof: Proof,
    /// Who is to blame, while the evidence is past its threshold.
    pub suspect: Option<Suspect>,
    /// Bad requests because of this release.
    pub harm: Harm,
    /// What the SLO is looked at through besides, in the order of its [`Watch`].
    pub facets: Vec<FacetJudgement>,
}

/// Evidence of this step that the canary is not worse than `relative` x stable + `absolute`, in nats.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Proof {
    /// ln E.
    pub evidence: f64,
    /// From here on it is proven: ln 20, for an error of 5 % at most in each step.
    pub threshold: f64,
}

impl Proof {
    pub fn holds(self) -> bool {
        self.evidence >= self.threshold
    }
}

/// What is known about one facet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FacetJudgement {
    pub name: String,
    /// ln E against stable of this facet alone, in nats.
    pub evidence: f64,
    /// Worse than stable by itself: for naming what went wrong, not for the verdict. Of what is named
    /// at most 1 in 20 is named by chance (false discovery rate).
    pub worse: bool,
    /// Sums of the run.
    pub canary: Count,
    pub stable: Count,
}

/// The fold over the ticks of a run. Serialise it at any time and go on later: the result is
/// exactly the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// ln(1/alpha_i) in 1e-9 nats.
    threshold: eprocess::Nats,
    stakes: Stakes,
    /// The pod that was replaced for being bad by itself. It happens once in a run.
    pardoned: Option<String>,
    slos: Vec<Track>,
}

impl Evidence {
    /// Evidence of a run that begins with step 0 of `steps`. `alpha`: false-alarm budget of the
    /// whole run over all SLOs, e.g. 0.01.
    pub fn new(slos: &[Slo], alpha: f64, steps: usize) -> Self {
        let plain: Vec<Watch> = slos.iter().cloned().map(Watch::from).collect();
        Self::watching(&plain, alpha, steps)
    }

    /// The same with SLOs that have facets: histogram bounds, label values.
    pub fn watching(slos: &[Watch], alpha: f64, steps: usize) -> Self {
        let alpha = if alpha.is_nan() { 0.01 } else { alpha };
        let tests = 2.0 * slos.len().max(1) as f64;
        let mut evidence = Self {
            threshold: eprocess::Nats::new((tests / alpha.clamp(1e-12, 1.0)).ln()),
            stakes: Stakes::new(steps),
            pardoned: None,
            slos: slos.iter().map(Track::new).collect(),
        };
        evidence.bet_on_step();
        evidence
    }

    /// A step began: its money is bet, its sums start at 0. Saying it twice changes nothing. Returns whether it is news.
    ///
    /// A tick that still waits for its successor belongs to the step before; its outcome is known
    /// already, so the money is bet after it.
    pub fn begin_step(&mut self, step: usize) -> bool {
        let step = u32::try_from(step).unwrap_or(u32::MAX);
        if step == self.stakes.step {
            return false;
        }
        self.stakes.step = step;
        self.stakes.waiting = true;
        for slo in &mut self.slos {
            slo.begin_step();
        }
        true
    }

    /// One tick: one sample per SLO, in the order of `new`; after it one for each facet that the SLO
    /// has. Samples that are missing are empty.
    pub fn fold(&mut self, tick: &[Sample]) {
        self.fold_pods(tick, &[]);
    }

    /// The same where the canary's pods were read one by one: a single bad pod is then told from a bad
    /// version. `tick` is about all pods.
    pub fn fold_pods(&mut self, tick: &[Sample], canary: &[PodTick]) {
        match self.pardoned.clone() {
            None => self.fold_all(tick, canary),
            // A second bad pod is no accident: from now on nobody is told apart.
            Some(pardoned) => self.fold_all(&without(tick, canary, &pardoned), &[]),
        }
    }

    fn fold_all(&mut self, tick: &[Sample], canary: &[PodTick]) {
        let drip = self.stakes.drip();
        let money = Money { idle: self.stakes.idle(), threshold: self.threshold.get(), in_step: !self.stakes.waiting };
        let (mut rest, mut skip) = (tick, 0);
        for slo in &mut self.slos {
            let (now, others) = rest.split_at(slo.width().min(rest.len()));
            rest = others;
            slo.bet(drip);
            slo.fold(now, Canary { ticks: canary, skip }, money);
            skip += slo.width();
        }
        if self.stakes.waiting {
            self.bet_on_step();
        }
    }

    /// The canary pod that was named ([`Suspect::Pod`]) is replaced: it no longer counts, and neither
    /// does what was gathered so far, for it was about that pod. The first pod only; returns whether it
    /// was.
    ///
    /// All money that was bet is bet anew, so a healthy version may be accused twice. But it comes to
    /// this only after it was accused once, with probability alpha: alpha + alpha^2 in all.
    pub fn pardon(&mut self, pod: &str) -> bool {
        if self.pardoned.is_some() || self.any_bad() {
            return false;
        }
        self.pardoned = Some(pod.to_owned());
        let at_work = 1.0 - self.stakes.idle();
        for slo in &mut self.slos {
            slo.restart(at_work);
        }
        true
    }

    /// From the next tick on the requests of an SLO (in the order of `new`) are taken to fail `phi` at a
    /// time. To be called with what stable's pods have shown so far ([`Dispersion`]), at any time.
    pub fn temper(&mut self, slo: usize, phi: Phi) {
        if let Some(slo) = self.slos.get_mut(slo) {
            slo.temper(phi);
        }
    }

    pub fn judge(&self) -> Vec<Judgement> {
        let threshold = self.threshold.get();
        // What a regression that begins with this step must win, from this step's money alone.
        let to_win = threshold - self.stakes.lump_of_step().ln();
        self.slos.iter().map(|slo| slo.judge(self.stakes.idle(), threshold, to_win)).collect()
    }

    /// Is any verdict Bad? The same as asking `judge`, without the work of explaining it.
    pub fn any_bad(&self) -> bool {
        self.slos.iter().any(Track::is_bad)
    }

    /// Who is to blame, if any evidence is past its threshold. The same as asking `judge`.
    pub fn suspect(&self) -> Option<&Suspect> {
        self.slos.iter().find_map(Track::suspect)
    }

    /// Where in a tick's samples each SLO's own counts are.
    fn own_columns(&self) -> Vec<usize> {
        let after = |next: &mut usize, slo: &Track| Some(std::mem::replace(next, *next + slo.width()));
        self.slos.iter().scan(0, after).collect()
    }

    /// Bad requests of an SLO (in the order of `new`) because of this release. The same as asking `judge`.
    pub fn harm(&self, slo: usize) -> Harm {
        self.slos.get(slo).map(Track::harm).unwrap_or_default()
    }

    fn bet_on_step(&mut self) {
        let lump = self.stakes.begin();
        for slo in &mut self.slos {
            slo.bet(lump);
        }
    }
}

/// The tick without this pod.
fn without(tick: &[Sample], canary: &[PodTick], pod: &str) -> Vec<Sample> {
    let gone = canary.iter().find(|one| one.pod == pod).map_or(&[] as &[Count], |one| &one.counts);
    let mut gone = gone.iter().copied();
    let mut less = |sample: &Sample| Sample { canary: sample.canary.less(gone.next().unwrap_or_default()), ..*sample };
    tick.iter().map(&mut less).collect()
}

/// No policy has more.
const MOST_STEPS: u32 = 1000;

/// Who gets the money, and when. In whole parts of 1e-12: exact however often it is written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stakes {
    /// At least 1.
    #[serde(deserialize_with = "some_steps")]
    steps: u32,
    step: u32,
    /// The step has begun, but a tick of the one before is not yet accounted for.
    waiting: bool,
    /// Steps below this one have got their share.
    paid: u32,
    /// Share of the step under way.
    share: u64,
    /// Not yet bet.
    idle: u64,
    /// Ticks of the step under way.
    ticks: u64,
}

impl Stakes {
    const ALL: u64 = 1_000_000_000_000;

    fn new(steps: usize) -> Self {
        Self {
            steps: u32::try_from(steps.max(1)).unwrap_or(u32::MAX),
            step: 0,
            waiting: false,
            paid: 0,
            share: 0,
            idle: Self::ALL,
            ticks: 0,
        }
    }

    fn share_of(&self, step: u32) -> u64 {
        match (step, self.steps) {
            (0, 0 | 1) => Self::ALL,
            (0, _) => Self::ALL / 2,
            (step, steps) if step < steps => Self::ALL / 2 / u64::from(steps - 1),
            _ => 0,
        }
    }

    /// The share of the step that has just begun, and of steps that were skipped. Returns what to
    /// bet at once, as part of 1.
    fn begin(&mut self) -> f64 {
        self.waiting = false;
        self.ticks = 0;
        self.share = 0;
        for step in self.paid..=self.step.min(self.steps - 1) {
            self.share = self.share.saturating_add(self.share_of(step));
            self.paid = step + 1;
        }
        self.take(self.share / 4 * 3)
    }

    /// What to bet at this tick: 1/(n(n+1)) sums to 1 over all ticks n. A regression that begins
    /// after an hour then has to make up for money bet too late, but not for an hour's losses.
    fn drip(&mut self) -> f64 {
        self.ticks = self.ticks.saturating_add(1);
        let n = u128::from(self.ticks);
        let part = u128::from(self.share / 4) / (n * (n + 1));
        self.take(u64::try_from(part).unwrap_or(0))
    }

    fn take(&mut self, part: u64) -> f64 {
        let part = part.min(self.idle);
        self.idle -= part;
        part as f64 / Self::ALL as f64
    }

    fn idle(&self) -> f64 {
        self.idle.min(Self::ALL) as f64 / Self::ALL as f64
    }

    fn lump_of_step(&self) -> f64 {
        let last = self.steps - 1;
        self.share_of(self.step.min(last)) as f64 * 0.75 / Self::ALL as f64
    }
}

/// A saved state of anything else is none of a policy's.
fn some_steps<'de, D: serde::Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    let steps = u32::deserialize(from)?;
    match steps {
        1..=MOST_STEPS => Ok(steps),
        _ => Err(serde::de::Error::custom(format!("expected 1 to {MOST_STEPS} steps, found {steps}"))),
    }
}
