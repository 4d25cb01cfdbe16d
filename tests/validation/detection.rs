//! How many canary requests it takes to see a regression.

use serin::evidence::{Bet, Count, Phi, Purse, Sample};
use serin::forecast::Dice;

use crate::{median, runs, simulate};

/// The canary's share of requests, and requests of both arms in a tick.
const WEIGHT: f64 = 0.1;
const RATE: f64 = 200.0;

/// Canary requests until the evidence is past ln 100, all of it bet at the start.
fn requests(seed: u64, bad: f64, times: f64) -> f64 {
    let mut dice = Dice::new(seed + 1);
    let bet = Bet::Worse { relative: 1.0, absolute: 0.0 };
    let mut purse = Purse::new(bet);
    purse.add(1.0);
    let mut requests = 0;
    while purse.ln_e(0.0) < 100.0_f64.ln() {
        let mut arm = |share: f64, bad: f64| {
            let total = dice.poisson(RATE * share);
            Count { bad: dice.binomial(total, bad), total }
        };
        let sample = Sample { canary: arm(WEIGHT, times * bad), stable: arm(1.0 - WEIGHT, bad) };
        purse.play(bet, sample, WEIGHT / (1.0 - WEIGHT), Phi::ONE);
        requests += sample.canary.total;
    }
    requests as f64
}

#[test]
fn sample_sizes_are_those_of_the_reference() {
    // Medians at alpha 1 %: stable's bad share, times as bad, canary requests.
    let runs = runs(100);
    let tolerance = if runs >= 2000 { 0.1 } else { 0.35 };
    println!("\ncanary requests until a regression is seen, median of {runs} runs, at 99 % and weight 10");
    println!("{:<10} {:<8} {:>10} {:>10} {:>8}", "stable", "canary", "reference", "simulated", "off");
    for (bad, times, want) in [(0.001, 2.0, 15_600.0), (0.001, 5.0, 1520.0), (0.001, 10.0, 500.0), (0.01, 2.0, 1730.0)]
    {
        let got = median(simulate(runs, |seed| requests(seed, bad, times)));
        let off = got / want - 1.0;
        println!(
            "{:<10} {:<8} {want:>10} {got:>10} {:>+7.1}%",
            format!("{} %", 100.0 * bad),
            format!("x {times}"),
            100.0 * off
        );
        assert!(off.abs() <= tolerance, "{bad} x {times}: {got}, not {want}");
    }
}
