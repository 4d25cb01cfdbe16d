//! What another policy would have done with the requests of a run that is over.
//!
//! The counts are the record's, so callers get what they got: the recorded weights at the recorded times. At each look the
//! engine is asked what it decides by the other policy's SLOs, confidence, limits and `advance`, from what the run had
//! come to by then. Up to the first look at which one of the two takes the traffic back, that is what would have been.
//! Steps and gates stay the recorded ones: how callers would have answered at other weights nobody knows.

use jiff::Timestamp;
use serde::Serialize;

use super::{
    Look, Made, Segment,
    replay::{ReplayError, replay, sorted},
};
use crate::{
    api::{Invalid, Phase, Policy, RolloutRunSpec, RolloutRunStatus, RolloutSpec, SloKind, Strata, ValidSlo, validate},
    controller::{begun, seen},
    engine::{self, Decision},
    evidence::{Fold, Learnt, PodTick, Tick, Watch},
    forecast,
};

/// A run, seen by another policy.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Backtest {
    /// How it ended, or how far it is.
    pub recorded: End,
    /// Where the other policy departs from it, in order; none: it decides the same.
    pub departures: Vec<Departure>,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct End {
    /// What it came to.
    pub phase: Phase,
    /// When its traffic was taken back, or else when the record ends, in seconds from the first look on.
    pub seconds: f64,
    /// Requests that were counted at the canary.
    pub canary_requests: u64,
    /// Its message.
    pub message: String,
}

/// Another decision than the recorded one.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Departure {
    /// Seconds from the first look on.
    pub seconds: f64,
    /// The step, counted from 1.
    pub step: u32,
    /// Requests that were counted at the canary by then.
    pub canary_requests: u64,
    /// What is decided.
    pub what: What,
    /// Why.
    pub why: String,
}

/// What another policy does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum What {
    /// Takes the traffic back, where it was left.
    TakesBack,
    /// Leaves the traffic, where it was taken back.
    Leaves,
    /// Holds a step that went on.
    Holds,
    /// Goes on from a step that was held.
    GoesOn,
}

/// Why a record can't be seen by another policy.
#[derive(Debug, thiserror::Error)]
pub enum BacktestError {
    /// It can't be replayed.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// The two don't go together.
    #[error("the policy does not fit the run's own telemetry and steps: {0}")]
    Policy(#[from] Invalid),
    /// Nobody counted what an SLO asks for.
    #[error(
        "SLO {slo}: expected counts of {wanted} in the record, found {found}: choose one of these, or leave it out"
    )]
    NotCounted { slo: String, wanted: String, found: String },
    /// Nothing was decided.
    #[error("expected decisions in the record, found none")]
    Empty,
}

/// Tries the SLOs, confidence and limits of `other` on a run. `segments`: its record, in order.
///
/// # Errors
/// If the record can't be replayed, or lacks what an SLO asks for.
pub fn backtest(
    spec: &RolloutRunSpec,
    recorded: &Policy,
    other: &RolloutSpec,
    segments: Vec<Segment>,
) -> Result<Backtest, BacktestError> {
    let policy = validate(&RolloutSpec {
        slos: other.slos.clone(),
        confidence: other.confidence,
        limits: other.limits.clone(),
        advance: other.advance,
        ..recorded.spec.clone()
    })?;
    let mut trial = Trial {
        spec: RolloutRunSpec { policy: policy.spec.clone(), ..spec.clone() },
        policy,
        fold: None,
        columns: Vec::new(),
        began: None,
        end: None,
        departures: Vec::new(),
        canary_requests: 0,
    };
    for segment in segments {
        let made = replay(recorded, spec, segment.clone())?.made;
        trial.segment(recorded, segment, &made)?;
    }
    let recorded = trial.end.ok_or(BacktestError::Empty)?;
    Ok(Backtest { recorded, departures: trial.departures })
}

/// Where an SLO's counts are among those of a pod's tick.
#[derive(Clone, Debug, PartialEq)]
struct Columns {
    own: usize,
    bounds: Vec<(String, usize)>,
    strata: Vec<(String, usize)>,
}

struct Trial {
    policy: Policy,
    spec: RolloutRunSpec,
    fold: Option<Fold>,
    columns: Vec<Columns>,
    began: Option<Timestamp>,
    end: Option<End>,
    departures: Vec<Departure>,
    canary_requests: u64,
}

impl Trial {
    fn segment(&mut self, recorded: &Policy, segment: Segment, made: &[Made]) -> Result<(), BacktestError> {
        let (begin, ticks, looks) = sorted(segment)?;
        let columns = columns(recorded, &begin.fold, &self.policy)?;
        // The run's evidence began anew with its bounds, and so does this.
        if self.fold.is_none() || self.columns != columns {
            let fold = begun(&self.policy, &watches(&self.policy, &columns));
            self.fold = Some(fold.knowing(&learnt(recorded, &begin.fold, &self.policy)));
            self.columns = columns;
        }
        let mut looks = looks.iter().zip(made).peekable();
        for folded in 0..=ticks.len() {
            while let Some((look, made)) = looks.next_if(|(look, _)| look.ticks <= folded as u64) {
                self.look(look, made);
            }
            if let Some(tick) = ticks.get(folded) {
                self.tick(tick);
            }
        }
        Ok(())
    }

    fn tick(&mut self, tick: &Tick) {
        let counted = tick.canary.iter().flatten().map(|pod| pod.requests);
        self.canary_requests = counted.fold(self.canary_requests, u64::saturating_add);
        let columns = &self.columns;
        let arm = |pods: &Option<Vec<PodTick>>| {
            pods.as_ref().map(|pods| pods.iter().map(|pod| picked(pod, columns)).collect())
        };
        let tick = Tick { canary: arm(&tick.canary), stable: arm(&tick.stable), ..tick.clone() };
        if let Some(fold) = &mut self.fold {
            fold.fold(&tick);
        }
    }

    fn look(&mut self, look: &Look, made: &Made) {
        if let Some(said) = look.said {
            said.put_into(&mut self.spec);
        }
        let began = *self.began.get_or_insert(made.at);
        let seconds = made.at.duration_since(began).as_secs_f64();
        let did = &made.decision.status;
        if !is_back(&made.before) {
            let (phase, message) = (did.phase.unwrap_or_default(), did.message.clone().unwrap_or_default());
            self.end = Some(End { phase, seconds, canary_requests: self.canary_requests, message });
        } else if let Some(end) = &mut self.end {
            end.phase = did.phase.unwrap_or_default();
        }
        let taken_back = |departure: &Departure| matches!(departure.what, What::TakesBack | What::Leaves);
        if is_back(&made.before) || self.departures.iter().any(taken_back) {
            return;
        }
        let Some(would) = self.would(look, made) else { return };
        let Some(what) = departure(did, &would.status) else { return };
        if self.departures.iter().all(|known| known.what != what) {
            let (step, canary_requests) = (made.before.step, self.canary_requests);
            self.departures.push(Departure { seconds, step, canary_requests, what, why: why(&would) });
        }
    }

    /// What the other policy decides at this look.
    fn would(&self, look: &Look, made: &Made) -> Option<Decision> {
        let counted = seen(self.fold.as_ref()?);
        let mut snapshot = made.snapshot.clone();
        (snapshot.traffic, snapshot.judgements) = (counted.traffic, counted.judgements);
        Some(engine::decide(&self.policy, &self.spec, &made.before, &snapshot, look.ending, made.at))
    }
}

/// The traffic is on its way back, or the run is over.
fn is_back(status: &RolloutRunStatus) -> bool {
    let phase = status.phase.unwrap_or_default();
    phase == Phase::RollingBack || phase.is_terminal()
}

fn departure(did: &RolloutRunStatus, would: &RolloutRunStatus) -> Option<What> {
    let place = |status: &RolloutRunStatus| (status.phase == Some(Phase::Promoting), status.step);
    match (is_back(did), is_back(would)) {
        (false, true) => Some(What::TakesBack),
        (true, false) => Some(What::Leaves),
        (false, false) if place(would) < place(did) => Some(What::Holds),
        (false, false) if place(would) > place(did) => Some(What::GoesOn),
        _ => None,
    }
}

fn why(decision: &Decision) -> String {
    let status = &decision.status;
    let waiting = status.waiting.as_ref().map(|waiting| format!("{:?}: {}", waiting.reason, waiting.message));
    match is_back(status) {
        true => status.message.clone().unwrap_or_default(),
        false => waiting.or_else(|| status.message.clone()).unwrap_or_default(),
    }
}

fn picked(pod: &PodTick, columns: &[Columns]) -> PodTick {
    let parts = columns.iter().flat_map(|slo| {
        std::iter::once(slo.own).chain(slo.bounds.iter().chain(&slo.strata).map(|(_, column)| *column))
    });
    let counts = parts.map(|column| pod.counts.get(column).copied().unwrap_or_default()).collect();
    PodTick { counts, ..pod.clone() }
}

/// What a record counts for one of its SLOs.
struct Counted<'a> {
    slo: &'a ValidSlo,
    own: usize,
    facets: Vec<(String, usize)>,
}

impl Counted<'_> {
    fn facets(&self, wanted: impl Fn(&str) -> bool) -> Vec<(String, usize)> {
        self.facets.iter().filter(|(name, _)| wanted(name)).cloned().collect()
    }
}

/// Where the counts are that the SLOs of `other` ask for.
fn columns(recorded: &Policy, fold: &Fold, other: &Policy) -> Result<Vec<Columns>, BacktestError> {
    let mut next = 0;
    let counted = recorded.slos.iter().zip(fold.judge()).map(|(slo, judgement)| {
        let own = next;
        next += 1 + judgement.facets.len();
        Counted { slo, own, facets: judgement.facets.into_iter().map(|facet| facet.name).zip(own + 1..).collect() }
    });
    let counted: Vec<Counted<'_>> = counted.collect();
    other.slos.iter().map(|slo| of_slo(slo, &counted)).collect()
}

fn of_slo(slo: &ValidSlo, counted: &[Counted<'_>]) -> Result<Columns, BacktestError> {
    if let Some(known) = counted.iter().find(|known| known.slo.counts_as(slo)) {
        let named: Vec<String> = slo.by.iter().flat_map(Strata::names).collect();
        let bounds = known.facets(|name| slo.tail && name.starts_with(Watch::SLOWER_THAN));
        let strata = known.facets(|name| named.iter().any(|wanted| wanted == name));
        return Ok(Columns { own: known.own, bounds, strata });
    }
    // One of the further bounds may be this one's threshold.
    let wanted = words(slo.kind);
    let of_the_same = counted.iter().filter(|known| known.slo.only == slo.only);
    let bound = of_the_same.flat_map(|known| known.facets(|name| name == wanted)).next();
    let own = bound.map(|(_, column)| column).ok_or_else(|| not_counted(slo, counted))?;
    Ok(Columns { own, bounds: Vec::new(), strata: Vec::new() })
}

/// What the run knew of the dispersion of what the SLOs of `other` count.
fn learnt(recorded: &Policy, fold: &Fold, other: &Policy) -> Vec<Option<Learnt>> {
    let known: Vec<(&ValidSlo, Learnt)> = recorded.slos.iter().zip(fold.learnt()).collect();
    let of = |slo: &ValidSlo| known.iter().find(|(known, _)| known.counts_as(slo)).map(|(_, learnt)| *learnt);
    other.slos.iter().map(of).collect()
}

fn words(kind: SloKind) -> String {
    match kind {
        SloKind::Errors => "errors".to_owned(),
        SloKind::Latency { threshold } => Watch::slower_than(threshold.as_secs_f64()),
    }
}

fn not_counted(slo: &ValidSlo, counted: &[Counted<'_>]) -> BacktestError {
    let found = counted
        .iter()
        .flat_map(|known| std::iter::once(counts(known.slo)).chain(known.facets.iter().map(|(name, _)| name.clone())));
    let found = found.collect::<Vec<_>>().join(", ");
    BacktestError::NotCounted { slo: slo.name.clone(), wanted: counts(slo), found }
}

/// What it counts, in words.
fn counts(slo: &ValidSlo) -> String {
    let only: Vec<String> = slo.only.iter().map(|(label, pattern)| format!("{label}=~{:?}", pattern.0)).collect();
    match only.is_empty() {
        true => words(slo.kind),
        false => format!("{} where {}", words(slo.kind), only.join(" and ")),
    }
}

fn watches(policy: &Policy, columns: &[Columns]) -> Vec<Watch> {
    let watch = |(slo, columns): (&ValidSlo, &Columns)| {
        let names = |parts: &[(String, usize)]| parts.iter().map(|(name, _)| (name.clone(), 1.0)).collect::<Vec<_>>();
        Watch::from(forecast::slo(slo))
            .through_bounds_named(names(&columns.bounds))
            .through_strata(&names(&columns.strata))
    };
    policy.slos.iter().zip(columns).map(watch).collect()
}
