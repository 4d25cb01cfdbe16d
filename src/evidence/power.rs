//! How many canary requests it takes to see a regression.
//!
//! The test crosses its threshold T after n canary requests if ln E(e_c, e_s, n) >= T. With
//! e_c ~ Poisson(n p_1) and e_s ~ Poisson(n p_s / rho) that has probability 0.9 when it still holds
//! at the likeliest point of the unlucky tenth: both counts moved against us by z standard
//! deviations of ln E, in proportion to what they contribute to it (first-order reliability
//! method), with the skewness and continuity correction of a Poisson quantile.

use super::eprocess::Bet;
use super::{Sample, Slo};

/// Probability that a regression of the stated effect is seen.
pub(super) const POWER: f64 = 0.9;
/// Standard deviations of bad luck for [`POWER`]. At the last request alone it would be 1.28; but a
/// test that crossed its threshold earlier and fell back has decided, too. With 1.1 simulated
/// runs need what is asked for within 25 %.
const Z: f64 = 1.1;
/// How much worse than tolerated: so many times the objective. A burn rate of 5 spends the error
/// budget of a month in six days.
const TIMES_OBJECTIVE: f64 = 5.0;
/// More than any step will see.
const NEVER: u64 = 1_000_000_000;

pub(super) struct Power {
    pub(super) needed: u64,
    pub(super) effect: f64,
}

/// `step`: the sums so far, for stable's ratio and the ratio of the arms. `to_win`: nats.
pub(super) fn needed(slo: &Slo, step: Sample, to_win: f64) -> Power {
    match step.stable.ratio() {
        Some(stable) => {
            let bet = Bet::Worse {
                relative: slo.relative,
                absolute: slo.absolute,
            };
            let bound = slo.relative * stable + slo.absolute;
            // Before the canary's first request any ratio of the arms is a guess.
            let rho = (step.canary.total.max(1)) as f64 / step.stable.total as f64;
            of(bet, bound, slo, stable, rho, to_win)
        }
        // Without stable only the objective can tell.
        None => {
            let bet = Bet::Over {
                objective: slo.objective,
            };
            of(bet, slo.objective, slo, 0.0, 1.0, to_win)
        }
    }
}

fn of(bet: Bet, bound: f64, slo: &Slo, stable: f64, rho: f64, to_win: f64) -> Power {
    if bound >= 1.0 {
        // Nothing can be worse than what is allowed: nothing can be seen.
        return Power {
            needed: NEVER,
            effect: 1.0,
        };
    }
    let effect = (bound + TIMES_OBJECTIVE * slo.objective).min(f64::midpoint(1.0, bound));
    let sees = |n: u64| unlucky(bet, effect, stable, rho, n as f64) >= to_win;
    let mut high = 1;
    while !sees(high) {
        high *= 2;
        if high > NEVER {
            return Power {
                needed: NEVER,
                effect,
            };
        }
    }
    let mut low = high / 2;
    while high - low > 1 {
        let middle = low.midpoint(high);
        if sees(middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
    Power {
        needed: high,
        effect,
    }
}

/// ln E that nine of ten regressions exceed after `n` canary requests.
fn unlucky(bet: Bet, effect: f64, stable: f64, rho: f64, n: f64) -> f64 {
    let (canary, others) = (n * effect, n * stable / rho);
    let ln_e = |canary: f64, others: f64| bet.ln_mixture((canary.max(0.0), others), n, rho);
    // What one bad request more at either arm is worth.
    let gain = ln_e(canary + 0.5, others) - ln_e(canary - 0.5, others);
    let loss = ln_e(canary, others) - ln_e(canary, others + 1.0);
    let (from_canary, from_stable) = (canary * gain * gain, others * loss * loss);
    let deviation = (from_canary + from_stable).sqrt();
    if deviation <= 0.0 {
        return ln_e(canary, others);
    }
    let correction = (0.5 + (Z * Z - 1.0) / 6.0) * from_canary / (from_canary + from_stable);
    ln_e(
        canary - Z * canary * gain / deviation + correction,
        others + Z * others * loss / deviation,
    )
}
