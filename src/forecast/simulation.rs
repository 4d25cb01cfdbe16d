//! Releases by a policy, tried out with the evidence that real ones are judged by.
//!
//! What is modelled: requests of a reading are Poisson, each is bad by itself; steps, bakes, verdicts, the cap of
//! failed requests and the time limit of a step; label values that are watched on their own have equal shares of the
//! requests. What is not: pods, gates, people (an approval takes no time), and what the bounds beside a threshold see.

use serde::Serialize;

use super::{
    course::{Kind, Service, Stretch, course, watch},
    dice::Dice,
};
use crate::{
    api::{Advance, Otherwise, Policy, SloKind, ValidSlo},
    evidence::{Count, Evidence, Judgement, Sample, Verdict, Watch, ticks_to_react},
};

/// A step that is held for longer ends the simulation: a day.
const PATIENCE: f64 = 86_400.0;

/// How requests come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Traffic {
    /// Always the same.
    Constant,
    /// Requests and bad shares rise and fall by 80 %, each in its own rhythm of some minutes.
    Waves,
    /// Twice an hour something hits both versions for 5 to 60 seconds, and makes them 20 times as bad.
    Outages,
}

/// What breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum FaultKind {
    /// The canary fails a share of the requests that would succeed.
    Errors,
    /// The canary is slow for a share of the requests that would be fast.
    Slow,
    /// Both versions fail it.
    Outage,
}

/// When it begins.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Onset {
    /// With this step, counted from 1.
    Step(u32),
    /// So many seconds after the first step began.
    After(f64),
}

/// Something breaks.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Fault {
    pub kind: FaultKind,
    /// 0..1.
    pub share: f64,
    pub at: Onset,
    /// Seconds; `None`: for good.
    pub lasts: Option<f64>,
}

/// How a release ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum End {
    Promoted,
    RolledBack(Why),
    /// Was still held at this step, counted from 1, a day after its bake.
    Held(u32),
}

/// Why it was rolled back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Why {
    /// A Bad verdict.
    Verdict,
    /// limits.failedRequests.
    FailedRequests,
    /// limits.stepTimeout, with onTimeout or onInconclusive.
    Timeout,
}

/// One simulated release.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Release {
    pub end: End,
    /// From the first step's begin.
    pub seconds: f64,
    /// When the canary's fault began.
    pub broken_at: Option<f64>,
    /// Callers' requests that the canary's fault has spoilt, until the traffic was back.
    pub failed: u64,
}

/// All that a release depends on but the dice.
#[derive(Clone, Debug)]
pub struct Simulation {
    policy: Policy,
    service: Service,
    traffic: Traffic,
    faults: Vec<Fault>,
    /// Seconds from a decision until the traffic is gone.
    reaction: f64,
    stretches: Vec<Stretch>,
    watches: Vec<Watch>,
}

impl Simulation {
    /// `reaction`: seconds from a decision until the traffic is gone.
    pub fn new(policy: &Policy, service: Service, traffic: Traffic, faults: &[Fault], reaction: f64) -> Self {
        Self {
            stretches: course(policy, &service),
            watches: policy.slos.iter().map(watch).collect(),
            policy: policy.clone(),
            service,
            traffic,
            faults: faults.to_vec(),
            reaction,
        }
    }

    /// One release.
    pub fn release(&self, dice: &mut Dice) -> Release {
        Going {
            with: self,
            interval: self.policy.source.interval().as_secs_f64(),
            evidence: Evidence::watching(&self.watches, self.policy.alpha, self.stretches.len()),
            now: 0.0,
            step_began: 0.0,
            begun: Vec::new(),
            outage: None,
            broken_at: None,
            failed: 0,
        }
        .go(dice)
    }
}

/// A release under way.
struct Going<'a> {
    with: &'a Simulation,
    interval: f64,
    evidence: Evidence,
    /// Seconds.
    now: f64,
    step_began: f64,
    /// When each step began.
    begun: Vec<f64>,
    /// Until when both are hit.
    outage: Option<f64>,
    broken_at: Option<f64>,
    failed: u64,
}

/// Bad shares at this moment.
#[derive(Clone, Copy, Default)]
struct Shares {
    errors: f64,
    slow: f64,
    /// Of the canary alone, of the requests that are good otherwise.
    broken: f64,
    slowed: f64,
}

/// What a reading counts of one arm.
struct Read {
    total: u64,
    errors: u64,
    slow: u64,
}

impl Going<'_> {
    fn go(mut self, dice: &mut Dice) -> Release {
        for (index, stretch) in self.with.stretches.iter().enumerate() {
            self.step_began = self.now;
            self.begun.push(self.now);
            self.evidence.begin_step(index);
            if stretch.kind == Kind::Approval {
                continue;
            }
            loop {
                if self.may_be_over(stretch) {
                    let judgements = self.evidence.judge();
                    if self.may_go_on(stretch, &judgements) {
                        break;
                    }
                    if let Some(end) = self.out_of_time(stretch, &judgements) {
                        return self.ended(end);
                    }
                }
                self.read(stretch, dice);
                let why = if self.evidence.any_bad() {
                    Why::Verdict
                } else if self.exceeds_cap() {
                    Why::FailedRequests
                } else {
                    continue;
                };
                let release = self.ended(End::RolledBack(why));
                return self.traffic_back(release, stretch, dice);
            }
        }
        self.ended(End::Promoted)
    }

    fn ended(&self, end: End) -> Release {
        Release { end, seconds: self.now, broken_at: self.broken_at, failed: self.failed }
    }

    fn in_step(&self) -> f64 {
        self.now - self.step_began
    }

    fn is_baked(&self, stretch: &Stretch) -> bool {
        self.in_step() >= stretch.leg.seconds - 1e-9
    }

    /// Whether it is worth asking the evidence, which is dear.
    fn may_be_over(&self, stretch: &Stretch) -> bool {
        self.is_baked(stretch) || self.with.policy.spec.advance == Advance::OnEvidence
    }

    /// As the engine has it.
    fn may_go_on(&self, stretch: &Stretch, judgements: &[Judgement]) -> bool {
        let good = judgements.iter().all(|judgement| judgement.verdict == Verdict::Good && !judgement.shared_fault);
        let shared_fault = judgements.iter().any(|judgement| judgement.shared_fault);
        let proven = self.with.policy.spec.advance == Advance::OnEvidence
            && stretch.kind.asks_evidence()
            && judgements.iter().all(|judgement| judgement.not_inferior);
        (self.is_baked(stretch) || proven) && if stretch.kind.asks_evidence() { good } else { !shared_fault }
    }

    /// Held too long: the time limit of a step, if it is to end the release, or the patience of this simulation.
    fn out_of_time(&self, stretch: &Stretch, judgements: &[Judgement]) -> Option<End> {
        let limits = &self.with.policy.spec.limits;
        let shared_fault = judgements.iter().any(|judgement| judgement.shared_fault);
        let otherwise = if shared_fault { limits.on_timeout } else { limits.on_inconclusive };
        let is_late = self.in_step() >= stretch.leg.seconds.max(limits.step_timeout.as_secs_f64());
        match otherwise {
            Otherwise::Rollback if is_late => Some(End::RolledBack(Why::Timeout)),
            _ if self.in_step() >= stretch.leg.seconds + PATIENCE => {
                Some(End::Held(u32::try_from(self.begun.len()).unwrap_or(u32::MAX)))
            }
            _ => None,
        }
    }

    /// As the engine has it.
    fn exceeds_cap(&self) -> bool {
        let most = self.with.policy.spec.limits.failed_requests as f64;
        let ticks = ticks_to_react(self.interval);
        (0..self.with.watches.len()).any(|slo| self.evidence.harm(slo).exceeds(most, ticks))
    }

    fn read(&mut self, stretch: &Stretch, dice: &mut Dice) {
        let (rate, shares) = self.moment(dice);
        let [canary, stable] = self.arms(stretch, rate, shares, dice);
        let mut tick: Vec<Sample> = Vec::new();
        for (slo, watch) in self.with.policy.slos.iter().zip(&self.with.watches) {
            let count = |read: &Read| match slo.kind {
                SloKind::Errors => Count { bad: read.errors, total: read.total },
                SloKind::Latency { .. } => Count { bad: read.slow, total: read.total },
            };
            let own = Sample { canary: count(&canary), stable: count(&stable) };
            tick.push(own);
            tick.extend(facets(slo, watch, own, dice));
        }
        self.evidence.fold(&tick);
        self.now += self.interval;
    }

    fn arms(&mut self, stretch: &Stretch, rate: f64, shares: Shares, dice: &mut Dice) -> [Read; 2] {
        let stable = draw(stretch.leg.stable * rate * self.interval, shares, dice);
        let mut canary = draw(stretch.leg.canary * rate * self.interval, shares, dice);
        let broken = dice.binomial(canary.total - canary.errors, shares.broken);
        let slowed = dice.binomial(canary.total - canary.slow, shares.slowed);
        canary.errors += broken;
        canary.slow += slowed;
        if stretch.kind.is_seen_by_callers() {
            // A request that fails and is slow has failed once, but which are both is not drawn.
            self.failed += broken.max(slowed);
        }
        [canary, stable]
    }

    /// The canary's requests until its traffic is gone.
    fn traffic_back(&mut self, mut release: Release, stretch: &Stretch, dice: &mut Dice) -> Release {
        let (rate, shares) = self.moment(dice);
        let share = shares.broken.max(shares.slowed);
        if stretch.kind.is_seen_by_callers() {
            let total = dice.poisson(stretch.leg.canary * rate * self.with.reaction);
            release.failed += dice.binomial(total, share);
        }
        release
    }

    /// Requests as a factor on what is usual, and bad shares.
    fn moment(&mut self, dice: &mut Dice) -> (f64, Shares) {
        let service = self.with.service;
        let wave = |period: f64| 1.0 + 0.8 * (self.now * std::f64::consts::TAU / period).sin();
        let (mut rate, mut times) = (1.0, 1.0);
        match self.with.traffic {
            Traffic::Constant => {}
            Traffic::Waves => (rate, times) = (wave(97.0), wave(210.0)),
            Traffic::Outages => {
                if self.outage.is_none_or(|until| self.now >= until) {
                    let begins = dice.uniform() < self.interval / 1800.0;
                    self.outage = begins.then(|| self.now + 5.0 + 55.0 * dice.uniform());
                }
                if self.outage.is_some() {
                    times = 20.0;
                }
            }
        }
        let share = |usual: f64| (usual * times).min(1.0);
        let mut shares = Shares { errors: share(service.errors), slow: share(service.slow), ..Shares::default() };
        for fault in &self.with.faults {
            if !self.in_force(fault) {
                continue;
            }
            let place = match fault.kind {
                FaultKind::Errors => &mut shares.broken,
                FaultKind::Slow => &mut shares.slowed,
                FaultKind::Outage => &mut shares.errors,
            };
            *place = 1.0 - (1.0 - *place) * (1.0 - fault.share);
        }
        if shares.broken.max(shares.slowed) > 0.0 {
            self.broken_at = self.broken_at.or(Some(self.now));
        }
        (rate, shares)
    }

    fn in_force(&self, fault: &Fault) -> bool {
        let began = match fault.at {
            Onset::After(seconds) => Some(seconds),
            Onset::Step(step) => self.begun.get(step.saturating_sub(1) as usize).copied(),
        };
        began.is_some_and(|began| {
            self.now >= began - 1e-9 && fault.lasts.is_none_or(|lasts| self.now < began + lasts - 1e-9)
        })
    }
}

/// What an SLO's facets count: bounds nothing, label values equal shares.
fn facets(slo: &ValidSlo, watch: &Watch, own: Sample, dice: &mut Dice) -> Vec<Sample> {
    let strata = slo.strata();
    let mut facets = vec![Sample::default(); watch.facets().count() - strata];
    let mut rest = own;
    for left in (1..=strata).rev() {
        let share = 1.0 / left as f64;
        let mut some = |of: &mut Count| {
            let bad = dice.binomial(of.bad, share);
            let part = Count { bad, total: bad + dice.binomial(of.total - of.bad, share) };
            *of = Count { bad: of.bad - part.bad, total: of.total - part.total };
            part
        };
        facets.push(Sample { canary: some(&mut rest.canary), stable: some(&mut rest.stable) });
    }
    facets
}

fn draw(mean: f64, shares: Shares, dice: &mut Dice) -> Read {
    let total = dice.poisson(mean);
    Read { total, errors: dice.binomial(total, shares.errors), slow: dice.binomial(total, shares.slow) }
}
