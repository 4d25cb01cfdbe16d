//! How likely is a regression found, and when? Computed, not drawn.
//!
//! At time t the evidence is a function of a few Poisson counts: bad requests of both arms in each leg of
//! the way. That it has passed its threshold by then has the probability of a normal deviate below z, if it
//! still does at the likeliest point that is z deviations unlucky (first-order reliability method, as in
//! `power`). It is looked at at every tick and may have passed it before: that is the second term of the
//! inverse Gaussian distribution (Schroedinger 1915), which counts for little where a few requests decide.
//! Simulated runs of the real evidence agree within 25 % (tests/validation/forecast.rs).

use super::eprocess::{ALTERNATIVES, Bet, Mixture, Phi};
use super::{Count, Sample, Slo, Stakes, power, versus};

/// Requests of both arms at constant rates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Leg {
    /// Step of the policy, counted from 0: its money is bet when it begins.
    pub step: usize,
    pub seconds: f64,
    /// Requests a second.
    pub canary: f64,
    pub stable: f64,
}

/// A way with constant bad shares: one SLO of several, as a run judges it.
pub struct Detection {
    legs: Vec<Leg>,
    bad: (f64, f64),
    tests: Vec<Test>,
    interval: f64,
}

/// What a run has: how many steps and SLOs share its false-alarm budget, and how often it is read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    pub alpha: f64,
    pub slos: usize,
    pub steps: usize,
    /// Seconds between two readings.
    pub interval: f64,
    /// Share of the SLO's evidence that rests on its own counts, above 0 and up to 1; the rest is its facets'.
    pub own: f64,
}

impl Rules {
    /// Nats.
    fn threshold(&self) -> f64 {
        (2.0 * self.slos.max(1) as f64 / self.alpha.clamp(1e-12, 1.0)).ln()
    }

    /// Nats that the SLO's own counts have to win against stable, beside facets that see nothing.
    fn threshold_of_own(&self) -> f64 {
        self.threshold() - self.own.clamp(0.01, 1.0).ln()
    }
}

/// Bets that must all be won.
struct Test {
    bets: Vec<Played>,
    /// Nats.
    threshold: f64,
}

/// A bet over all legs.
struct Played {
    /// By leg.
    mixtures: Vec<Mixture>,
    /// Money put to work when the leg begins.
    money: Vec<f64>,
}

/// Counts up to some time, by leg.
struct Counts {
    /// Bad requests: canary's and stable's in turn.
    bad: Vec<f64>,
    canary: Vec<f64>,
}

/// Of a step's money three quarters are bet at once, and half of the rest at its first tick.
const AT_ONCE: f64 = 0.875;

impl Detection {
    /// `bad`: shares of bad requests of the canary and of stable, from the first leg's begin on. What was bet in steps
    /// before it does not count: that money has been lost on a canary that was good.
    pub fn new(slo: &Slo, rules: Rules, legs: &[Leg], bad: (f64, f64)) -> Self {
        let slo = slo.sane();
        let stakes = Stakes::new(rules.steps);
        let first = legs.first().map_or(0, |leg| leg.step);
        let mut paid = u32::try_from(first).unwrap_or(u32::MAX).min(stakes.steps - 1);
        let money: Vec<f64> = legs
            .iter()
            .map(|leg| {
                // Steps that were skipped have their money bet, too.
                let step = u32::try_from(leg.step).unwrap_or(u32::MAX).min(stakes.steps - 1);
                let share: u64 = (paid..=step).map(|step| stakes.share_of(step)).sum();
                paid = paid.max(step + 1);
                AT_ONCE * share as f64 / Stakes::ALL as f64
            })
            .collect();
        let play = |bet: Bet| Played {
            mixtures: legs.iter().map(|leg| bet.mixture(bet_ratio(leg, rules.interval))).collect(),
            money: money.clone(),
        };
        let versus = vec![play(Bet::Worse { relative: slo.relative, absolute: slo.absolute })];
        let mut tests = vec![Test { bets: versus, threshold: rules.threshold_of_own() }];
        if bad.1 <= slo.objective {
            // While stable keeps the objective itself, it is one more way to be found. Facets have no part in it.
            let worse = Bet::Worse { relative: 1.0, absolute: 0.0 };
            let bets = vec![play(Bet::Over { objective: slo.objective }), play(worse)];
            tests.push(Test { bets, threshold: rules.threshold() });
        }
        Self { legs: legs.to_vec(), bad, tests, interval: rules.interval }
    }

    /// All legs.
    pub fn seconds(&self) -> f64 {
        self.legs.iter().map(|leg| leg.seconds).sum()
    }

    /// Probability that it is found within so many seconds.
    pub fn probability(&self, seconds: f64) -> f64 {
        // The tick that waits for its successor is not known yet.
        let counts = self.counts(seconds - self.interval);
        let of_test = |test: &Test| {
            test.bets.iter().map(|played| played.probability(&counts, test.threshold)).fold(1.0, f64::min)
        };
        self.tests.iter().map(of_test).fold(0.0, f64::max)
    }

    /// Seconds within which it is found with this probability; `None` if the way is too short for it.
    pub fn within(&self, probability: f64) -> Option<f64> {
        let all = self.seconds();
        if self.probability(all) < probability {
            return None;
        }
        let (mut low, mut high) = (0.0, all);
        while high - low > 0.005 * high && high > 0.1 * self.interval {
            // The first doubling steps count: most are found in the first seconds of hours.
            let middle = if low == 0.0 { high / 4.0 } else { f64::midpoint(low, high) };
            if self.probability(middle + self.interval) >= probability { high = middle } else { low = middle }
        }
        // Verdicts come when a reading has made a block complete, and the next reading is there.
        let block = self.block_at(high);
        Some(((high / block).ceil() * block + self.interval).min(all))
    }

    fn block_at(&self, seconds: f64) -> f64 {
        let mut rest = seconds;
        for leg in &self.legs {
            if rest <= leg.seconds {
                return block(leg, self.interval);
            }
            rest -= leg.seconds;
        }
        self.interval
    }

    fn counts(&self, seconds: f64) -> Counts {
        let mut rest = seconds.max(0.0);
        let mut counts = Counts { bad: Vec::new(), canary: Vec::new() };
        for leg in &self.legs {
            let time = rest.min(leg.seconds);
            rest -= time;
            counts.canary.push(leg.canary * time);
            counts.bad.extend([self.bad.0 * leg.canary * time, self.bad.1 * leg.stable * time]);
        }
        counts
    }
}

impl Played {
    /// ln E, as a run has it: what was bet later has won on later counts only.
    fn ln_e(&self, bad: &[f64], canary: &[f64]) -> f64 {
        let mut logs = [f64::NEG_INFINITY; ALTERNATIVES];
        let mut idle = 1.0;
        for (index, (mixture, money)) in self.mixtures.iter().zip(&self.money).enumerate() {
            let (total, bad) = (canary[index], (bad[2 * index], bad[2 * index + 1]));
            if index > 0 && total <= 0.0 && bad.1 <= 0.0 {
                break;
            }
            idle -= money;
            let each = (money / ALTERNATIVES as f64).ln();
            for (log, won) in logs.iter_mut().zip(mixture.ln_ratios(bad, total)) {
                *log = ln_add(*log, each) + won;
            }
        }
        logs.into_iter().fold(idle.max(0.0).ln(), ln_add)
    }

    /// That ln E has passed the threshold by the time of these counts.
    fn probability(&self, counts: &Counts, threshold: f64) -> f64 {
        let Counts { bad, canary } = counts;
        let usual = self.ln_e(bad, canary);
        // What one bad request more is worth, by count.
        let mut moved = bad.clone();
        let mut gains = Vec::with_capacity(bad.len());
        for (index, &mean) in bad.iter().enumerate() {
            let beside = if index % 2 == 0 { [mean + 0.5, (mean - 0.5).max(0.0)] } else { [mean + 1.0, mean] };
            let of = beside.map(|count| {
                moved[index] = count;
                self.ln_e(&moved, canary)
            });
            moved[index] = mean;
            gains.push(if mean > 0.0 { of[0] - of[1] } else { 0.0 });
        }
        let variance: f64 = bad.iter().zip(&gains).map(|(mean, gain)| mean * gain * gain).sum();
        let deviation = variance.sqrt();
        if deviation < 1e-9 {
            return f64::from(u8::from(usual >= threshold));
        }
        // ln E that is exceeded with the probability of a normal deviate above -z.
        let exceeded = |z: f64| {
            let correction = (0.5 + (z * z - 1.0) / 6.0) / variance;
            let at = bad.iter().zip(&gains).enumerate().map(|(index, (&mean, gain))| {
                let correction = if index % 2 == 0 { correction * mean * gain * gain } else { 0.0 };
                (mean - z * mean * gain / deviation + correction).max(0.0)
            });
            self.ln_e(&at.collect::<Vec<_>>(), canary)
        };
        let (mut low, mut high) = (-6.0, 6.0);
        for _ in 0..16 {
            let middle = f64::midpoint(low, high);
            if exceeded(middle) >= threshold { low = middle } else { high = middle }
        }
        let z = f64::midpoint(low, high);
        // How far the walk had to go, in deviations: the threshold, seen along its present slope.
        let scaled = |factor: f64| {
            let scale = |all: &[f64]| all.iter().map(|count| count * factor).collect::<Vec<_>>();
            self.ln_e(&scale(bad), &scale(canary))
        };
        let slope = (scaled(1.02) - scaled(0.98)) / 0.04;
        let far = ((threshold - usual + slope) / deviation).max(0.0);
        let cubes: f64 = bad.iter().zip(&gains).map(|(mean, gain)| mean * gain.abs().powi(3)).sum();
        (normal(z) + crossed_before(z, far, cubes / variance / deviation)).min(1.0)
    }
}

/// Seconds that pass, once a step of this kind has begun, until so many canary requests were judged that it may go on;
/// infinite if it never may. `stable`: its share of bad requests.
pub fn seconds_to_go_on(slo: &Slo, rules: Rules, leg: Leg, stable: f64) -> f64 {
    if leg.canary <= 0.0 {
        return f64::INFINITY;
    }
    let slo = slo.sane();
    // As much as gives the shares exactly.
    let seconds = 1e9 / (leg.canary + leg.stable).max(1e-9);
    let count = |rate: f64, bad: f64| {
        let total = rate * seconds;
        Count { bad: (total * bad).round() as u64, total: total.round() as u64 }
    };
    let step = Sample { canary: count(leg.canary, stable), stable: count(leg.stable, stable) };
    let mut stakes = Stakes::new(rules.steps);
    stakes.step = u32::try_from(leg.step).unwrap_or(u32::MAX);
    let to_win = rules.threshold_of_own() - stakes.lump_of_step().ln();
    let needed = power::needed(&slo, step, Some(bet_ratio(&leg, rules.interval)), to_win, Phi::ONE).needed;
    if needed >= power::NEVER { f64::INFINITY } else { needed as f64 / leg.canary + rules.interval }
}

/// Seconds until a block is played.
fn block(leg: &Leg, interval: f64) -> f64 {
    let stable = (leg.stable * interval).max(1e-9);
    let ticks = (versus::BLOCK_REQUESTS as f64 / stable).ceil().min(f64::from(versus::BLOCK_TICKS));
    // Without any request at stable it waits for the first.
    ticks.max((1.0 / stable).ceil().min(f64::from(versus::CARRY_TICKS))).max(1.0) * interval
}

/// The ratio of the arms that bets are made by: the larger one of a block's own and that of the blocks before, so on
/// average it is above the true one.
fn bet_ratio(leg: &Leg, interval: f64) -> f64 {
    if leg.stable <= 0.0 {
        return 0.0;
    }
    let block = block(leg, interval);
    let noise = 1.0 / (leg.canary * block).max(1e-9) + 1.0 / (leg.stable * block).max(1e-9);
    // Old blocks fade by a quarter each, so their mean has a seventh of one block's variance. Of two normal variables
    // the larger one is above the mean by 0.4 of the deviation of their difference.
    let above = 0.4 * (noise * 8.0 / 7.0).sqrt();
    leg.canary / leg.stable / (1.0 - above.min(0.6))
}

/// ln(e^a + e^b).
fn ln_add(a: f64, b: f64) -> f64 {
    let (more, less) = if a > b { (a, b) } else { (b, a) };
    if less == f64::NEG_INFINITY { more } else { more + (less - more).exp().ln_1p() }
}

/// The normal distribution.
fn normal(z: f64) -> f64 {
    let tail = 0.5 * (-z * z / 2.0).exp() * scaled_erfc(z.abs() / std::f64::consts::SQRT_2);
    if z > 0.0 { 1.0 - tail } else { tail }
}

/// Probability that a walk, `z` deviations beyond a boundary that was `far` deviations away, has met it although its end
/// is not beyond it. It goes up in jumps, so where it has met it was beyond it by one.
fn crossed_before(z: f64, far: f64, jump: f64) -> f64 {
    let x = z + 2.0 * (far + jump);
    let ln = -z * z / 2.0 - 2.0 * jump * (far + jump);
    if x < 0.0 { 0.0 } else { 0.5 * ln.exp() * scaled_erfc(x / std::f64::consts::SQRT_2) }
}

/// e^(x^2) erfc(x) for x >= 0, to 1.2e-7 (Press et al., Numerical Recipes, erfcc).
fn scaled_erfc(x: f64) -> f64 {
    const TERMS: [f64; 10] = [
        -1.265_512_23,
        1.000_023_68,
        0.374_091_96,
        0.096_784_18,
        -0.186_288_06,
        0.278_868_07,
        -1.135_203_98,
        1.488_515_87,
        -0.822_152_23,
        0.170_872_77,
    ];
    let t = 1.0 / (1.0 + 0.5 * x);
    t * TERMS.iter().rev().fold(0.0, |sum, term| sum * t + term).exp()
}
