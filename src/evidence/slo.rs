//! One SLO: its ticks on their way into the two tests, and what they say.

use serde::{Deserialize, Serialize};

use super::burn::Burn;
use super::crowd::{Crowd, Question, Suspect};
use super::eprocess::{Bet, Mixture, Nats, Phi, Purse, discoveries, ln_sum, ratio};
use super::harm::{Harm, Meter};
use super::versus::{Block, Lag, Met, Versus};
use super::{Facet, FacetJudgement, Judgement, PodTick, Proof, Sample, Slo, Test, Verdict, Watch, power};

/// Stable serves nothing any more: so many canary requests in so many ticks without one at stable.
const ALONE_REQUESTS: u64 = 20;
const ALONE_TICKS: u32 = 5;
/// 20 to 1 against the canary is no proof, and too much to call it good.
const DOUBT: f64 = 3.0;
/// "Proven better" in an outage: 5 %, a question of holding only.
const BETTER: f64 = 3.0;
/// An inferior canary is proven not to be with at most this probability in each step.
const PROOF_ALPHA: f64 = 0.05;
/// Of the facets that are named at most this share is named by chance.
const NAMED_BY_CHANCE: f64 = 0.05;

/// A Bad verdict: final.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Bad {
    test: Test,
    evidence: Nats,
}

/// What the canary's pods did in a tick; `skip`: columns of other SLOs before this one's.
#[derive(Clone, Copy)]
pub(super) struct Canary<'a> {
    pub(super) ticks: &'a [PodTick],
    pub(super) skip: usize,
}

/// How a run stands.
#[derive(Clone, Copy)]
pub(super) struct Money {
    /// Not yet bet, 0..=1.
    pub(super) idle: f64,
    /// ln(1/alpha_i) in nats.
    pub(super) threshold: f64,
    /// The held tick belongs to the step under way.
    pub(super) in_step: bool,
}

/// A facet of the SLO, on the way into its own bet against stable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Side {
    facet: Facet,
    run: Sample,
    lag: Lag,
    versus: Versus,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Track {
    slo: Slo,
    run: Sample,
    step: Sample,
    /// Canary requests of this step that the tests have seen.
    judged: u64,
    /// The same two without outages of stable: beside an outage no regression shows. Once it is over, the step is as
    /// long as it was calm, and need not outweigh what was bad.
    calm: Sample,
    calm_judged: u64,
    /// Stable requests that would make the ratio of the arms what bets were made by.
    matched: u64,
    bad: Option<Bad>,
    harm: Meter,
    /// The canary's pods, and who of them is to blame for the evidence, once it is enough.
    crowd: Crowd,
    suspect: Option<Suspect>,
    /// What the ticks are played with, and what those from the next one on will be.
    phi: Phi,
    next_phi: Phi,
    lag: Lag,
    versus: Versus,
    /// The SLO's own counts have the rest of the weight.
    own_weight: f64,
    facets: Vec<Side>,
    /// The bet that the canary is not inferior, anew in each step.
    proof: Versus,

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
    /// Stable was in an outage at the held tick.
    was_outage: bool,
    /// Canary better than stable, since stable's outage began.
    better: Purse,
}

impl Track {
    pub(super) fn new(watch: &Watch) -> Self {
        let own_weight = watch.own();
        let Watch { slo, facets } = watch.sane();
        let bet = tolerated(&slo);
        let side = |facet| Side { facet, run: Sample::default(), lag: Lag::default(), versus: Versus::new(bet) };
        let mut proof = Versus::new(not_inferior(&slo));
        proof.restart(not_inferior(&slo));
        Self {
            run: Sample::default(),
            step: Sample::default(),
            judged: 0,
            calm: Sample::default(),
            calm_judged: 0,
            matched: 0,
            bad: None,
            harm: Meter::default(),
            crowd: Crowd::new(1 + facets.len()),
            suspect: None,
            phi: Phi::ONE,
            next_phi: Phi::ONE,
            lag: Lag::default(),
            versus: Versus::new(bet),
            own_weight,
            facets: facets.into_iter().map(side).collect(),
            proof,
            over: Purse::new(OVER_ANY),
            worse: Purse::new(WORSE),
            objective_block: Block::default(),
            alone: false,
            stable_burn: Burn::new(),
            canary_burn: Burn::new(),
            burning: [false; 2],
            was_outage: false,
            better: Purse::new(Bet::Better),
            slo,
        }
    }

    /// How many samples a tick has for it: its own, and one for each facet.
    pub(super) fn width(&self) -> usize {
        1 + self.facets.len()
    }

    pub(super) fn begin_step(&mut self) {
        self.step = Sample::default();
        self.judged = 0;
        (self.calm, self.calm_judged) = (Sample::default(), 0);
        self.matched = 0;
        self.proof.restart(not_inferior(&self.slo));
        self.crowd.begin_step();
    }

    /// All that was won or lost is forgotten, with the tick that waits and the requests that the step has seen, and the
    /// `share` of the money that was bet is bet anew.
    pub(super) fn restart(&mut self, share: f64) {
        self.begin_step();
        let bet = tolerated(&self.slo);
        self.versus = Versus::new(bet);
        self.lag = Lag::default();
        for side in &mut self.facets {
            (side.versus, side.lag) = (Versus::new(bet), Lag::default());
        }
        (self.over, self.worse) = (Purse::new(OVER_ANY), Purse::new(WORSE));
        self.objective_block = Block::default();
        self.crowd = Crowd::new(self.width());
        self.suspect = None;
        self.bet(share);
    }

    /// Puts a share of the run's money to work in each test.
    pub(super) fn bet(&mut self, share: f64) {
        self.versus.add(share);
        for side in &mut self.facets {
            side.versus.add(share);
        }
        for purse in [&mut self.over, &mut self.worse] {
            purse.add(share);
        }
    }

    /// `samples`: the SLO's own, then the facets'; those that are missing are empty.
    pub(super) fn fold(&mut self, samples: &[Sample], pods: Canary<'_>, money: Money) {
        let tick = samples;
        let mut samples = samples.iter().copied().map(Sample::clamped);
        let mut next = || samples.next().unwrap_or_default();
        let now = next();
        self.run.add(now);
        self.step.add(now);
        self.harm.push(now, self.run.stable, self.phi);
        self.stable_burn.push(now.stable, self.slo.objective);
        self.canary_burn.push(now.canary, self.slo.objective);
        let burns = self.stable_burn.any();

        let (bet, mut prepared) = (tolerated(&self.slo), None);
        for side in &mut self.facets {
            let now = next();
            side.run.add(now);
            if let Some(met) = side.lag.push(now) {
                side.versus.play(bet, met.comparable, self.phi, &mut prepared);
            }
        }
        if let Some(met) = self.lag.push(now) {
            let judged = (self.judged, self.matched, self.calm, self.calm_judged);
            self.play(&met, burns, &mut prepared);
            let (test, evidence) = self.nearest(money.idle);
            // First what was played, then the tick that waits: it may be the first of the trouble.
            self.crowd.evidence_is(evidence);
            self.crowd.push(tick, pods.ticks, pods.skip);
            self.settle(test, evidence, money.threshold);
            if money.in_step {
                self.play_proof(&met, burns);
            } else {
                (self.judged, self.matched, self.calm, self.calm_judged) = judged;
            }
        } else {
            self.crowd.push(tick, pods.ticks, pods.skip);
        }
        self.burning = [burns, self.burning[0]];
        self.was_outage = self.stable_burn.outage();
        self.phi = self.next_phi;
    }

    pub(super) fn temper(&mut self, phi: Phi) {
        self.next_phi = phi;
    }

    fn play(&mut self, met: &Met, burns: bool, prepared: &mut Option<Mixture>) {
        let played = self.versus.play(tolerated(&self.slo), met.comparable, self.phi, prepared);
        let is_calm = !self.stable_burn.outage() && !self.was_outage;
        if is_calm {
            self.calm.add(met.own);
        }
        if let Some(played) = played {
            let canary = played.block.canary.total;
            self.judged = self.judged.saturating_add(canary);
            self.calm_judged = self.calm_judged.saturating_add(if is_calm { canary } else { 0 });
            if played.rho > 0.0 {
                let matched = (canary as f64 / played.rho).round() as u64;
                self.matched = self.matched.saturating_add(matched);
            }
        }
        if !burns && self.burning == [false; 2] {
            self.play_objective(met.comparable);
        }
        self.play_better(met.own);
    }

    /// On ticks in which stable keeps the objective: beside an outage nothing is proven. To leave out
    /// stable's bad ticks only ever makes stable look better here.
    fn play_proof(&mut self, met: &Met, burns: bool) {
        if !burns && self.burning == [false; 2] {
            self.proof.play(not_inferior(&self.slo), met.demanding, self.phi, &mut None);
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
            let rho = self.versus.rho(WORSE, block);
            self.over.play(over, block, rho, self.phi);
            self.worse.play(WORSE, block, rho, self.phi);
        } else if self.alone {
            let block = self.objective_block.take();
            self.over.play(over, block, 0.0, self.phi);
            self.worse.play(over, block, 0.0, self.phi);
            self.judged = self.judged.saturating_add(block.canary.total);
            self.calm_judged = self.calm_judged.saturating_add(block.canary.total);
        }
    }

    /// Starts anew with each time that stable burns, one tick late: the tick that gives the outage
    /// away is no fair evidence against stable.
    fn play_better(&mut self, held: Sample) {
        if self.burning[1] {
            self.better.play(Bet::Better, held, ratio(held.canary, held.stable), self.phi);
        } else {
            self.better = Purse::new(Bet::Better);
            self.better.add(1.0);
        }
    }

    fn settle(&mut self, test: Test, evidence: f64, threshold: f64) {
        self.suspect = (evidence >= threshold).then(|| self.blame(evidence, threshold));
        if self.bad.is_none() && self.suspect == Some(Suspect::Version) {
            self.bad = Some(Bad { test, evidence: Nats::new(evidence) });
        }
    }

    fn blame(&self, evidence: f64, threshold: f64) -> Suspect {
        let sides = self.facets.iter().map(|side| side.facet.weight);
        let question = Question {
            versus: tolerated(&self.slo),
            over: Bet::Over { objective: self.slo.objective },
            worse: WORSE,
            weights: &std::iter::once(self.own_weight).chain(sides).collect::<Vec<_>>(),
            phi: self.phi,
            threshold,
        };
        self.crowd.suspect(&question, evidence)
    }

    fn bet_ratio(&self) -> Option<f64> {
        (self.matched > 0).then(|| self.judged as f64 / self.matched as f64)
    }

    pub(super) fn suspect(&self) -> Option<&Suspect> {
        self.suspect.as_ref()
    }

    pub(super) fn harm(&self) -> Harm {
        self.harm.harm()
    }

    pub(super) fn is_bad(&self) -> bool {
        self.bad.is_some()
    }

    /// ln E against stable: the mean over the SLO's own counts and its facets, by their weights.
    fn versus(&self, idle: f64) -> f64 {
        ln_sum(self.shares(idle).into_iter())
    }

    /// What the SLO's own counts and each facet bring into that mean.
    fn shares(&self, idle: f64) -> Vec<f64> {
        let own = self.own_weight.ln() + self.versus.ln_e(idle);
        let sides = self.facets.iter().map(|side| side.facet.weight.ln() + side.versus.ln_e(idle));
        std::iter::once(own).chain(sides).collect()
    }

    fn nearest(&self, idle: f64) -> (Test, f64) {
        let versus = self.versus(idle);
        // The null hypothesis is "within the objective, or no worse than stable": the smaller of
        // the two e-processes is one against both.
        let objective = self.over.ln_e(idle).min(self.worse.ln_e(idle));
        if objective > versus { (Test::Objective, objective) } else { (Test::VersusStable, versus) }
    }

    pub(super) fn judge(&self, idle: f64, threshold: f64, to_win: f64) -> Judgement {
        // A regression of the SLO's own counts must win from their share of the weight alone.
        let (step, judged) = match self.stable_burn.outage() {
            true => (self.step, self.judged),
            false => (self.calm, self.calm_judged),
        };
        let power = power::needed(&self.slo, step, self.bet_ratio(), to_win - self.own_weight.ln(), self.phi);
        let (test, evidence) = match self.bad {
            Some(bad) => (bad.test, bad.evidence.get()),
            None => self.nearest(idle),
        };
        let verdict = if self.bad.is_some() {
            Verdict::Bad
        } else if self.step.canary.total == 0 {
            Verdict::NoData
        } else if judged >= power.needed && evidence < DOUBT {
            Verdict::Good
        } else {
            Verdict::Undecided
        };
        let verdict = if verdict == Verdict::Good && self.suspect.is_some() { Verdict::Undecided } else { verdict };
        let blamed = match verdict {
            Verdict::Good => true,
            Verdict::Undecided => self.canary_burn.any(),
            Verdict::Bad | Verdict::NoData => false,
        };
        let better = self.better.ln_e(0.0) >= BETTER;
        let shared_fault = blamed && self.stable_burn.outage() && !better;
        let proof = self.proof();
        Judgement {
            name: self.slo.name.clone(),
            verdict,
            test,
            evidence,
            threshold,
            canary: self.run.canary,
            stable: self.run.stable,
            step: self.step,
            judged,
            needed: power.needed,
            effect: power.effect,
            power: power::POWER,
            shared_fault,
            not_inferior: proof.holds() && evidence <= 0.0 && !shared_fault && self.bad.is_none(),
            proof,
            suspect: self.suspect.clone(),
            harm: self.harm(),
            facets: self.judge_facets(idle),
        }
    }

    pub(super) fn proof(&self) -> Proof {
        Proof { evidence: self.proof.ln_e(0.0), threshold: -PROOF_ALPHA.ln() }
    }

    fn judge_facets(&self, idle: f64) -> Vec<FacetJudgement> {
        let ln_e: Vec<f64> = self.facets.iter().map(|side| side.versus.ln_e(idle)).collect();
        let worse = discoveries(&ln_e, NAMED_BY_CHANCE);
        let judge = |((side, evidence), worse): ((&Side, f64), bool)| FacetJudgement {
            name: side.facet.name.clone(),
            evidence,
            worse,
            canary: side.run.canary,
            stable: side.run.stable,
        };
        self.facets.iter().zip(ln_e).zip(worse).map(judge).collect()
    }
}

/// Worse than stable, without any tolerance.
const WORSE: Bet = Bet::Worse { relative: 1.0, absolute: 0.0 };
/// For the shape of the purse only.
const OVER_ANY: Bet = Bet::Over { objective: 0.0 };

/// Worse than stable by more than the SLO tolerates.
fn tolerated(slo: &Slo) -> Bet {
    Bet::Worse { relative: slo.relative, absolute: slo.absolute }
}

/// The canary keeps within what the SLO tolerates, its absolute part included: beside a stable without
/// bad requests nothing could be proven else.
fn not_inferior(slo: &Slo) -> Bet {
    Bet::NotInferior { relative: slo.relative, absolute: slo.absolute }
}
