//! A policy's steps as requests a second.

use serde::Serialize;

use crate::{
    api::{Lets, Policy, SloKind, Step, Strata, ValidSlo},
    evidence::{Leg, MOST_OTHERS, Rules, Slo, Watch},
};

/// The service as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Service {
    /// Requests a second that are counted, above 0.
    pub rate: f64,
    /// Share of them that fails, 0..1.
    pub errors: f64,
    /// Share of them that is slower than the threshold, 0..1.
    pub slow: f64,
}

impl Service {
    /// The bad share by this SLO.
    pub fn bad(&self, kind: SloKind) -> f64 {
        match kind {
            SloKind::Errors => self.errors,
            SloKind::Latency { .. } => self.slow,
        }
    }
}

/// What a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Kind {
    Weight,
    /// Those who match come on top, and nobody knows how many they are.
    Match,
    /// Copies: no caller sees what fails.
    Mirror,
    /// No requests of callers at all.
    Preview,
    /// Takes as long as a person takes; here no time.
    Approval,
}

impl Kind {
    /// Ends only when enough requests were seen.
    pub fn asks_evidence(self) -> bool {
        matches!(self, Self::Weight | Self::Mirror)
    }

    /// Bad answers of the canary reach callers.
    pub fn is_seen_by_callers(self) -> bool {
        self != Self::Mirror
    }
}

/// One step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stretch {
    pub kind: Kind,
    /// Percent of the requests; of a mirror's copies.
    pub percent: u32,
    /// Requests of both arms, for the time of the bake.
    pub leg: Leg,
}

/// The steps in order. What lies before the first and after the last (pods, gates, promotion) is not in it.
pub fn course(policy: &Policy, service: &Service) -> Vec<Stretch> {
    let mut weight = 0;
    let stretch = |(index, step): (usize, &Step)| {
        let (kind, percent, seconds) = match step {
            Step::Approval => (Kind::Approval, weight, 0.0),
            Step::Bake { lets, bake, .. } => {
                let (kind, percent) = match lets {
                    Lets::Weight(percent) => {
                        weight = *percent;
                        (Kind::Weight, weight)
                    }
                    Lets::Match(_) => (Kind::Match, weight),
                    Lets::Mirror(mirror) => (Kind::Mirror, mirror.percent),
                    Lets::Preview(_) => (Kind::Preview, 0),
                };
                (kind, percent, bake.as_secs_f64())
            }
        };
        let canary = service.rate * f64::from(percent) / 100.0;
        let stable = if kind == Kind::Mirror { service.rate } else { service.rate - canary };
        Stretch { kind, percent, leg: Leg { step: index, seconds, canary, stable } }
    };
    policy.steps.iter().enumerate().map(stretch).collect()
}

/// What the verdicts on one of its SLOs are made by.
pub fn rules(policy: &Policy, slo: &ValidSlo) -> Rules {
    Rules {
        alpha: policy.alpha,
        slos: policy.slos.len(),
        steps: policy.steps.len(),
        interval: policy.source.interval().as_secs_f64(),
        own: watch(slo).own(),
    }
}

/// What an SLO is looked at through. Which bounds a run will choose is not known yet: here they are as many as there may
/// be.
pub fn watch(valid: &ValidSlo) -> Watch {
    let others = if valid.tail { MOST_OTHERS } else { 0 };
    let bounds = (1..=others).map(|bound| (format!("bound {bound}"), 1.0)).collect();
    by_values(Watch::from(slo(valid)).through_bounds_named(bounds), valid)
}

/// The same, looked at through the SLO's label values, too. Which of them has how many requests is not known before the
/// run.
pub fn by_values(watch: Watch, valid: &ValidSlo) -> Watch {
    let strata: Vec<(String, f64)> = valid.by.iter().flat_map(Strata::names).map(|name| (name, 1.0)).collect();
    watch.through_strata(&strata)
}

/// As the evidence needs it.
pub fn slo(slo: &ValidSlo) -> Slo {
    Slo { name: slo.name.clone(), objective: slo.bad_allowed, relative: slo.relative, absolute: slo.absolute }
}
