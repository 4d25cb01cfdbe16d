//! A/A: both arms alike, no tolerance, so that each run is at the very edge of what is healthy.

use serin::evidence::{Count, Dispersion, Evidence, Phi, Sample, Slo};
use serin::forecast::{Dice, Share};

use crate::{runs, simulate};

/// Ten minutes, read each second.
const SECONDS: usize = 600;
/// Requests a second of both arms together.
const RATE: f64 = 100.0;
const BAD: f64 = 0.005;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Traffic {
    /// 25 % of a constant stream.
    Constant,
    /// Requests and errors come in waves, each with its own.
    Sinusoid,
    /// Outages that make both arms twenty times as bad, for 5 to 30 seconds, about two in a run.
    SharedBursts,
    /// Bad requests come six at a time, at one pod.
    Dispersed,
    /// 5, 10, 25 and 50 %.
    Weights,
    /// Pods come and go, and take what they did since the last reading with them.
    Churn,
}

/// Together.
const CLUSTER: u64 = 6;
const STABLE_PODS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

fn step_of(second: usize) -> usize {
    second * 4 / SECONDS
}

/// One service's traffic in one run.
struct Run {
    traffic: Traffic,
    dice: Dice,
    bursts: Vec<(usize, usize)>,
    pods: (u64, u64),
}

impl Run {
    fn new(traffic: Traffic, seed: u64) -> Self {
        let mut dice = Dice::new(seed + 1);
        let bursts = dice.poisson(2.0);
        let burst = |_| {
            let begin = dice.below(SECONDS as u64) as usize;
            (begin, begin + 5 + dice.below(26) as usize)
        };
        let bursts = (0..bursts).map(burst).collect();
        Self { traffic, dice, bursts, pods: (2, 6) }
    }

    fn tick(&mut self, second: usize) -> Sample {
        let wave = |period: f64| 1.0 + 0.8 * (second as f64 * std::f64::consts::TAU / period).sin();
        let (mut weight, mut rate, mut bad, mut kept) = (0.25, RATE, BAD, 1.0);
        match self.traffic {
            Traffic::Constant => {}
            Traffic::Sinusoid => (rate, bad) = (RATE * wave(97.0), BAD * wave(210.0)),
            Traffic::SharedBursts => {
                if self.bursts.iter().any(|(begin, end)| (*begin..*end).contains(&second)) {
                    bad *= 20.0;
                }
            }
            Traffic::Dispersed => return Sample { canary: self.pods(2).1, stable: self.pods(8).1 },
            Traffic::Weights => weight = [0.05, 0.1, 0.25, 0.5][step_of(second)],
            Traffic::Churn => {
                if self.dice.below(20) == 0 {
                    let (canary, stable) = self.pods;
                    let dead = self.dice.uniform();
                    self.pods = (1 + self.dice.below(4), 3 + self.dice.below(8));
                    // A part of the readings of pods that went is missing.
                    kept = 1.0 - dead / (canary + stable) as f64;
                }
                weight = self.pods.0 as f64 / (self.pods.0 + self.pods.1) as f64;
            }
        }
        let mut arm = |share: f64| {
            let total = self.dice.poisson(rate * share * kept);
            Count { bad: self.dice.binomial(total, bad), total }
        };
        Sample { canary: arm(weight), stable: arm(1.0 - weight) }
    }

    /// What so many pods do in a second, one by one and together, where bad requests come in clusters.
    fn pods(&mut self, pods: usize) -> (Vec<Count>, Count) {
        let mut one = || {
            let total = self.dice.poisson(RATE / 10.0);
            let events = self.dice.poisson(total as f64 * 2.0 * BAD / CLUSTER as f64);
            Count { bad: (events * CLUSTER).min(total), total }
        };
        let each: Vec<Count> = (0..pods).map(|_| one()).collect();
        let sum = each
            .iter()
            .fold(Count::default(), |sum, pod| Count { bad: sum.bad + pod.bad, total: sum.total + pod.total });
        (each, sum)
    }
}

/// What half an hour of this service's stable pods has shown before the run.
fn learnt(traffic: Traffic, service: u64) -> Phi {
    if traffic != Traffic::Dispersed {
        return Phi::ONE;
    }
    let mut history = Run::new(traffic, 1_000_000 + service);
    let mut dispersion = Dispersion::default();
    for _ in 0..1800 {
        let pods = history.pods(8).0;
        dispersion.push(1.0, &STABLE_PODS.into_iter().zip(pods).collect::<Vec<_>>());
    }
    dispersion.phi()
}

/// Is a healthy release refused?
fn serin(traffic: Traffic, seed: u64, alpha: f64, phi: Phi) -> bool {
    let strict = Slo { name: "errors".into(), objective: 0.01, relative: 1.0, absolute: 0.0 };
    let mut evidence = Evidence::new(&[strict], alpha, 4);
    evidence.temper(0, phi);
    let mut run = Run::new(traffic, seed);
    (0..SECONDS).any(|second| {
        evidence.begin_step(step_of(second));
        evidence.fold(&[run.tick(second)]);
        evidence.any_bad()
    })
}

/// What is common elsewhere, on the very same traffic: each minute, with all that was counted so far or
/// in that minute, one failed check rolls back.
fn each_minute(traffic: Traffic, seed: u64, fails: impl Fn(Sample, Sample) -> bool) -> bool {
    let mut run = Run::new(traffic, seed);
    let (mut all, mut minute) = (Sample::default(), Sample::default());
    (0..SECONDS).any(|second| {
        let tick = run.tick(second);
        for sum in [&mut all, &mut minute] {
            for (arm, more) in [(&mut sum.canary, tick.canary), (&mut sum.stable, tick.stable)] {
                *arm = Count { bad: arm.bad + more.bad, total: arm.total + more.total };
            }
        }
        if second % 60 != 59 {
            return false;
        }
        fails(all, std::mem::take(&mut minute))
    })
}

/// The minute's ratio is above 1.5 x stable's + 0.1 %.
fn compares_ratios(_: Sample, minute: Sample) -> bool {
    let ratio = |count: Count| count.ratio().unwrap_or(0.0);
    ratio(minute.canary) > 1.5 * ratio(minute.stable) + 0.001
}

/// One-sided z-test of two proportions.
fn z_test(all: Sample, critical: f64) -> bool {
    let Sample { canary, stable } = all;
    let (n, m) = (canary.total as f64, stable.total as f64);
    let pooled = (canary.bad + stable.bad) as f64 / (n + m);
    let deviation = (pooled * (1.0 - pooled) * (1.0 / n + 1.0 / m)).sqrt();
    deviation > 0.0 && canary.bad as f64 / n - stable.bad as f64 / m > critical * deviation
}

/// Healthy releases are refused no more often than declared.
fn check(traffic: Traffic) {
    let runs = runs(60);
    let services: Vec<Phi> = (0..50).map(|service| learnt(traffic, service)).collect();
    let phi = |seed: u64| services[seed as usize % services.len()];
    let at = |alpha| Share::of(simulate(runs, |seed| serin(traffic, seed, alpha, phi(seed))));
    let (one, five) = (at(0.01), at(0.05));
    let ratios = Share::of(simulate(runs, |seed| each_minute(traffic, seed, compares_ratios)));
    let z = Share::of(simulate(runs, |seed| each_minute(traffic, seed, |all, _| z_test(all, 1.645))));
    println!("\n{traffic:?}: false alarms of {runs} A/A runs of ten minutes, without any tolerance");
    println!("  Serin, confidence 99 %       {one}\n  Serin, confidence 95 %       {five}");
    println!("  ratios compared each minute  {ratios}\n  z-test each minute, 5 %      {z}");
    assert!(one.may_be_at_most(0.01) && five.may_be_at_most(0.05), "{traffic:?}");
    assert!(ratios.ratio() > 0.2 && z.ratio() > five.ratio(), "what is promised would be no feat here");
}

#[test]
fn constant_traffic() {
    check(Traffic::Constant);
}

#[test]
fn waves() {
    check(Traffic::Sinusoid);
}

#[test]
fn bursts_that_hit_both() {
    check(Traffic::SharedBursts);
}

#[test]
fn requests_that_fail_together() {
    check(Traffic::Dispersed);
}

#[test]
fn weights_that_rise() {
    check(Traffic::Weights);
}

#[test]
fn pods_that_come_and_go() {
    check(Traffic::Churn);
}

#[test]
fn requests_that_fail_together_would_be_too_many_alarms_without_what_stable_has_shown() {
    let runs = runs(60);
    let naive = Share::of(simulate(runs, |seed| serin(Traffic::Dispersed, seed, 0.05, Phi::ONE)));
    println!("\nDispersed at 95 %, if each request counted by itself: {naive}");
    assert!(naive.interval().0 > 0.05);
}
