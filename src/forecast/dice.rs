//! A small seeded generator: for simulated releases, tests and the validation.

/// xorshift64*: enough for simulations, and the same each time.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The same seed gives the same numbers.
    pub fn new(seed: u64) -> Self {
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
    pub fn uniform(&mut self) -> f64 {
        ((self.next() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    /// 0 to n - 1.
    pub fn below(&mut self, n: u64) -> u64 {
        (self.uniform() * n as f64) as u64
    }

    fn normal(&mut self) -> f64 {
        (-2.0 * self.uniform().ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Of this mean.
    pub fn poisson(&mut self, mean: f64) -> u64 {
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
    pub fn binomial(&mut self, n: u64, p: f64) -> u64 {
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
}
