//! How often something happened, and how well that is known.

use std::fmt;

/// So many of so many.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share {
    pub hits: u64,
    pub of: u64,
}

impl Share {
    pub fn of(results: impl IntoIterator<Item = bool>) -> Self {
        let mut share = Self { hits: 0, of: 0 };
        for hit in results {
            share.hits += u64::from(hit);
            share.of += 1;
        }
        share
    }

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
    let (yes, no) = (p.ln(), (1.0 - p).ln());
    let (mut ln_choose, mut sum) = (0.0, 0.0);
    for k in 0..=hits {
        if k > 0 {
            ln_choose += ((of - k + 1) as f64 / k as f64).ln();
        }
        sum += (ln_choose + k as f64 * yes + (of - k) as f64 * no).exp();
    }
    sum.min(1.0)
}

/// "0.32 % [0.22, 0.45]"
impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (low, high) = self.interval();
        let text = format!("{:.2} % [{:.2}, {:.2}]", 100.0 * self.ratio(), 100.0 * low, 100.0 * high);
        f.pad(&text)
    }
}

/// Of no results there is none.
pub fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}

#[test]
fn intervals_are_those_of_the_tables() {
    // Clopper-Pearson as in R's binom.test.
    for (hits, of, low, high) in
        [(0, 10, 0.0, 0.308_497), (3, 20, 0.032_071, 0.378_927), (50, 100, 0.398_321, 0.601_679)]
    {
        let (got_low, got_high) = Share { hits, of }.interval();
        assert!((got_low - low).abs() < 1e-5 && (got_high - high).abs() < 1e-5, "{hits} of {of}: {got_low} {got_high}");
    }
    assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
}
