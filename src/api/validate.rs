//! What a policy says, parsed once into types that can't be wrong. The API server has checked most of it already by the
//! CRD's rules; this checks it again for clusters whose CRD is older, and what CEL can't say.

use std::collections::BTreeSet;

use super::{
    rollout::{RolloutSpec, SloSpec, StepSpec},
    values::{Millis, Percent},
};

/// A policy that was checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// False alarms allowed per run, a ratio.
    pub alpha: f64,
    /// In order, not empty.
    pub slos: Vec<ValidSlo>,
    /// In order, not empty; weights don't go down.
    pub steps: Vec<Step>,
    /// The spec it came from: names, limits, telemetry.
    pub spec: RolloutSpec,
}

/// One SLO, in ratios.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidSlo {
    /// Its name.
    pub name: String,
    /// What makes a request bad.
    pub kind: SloKind,
    /// Allowed share of bad requests.
    pub bad_allowed: f64,
    /// Factor on stable's bad share.
    pub relative: f64,
    /// Added to it.
    pub absolute: f64,
}

/// What makes a request bad.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SloKind {
    /// It failed.
    Errors,
    /// It took longer than this.
    Latency {
        /// Bucket bound.
        threshold: Millis,
    },
}

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Give the canary this percent of requests for at least this long.
    Weight {
        /// 1 to 100.
        weight: u32,
        /// At least.
        bake: Millis,
    },
    /// Ask a person.
    Approval,
}

/// A policy that can't be run, with the field, what it should be and what it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("spec.{field}: expected {expected}, found {found}")]
pub struct Invalid {
    /// Path below spec.
    pub field: String,
    /// What it should be.
    pub expected: String,
    /// What it is.
    pub found: String,
}

fn invalid(field: impl Into<String>, expected: impl Into<String>, found: impl ToString) -> Invalid {
    Invalid { field: field.into(), expected: expected.into(), found: found.to_string() }
}

/// Checks a policy.
///
/// # Errors
/// The first field that is wrong.
pub fn validate(spec: &RolloutSpec) -> Result<Policy, Invalid> {
    if spec.workload_ref.kind != "Deployment" {
        return Err(invalid("workloadRef.kind", "Deployment", &spec.workload_ref.kind));
    }
    if let Some(route) = spec.routes.iter().find(|route| route.kind != "HTTPRoute") {
        return Err(invalid("routes[].kind", "HTTPRoute", &route.kind));
    }
    if !(50.0..100.0).contains(&spec.confidence.0) {
        return Err(invalid("confidence", "at least 50% and below 100%", spec.confidence));
    }
    Ok(Policy { alpha: 1.0 - spec.confidence.ratio(), slos: slos(spec)?, steps: steps(spec)?, spec: spec.clone() })
}

fn slos(spec: &RolloutSpec) -> Result<Vec<ValidSlo>, Invalid> {
    if spec.slos.is_empty() {
        return Err(invalid("slos", "at least one SLO", "none"));
    }
    let mut names = BTreeSet::new();
    for slo in &spec.slos {
        if !names.insert(&slo.name) {
            return Err(invalid("slos", "names that differ", format!("two called {}", slo.name)));
        }
    }
    spec.slos.iter().map(|slo| one_slo(spec, slo)).collect()
}

fn one_slo(spec: &RolloutSpec, slo: &SloSpec) -> Result<ValidSlo, Invalid> {
    let field = |name: &str| format!("slos[{}].{name}", slo.name);
    let (kind, objective, tolerance) = match (&slo.errors, &slo.latency) {
        (Some(errors), None) => (SloKind::Errors, errors.objective, &errors.tolerance),
        (None, Some(latency)) => {
            (SloKind::Latency { threshold: latency.threshold }, latency.objective, &latency.tolerance)
        }
        _ => return Err(invalid(field("errors"), "exactly one of errors and latency", "both or none")),
    };
    match kind {
        SloKind::Errors if spec.telemetry.requests.is_none() => {
            return Err(invalid("telemetry.requests", "the counter of requests, for the SLO on errors", "nothing"));
        }
        SloKind::Latency { threshold } if threshold.0 == 0 => {
            return Err(invalid(field("latency.threshold"), "longer than 0", threshold));
        }
        SloKind::Latency { .. } if spec.telemetry.latency.is_none() => {
            return Err(invalid("telemetry.latency", "the histogram of durations, for the SLO on latency", "nothing"));
        }
        _ => {}
    }
    if !(50.0..100.0).contains(&objective.0) {
        return Err(invalid(field("objective"), "at least 50% and below 100%", objective));
    }
    if !(1.0..=10.0).contains(&tolerance.relative) {
        return Err(invalid(field("tolerance.relative"), "a factor from 1 to 10", tolerance.relative));
    }
    let Percent(absolute) = tolerance.absolute;
    if !(0.0..50.0).contains(&absolute) {
        return Err(invalid(field("tolerance.absolute"), "from 0% to below 50%", tolerance.absolute));
    }
    Ok(ValidSlo {
        name: slo.name.clone(),
        kind,
        bad_allowed: 1.0 - objective.ratio(),
        relative: tolerance.relative,
        absolute: tolerance.absolute.ratio(),
    })
}

fn steps(spec: &RolloutSpec) -> Result<Vec<Step>, Invalid> {
    let most = if spec.routes.is_empty() { 50 } else { 100 };
    let mut last = 0;
    let mut steps = Vec::new();
    for (index, step) in spec.steps.iter().enumerate() {
        let field = format!("steps[{index}]");
        steps.push(match step {
            StepSpec { weight: Some(weight), bake, approval: None } => {
                if !(1..=most).contains(weight) {
                    return Err(invalid(field + ".weight", format!("from 1 to {most}"), weight));
                }
                if *weight < last {
                    return Err(invalid(field + ".weight", format!("at least {last}, the weight before"), weight));
                }
                last = *weight;
                Step::Weight { weight: *weight, bake: bake.unwrap_or_default() }
            }
            StepSpec { weight: None, bake: None, approval: Some(_) } => Step::Approval,
            _ => return Err(invalid(field, "a weight (with bake), or approval", "another mix")),
        });
    }
    if last == 0 {
        return Err(invalid("steps", "at least one step with a weight", "none"));
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn spec(change: impl FnOnce(&mut Value)) -> RolloutSpec {
        let mut value = json!({
            "workloadRef": {"kind": "Deployment", "name": "auth"}, "service": "auth",
            "routes": [{"kind": "HTTPRoute", "name": "auth"}],
            "telemetry": {
                "scrape": {"port": "http"},
                "requests": {"counter": "http_requests_total", "errors": {"code": "5.."}},
                "latency": {"histogram": "http_request_duration_seconds"}},
            "slos": [{"name": "errors", "errors": {"objective": "99%"}},
                     {"name": "latency", "latency": {"threshold": "250ms", "objective": "99%"}}],
            "steps": [{"weight": 5, "bake": "1m"}, {"approval": {}}, {"weight": 50}]
        });
        change(&mut value);
        serde_json::from_value(value).expect("a spec")
    }

    #[test]
    fn the_example_policy_is_valid_and_has_its_defaults() {
        let policy = validate(&spec(|_| {})).expect("valid");
        assert!((policy.alpha - 0.01).abs() < 1e-12);
        assert_eq!(policy.steps[1], Step::Approval);
        assert_eq!(policy.spec.limits.ready_within, Millis::seconds(600));
    }

    #[test]
    fn each_wrong_field_is_named_with_what_it_should_be() {
        type Change = fn(&mut Value);
        let cases: [(&str, Change); 8] = [
            ("weight before", |v| v["steps"] = json!([{"weight": 25}, {"weight": 5}])),
            ("from 1 to 100", |v| v["steps"] = json!([{"weight": 101}])),
            ("at least one step", |v| v["steps"] = json!([])),
            ("names that differ", |v| v["slos"][1]["name"] = json!("errors")),
            ("below 100%", |v| v["confidence"] = json!("100%")),
            ("below 100%", |v| v["slos"][0]["errors"]["objective"] = json!("100%")),
            ("from 1 to 50", |v| {
                v["routes"] = json!([]);
                v["steps"] = json!([{"weight": 60}])
            }),
            ("counter of requests", |v| {
                v["telemetry"].as_object_mut().expect("object").remove("requests");
            }),
        ];
        for (said, change) in cases {
            let error = validate(&spec(change)).expect_err(said).to_string();
            assert!(error.contains(said), "{said}: {error}");
        }
    }
}
