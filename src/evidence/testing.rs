//! What several tests need: a small seeded generator and short ways to write counts.

use super::{Count, Judgement, Sample, Slo, Verdict};

pub(super) fn sample(e_c: u64, n_c: u64, e_s: u64, n_s: u64) -> Sample {
    Sample { canary: Count { bad: e_c, total: n_c }, stable: Count { bad: e_s, total: n_s } }
}

/// Errors at most 1 %, tolerance 1.5 x stable + 0.1 %.
pub(super) fn errors() -> Slo {
    Slo { name: "errors".into(), objective: 0.01, relative: 1.5, absolute: 0.001 }
}

pub(super) fn latency() -> Slo {
    Slo { name: "latency".into(), objective: 0.01, relative: 1.5, absolute: 0.005 }
}

pub(super) fn verdicts(judgements: &[Judgement]) -> Vec<Verdict> {
    judgements.iter().map(|j| j.verdict).collect()
}

/// xorshift64*: enough for tests, and the same on every machine.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        let mut dice = Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        for _ in 0..4 {
            dice.next();
        }
        dice
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// 0 < x < 1.
    pub(super) fn uniform(&mut self) -> f64 {
        ((self.next() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        (self.uniform() * n as f64) as u64
    }

    fn normal(&mut self) -> f64 {
        (-2.0 * self.uniform().ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
    }

    pub(super) fn poisson(&mut self, mean: f64) -> u64 {
        if mean > 400.0 {
            return (mean + mean.sqrt() * self.normal()).round().max(0.0) as u64;
        }
        // Knuth, in pieces small enough for exp.
        let mut count = 0;
        let mut product = self.uniform();
        let limit = (-mean).exp();
        while product > limit {
            product *= self.uniform();
            count += 1;
        }
        count
    }

    /// Waiting times between successes: fast for small `p`.
    pub(super) fn binomial(&mut self, n: u64, p: f64) -> u64 {
        if p <= 0.0 {
            return 0;
        }
        if p >= 1.0 {
            return n;
        }
        if p > 0.5 {
            return n - self.binomial(n, 1.0 - p);
        }
        let mean = n as f64 * p;
        if mean * (1.0 - p) > 1000.0 {
            let drawn = mean + (mean * (1.0 - p)).sqrt() * self.normal();
            return (drawn.round().max(0.0) as u64).min(n);
        }
        let step = (1.0 - p).ln();
        let (mut at, mut count) = (0_u64, 0);
        loop {
            at = at.saturating_add((self.uniform().ln() / step) as u64 + 1);
            if at > n {
                return count;
            }
            count += 1;
        }
    }

    /// One tick: `rate` requests on average, `weight` (0..1) of them to the canary.
    pub(super) fn tick(&mut self, rate: f64, weight: f64, p_c: f64, p_s: f64) -> Sample {
        let n_c = self.poisson(rate * weight);
        let n_s = self.poisson(rate * (1.0 - weight));
        sample(self.binomial(n_c, p_c), n_c, self.binomial(n_s, p_s), n_s)
    }
}
