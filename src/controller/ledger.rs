//! From what the pods answered to what is known of a run. Pure: time comes in as a parameter.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{beside::Beside, look};
use crate::{
    api::{Phase, Policy, RolloutRunStatus, SloKind, ValidSlo},
    evidence::{Blind, Count, Fold, Learnt, PodTick, QueryReading, QueryRule, Router, TailBounds, Tick, Watch},
    forecast,
    telemetry::{
        Arm, ArmCounts, DeltaSettings, Deltas, Histogram, LatencyCount, PodDelta, Query, Round, StratumCount,
        TickCounts,
    },
};

/// A bound below this part of an SLO's threshold is no user's matter.
const LEAST_BOUND: f64 = 0.1;

/// What is kept of a run's counts: enough to go on exactly after a restart.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Ledger {
    deltas: Deltas,
    #[serde(default)]
    beside: Beside,
    /// Answers to the policy's own queries that are in no tick yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    answered: Vec<QueryReading>,
    fold: Fold,
    /// For each SLO: the bounds that its latency is looked at through.
    bounds: Vec<Option<TailBounds>>,
    /// They were chosen, or can't be.
    chosen: bool,
}

impl Ledger {
    /// Of a run that begins. `learnt`: what an earlier run has left in its status.
    pub fn new(policy: &Policy, learnt: Option<&str>) -> Self {
        let settings =
            DeltaSettings { warmup_seconds: policy.spec.limits.warmup.as_secs_f64(), ..DeltaSettings::default() };
        let bounds = vec![None; policy.slos.len()];
        let known: BTreeMap<String, Learnt> =
            learnt.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let known: Vec<Option<Learnt>> = policy.slos.iter().map(|slo| known.get(&subject(slo)).copied()).collect();
        let fold = begun(policy, &watches(policy, &bounds)).knowing(&known);
        Self {
            deltas: Deltas::new(settings),
            beside: Beside::default(),
            answered: Vec::new(),
            fold,
            bounds,
            chosen: false,
        }
    }

    /// Chooses the bounds from a first reading of stable that knows its latency. Once there is a canary pod and none was
    /// known, the run goes by the SLOs' thresholds alone. Returns whether the fold begins anew, with bounds to ask for:
    /// then this reading is history.
    pub fn choose(&mut self, policy: &Policy, round: &Round, now: Timestamp) -> bool {
        if self.chosen {
            return false;
        }
        let mut histograms = histograms(round).into_iter();
        let mut next = || histograms.next().unwrap_or_default();
        let latencies = policy.slos.iter().map(|slo| matches!(slo.kind, SloKind::Latency { .. }).then(&mut next));
        let latencies: Vec<Option<Histogram>> = latencies.collect();
        let is_known = latencies.iter().flatten().all(|histogram| !histogram.bounds.is_empty());
        self.chosen = is_known || round.pods.iter().any(|scrape| scrape.arm == Arm::Canary);
        if !is_known {
            return false;
        }
        let bounds = policy.slos.iter().zip(&latencies).map(|(slo, histogram)| {
            histogram.as_ref().filter(|_| slo.tail).and_then(|histogram| bounds(slo.kind, histogram))
        });
        self.bounds = bounds.collect();
        let has_any = self.bounds.iter().any(Option::is_some);
        if has_any {
            self.observe(round, now);
            // Asked for more, pods have nothing to compare their next counts with.
            self.beside.forget();
            let known: Vec<Option<Learnt>> = self.fold.learnt().into_iter().map(Some).collect();
            self.fold = begun(policy, &watches(policy, &self.bounds)).knowing(&known);
        }
        has_any
    }

    /// The policy's query, with the further bounds of its latency SLOs.
    pub fn ask(&self, policy: &Policy, query: &mut Query) {
        let latency =
            policy.slos.iter().zip(&self.bounds).filter(|(slo, _)| matches!(slo.kind, SloKind::Latency { .. }));
        for (latency, (_, bounds)) in query.latencies.iter_mut().zip(latency) {
            latency.others_seconds = bounds.as_ref().map(|bounds| bounds.others().to_vec()).unwrap_or_default();
        }
    }

    /// A round of readings, the run's status at that time, and the percent that was due to the canary while what is new was
    /// counted. Returns the tick that it made.
    pub fn read(
        &mut self,
        policy: &Policy,
        status: &RolloutRunStatus,
        round: &Round,
        due: f64,
        now: Timestamp,
    ) -> Tick {
        let (counts, router) = self.observe(round, now);
        // Later the Service of stable is the canary's.
        let is_apart = matches!(status.phase.unwrap_or_default(), Phase::Preparing | Phase::Shifting);
        let pods =
            |arm: Option<&ArmCounts>| arm.map(|arm| arm.pods.iter().map(|pod| self.pod_tick(policy, pod)).collect());
        // A weight that changed meanwhile is not to be checked by these counts.
        let asked = look::asked_percent(policy, status).filter(|asked| *asked == due && !round.sampled);
        let tick = Tick {
            at: now.as_millisecond(),
            interval: thousandths(round.seconds),
            step: status.step.saturating_sub(1),
            due: thousandths(due),
            asked: asked.map(thousandths),
            replaced: status.bad_pod.as_ref().map(|bad| bad.uid.clone()),
            canary: pods(counts.canary.as_ref()),
            stable: pods(counts.stable.as_ref()),
            router: router.filter(|_| is_apart),
            queries: std::mem::take(&mut self.answered),
            blind: blind(round, &counts),
        };
        self.fold.fold(&tick);
        tick
    }

    /// What the pods counted since the round before, and what the router sent.
    fn observe(&mut self, round: &Round, now: Timestamp) -> (TickCounts, Option<Router>) {
        let router = self.beside.add(round, self.deltas.ended(&round.pods));
        (self.deltas.observe(seconds(now), &round.pods), router)
    }

    /// Nothing could be read, and why. Returns the tick that it made: one without counts.
    pub fn miss(&mut self, status: &RolloutRunStatus, why: Blind, now: Timestamp) -> Tick {
        let (at, step) = (now.as_millisecond(), status.step.saturating_sub(1));
        let queries = std::mem::take(&mut self.answered);
        let tick = Tick { at, step, queries, blind: Some(why), ..Tick::default() };
        self.fold.fold(&tick);
        tick
    }

    /// Answers to the policy's own queries, for the next tick.
    pub fn hear(&mut self, answers: Vec<QueryReading>) {
        self.answered.extend(answers);
    }

    /// A pod's counts in the order of the SLOs, their bounds and their strata.
    fn pod_tick(&self, policy: &Policy, pod: &PodDelta) -> PodTick {
        let mut latencies =
            pod.latencies.iter().map(|LatencyCount { total, slow }| Count { bad: *slow, total: *total });
        let mut strata =
            pod.strata.iter().map(|StratumCount { requests, errors }| Count { bad: *errors, total: *requests });
        let mut counts = Vec::new();
        for (slo, bounds) in policy.slos.iter().zip(&self.bounds) {
            match slo.kind {
                SloKind::Errors => {
                    counts.push(Count { bad: pod.errors, total: pod.requests });
                    counts.extend((0..slo.strata()).map(|_| strata.next().unwrap_or_default()));
                }
                SloKind::Latency { .. } => {
                    let columns = 1 + bounds.as_ref().map_or(0, |bounds| bounds.others().len()) + slo.strata();
                    counts.extend((0..columns).map(|_| latencies.next().unwrap_or_default()));
                }
            }
        }
        PodTick { pod: pod.pod.clone(), requests: pod.requests, counts }
    }

    /// What it comes to.
    pub fn fold(&self) -> &Fold {
        &self.fold
    }
}

/// What a run's saved ledger leaves for the next one, by what each SLO counts.
pub(super) fn learnt(policy: &Policy, ledger: &str) -> Option<String> {
    let ledger: Ledger = serde_json::from_str(ledger).ok()?;
    let learnt: BTreeMap<String, Learnt> = policy.slos.iter().map(subject).zip(ledger.fold.learnt()).collect();
    serde_json::to_string(&learnt).ok()
}

/// What an SLO counts as bad: only of that another run has learnt the same.
fn subject(slo: &ValidSlo) -> String {
    match slo.kind {
        SloKind::Errors => format!("{} errors", slo.name),
        SloKind::Latency { threshold } if slo.only.is_empty() => format!("{} above {threshold}", slo.name),
        SloKind::Latency { threshold } => format!("{} above {threshold} of {:?}", slo.name, slo.only),
    }
}

fn seconds(now: Timestamp) -> f64 {
    now.as_millisecond() as f64 / 1000.0
}

/// Stable's histograms, all its pods together, in the order of the latency SLOs.
fn histograms(round: &Round) -> Vec<Histogram> {
    let mut sums: Vec<Histogram> = Vec::new();
    let stable = round.pods.iter().filter(|scrape| scrape.arm == Arm::Stable);
    for counts in stable.filter_map(|scrape| scrape.counts.as_ref()) {
        if sums.len() < counts.histograms.len() {
            sums.resize(counts.histograms.len(), Histogram::default());
        }
        sums.iter_mut().zip(&counts.histograms).for_each(|(sum, histogram)| sum.add(histogram));
    }
    sums
}

/// Chosen from stable's history, before the canary has done anything.
fn bounds(kind: SloKind, histogram: &Histogram) -> Option<TailBounds> {
    let SloKind::Latency { threshold } = kind else { return None };
    let threshold = threshold.as_secs_f64();
    let buckets = histogram.bounds.iter().zip(&histogram.within);
    let buckets = buckets.filter(|(bound, _)| **bound >= LEAST_BOUND * threshold * (1.0 - 1e-6));
    let (bounds, within): (Vec<f64>, Vec<u64>) = buckets.map(|(bound, within)| (*bound, *within)).unzip();
    let chosen = TailBounds::choose(&bounds, &within, histogram.total, threshold).ok()?;
    (!chosen.others().is_empty()).then_some(chosen)
}

/// The fold of a run that begins.
pub fn begun(policy: &Policy, watches: &[Watch]) -> Fold {
    let rules = policy.source.queries().iter().map(|query| QueryRule {
        name: query.name.clone(),
        most: millionths(query.most.ratio()),
        windows: query.windows,
    });
    Fold::new(watches, policy.alpha, policy.steps.len()).asking(rules)
}

/// A ratio in millionths.
pub(super) fn millionths(ratio: f64) -> u32 {
    // A float that does not fit becomes the nearest number that does.
    (ratio * 1e6).round() as u32
}

/// A policy's SLOs as the evidence needs them, with the bounds and strata that each is looked at through, where there are any.
pub fn watches(policy: &Policy, bounds: &[Option<TailBounds>]) -> Vec<Watch> {
    let watch = |(at, valid): (usize, &ValidSlo)| {
        let own = Watch::from(forecast::slo(valid));
        let watch = match bounds.get(at) {
            Some(Some(bounds)) => own.through_bounds(bounds),
            _ => own,
        };
        forecast::by_values(watch, valid)
    };
    policy.slos.iter().enumerate().map(watch).collect()
}

/// Percent, or seconds, in thousandths.
pub fn thousandths(number: f64) -> u32 {
    // A float that does not fit becomes the nearest number that does.
    (number * 1000.0).round() as u32
}

/// Why there are no counts to judge by.
fn blind(round: &Round, counts: &TickCounts) -> Option<Blind> {
    let of = |arm| round.pods.iter().any(|scrape| scrape.arm == arm);
    let unread = counts.canary.is_none() && of(Arm::Canary) || counts.stable.is_none() && of(Arm::Stable);
    match (unread, &round.fault) {
        (true, Some(fault)) => Some(fault.clone().into()),
        _ => round.gap.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{Strata, validate},
        evidence::Verdict,
        telemetry::{CounterQuery, LatencyQuery, Matcher, PodCounts, PodScrape},
    };

    fn policy() -> Policy {
        let spec = serde_json::json!({
            "workloadRef": {"kind": "Deployment", "name": "auth"}, "service": "auth",
            "routes": [{"kind": "HTTPRoute", "name": "auth"}],
            "telemetry": {
                "scrape": {"port": "http"},
                "requests": {"counter": "http_requests_total", "errors": {"code": "5.."}},
                "latency": {"histogram": "http_request_duration_seconds"}},
            "slos": [{"name": "latency", "latency": {"threshold": "250ms", "objective": "99%"}},
                     {"name": "errors", "errors": {"objective": "99%"}}],
            "limits": {"warmup": "0s"},
            "steps": [{"weight": 5, "bake": "1m"}, {"weight": 50}]
        });
        validate(&serde_json::from_value(spec).expect("a spec")).expect("valid")
    }

    fn scrape(pod: &str, arm: Arm, requests: u64, errors: u64, slow: u64) -> PodScrape {
        let latencies = vec![LatencyCount { total: requests, slow }];
        let counts = PodCounts { requests, errors, latencies, present: true, ..PodCounts::default() };
        PodScrape { pod: pod.to_owned(), arm, born_before_run: arm == Arm::Stable, counts: Some(counts) }
    }

    fn round(pods: Vec<PodScrape>) -> Round {
        Round { pods, seconds: 1.0, since: f64::INFINITY, fault: None, gap: None, sampled: false, router: None }
    }

    /// At the first step, its weight in the route.
    fn at_five_percent() -> RolloutRunStatus {
        let mut status = RolloutRunStatus {
            phase: Some(Phase::Shifting),
            step: 1,
            confirmed: Some(5),
            ..RolloutRunStatus::default()
        };
        (status.weight.wanted, status.weight.set) = (5, 5);
        status
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).expect("in range")
    }

    #[test]
    fn a_reading_becomes_a_tick_with_each_pods_counts_in_the_order_of_the_slos() {
        // Given a run at its first step, with its weight in the route:
        let (policy, mut ledger) = (policy(), Ledger::new(&policy(), None));
        let status = at_five_percent();
        let first = round(vec![scrape("s", Arm::Stable, 1000, 10, 30)]);
        ledger.read(&policy, &status, &first, look::due_percent(&policy, &status), at(0));
        // When both arms were read again:
        let scrapes = vec![scrape("s", Arm::Stable, 1190, 11, 34), scrape("c", Arm::Canary, 10, 2, 1)];
        let tick = ledger.read(&policy, &status, &round(scrapes), look::due_percent(&policy, &status), at(1));
        // Then:
        let counts = |slow, errors, total| vec![Count { bad: slow, total }, Count { bad: errors, total }];
        assert_eq!(tick.canary.unwrap(), [PodTick { pod: "c".into(), requests: 10, counts: counts(1, 2, 10) }]);
        assert_eq!(tick.stable.unwrap(), [PodTick { pod: "s".into(), requests: 190, counts: counts(4, 1, 190) }]);
        assert_eq!((tick.step, tick.due, tick.interval, tick.blind), (0, 5_000, 1_000, None));
        assert_eq!((tick.asked, tick.replaced), (Some(5_000), None));
        assert_eq!(ledger.fold().split().seen(), Some(5.0));
    }

    /// Stable with this histogram, as the first reading finds it.
    fn with_histogram(within: [u64; 6]) -> Round {
        let bounds = vec![0.005, 0.025, 0.1, 0.25, 0.5, 1.0];
        let histogram = Histogram { bounds, within: within.to_vec(), total: 1000 };
        let mut scrape = scrape("s", Arm::Stable, 1000, 0, 0);
        scrape.counts.as_mut().unwrap().histograms = vec![histogram];
        round(vec![scrape.clone(), scrape])
    }

    #[test]
    fn latency_is_looked_at_through_bounds_chosen_from_stables_history() {
        // Given a stable of which half is within 25 ms, and nearly all within 100 ms:
        let policy = policy();
        let mut ledger = Ledger::new(&policy, None);
        assert!(ledger.choose(&policy, &with_histogram([100, 500, 990, 995, 1000, 1000]), at(0)));
        assert!(!ledger.choose(&policy, &with_histogram([0, 0, 0, 0, 0, 1000]), at(0)), "once");
        // Then these are asked for besides the threshold of 250 ms, but not what is far below it:
        let latency = LatencyQuery {
            histogram: "http_request_duration_seconds".into(),
            threshold_seconds: 0.25,
            others_seconds: Vec::new(),
            only: Matcher::any(),
            strata: Vec::new(),
        };
        let requests =
            CounterQuery { counter: "c".into(), errors: Matcher::any(), only: Matcher::any(), strata: Vec::new() };
        let mut query = Query { requests, latencies: vec![latency] };
        ledger.ask(&policy, &mut query);
        assert_eq!(query.latencies[0].others_seconds, [0.025, 0.1, 0.5]);
        // And a pod's counts have a column for each, before those of the next SLO:
        let slow = |slow| LatencyCount { total: 10, slow };
        let mut canary = scrape("c", Arm::Canary, 10, 3, 0);
        canary.counts.as_mut().unwrap().latencies = vec![slow(1), slow(7), slow(4), slow(0)];
        let tick = ledger.read(&policy, &RolloutRunStatus::default(), &round(vec![canary]), 0.0, at(1));
        let bad: Vec<u64> = tick.canary.unwrap()[0].counts.iter().map(|count| count.bad).collect();
        assert_eq!(bad, [1, 7, 4, 0, 3]);
        assert_eq!(ledger.fold().judge()[0].facets[1].name, "slower than 0.1 s");
    }

    #[test]
    fn values_of_a_label_have_columns_of_their_own_after_the_bounds() {
        // Given both SLOs by route:
        let mut spec = policy().spec;
        for slo in &mut spec.slos {
            let values = if slo.name == "errors" { vec!["/a".into(), "/b".into()] } else { vec!["/c".into()] };
            slo.by = Some(Strata { label: "route".into(), values });
        }
        let policy = validate(&spec).expect("valid");
        let mut ledger = Ledger::new(&policy, None);
        assert!(ledger.choose(&policy, &with_histogram([100, 500, 990, 995, 1000, 1000]), at(0)));
        // When a canary's first counts come: the threshold's, three bounds', one route's; and two routes' errors
        let slow = |slow| LatencyCount { total: 10, slow };
        let mut canary = scrape("c", Arm::Canary, 10, 3, 0);
        let counts = canary.counts.as_mut().unwrap();
        counts.latencies = vec![slow(1), slow(7), slow(4), slow(0), slow(5)];
        counts.strata = [(4, 2), (6, 1)].map(|(requests, errors)| StratumCount { requests, errors }).to_vec();
        let tick = ledger.read(&policy, &RolloutRunStatus::default(), &round(vec![canary]), 0.0, at(1));
        // Then:
        let bad: Vec<u64> = tick.canary.unwrap()[0].counts.iter().map(|count| count.bad).collect();
        assert_eq!(bad, [1, 7, 4, 0, 5, 3, 2, 1]);
        let facets = |slo: usize| -> Vec<(String, u64)> {
            let judged = ledger.fold().judge().remove(slo).facets;
            judged.into_iter().map(|facet| (facet.name, facet.canary.bad)).collect()
        };
        let names = ["slower than 0.025 s", "slower than 0.1 s", "slower than 0.5 s", "route=/c"];
        assert_eq!(facets(0), names.map(str::to_owned).into_iter().zip([7, 4, 0, 5]).collect::<Vec<_>>());
        assert_eq!(facets(1), [("route=/a".to_owned(), 2), ("route=/b".to_owned(), 1)]);
    }

    #[test]
    fn bounds_are_chosen_once_stables_latency_is_known_or_never_when_the_canary_comes_first() {
        let policy = policy();
        let mut none = with_histogram([0; 6]);
        for scrape in &mut none.pods {
            scrape.counts.as_mut().unwrap().histograms = vec![Histogram::default()];
        }
        let known = with_histogram([0, 0, 500, 995, 1000, 1000]);
        let facets = |ledger: &Ledger| ledger.fold().judge()[0].facets.len();
        let (mut early, mut late) = (Ledger::new(&policy, None), Ledger::new(&policy, None));
        assert!(!early.choose(&policy, &none, at(0)) && early.choose(&policy, &known, at(1)));
        assert_eq!(facets(&early), 3);
        none.pods.push(scrape("c", Arm::Canary, 0, 0, 0));
        assert!(!late.choose(&policy, &none, at(0)) && !late.choose(&policy, &known, at(1)));
        assert_eq!(facets(&late), 0);
        // Nor are there any where they are not wanted.
        let mut spec = policy.spec.clone();
        spec.slos[0].latency.as_mut().unwrap().tail = false;
        assert!(!Ledger::new(&policy, None).choose(&validate(&spec).unwrap(), &known, at(0)));
    }

    #[test]
    fn a_saved_ledger_goes_on_and_one_of_another_shape_is_refused() {
        let (policy, mut ledger) = (policy(), Ledger::new(&policy(), None));
        let status = RolloutRunStatus { phase: Some(Phase::Shifting), step: 1, ..RolloutRunStatus::default() };
        let mut loaded = ledger.clone();
        for second in 0..60 {
            let requests = u64::try_from(second).unwrap() * 20;
            let scrapes = vec![
                scrape("s", Arm::Stable, 10 * requests, 0, 0),
                scrape("c", Arm::Canary, requests, requests / 2, 0),
            ];
            let round = round(scrapes);
            let saved = serde_json::to_string(&loaded).unwrap();
            loaded = serde_json::from_str(&saved).unwrap();
            assert_eq!(
                loaded.read(&policy, &status, &round, 5.0, at(second)),
                ledger.read(&policy, &status, &round, 5.0, at(second))
            );
        }
        assert_eq!(serde_json::to_string(&loaded).unwrap(), serde_json::to_string(&ledger).unwrap());
        assert_eq!(ledger.fold().judge()[1].verdict, Verdict::Bad);
        assert!(serde_json::from_str::<Ledger>(r#"{"evidence": {}, "deltas": {}, "split": {}}"#).is_err());
    }

    #[test]
    fn a_run_leaves_what_it_has_learnt_of_stable_to_the_next_one() {
        // Given a run in which requests of one of stable's pods fail ten at a time:
        let (policy, mut ledger) = (policy(), Ledger::new(&policy(), None));
        let status = at_five_percent();
        let mut errors = [0, 0];
        for second in 0..1800 {
            let requests = u64::try_from(second).unwrap() * 50;
            errors[usize::try_from(second / 7 % 2).unwrap()] += if second % 7 == 0 { 10 } else { 0 };
            let scrapes = [("s", errors[0]), ("t", errors[1])];
            let scrapes = scrapes.map(|(name, errors)| scrape(name, Arm::Stable, requests, errors, 0));
            ledger.read(&policy, &status, &round(scrapes.to_vec()), 5.0, at(second));
        }
        // When another run begins with it:
        let left = learnt(&policy, &serde_json::to_string(&ledger).unwrap()).expect("it is a ledger");
        let next = Ledger::new(&policy, Some(&left));
        // Then it needs as many more requests to be sure; and of an SLO with another threshold nothing is known.
        let knows = |ledger: &Ledger, slo: usize| ledger.fold().learnt()[slo] != Learnt::default();
        assert!(knows(&next, 1) && left.contains("\"errors errors\""), "{left}");
        let mut spec = policy.spec.clone();
        spec.slos[0].latency.as_mut().unwrap().threshold = "100ms".parse().expect("a duration");
        let other = Ledger::new(&validate(&spec).expect("valid"), Some(&left));
        assert!(!knows(&other, 0) && knows(&other, 1));
        assert_eq!(learnt(&policy, "no ledger"), None);
        assert_eq!(Ledger::new(&policy, Some("no such thing")), Ledger::new(&policy, None));
    }

    #[test]
    fn the_share_is_checked_only_where_the_route_splits_by_weight_alone() {
        let (policy, mut ledger) = (policy(), Ledger::new(&policy(), None));
        let status = at_five_percent();
        let mut asked = |status: &RolloutRunStatus, sampled| {
            let due = look::due_percent(&policy, status);
            ledger.read(&policy, status, &Round { sampled, ..round(Vec::new()) }, due, at(0)).asked
        };
        assert_eq!((asked(&status, false), asked(&status, true)), (Some(5_000), None));
        let mirrored = |status: &mut RolloutRunStatus| status.weight.mirror = Some(1);
        let matched = |status: &mut RolloutRunStatus| status.weight.matching = Some(1);
        let changed = |status: &mut RolloutRunStatus| status.confirmed = None;
        let changes: [fn(&mut RolloutRunStatus); 3] = [mirrored, matched, changed];
        for change in changes {
            let mut status = status.clone();
            change(&mut status);
            assert_eq!(asked(&status, false), None);
        }
    }

    #[test]
    fn what_could_not_be_read_says_why() {
        let (policy, mut ledger) = (policy(), Ledger::new(&policy(), None));
        let mut round = round(vec![scrape("s", Arm::Stable, 1, 0, 0)]);
        round.pods.push(PodScrape { counts: None, ..scrape("c", Arm::Canary, 0, 0, 0) });
        round.fault = Some("c refuses connections".into());
        round.gap = Some("no such metric".into());
        let status = RolloutRunStatus::default();
        let tick = ledger.read(&policy, &status, &round, 5.0, at(0));
        assert_eq!((tick.canary, tick.blind), (None, Some("c refuses connections".into())));
        // One of two pods is enough to go by.
        round.pods.push(scrape("d", Arm::Canary, 0, 0, 0));
        assert_eq!(ledger.read(&policy, &status, &round, 5.0, at(1)).blind, Some("no such metric".into()));
        // Nothing at all is no zero.
        let tick = ledger.miss(&status, "Prometheus is away".into(), at(2));
        assert_eq!((tick.canary, tick.stable, tick.blind), (None, None, Some("Prometheus is away".into())));
        assert_eq!(ledger.fold().blind().map(Blind::why), Some("Prometheus is away"));
    }
}
