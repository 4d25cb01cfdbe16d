//! What several tests need: short ways to write counts.

use super::{Count, Judgement, Sample, Slo, Verdict};
pub(super) use crate::forecast::Dice;

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

impl Dice {
    /// One tick: `rate` requests on average, `weight` (0..1) of them to the canary.
    pub(super) fn tick(&mut self, rate: f64, weight: f64, p_c: f64, p_s: f64) -> Sample {
        let n_c = self.poisson(rate * weight);
        let n_s = self.poisson(rate * (1.0 - weight));
        sample(self.binomial(n_c, p_c), n_c, self.binomial(n_s, p_s), n_s)
    }
}
