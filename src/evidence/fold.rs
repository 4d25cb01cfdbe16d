//! A run's counts, tick by tick, and what they come to.
//!
//! A [`Tick`] has everything that a step of the fold depends on, so the same ticks give the same [`Fold`], to the byte,
//! be it as they happen, after a restart, or years later from a record.

use serde::{Deserialize, Serialize};

use super::{Count, Evidence, Judgement, PodTick, Sample, Split, Watch};

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
    /// What each pod did since the tick before. `None`: the arm has pods, but none could be read.
    pub canary: Option<Vec<PodTick>>,
    pub stable: Option<Vec<PodTick>>,
    /// Why there are no counts to judge by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blind: Option<String>,
}

/// The state of the fold over the ticks of a run; bounded. Serialise it at any time and go on later: the result is the
/// same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fold {
    evidence: Evidence,
    split: Split,
    blind: Option<String>,
}

impl Fold {
    /// Of a run that begins with the first of `steps`. `alpha`: see [`Evidence::new`].
    pub fn new(slos: &[Watch], alpha: f64, steps: usize) -> Self {
        Self {
            evidence: Evidence::watching(slos, alpha, steps),
            split: Split::default(),
            blind: Some("no counts yet".to_owned()),
        }
    }

    /// The next tick.
    pub fn fold(&mut self, tick: &Tick) {
        self.evidence.begin_step(usize::try_from(tick.step).unwrap_or(usize::MAX));
        let requests = |arm: &Option<Vec<PodTick>>| arm.as_deref().map(requests);
        self.split.push(requests(&tick.canary), requests(&tick.stable), percent(tick.due), tick.seconds());
        self.evidence.fold(&tick.samples());
        self.blind.clone_from(&tick.blind);
    }

    /// Verdicts, in the order of the SLOs.
    pub fn judge(&self) -> Vec<Judgement> {
        self.evidence.judge()
    }

    /// Where the requests go.
    pub fn split(&self) -> &Split {
        &self.split
    }

    /// Why there are no counts to judge by, as of the last tick.
    pub fn blind(&self) -> Option<&str> {
        self.blind.as_deref()
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
    use super::super::Verdict;
    use super::super::testing::{Dice, errors, latency};
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
            canary: Some(vec![pod(&mut dice, "c1", 10.0, bad), pod(&mut dice, "c2", 10.0, bad)]),
            stable: (!second.is_multiple_of(7))
                .then(|| vec![pod(&mut dice, "s1", 100.0, 0.002), pod(&mut dice, "s2", 100.0, 0.002)]),
            blind: second.is_multiple_of(7).then(|| "stable can't be read".to_owned()),
        };
        (0..120).map(&mut tick).collect()
    }

    fn begun() -> Fold {
        Fold::new(&[errors().into(), latency().into()], 0.01, 2)
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

    #[test]
    fn what_could_not_be_read_is_said_and_is_not_zero() {
        let mut fold = begun();
        assert_eq!(fold.blind(), Some("no counts yet"));
        let ticks = ticks(3, 0.0);
        fold.fold(&ticks[0]);
        assert_eq!(fold.blind(), Some("stable can't be read"));
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
