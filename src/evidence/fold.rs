//! A run's counts, tick by tick, and what they come to.
//!
//! A [`Tick`] has everything that a step of the fold depends on, so the same ticks give the same [`Fold`], to the byte,
//! be it as they happen, after a restart, or years later from a record.

use serde::{Deserialize, Serialize};

use super::{
    Conservation, Count, Dispersion, Evidence, Judgement, Learnt, Lost, Mismatch, PodTick, QueryReading, QueryRule,
    Router, Sample, SampleRatio, Split, Watch, Windows,
};

/// One reading of both arms. Whole numbers only: they come back from any JSON as they went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Tick {
    /// Unix time in milliseconds.
    pub at: i64,
    /// Time between two readings, in milliseconds.
    pub interval: u32,
    /// The step under way, counted from 0.
    pub step: u32,
    /// Share of all counted requests that is due to the canary, in thousandths of a percent.
    pub due: u32,
    /// The canary's weight, likewise, where a router sends requests one by one and by weight alone: then the share that
    /// it gets can be checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asked: Option<u32>,
    /// The canary pod that was bad by itself and is being replaced: see [`Evidence::pardon`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replaced: Option<String>,
    /// What each pod did since the tick before. `None`: the arm has pods, but none could be read.
    pub canary: Option<Vec<PodTick>>,
    pub stable: Option<Vec<PodTick>>,
    /// What the router sent, where it was asked besides the pods and all were read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub router: Option<Router>,
    /// What the policy's own queries have answered since the tick before.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub queries: Vec<QueryReading>,
    /// Why there are no counts to judge by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blind: Option<Blind>,
}

/// Why there are no counts to judge by, in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Blind {
    /// Nothing could be read.
    NoData(String),
    /// What was read is old.
    Stale { stale: String },
}

impl Blind {
    /// The source has nothing new.
    pub fn stale(why: impl Into<String>) -> Self {
        Self::Stale { stale: why.into() }
    }

    /// One sentence.
    pub fn why(&self) -> &str {
        match self {
            Self::NoData(why) | Self::Stale { stale: why } => why,
        }
    }
}

impl<S: Into<String>> From<S> for Blind {
    fn from(why: S) -> Self {
        Self::NoData(why.into())
    }
}

/// No gap is longer: after that a clock was set.
const MOST_TICKS: i64 = 3600;

/// The state of the fold over the ticks of a run; bounded. Serialise it at any time and go on later: the result is the
/// same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fold {
    evidence: Evidence,
    split: Split,
    ratio: SampleRatio,
    #[serde(default)]
    conservation: Conservation,
    /// In the policy's order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    queries: Vec<Windows>,
    /// Of each SLO's own counts, at stable.
    dispersion: Vec<Dispersion>,
    /// Requests of both arms, in ticks in which both were read, and how long those were.
    requests: u64,
    millis: u64,
    /// When the last of the ticks with counts was: Unix time in milliseconds.
    #[serde(default)]
    at: i64,
    blind: Option<Blind>,
}

impl Fold {
    /// Of a run that begins with the first of `steps`. `alpha`: see [`Evidence::new`].
    pub fn new(slos: &[Watch], alpha: f64, steps: usize) -> Self {
        Self {
            evidence: Evidence::watching(slos, alpha, steps),
            split: Split::default(),
            ratio: SampleRatio::default(),
            conservation: Conservation::default(),
            queries: Vec::new(),
            dispersion: vec![Dispersion::default(); slos.len()],
            requests: 0,
            millis: 0,
            at: 0,
            blind: Some("no counts yet".into()),
        }
    }

    /// With queries of the policy's own.
    pub fn asking(mut self, rules: impl IntoIterator<Item = QueryRule>) -> Self {
        self.queries = rules.into_iter().map(Windows::new).collect();
        self
    }

    /// Goes on from what is known of each SLO's dispersion, in their order.
    pub fn knowing(mut self, learnt: &[Option<Learnt>]) -> Self {
        for (slo, (dispersion, learnt)) in self.dispersion.iter_mut().zip(learnt).enumerate() {
            if let Some(learnt) = learnt {
                *dispersion = Dispersion::after(learnt);
                self.evidence.temper(slo, dispersion.phi());
            }
        }
        self
    }

    /// What is known of each SLO's dispersion, for another fold.
    pub fn learnt(&self) -> Vec<Learnt> {
        self.dispersion.iter().map(Dispersion::learnt).collect()
    }

    /// The next tick.
    pub fn fold(&mut self, tick: &Tick) {
        if self.evidence.begin_step(usize::try_from(tick.step).unwrap_or(usize::MAX)) {
            self.queries.iter_mut().for_each(Windows::begin_step);
        }
        if let Some(pod) = &tick.replaced {
            self.evidence.pardon(pod);
        }
        self.count(tick);
        self.evidence.fold_pods(&tick.samples(), tick.canary.as_deref().unwrap_or_default());
        self.learn(tick);
        for reading in &tick.queries {
            if let Some(windows) = self.queries.get_mut(reading.query) {
                windows.push(reading);
            }
        }
        self.blind.clone_from(&tick.blind);
    }

    /// Where the requests went.
    fn count(&mut self, tick: &Tick) {
        let [canary, stable] = [&tick.canary, &tick.stable].map(|arm| arm.as_deref().map(requests));
        self.split.push(canary, stable, percent(tick.due), tick.seconds());
        let ticks = self.ticks_since(tick);
        self.conservation.push(tick.router, canary.unwrap_or(0), stable.unwrap_or(0), ticks);
        if let Some(Router { canary, .. }) = &tick.router {
            self.split.listen_to_router(canary.requests.saturating_sub(canary.failed));
        }
        let (Some(canary), Some(stable)) = (canary, stable) else { return };
        self.requests = self.requests.saturating_add(canary).saturating_add(stable);
        self.millis = self.millis.saturating_add(u64::from(tick.interval));
        if let Some(asked) = tick.asked {
            self.ratio.push(canary, stable, percent(asked), tick.seconds());
            self.split.listen_to_stable(canary, stable, percent(asked), tick.seconds());
        }
    }

    /// How many ticks have passed since the one with counts before this: one, if there was no gap.
    fn ticks_since(&mut self, tick: &Tick) -> u64 {
        if tick.interval == 0 {
            return 0;
        }
        let interval = i64::from(tick.interval);
        let before = std::mem::replace(&mut self.at, tick.at);
        let passed = if before > 0 { tick.at.saturating_sub(before) } else { interval };
        (passed.saturating_add(interval / 2) / interval).clamp(1, MOST_TICKS).unsigned_abs()
    }

    /// Whether requests fail together, from stable's pods: for the ticks to come.
    fn learn(&mut self, tick: &Tick) {
        let Some(stable) = &tick.stable else { return };
        for (slo, (dispersion, column)) in self.dispersion.iter_mut().zip(self.evidence.own_columns()).enumerate() {
            let own = |pod: &'_ PodTick| pod.counts.get(column).copied();
            let pods: Vec<(&str, Count)> =
                stable.iter().filter_map(|pod| Some((pod.pod.as_str(), own(pod)?))).collect();
            dispersion.push(tick.seconds(), &pods);
            self.evidence.temper(slo, dispersion.phi());
        }
    }

    /// Verdicts, in the order of the SLOs.
    pub fn judge(&self) -> Vec<Judgement> {
        self.evidence.judge()
    }

    /// What the policy's own queries come to, in its order.
    pub fn queries(&self) -> &[Windows] {
        &self.queries
    }

    /// Where the requests go.
    pub fn split(&self) -> &Split {
        &self.split
    }

    /// The canary's share is not what was asked for.
    pub fn mismatch(&self) -> Option<Mismatch> {
        self.ratio.mismatch()
    }

    /// The router sent the canary requests that its pods did not count.
    pub fn lost(&self) -> Option<Lost> {
        self.conservation.lost()
    }

    /// Requests a second of both arms together, on average; `None` without any reading.
    pub fn rate(&self) -> Option<f64> {
        (self.millis > 0).then(|| self.requests as f64 / (self.millis as f64 / 1000.0))
    }

    /// Why there are no counts to judge by, as of the last tick.
    pub fn blind(&self) -> Option<&Blind> {
        self.blind.as_ref()
    }
}

impl Tick {
    fn seconds(&self) -> f64 {
        f64::from(self.interval) / 1000.0
    }

    /// Both arms, one sample for each column of their pods.
    fn samples(&self) -> Vec<Sample> {
        let (canary, stable) = (sums(self.canary.as_deref()), sums(self.stable.as_deref()));
        let columns = canary.len().max(stable.len());
        let of = |arm: &[Count], column: usize| arm.get(column).copied().unwrap_or_default();
        (0..columns).map(|column| Sample { canary: of(&canary, column), stable: of(&stable, column) }).collect()
    }
}

/// Thousandths of a percent as percent.
fn percent(thousandths: u32) -> f64 {
    f64::from(thousandths) / 1000.0
}

fn requests(pods: &[PodTick]) -> u64 {
    pods.iter().fold(0, |sum, pod| sum.saturating_add(pod.requests))
}

/// One count for each column.
fn sums(pods: Option<&[PodTick]>) -> Vec<Count> {
    let mut sums: Vec<Count> = Vec::new();
    for pod in pods.unwrap_or_default() {
        if sums.len() < pod.counts.len() {
            sums.resize(pod.counts.len(), Count::default());
        }
        sums.iter_mut().zip(&pod.counts).for_each(|(sum, count)| sum.add(*count));
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Dice, errors, latency};
    use super::super::{Off, Suspect, Verdict};
    use super::*;

    fn pod(dice: &mut Dice, name: &str, rate: f64, bad: f64) -> PodTick {
        let total = dice.poisson(rate);
        let counts = [bad, 0.002].map(|bad| Count { bad: dice.binomial(total, bad), total });
        PodTick { pod: name.to_owned(), requests: total, counts: counts.to_vec() }
    }

    /// Two minutes with ten times as many requests at stable, the second half in the second step.
    fn ticks(seed: u64, bad: f64) -> Vec<Tick> {
        let mut dice = Dice::new(seed);
        let mut tick = |second: u32| Tick {
            at: 1_700_000_000_000 + i64::from(second) * 1000,
            interval: 1000,
            step: second / 60,
            due: 9_091,
            asked: Some(9_091),
            replaced: None,
            canary: Some(vec![pod(&mut dice, "c1", 10.0, bad), pod(&mut dice, "c2", 10.0, bad)]),
            stable: (!second.is_multiple_of(7))
                .then(|| vec![pod(&mut dice, "s1", 100.0, 0.002), pod(&mut dice, "s2", 100.0, 0.002)]),
            router: None,
            queries: Vec::new(),
            blind: second.is_multiple_of(7).then(|| "stable can't be read".into()),
        };
        (0..120).map(&mut tick).collect()
    }

    fn begun() -> Fold {
        Fold::new(&[errors().into(), latency().into()], 0.01, 2)
    }

    #[test]
    fn a_saved_state_of_no_policy_is_refused() {
        let saved = serde_json::to_string(&begun()).unwrap();
        assert!(saved.contains("\"steps\":2"), "{saved}");
        for steps in ["0", "1001", "4294967295", "-1"] {
            let other = saved.replace("\"steps\":2", &format!("\"steps\":{steps}"));
            let error = serde_json::from_str::<Fold>(&other).expect_err(steps).to_string();
            assert!(error.contains("expected"), "{error}");
        }
    }

    #[test]
    fn the_same_ticks_give_the_same_to_the_byte_however_often_they_are_written_down() {
        let (mut straight, mut interrupted) = (begun(), begun());
        for tick in ticks(1, 0.02) {
            straight.fold(&tick);
            let saved = serde_json::to_string(&interrupted).unwrap();
            interrupted = serde_json::from_str(&saved).unwrap();
            let recorded = serde_json::to_string(&tick).unwrap();
            let replayed: Tick = serde_json::from_str(&recorded).unwrap();
            assert_eq!(replayed, tick);
            interrupted.fold(&replayed);
            assert_eq!(serde_json::to_string(&interrupted).unwrap(), serde_json::to_string(&straight).unwrap());
        }
        assert_eq!(straight.judge(), interrupted.judge());
    }

    #[test]
    fn what_the_pods_did_becomes_verdicts_and_the_share_that_was_seen() {
        let folded = |bad| {
            let mut fold = begun();
            ticks(2, bad).iter().for_each(|tick| fold.fold(tick));
            fold
        };
        let (healthy, broken) = (folded(0.002), folded(0.2));
        assert_eq!(healthy.judge()[0].verdict, Verdict::Good);
        assert_eq!(broken.judge()[0].verdict, Verdict::Bad);
        assert_eq!(broken.judge()[1].verdict, Verdict::Good, "its latency is as ever");
        assert!(healthy.split().seen().is_some_and(|seen| (7.0..11.0).contains(&seen)));
    }

    /// Three pods of each version; one canary pod fails half of its requests from the eleventh second on.
    fn with_a_bad_pod(dice: &mut Dice, second: u32, bad: f64) -> Tick {
        let ill = if second > 10 { bad } else { 0.002 };
        let canary = vec![pod(dice, "c1", 20.0, 0.002), pod(dice, "c2", 20.0, ill), pod(dice, "c3", 20.0, 0.002)];
        let stable = ["s1", "s2", "s3"].map(|name| pod(dice, name, 100.0, 0.002));
        Tick { interval: 1000, canary: Some(canary), stable: Some(stable.to_vec()), ..Tick::default() }
    }

    #[test]
    fn one_bad_pod_is_named_and_once_it_is_replaced_the_version_is_as_good_as_ever() {
        let (mut fold, mut dice) = (begun(), Dice::new(5));
        (0..40).for_each(|second| fold.fold(&with_a_bad_pod(&mut dice, second, 0.5)));
        assert_eq!(fold.judge()[0].suspect, Some(Suspect::Pod("c2".into())));
        let replaced = Some("c2".to_owned());
        for second in 40..100 {
            fold.fold(&Tick { replaced: replaced.clone(), ..with_a_bad_pod(&mut dice, second, 0.5) });
        }
        let judgement = fold.judge().remove(0);
        assert_eq!((judgement.verdict, judgement.suspect), (Verdict::Good, None));
    }

    #[test]
    fn stables_pods_tell_whether_requests_fail_together() {
        // Given a stable one in thirty of whose requests fail: one by one, or all of a pod for a second.
        let folded = |together: bool| {
            let (mut fold, mut dice) = (begun(), Dice::new(6));
            for _ in 0..600 {
                let mut tick = with_a_bad_pod(&mut dice, 0, 0.0);
                for count in tick.stable.iter_mut().flatten().map(|pod| &mut pod.counts[0]) {
                    count.bad = match together {
                        true => dice.binomial(1, 1.0 / 30.0) * count.total,
                        false => dice.binomial(count.total, 1.0 / 30.0),
                    };
                }
                fold.fold(&tick);
            }
            fold.judge().remove(0)
        };
        // Then more requests are needed to see a regression where they fail together.
        let (alone, together) = (folded(false), folded(true));
        assert!(together.needed > 2 * alone.needed, "{} and {}", together.needed, alone.needed);
    }

    #[test]
    fn a_split_that_is_not_as_asked_is_told_and_only_where_it_was_asked_for() {
        let folded = |asked: Option<u32>| {
            let (mut fold, mut dice) = (begun(), Dice::new(7));
            for _ in 0..300 {
                let canary = Some(vec![pod(&mut dice, "c1", 16.0, 0.0)]);
                let stable = Some(vec![pod(&mut dice, "s1", 184.0, 0.0)]);
                fold.fold(&Tick { interval: 1000, due: 5_000, asked, canary, stable, ..Tick::default() });
            }
            fold
        };
        let told = folded(Some(5_000)).mismatch().unwrap();
        assert!(told.off == Off::More && (7.0..9.0).contains(&told.got), "{told:?}");
        let silent = folded(None);
        assert_eq!(silent.mismatch(), None);
        assert!(silent.rate().is_some_and(|rate| (190.0..210.0).contains(&rate)));
    }

    #[test]
    fn what_could_not_be_read_is_said_and_is_not_zero() {
        let mut fold = begun();
        assert_eq!(fold.blind().map(Blind::why), Some("no counts yet"));
        let ticks = ticks(3, 0.0);
        fold.fold(&ticks[0]);
        assert_eq!(fold.blind().map(Blind::why), Some("stable can't be read"));
        assert_eq!(fold.split().seen(), None);
        fold.fold(&ticks[1]);
        assert_eq!(fold.blind(), None);
    }

    #[test]
    fn pods_with_more_columns_than_others_do_no_harm() {
        let mut fold = begun();
        let count = Count { bad: 1, total: 9 };
        let odd =
            |columns: usize| PodTick { pod: columns.to_string(), requests: u64::MAX, counts: vec![count; columns] };
        let arm = Some(vec![odd(0), odd(3), odd(1)]);
        let tick = Tick { canary: arm.clone(), stable: arm, interval: u32::MAX, step: u32::MAX, ..Tick::default() };
        assert_eq!(tick.samples().len(), 3);
        fold.fold(&tick);
        fold.fold(&tick);
        assert_eq!(fold.judge()[0].canary, Count { bad: 4, total: 36 });
    }
}
