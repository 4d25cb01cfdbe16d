//! A bad version, or one bad pod?
//!
//! A bad node, a cold disk, a broken sidecar make one canary pod fail, and that is no reason to refuse
//! the version. So once there is enough evidence against the canary, it is asked again without each of
//! its pods in turn (leave-one-pod-out): the version is bad only if there is enough every time. Else,
//! if one pod is proven worse than the other canary pods, and nothing speaks against the others, it is
//! that pod. With fewer than three pods nobody can tell, and the version is taken to be bad.
//!
//! Sums are enough for this, kept since evidence was last at its lowest, which is when the trouble
//! began; within that time the weight does not change. What is asked here only ever makes a Bad verdict
//! rarer, so it can't spoil the false-alarm rate.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::eprocess::{Bet, Nats, Phi, ln_sum, ratio};
use super::{Count, PodTick, Sample};

/// Fewer pods can't be told apart.
const LEAST_PODS: usize = 3;
/// More are not told apart; they count for the canary.
const MOST_PODS: usize = 32;
/// Probability that a pod is named though it is like the others.
const NAMED_BY_CHANCE: f64 = 0.01;
/// Evidence that speaks for nothing: nats.
const NOTHING: f64 = 1.0;

/// Who is to blame, once there is enough evidence against the canary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Suspect {
    /// It does not depend on any one pod. The verdict is Bad.
    Version,
    /// This canary pod alone: to be replaced, see `Evidence::pardon`.
    Pod(String),
    /// Not clear yet: some requests more will tell.
    Unclear,
}

/// What an SLO asks of the canary.
pub(super) struct Question<'a> {
    /// Worse than stable by more than is tolerated.
    pub(super) versus: Bet,
    /// Over the objective, and worse than stable at all.
    pub(super) over: Bet,
    pub(super) worse: Bet,
    /// Weights of the SLO's own counts and of its facets.
    pub(super) weights: &'a [f64],
    pub(super) phi: Phi,
    /// Nats.
    pub(super) threshold: f64,
}

/// The canary's pods, for one SLO: sums since the trouble began, by column (own counts, facets).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Crowd {
    /// The lowest evidence so far.
    lowest: Nats,
    arms: Vec<Sample>,
    pods: BTreeMap<String, Vec<Count>>,
}

impl Crowd {
    /// `columns`: the SLO's own counts and its facets.
    pub(super) fn new(columns: usize) -> Self {
        Self { lowest: Nats::ZERO, arms: vec![Sample::default(); columns], pods: BTreeMap::new() }
    }

    /// `skip`: columns of SLOs before this one.
    pub(super) fn push(&mut self, samples: &[Sample], pods: &[PodTick], skip: usize) {
        for (sum, sample) in self.arms.iter_mut().zip(samples) {
            sum.add(sample.clamped());
        }
        let columns = self.arms.len();
        for tick in pods {
            let counts = tick.counts.iter().skip(skip).take(columns).map(|count| count.clamped());
            if let Some(sums) = self.pods.get_mut(&tick.pod) {
                sums.iter_mut().zip(counts).for_each(|(sum, count)| sum.add(count));
            } else if self.pods.len() < MOST_PODS {
                let mut sums: Vec<Count> = counts.collect();
                sums.resize(columns, Count::default());
                self.pods.insert(tick.pod.clone(), sums);
            }
        }
    }

    /// Evidence is so much now: at a new low the trouble, if there is any, has not yet begun.
    pub(super) fn evidence_is(&mut self, ln_e: f64) {
        let ln_e = Nats::new(ln_e);
        if ln_e <= self.lowest {
            self.lowest = ln_e;
            self.forget();
        }
    }

    fn forget(&mut self) {
        self.arms.fill(Sample::default());
        self.pods.clear();
    }

    /// The weight changed: sums from before it are not to be mixed with those after.
    pub(super) fn begin_step(&mut self) {
        self.forget();
    }

    /// Pods that had requests.
    pub(super) fn serving(&self) -> usize {
        self.pods.values().filter(|counts| counts.first().is_some_and(|own| own.total > 0)).count()
    }

    /// `evidence`: of all pods together, which is at least the threshold.
    pub(super) fn suspect(&self, question: &Question<'_>, evidence: f64) -> Suspect {
        if self.serving() < LEAST_PODS {
            return Suspect::Version;
        }
        let without: Vec<(&String, f64)> =
            self.pods.iter().map(|(name, pod)| (name, self.without(question, pod))).collect();
        if without.iter().all(|(_, ln_e)| *ln_e >= question.threshold) {
            return Suspect::Version;
        }
        let apart: Vec<f64> = self.pods.values().map(|pod| self.apart(question, pod)).collect();
        let sure = (apart.len() as f64 / NAMED_BY_CHANCE).ln();
        let mut named = without.iter().zip(&apart).filter(|((_, rest), apart)| *rest < NOTHING && **apart >= sure);
        match named.next() {
            Some(((name, _), _)) => Suspect::Pod((*name).clone()),
            // Much evidence, and no pod stands out: that is not about a pod.
            None if evidence >= 2.0 * question.threshold && apart.iter().all(|apart| *apart < NOTHING) => {
                Suspect::Version
            }
            None => Suspect::Unclear,
        }
    }

    /// ln E against the canary without this pod.
    fn without(&self, question: &Question<'_>, pod: &[Count]) -> f64 {
        let rest = |column: usize| {
            let arms = self.arms[column];
            Sample { canary: arms.canary.less(pod[column]), ..arms }
        };
        let versus = mean(question, |column| played(question.versus, rest(column), question.phi), self.arms.len());
        let own = rest(0);
        let over = played(question.over, own, question.phi);
        versus.max(over.min(played(question.worse, own, question.phi)))
    }

    /// ln E against "this pod is not worse than the canary's others", with the SLO's tolerance.
    fn apart(&self, question: &Question<'_>, pod: &[Count]) -> f64 {
        let beside = |column: usize| {
            let others = self.arms[column].canary.less(pod[column]);
            played(question.versus, Sample { canary: pod[column], stable: others }, question.phi)
        };
        mean(question, beside, self.arms.len())
    }
}

/// ln E of these sums, all money at work since they began.
fn played(bet: Bet, sums: Sample, phi: Phi) -> f64 {
    let part = |count: u64| count as f64 / phi.get();
    let bad = (part(sums.canary.bad), part(sums.stable.bad));
    bet.mixture(ratio(sums.canary, sums.stable)).ln_e(bad, part(sums.canary.total))
}

fn mean(question: &Question<'_>, ln_e: impl Fn(usize) -> f64, columns: usize) -> f64 {
    let shares = question.weights.iter().take(columns).enumerate();
    let shares: Vec<f64> = shares.map(|(column, weight)| weight.ln() + ln_e(column)).collect();
    ln_sum(shares.into_iter())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Dice, errors, latency};
    use super::super::*;

    /// Canary pods with these shares of bad requests beside a healthy stable: 15 requests a pod and
    /// second, a tenth of what stable has.
    struct Pods {
        dice: Dice,
        names: Vec<String>,
        bad: Vec<f64>,
    }

    impl Pods {
        fn new(seed: u64, bad: &[f64]) -> Self {
            let names = (0..bad.len()).map(|pod| format!("pod-{pod}")).collect();
            Self { dice: Dice::new(seed + 1), names, bad: bad.to_vec() }
        }

        fn fold(&mut self, evidence: &mut Evidence) {
            let mut arms = Sample::default();
            let draw = |dice: &mut Dice, rate: f64, p: f64| {
                let total = dice.poisson(rate);
                Count { bad: dice.binomial(total, p), total }
            };
            let counts: Vec<[Count; 1]> = self.bad.iter().map(|p| [draw(&mut self.dice, 15.0, *p)]).collect();
            counts.iter().for_each(|[count]| arms.canary.add(*count));
            arms.stable = draw(&mut self.dice, 150.0 * self.bad.len() as f64, 0.002);
            let pods = self.names.iter().zip(&counts).map(|(pod, counts)| tick_of(pod, counts));
            evidence.fold_pods(&[arms], &pods.collect::<Vec<_>>());
        }

        /// Until there is somebody to blame, for twenty minutes at most.
        fn blamed(&mut self, evidence: &mut Evidence) -> (u32, Option<Suspect>) {
            for second in 1..1200 {
                self.fold(evidence);
                let suspect = evidence.judge().remove(0).suspect;
                if suspect.as_ref().is_some_and(|suspect| *suspect != Suspect::Unclear) {
                    return (second, suspect);
                }
            }
            (1200, None)
        }
    }

    fn tick_of(pod: &str, counts: &[Count]) -> PodTick {
        let requests = counts.first().map_or(0, |own| own.total);
        PodTick { pod: pod.to_owned(), requests, counts: counts.to_vec() }
    }

    fn run() -> Evidence {
        Evidence::new(&[errors()], 0.01, 3)
    }

    #[test]
    fn a_bad_version_is_bad_nearly_as_soon_as_without_looking_at_pods() {
        // Given the very same requests, read pod by pod or not:
        for bad in [1.0, 0.2, 0.05] {
            let (mut known, mut unknown) = (run(), run());
            let (seconds, suspect) = Pods::new(1, &[bad; 5]).blamed(&mut known);
            assert_eq!(suspect, Some(Suspect::Version));
            let mut pods = Pods::new(1, &[bad; 5]);
            pods.names.fill("the same".into());
            let (sooner, _) = pods.blamed(&mut unknown);
            assert!(seconds <= sooner + 2, "{bad}: {seconds}, not {sooner}");
        }
    }

    #[test]
    fn one_bad_pod_of_five_is_named_replaced_once_and_does_not_convict_the_version() {
        // Given one pod on a bad node:
        let mut pods = Pods::new(2, &[0.0, 0.0, 0.3, 0.0, 0.0]);
        let mut evidence = run();
        let (_, suspect) = pods.blamed(&mut evidence);
        assert_eq!(suspect, Some(Suspect::Pod("pod-2".into())));
        let judgement = evidence.judge().remove(0);
        assert_eq!(judgement.verdict, Verdict::Undecided);
        assert!(judgement.evidence >= judgement.threshold && !evidence.any_bad());
        // When it is replaced, while its last requests still fail:
        assert!(evidence.pardon("pod-2"));
        (0..60).for_each(|_| pods.fold(&mut evidence));
        assert_eq!(evidence.judge()[0].verdict, Verdict::Good);
        assert_eq!(evidence.judge()[0].suspect, None);
        // Then the next one to fail convicts the version.
        assert!(!evidence.pardon("pod-3"));
        pods.bad[4] = 0.3;
        let (_, suspect) = pods.blamed(&mut evidence);
        assert_eq!(suspect, Some(Suspect::Version));
        assert!(evidence.any_bad());
    }

    #[test]
    fn two_bad_pods_are_a_bad_version_and_so_is_one_of_two() {
        let (_, suspect) = Pods::new(3, &[0.3, 0.3, 0.0, 0.0, 0.0]).blamed(&mut run());
        assert_eq!(suspect, Some(Suspect::Version));
        let (_, suspect) = Pods::new(3, &[0.3, 0.0]).blamed(&mut run());
        assert_eq!(suspect, Some(Suspect::Version));
    }

    #[test]
    fn who_is_to_blame_is_named_right() {
        let mut wrong = [0; 2];
        for seed in 0..60 {
            let mut dice = Dice::new(seed + 500);
            let bad = 0.1 * 10.0_f64.powf(dice.uniform());
            let mut pods = vec![0.002; 3 + dice.below(5) as usize];
            pods[1] = bad;
            let (_, suspect) = Pods::new(seed, &pods).blamed(&mut run());
            wrong[0] += u32::from(suspect != Some(Suspect::Pod("pod-1".into())));
            pods.fill(bad);
            let (_, suspect) = Pods::new(seed, &pods).blamed(&mut run());
            wrong[1] += u32::from(suspect != Some(Suspect::Version));
        }
        assert!(wrong[0] <= 3 && wrong[1] <= 1, "{wrong:?}");
    }

    #[test]
    fn a_restart_and_odd_pods_do_no_harm() {
        let slos = [errors(), latency()];
        let mut evidence = Evidence::new(&slos, 0.01, 2);
        let count = Count { bad: u64::MAX, total: 5 };
        for tick in 0..200_u64 {
            let name = format!("pod-{tick}");
            let arms = Sample { canary: Count { bad: 3, total: 50 }, stable: Count { bad: 0, total: 90 } };
            let counts = vec![count; (tick % 4) as usize];
            evidence.fold_pods(&[arms; 2][..(tick % 3) as usize], &[tick_of(&name, &counts)]);
            let written = serde_json::to_string(&evidence).unwrap();
            assert!(written.len() < 12_000, "{} bytes", written.len());
            assert_eq!(serde_json::from_str::<Evidence>(&written).unwrap(), evidence);
        }
        let before = evidence.clone();
        assert!(evidence.any_bad() && !evidence.pardon("pod-1"));
        assert_eq!(evidence, before);
    }
}
