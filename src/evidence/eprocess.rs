//! E-processes: bets against "the canary is not worse", whose winnings are the evidence.
//!
//! Each tick multiplies the money at work by a likelihood ratio whose expectation under the null
//! hypothesis is at most 1. So by Ville's inequality P(ever E >= 1/alpha) <= alpha, however often
//! one looks and whenever one stops.
//!
//! All of them rest on independent requests given the past, and on 1 + x <= e^x:
//!
//! * [`Bet::Worse`], H0 p_c <= r0 p_s + d0: LR = (1+l)^e_c (1 - l rho r0)^e_s exp(-l d0 n_c), so
//!   E[LR] <= exp(l (n_c p_c - rho n_s r0 p_s - n_c d0)), which is <= 1 **whenever rho >= n_c/n_s**.
//!   A larger rho than the tick's own only costs power; a smaller one would break the bound.
//! * [`Bet::Over`], H0 p_c <= q: LR = (1+l)^e_c exp(-l q n_c).
//! * [`Bet::Better`], H0 p_c >= p_s: LR = (1-l)^e_c (1 + l rho)^e_s, valid whenever rho <= n_c/n_s.
//! * [`Bet::NotInferior`], H0 p_c >= r p_s + d: LR = (1-l)^e_c (1 + l rho r)^e_s exp(l d n_c), valid
//!   whenever rho <= n_c/n_s, too: E[LR] <= exp(l (n_c (d - p_c) + rho n_s r p_s)).

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use super::{Count, Sample};

/// How many alternatives a bet is spread over.
pub(super) const ALTERNATIVES: usize = 24;

/// The alternatives: so many times what the null allows. 1.1 to 20, evenly spaced in the logarithm:
/// mild ones are found in the long run, gross ones within a dozen requests.
static FACTORS: LazyLock<[f64; ALTERNATIVES]> = LazyLock::new(|| spaced(1.1, 20.0));

/// Stakes of [`Bet::Better`]: the share of the money that one bad canary request costs.
const BETTER: [f64; 8] = [0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.85, 0.95];

/// Stakes of [`Bet::NotInferior`]: 0.02 to 0.8, evenly spaced in the logarithm. Small ones survive a
/// stable that has many bad requests itself, large ones are quick beside a clean one.
static NOT_INFERIOR: LazyLock<[f64; 8]> = LazyLock::new(|| spaced(0.02, 0.8));

/// From `low` to `high`, evenly spaced in the logarithm.
fn spaced<const N: usize>(low: f64, high: f64) -> [f64; N] {
    let (low, high) = (low.ln(), high.ln());
    let step = (high - low) / (N - 1) as f64;
    std::array::from_fn(|k| (low + step * k as f64).exp())
}

/// By how much bad requests come together: the Fano factor of their counts, at least 1.
///
/// A likelihood ratio is raised to the power 1/phi. For independent requests E[LR^(1/phi)] <=
/// E[LR]^(1/phi) <= 1 (Jensen), so this never spoils the false-alarm rate. Requests that fail phi at a
/// time are counted once: their number over phi is that of independent events, and the bound on E[LR]
/// holds as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Phi {
    thousandths: u32,
}

impl Phi {
    /// Independent requests.
    pub const ONE: Self = Self { thousandths: 1000 };
    const MOST: f64 = 1e6;

    /// Rounded up; 1 for what is less or no number.
    pub fn new(phi: f64) -> Self {
        let phi = if phi.is_nan() { 1.0 } else { phi.clamp(1.0, Self::MOST) };
        Self { thousandths: (phi * 1000.0).ceil() as u32 }
    }

    pub fn get(self) -> f64 {
        f64::from(self.thousandths.max(1000)) / 1000.0
    }
}

/// Natural logarithm of money, as a whole number of 1e-9 nats. Whole numbers come back from any
/// JSON or YAML as they were written, so a fold goes on after a restart exactly as it would have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Nats(i64);

impl Nats {
    /// Neither money nor debt is counted beyond this: e^1e9 is far from any threshold.
    const LIMIT: f64 = 1e9;
    /// No money at all, for every practical purpose.
    pub(super) const NOTHING: Self = Self(-1_000_000_000_000_000_000);
    pub(super) const ZERO: Self = Self(0);

    /// Rounds down: what rounding changes may cost evidence but never invent it.
    pub(super) fn new(nats: f64) -> Self {
        if nats.is_nan() {
            return Self::NOTHING;
        }
        Self((nats.clamp(-Self::LIMIT, Self::LIMIT) * 1e9).floor() as i64)
    }

    pub(super) fn get(self) -> f64 {
        (self.0 as f64 / 1e9).clamp(-Self::LIMIT, Self::LIMIT)
    }
}

/// ln(sum of e^x), safe for large and for hopeless x.
pub(super) fn ln_sum(logs: impl Iterator<Item = f64> + Clone) -> f64 {
    let top = logs.clone().fold(f64::NEG_INFINITY, f64::max);
    if !top.is_finite() {
        return top;
    }
    top + logs.map(|x| (x - top).exp()).sum::<f64>().ln()
}

/// Which of several e-values are discoveries, so that of those at most a share `rate` is false on
/// average, however they depend on each other: the k largest, for the largest k of which the k-th is at
/// least n/(rate k) (e-BH, Wang and Ramdas 2022). In and out in the same order.
pub(super) fn discoveries(ln_e: &[f64], rate: f64) -> Vec<bool> {
    let mut order: Vec<f64> = ln_e.to_vec();
    order.sort_by(|a, b| b.total_cmp(a));
    let needed = |k: usize| (ln_e.len() as f64 / (rate * k as f64)).ln();
    let least = (1..=order.len()).rev().find(|&k| order[k - 1] >= needed(k)).map(|k| order[k - 1]);
    ln_e.iter().map(|e| least.is_some_and(|least| *e >= least)).collect()
}

/// What is bet on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bet {
    /// Canary worse than `relative` times stable plus `absolute`.
    Worse { relative: f64, absolute: f64 },
    /// Canary over `objective`, stable unasked.
    Over { objective: f64 },
    /// Canary better than stable.
    Better,
    /// Canary not as bad as `relative` times stable plus `absolute`.
    NotInferior { relative: f64, absolute: f64 },
}

impl Bet {
    fn alternatives(self) -> &'static [f64] {
        match self {
            Self::Worse { .. } | Self::Over { .. } => &*FACTORS,
            Self::Better => &BETTER,
            Self::NotInferior { .. } => &*NOT_INFERIOR,
        }
    }

    /// ln LR against one alternative, which is linear in the counts.
    fn terms(self, alternative: f64, rho: f64) -> Terms {
        match self {
            Self::Worse { relative, absolute } => {
                // theta(r)/theta(r0) - 1 with theta(r) = r rho/(r rho + 1), in a form that is
                // exact for rho = 0 too.
                let l = (alternative - 1.0) / (alternative * relative * rho + 1.0);
                Terms { canary: l.ln_1p(), stable: (-l * relative * rho).ln_1p(), request: -l * absolute }
            }
            Self::Over { objective } => {
                Terms { canary: alternative.ln(), stable: 0.0, request: -(alternative - 1.0) * objective }
            }
            Self::Better => Terms { canary: (-alternative).ln_1p(), stable: (alternative * rho).ln_1p(), request: 0.0 },
            Self::NotInferior { relative, absolute } => Terms {
                canary: (-alternative).ln_1p(),
                stable: (alternative * rho * relative).ln_1p(),
                request: alternative * absolute,
            },
        }
    }

    /// The mixture of all alternatives at this ratio of the arms.
    pub(super) fn mixture(self, rho: f64) -> Mixture {
        let terms = self.alternatives().iter().map(|&alternative| self.terms(alternative, rho));
        Mixture { bet: self, rho, terms: terms.collect() }
    }
}

/// ln LR for each bad request of the canary, for each of stable, and for each request of the canary.
struct Terms {
    canary: f64,
    stable: f64,
    request: f64,
}

impl Terms {
    /// `bad`: canary, stable. Fractions are welcome, power calculations need them.
    fn ln_ratio(&self, bad: (f64, f64), canary_total: f64) -> f64 {
        bad.0 * self.canary + bad.1 * self.stable + canary_total * self.request
    }
}

/// A bet at one ratio of the arms.
pub(super) struct Mixture {
    bet: Bet,
    rho: f64,
    /// By alternative.
    terms: Vec<Terms>,
}

impl Mixture {
    /// The mixture for this bet and ratio, left in its place for the next who needs it: facets of an SLO
    /// mostly have the same requests, and logarithms are what a tick costs.
    pub(super) fn kept(place: &mut Option<Self>, bet: Bet, rho: f64) -> &Self {
        let kept = place.take().filter(|kept| kept.bet == bet && kept.rho == rho);
        place.insert(kept.unwrap_or_else(|| bet.mixture(rho)))
    }

    /// ln LR of counts, by alternative.
    pub(super) fn ln_ratios(&self, bad: (f64, f64), canary_total: f64) -> impl Iterator<Item = f64> + Clone {
        self.terms.iter().map(move |terms| terms.ln_ratio(bad, canary_total))
    }

    /// ln E of counts, all money at work from their beginning.
    pub(super) fn ln_e(&self, bad: (f64, f64), canary_total: f64) -> f64 {
        ln_sum(self.ln_ratios(bad, canary_total)) - (self.terms.len() as f64).ln()
    }
}

/// Money at work, kept apart by alternative.
///
/// Restarts are free: all of them meet the same likelihood ratios, so the sum over the restarts
/// of (share x winnings) moves as one number per alternative, and a new restart is just money
/// added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Purse(Vec<Nats>);

impl Purse {
    /// No money is at work yet.
    pub fn new(bet: Bet) -> Self {
        Self(vec![Nats::NOTHING; bet.alternatives().len()])
    }

    /// Puts `share` (of the 1 that the run owns) to work, spread evenly.
    pub fn add(&mut self, share: f64) {
        if share <= 0.0 || self.0.is_empty() {
            return;
        }
        let each = (share / self.0.len() as f64).ln();
        for log in &mut self.0 {
            let (more, less) = (log.get().max(each), log.get().min(each));
            *log = Nats::new(more + (less - more).exp().ln_1p());
        }
    }

    /// Plays one sample. `rho`: canary requests for each stable request, on the safe side of the sample's
    /// own ratio (see the module).
    pub fn play(&mut self, bet: Bet, sample: Sample, rho: f64, phi: Phi) {
        self.play_mixture(&bet.mixture(rho), sample, phi);
    }

    pub(super) fn play_mixture(&mut self, mixture: &Mixture, sample: Sample, phi: Phi) {
        let sample = sample.clamped();
        let bad = (sample.canary.bad as f64, sample.stable.bad as f64);
        let total = sample.canary.total as f64;
        for (log, terms) in self.0.iter_mut().zip(&mixture.terms) {
            *log = Nats::new(log.get() + terms.ln_ratio(bad, total) / phi.get());
        }
    }

    /// ln E: winnings plus the money that is not at work (`idle`, 0..=1).
    pub fn ln_e(&self, idle: f64) -> f64 {
        let work = ln_sum(self.0.iter().map(|log| log.get()));
        ln_sum([work, idle.max(0.0).ln()].into_iter()).max(-Nats::LIMIT)
    }
}

/// Canary requests for each stable request; 0 without stable requests.
pub(super) fn ratio(canary: Count, stable: Count) -> f64 {
    if stable.total == 0 { 0.0 } else { canary.total as f64 / stable.total as f64 }
}

#[cfg(test)]
mod tests {
    use super::super::testing::sample;
    use super::*;

    fn worse(relative: f64, absolute: f64) -> Bet {
        Bet::Worse { relative, absolute }
    }

    fn ln_e(bet: Bet, ticks: &[(u64, u64, u64, u64)]) -> f64 {
        let mut purse = Purse::new(bet);
        purse.add(1.0);
        for &(e_c, n_c, e_s, n_s) in ticks {
            let tick = sample(e_c, n_c, e_s, n_s);
            purse.play(bet, tick, ratio(tick.canary, tick.stable), Phi::ONE);
        }
        purse.ln_e(0.0)
    }

    #[test]
    fn the_published_vectors_come_out() {
        for (ticks, want) in [
            (vec![(5, 1000, 9, 9000)], 2.573266),
            (vec![(1, 1000, 9, 9000)], -1.031577),
            (vec![(3, 500, 9, 9500), (4, 1000, 8, 9000), (10, 2500, 6, 7500)], 8.792987),
            (vec![(0, 1000, 50, 9000)], -3.070569),
        ] {
            let got = ln_e(worse(1.0, 0.0), &ticks);
            assert!((got - want).abs() < 1e-6, "{ticks:?}: {got}, not {want}");
        }
    }

    #[test]
    fn a_tick_in_one_piece_is_the_closed_formula() {
        let bet = worse(1.5, 0.001);
        let got = ln_e(bet, &[(7, 400, 20, 7600)]);
        let want = bet.mixture(400.0 / 7600.0).ln_e((7.0, 20.0), 400.0);
        assert!((got - want).abs() < 1e-6, "{got}, not {want}");
    }

    /// Sums LR over all outcomes of small binomial ticks: the expectation itself, no simulation.
    #[test]
    fn under_the_null_the_expected_ratio_is_at_most_one() {
        let binomial = |n: u64, p: f64| -> Vec<f64> {
            (0..=n)
                .map(|k| {
                    let choose: f64 = (0..k).map(|i| (n - i) as f64 / (i + 1) as f64).product();
                    choose * p.powi(k as i32) * (1.0 - p).powi((n - k) as i32)
                })
                .collect()
        };
        let expected = |bet: Bet, p_c: f64, p_s: f64, rho: f64| -> f64 {
            let (canary, stable) = (binomial(8, p_c), binomial(12, p_s));
            let mixture = bet.mixture(rho);
            let mut sum = 0.0;
            for (e_c, a) in canary.iter().enumerate() {
                for (e_s, b) in stable.iter().enumerate() {
                    sum += a * b * mixture.ln_e((e_c as f64, e_s as f64), 8.0).exp();
                }
            }
            sum
        };
        let own = 8.0 / 12.0;
        for p_s in [0.0, 0.02, 0.2, 0.5] {
            let bound = 1.5 * p_s + 0.01;
            for rho in [own, 1.3 * own, 5.0 * own] {
                assert!(expected(worse(1.5, 0.01), bound, p_s, rho) <= 1.0 + 1e-9);
            }
            assert!(expected(Bet::Better, p_s, p_s, own) <= 1.0 + 1e-9);
            for rho in [own, own / 3.0, 0.0] {
                let not_inferior = Bet::NotInferior { relative: 1.5, absolute: 0.01 };
                assert!(expected(not_inferior, bound, p_s, rho) <= 1.0 + 1e-9);
            }
            assert!(expected(Bet::Over { objective: 0.1 }, 0.1, p_s, own) <= 1.0 + 1e-9);
        }
        // Why an old, smaller rho must not be used once the weight has risen:
        assert!(expected(worse(1.0, 0.0), 0.2, 0.2, own / 5.0) > 1.1);
    }

    #[test]
    fn requests_that_fail_together_are_counted_once() {
        // Given events that take five requests each: with phi = 5 evidence is that of the events alone.
        let bet = worse(1.0, 0.0);
        let play = |sample, phi| {
            let mut purse = Purse::new(bet);
            purse.add(1.0);
            purse.play(bet, sample, 1.0 / 9.0, Phi::new(phi));
            purse.ln_e(0.0)
        };
        let together = play(sample(25, 1000, 45, 9000), 5.0);
        assert!((together - play(sample(5, 200, 9, 1800), 1.0)).abs() < 1e-6);
        // The very first vector, and five times as much evidence if each request counted by itself.
        assert!((together - 2.573266).abs() < 1e-6);
        assert!(play(sample(25, 1000, 45, 9000), 1.0) > 15.0);
        assert_eq!([0.0, f64::NAN, 1.0].map(Phi::new), [Phi::ONE; 3]);
    }

    #[test]
    fn money_added_later_is_an_average_over_restarts() {
        let bet = worse(1.0, 0.0);
        let (first, second) = ((1, 1000, 9, 9000), (9, 1000, 9, 9000));
        let play = |purse: &mut Purse, (e_c, n_c, e_s, n_s)| {
            purse.play(bet, sample(e_c, n_c, e_s, n_s), 1.0 / 9.0, Phi::ONE);
        };
        let mut purse = Purse::new(bet);
        purse.add(0.5);
        play(&mut purse, first);
        purse.add(0.3);
        play(&mut purse, second);

        let both = ln_e(bet, &[first, second]).exp();
        let late = ln_e(bet, &[second]).exp();
        let want = (0.5 * both + 0.3 * late + 0.2).ln();
        assert!((purse.ln_e(0.2) - want).abs() < 1e-6);
    }

    #[test]
    fn discoveries_are_those_of_e_bh() {
        // Ten e-values at 5 %: one alone needs 200, two need 100 each, three 66.7.
        let ln = |e: [f64; 10]| e.map(f64::ln);
        let count = |e: [f64; 10]| discoveries(&ln(e), 0.05).iter().filter(|named| **named).count();
        let rest = [1.0, 0.5, 0.0, 3.0, 1.0, 0.1, 19.0];
        let with = |a: f64, b: f64, c: f64| {
            let mut all = [0.0; 10];
            all[..3].copy_from_slice(&[b, c, a]);
            all[3..].copy_from_slice(&rest);
            all
        };
        assert_eq!(count(with(199.0, 1.0, 1.0)), 0);
        assert_eq!(count(with(201.0, 1.0, 1.0)), 1);
        assert_eq!(count(with(150.0, 101.0, 1.0)), 2);
        assert_eq!(count(with(150.0, 99.0, 67.0)), 3);
        assert_eq!(discoveries(&ln(with(201.0, 1.0, 1.0)), 0.05)[..3], [false, false, true]);
        assert!(discoveries(&[], 0.05).is_empty());
    }

    #[test]
    fn numbers_beyond_measure_stay_numbers() {
        let bet = worse(1.0, 0.0);
        for ticks in [
            [(u64::MAX, u64::MAX, 0, 1)],
            [(0, 1, u64::MAX, u64::MAX)],
            [(u64::MAX, u64::MAX, u64::MAX, u64::MAX)],
            [(9, 3, 9, 3)],
            [(0, 0, 0, 0)],
        ] {
            assert!(ln_e(bet, &ticks).is_finite(), "{ticks:?}");
        }
        assert_eq!(Nats::new(f64::NAN), Nats::NOTHING);
    }
}
