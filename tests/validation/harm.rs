//! Does a release stay below its cap of failed requests?

use serin::evidence::{Count, Evidence, Sample, Slo};
use serin::forecast::{Dice, Share};

use crate::{runs, simulate};

const CAP: f64 = 500.0;
/// Ticks until the traffic is gone, once it is decided.
const REACTION: usize = 2;
const SECONDS: usize = 900;
const STABLE: f64 = 0.002;

struct Ended {
    /// Requests that failed because of the release, as only the simulation knows.
    failed: f64,
    /// What a fault like this costs in the tick in which it begins, and until the traffic is gone.
    unavoidable: f64,
}

/// A fault of any size that begins at any time, at services of 20 to 2000 requests a second.
fn fault(seed: u64) -> Ended {
    let mut dice = Dice::new(seed + 1);
    let rate = 20.0 * 100.0_f64.powf(dice.uniform());
    let excess = 0.005 * 190.0_f64.powf(dice.uniform());
    let onset = dice.below(SECONDS as u64) as usize;
    let weight = |second: usize| [0.05, 0.25, 0.5][(second * 3 / SECONDS).min(2)];
    let slo = Slo { name: "errors".into(), objective: 0.01, relative: 1.5, absolute: 0.001 };
    let mut evidence = Evidence::new(&[slo], 0.01, 3);
    let (mut failed, mut gone) = (0.0, None);
    for second in 0..SECONDS {
        evidence.begin_step(second * 3 / SECONDS);
        let weight = weight(second);
        let mut draw = |rate: f64, bad: f64| {
            let total = dice.poisson(rate);
            Count { bad: dice.binomial(total, bad), total }
        };
        let (canary, stable) = (draw(rate * weight, STABLE), draw(rate * (1.0 - weight), STABLE));
        let broken = if second >= onset { dice.binomial(canary.total - canary.bad, excess) } else { 0 };
        failed += broken as f64;
        if gone.is_some_and(|gone| second >= gone) {
            break;
        }
        evidence.fold(&[Sample { canary: Count { bad: canary.bad + broken, ..canary }, stable }]);
        let stopped = evidence.any_bad() || evidence.harm(0).exceeds(CAP, REACTION as f64);
        gone = gone.or(stopped.then_some(second + REACTION));
    }
    let unavoidable = rate * weight(onset) * excess * (1 + REACTION) as f64;
    Ended { failed, unavoidable }
}

#[test]
fn faults_stay_below_the_cap() {
    let runs = runs(200);
    let all = simulate(runs, fault);
    let below = |ended: &&Ended| ended.failed <= CAP;
    let every = Share::of(all.iter().map(|ended| below(&ended)));
    // What fails before anybody could have known can't be kept below any cap.
    let could: Vec<&Ended> = all.iter().filter(|ended| ended.unavoidable <= 0.9 * CAP).collect();
    let kept = Share::of(could.iter().map(below));
    println!("\nfaults below a cap of {CAP}: {kept} of {} that could be; {every} of all {runs}", could.len());
    assert!(kept.ratio() >= 0.99, "{kept}");
}
