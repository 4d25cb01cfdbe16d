//! Requests that fall into categories: are the shares what they are said to be?
//!
//! One e-process for all such questions, the Bayes factor of a Dirichlet prior against given shares
//! (Lindon and Malek 2022, "Anytime-valid inference for multinomial count data"): it starts at 1, is a
//! martingale under the given shares, and so exceeds 1/alpha with probability alpha at most, however
//! often one looks. With two categories and the prior centred at the share that is asked about it is
//! the beta-binomial mixture of Howard, Ramdas, McAuliffe and Sekhon (2021, "Time-uniform,
//! nonparametric, nonasymptotic confidence sequences"); the shares it does not reject are an interval
//! that may be looked at as often as one likes, too.

use super::Count;

/// ln of the gamma function for x > 0: Stirling's series above 10, the recurrence below. Its error is
/// below 1e-13 times the result.
fn ln_gamma(x: f64) -> f64 {
    let (mut x, mut below) = (x, 0.0);
    while x < 10.0 {
        below += x.ln();
        x += 1.0;
    }
    let square = x * x;
    let series = (1.0 / 12.0 - (1.0 / 360.0 - (1.0 / 1260.0 - (1.0 / 1680.0) / square) / square) / square) / x;
    (x - 0.5) * x.ln() - x + 0.5 * std::f64::consts::TAU.ln() + series - below
}

/// ln of the probability of one sequence with these counts, if the shares are drawn from a Dirichlet
/// distribution with these parameters.
pub(super) fn ln_marginal(counts: &[f64], prior: &[f64]) -> f64 {
    let (all, mass) = (counts.iter().sum::<f64>(), prior.iter().sum::<f64>());
    let each = counts.iter().zip(prior).map(|(n, a)| ln_gamma(a + n) - ln_gamma(*a)).sum::<f64>();
    ln_gamma(mass) - ln_gamma(mass + all) + each
}

/// ln of the probability of one sequence with these counts under these shares.
pub(super) fn ln_likelihood(counts: &[f64], shares: &[f64]) -> f64 {
    counts.iter().zip(shares).filter(|(n, _)| **n > 0.0).map(|(n, share)| n * share.ln()).sum()
}

/// ln E against "the shares are these". `concentration`: how many requests the prior is worth; it
/// finds deviations of about 1/sqrt(concentration) fastest.
pub(super) fn ln_e(counts: &[f64], shares: &[f64], concentration: f64) -> f64 {
    let prior: Vec<f64> = shares.iter().map(|share| share * concentration).collect();
    ln_marginal(counts, &prior) - ln_likelihood(counts, shares)
}

/// The prior's concentration that makes the interval of [`Count::interval`] about shortest at `at`
/// requests (the choice of Howard et al. for confidence `1 - alpha`).
fn concentration(at: f64, alpha: f64) -> f64 {
    let nats = 2.0 * (1.0 / alpha).ln();
    (at / (nats + nats.ln_1p()) - 1.0).max(1e-3)
}

/// The interval is shortest at about so many requests.
const SHORTEST_AT: f64 = 1000.0;

impl Count {
    /// Bounds of the ratio of bad requests that hold with probability `1 - alpha` for all time, so that
    /// they may be shown at every tick. (0, 1) without requests.
    pub fn interval(self, alpha: f64) -> (f64, f64) {
        self.interval_for(alpha.clamp(1e-12, 0.5), SHORTEST_AT)
    }

    fn interval_for(self, alpha: f64, at: f64) -> (f64, f64) {
        let Some(ratio) = self.ratio() else { return (0.0, 1.0) };
        let counts = [self.bad.min(self.total) as f64, self.total.saturating_sub(self.bad) as f64];
        let concentration = concentration(at, alpha);
        let rejects = |share: f64| ln_e(&counts, &[share, 1.0 - share], concentration) >= -alpha.ln();
        // From the outermost share, which is rejected, towards the ratio, which never is.
        let edge = |outermost: f64| {
            let (mut out, mut inside) = (outermost, ratio);
            for _ in 0..60 {
                let middle = f64::midpoint(out, inside);
                if rejects(middle) {
                    out = middle;
                } else {
                    inside = middle;
                }
            }
            inside
        };
        (if counts[0] > 0.0 { edge(0.0) } else { 0.0 }, if counts[1] > 0.0 { edge(1.0) } else { 1.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Dice;
    use super::*;

    fn near(got: f64, want: f64) {
        assert!((got - want).abs() < 1e-6, "{got}, not {want}");
    }

    #[test]
    fn ln_gamma_is_what_is_known() {
        for (x, want) in [(1.0, 0.0), (0.5, std::f64::consts::PI.sqrt().ln()), (11.0, 3_628_800.0_f64.ln())] {
            assert!((ln_gamma(x) - want).abs() < 1e-12, "{x}");
        }
        // gamma(x + 1) = x gamma(x), over the seam between recurrence and series, too.
        for x in [1e-9, 0.3, 8.99, 9.5, 10.0, 1234.5, 1e9] {
            let (got, want) = (ln_gamma(x + 1.0) - ln_gamma(x), f64::ln(x));
            assert!((got - want).abs() < 1e-14 * ln_gamma(x).abs().max(100.0), "{x}: {got}, not {want}");
        }
    }

    #[test]
    fn published_p_values_of_lindon_and_malek() {
        // Their p-value is 1/E. What checks the split of the traffic is this very function.
        near((-ln_e(&[148.0, 62.0], &[0.8, 0.2], 100.0)).exp(), 0.0455796);
        near((-ln_e(&[40.0, 129.0, 233.0], &[0.1, 0.4, 0.5], 100.0)).exp(), 0.0484559);
    }

    #[test]
    fn published_interval_of_howard_and_ramdas() {
        // 700 of 1000, 95 %, shortest at 100.
        let (low, high) = Count { bad: 700, total: 1000 }.interval_for(0.05, 100.0);
        near(low, 0.651629);
        near(high, 0.745949);
    }

    #[test]
    fn an_interval_covers_the_truth_at_every_look() {
        // Given 400 arms at 2 % bad, looked at after each of 200 ticks:
        let missed = (0..400).filter(|seed| {
            let (mut dice, mut sum) = (Dice::new(seed + 1), Count::default());
            (0..200).any(|_| {
                sum.add(Count { bad: dice.binomial(30, 0.02), total: 30 });
                let (low, high) = sum.interval(0.05);
                low > 0.02 || high < 0.02
            })
        });
        let missed = missed.count();
        assert!(missed <= 20, "{missed} of 400");
    }

    #[test]
    fn an_interval_without_requests_or_without_bad_ones_says_so() {
        assert_eq!(Count::default().interval(0.05), (0.0, 1.0));
        let (low, high) = Count { bad: 0, total: 1000 }.interval(0.05);
        assert!(low == 0.0 && (0.002..0.02).contains(&high), "{high}");
        let (low, high) = Count { bad: 1000, total: 1000 }.interval(0.05);
        assert!(high == 1.0 && (0.98..0.998).contains(&low), "{low}");
    }
}
