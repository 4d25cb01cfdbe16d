//! How often something happened, and how well that is known.

use std::fmt;

use serde::Serialize;

/// So many of so many.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Share {
    /// Of all.
    pub hits: u64,
    /// All.
    pub of: u64,
}

impl Share {
    /// Counts them.
    pub fn of(results: impl IntoIterator<Item = bool>) -> Self {
        let mut share = Self { hits: 0, of: 0 };
        for hit in results {
            share.hits += u64::from(hit);
            share.of += 1;
        }
        share
    }

    /// 0 of none.
    pub fn ratio(self) -> f64 {
        self.hits as f64 / self.of.max(1) as f64
    }

    /// The exact 95 % interval of Clopper and Pearson (1934).
    pub fn interval(self) -> (f64, f64) {
        let Self { hits, of } = self;
        let root = |too_low: &dyn Fn(f64) -> bool| {
            let (mut low, mut high) = (0.0, 1.0);
            for _ in 0..50 {
                let middle = f64::midpoint(low, high);
                if too_low(middle) { low = middle } else { high = middle }
            }
            low
        };
        let low = if hits == 0 { 0.0 } else { root(&|p| 1.0 - at_most(hits - 1, of, p) < 0.025) };
        let high = if hits == of { 1.0 } else { root(&|p| at_most(hits, of, p) > 0.025) };
        (low, high)
    }

    /// Not proven to be above this: the interval's lower end does not exceed it.
    pub fn may_be_at_most(self, bound: f64) -> bool {
        self.interval().0 <= bound
    }
}

/// P(X <= hits) of a binomial distribution.
fn at_most(hits: u64, of: u64, p: f64) -> f64 {
    let hits = usize::try_from(hits).unwrap_or(usize::MAX);
    cumulative(of, p).nth(hits).unwrap_or(1.0)
}

/// P(X <= k) of a binomial distribution, for k from 0 to `of`.
fn cumulative(of: u64, p: f64) -> impl Iterator<Item = f64> {
    let (yes, no) = (p.ln(), (1.0 - p).ln());
    (0..=of).scan((0.0, 0.0_f64), move |(ln_choose, sum), k| {
        if k > 0 {
            *ln_choose += ((of - k + 1) as f64 / k as f64).ln();
        }
        *sum += (*ln_choose + k as f64 * yes + (of - k) as f64 * no).exp();
        Some(sum.min(1.0))
    })
}

/// "0.32 % [0.22, 0.45]"
impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (low, high) = self.interval();
        let text = format!("{:.2} % [{:.2}, {:.2}]", 100.0 * self.ratio(), 100.0 * low, 100.0 * high);
        f.pad(&text)
    }
}

/// A quantile, and how well it is known.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Quantile {
    /// Of those that were drawn.
    pub value: f64,
    /// Its 95 % interval by order statistics; infinite where too few were drawn.
    pub low: f64,
    /// See `low`.
    pub high: f64,
}

/// The quantile of these, `None` of none. What never happened is infinity.
pub fn quantile(mut all: Vec<f64>, quantile: f64) -> Option<Quantile> {
    all.sort_by(f64::total_cmp);
    let last = all.len().checked_sub(1)?;
    let value = all[((all.len() as f64 * quantile) as usize).min(last)];
    // So many lie below the quantile with 97.5 % at least; and at most so many.
    let of = all.len() as u64;
    let below = cumulative(of, quantile).take_while(|share| *share <= 0.025).count();
    let above = cumulative(of, quantile).take_while(|share| *share < 0.975).count();
    let low = below.checked_sub(1).and_then(|rank| all.get(rank)).copied();
    Some(Quantile { value, low: low.unwrap_or(0.0), high: all.get(above).copied().unwrap_or(f64::INFINITY) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_those_of_the_tables() {
        // Clopper-Pearson as in R's binom.test.
        for (hits, of, low, high) in
            [(0, 10, 0.0, 0.308_497), (3, 20, 0.032_071, 0.378_927), (50, 100, 0.398_321, 0.601_679)]
        {
            let (got_low, got_high) = Share { hits, of }.interval();
            let off = (got_low - low).abs().max((got_high - high).abs());
            assert!(off < 1e-5, "{hits} of {of}: {got_low} {got_high}");
        }
    }

    #[test]
    fn quantiles_have_the_intervals_of_order_statistics() {
        let all: Vec<f64> = (1..=100).map(f64::from).collect();
        let median = quantile(all.clone(), 0.5).expect("some");
        // The 40th and the 61st of 100 enclose the median with 95 % (Conover, table A3).
        assert_eq!((median.value, median.low, median.high), (51.0, 40.0, 61.0));
        assert_eq!(quantile(all[..3].to_vec(), 0.9).map(|few| few.high), Some(f64::INFINITY));
        assert_eq!(quantile(Vec::new(), 0.5), None);
    }
}
