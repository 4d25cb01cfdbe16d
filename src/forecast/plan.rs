//! The trade-off of a policy in numbers: what each step can see, what a bad version would cost, how long it takes; and
//! what a faster and a safer policy would cost instead. Computed, so that it is there at once.

use serde::Serialize;

use super::course::{Kind, Service, Stretch, course, rules, slo};
use crate::{
    api::{Advance, Lets, Millis, Otherwise, Policy, SloKind, Step, ValidSlo},
    evidence::{Detection, Leg, seconds_to_go_on},
};

/// What may go wrong: so many of the requests that succeed today fail.
pub const TYPICAL: [f64; 4] = [1.0, 0.2, 0.05, 0.01];
/// With which probabilities a step is asked what it sees.
const SEEN: [f64; 2] = [0.8, 0.99];
/// The lucky release of ten, the usual one and the unlucky one; and what each counts for the mean (Swanson's rule).
const LUCK: [f64; 3] = [0.1, 0.5, 0.9];
const COUNTS: [f64; 3] = [0.3, 0.4, 0.3];

/// A policy in numbers. Times in seconds, shares from 0 to 1.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    pub service: Service,
    /// From a decision until the traffic is back.
    pub reaction: f64,
    pub steps: Vec<StepPlan>,
    /// The policy itself, a faster one and a safer one.
    pub policies: Vec<PolicyPlan>,
    /// What somebody should know before the release.
    pub warnings: Vec<String>,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StepPlan {
    /// Counted from 1.
    pub step: usize,
    pub kind: Kind,
    /// The canary's percent of the requests; of a mirror's copies.
    pub percent: u32,
    pub bake: f64,
    /// How long it takes: longer than its bake where requests are few. `None`: it never sees enough.
    pub takes: Option<f64>,
    /// In the bake.
    pub canary_requests: f64,
    /// By SLO.
    pub slos: Vec<Sight>,
}

/// What one SLO sees in the bake of one step.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sight {
    pub slo: String,
    /// Its bad share today.
    pub today: f64,
    /// The least bad share that is found with 80 % probability; `None`: not even a canary that fails every request.
    pub found80: Option<Found>,
    /// With 99 %.
    pub found99: Option<Found>,
}

/// A regression that begins with the step and is found in it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Found {
    /// The canary's bad share.
    pub share: f64,
    /// Half of such releases are found within.
    pub seconds: f64,
    /// Callers' requests that fail because of it by then and until the traffic is back.
    pub failed: f64,
}

/// A policy as a whole.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyPlan {
    pub name: String,
    /// At least; pods, people and gates come on top. `None`: a step never sees enough.
    pub takes: Option<f64>,
    /// In the order of [`TYPICAL`].
    pub costs: Vec<Cost>,
}

/// What a version that is bad from its first request costs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cost {
    /// Share of good requests that it spoils.
    pub spoils: f64,
    /// Share of such releases that is found before the promotion.
    pub found: f64,
    /// Half of them are found within; `None`: fewer than half are found.
    pub seconds: Option<f64>,
    /// Nine of ten.
    pub seconds90: Option<f64>,
    /// Callers' requests that fail because of it until the traffic is back, or until the promotion: the mean.
    pub failed: f64,
}

impl Plan {
    /// `reaction`: seconds from a decision until the traffic is back.
    pub fn new(policy: &Policy, service: Service, reaction: f64) -> Self {
        let outlook = Outlook { policy, service, reaction };
        let steps = outlook.steps();
        let faster = faster(policy);
        let (safer, safer_name) = safer(policy);
        let variants =
            [("this policy".to_owned(), policy), ("faster: half the bakes".to_owned(), &faster), (safer_name, &safer)];
        let policies = variants.map(|(name, policy)| Outlook { policy, ..outlook }.as_a_whole(name));
        let warnings = outlook.warnings(&steps);
        Self { service, reaction, steps, policies: policies.into(), warnings }
    }
}

/// What a plan comes to, in a line: for the run's own record. The rate is taken to be about right.
pub fn in_a_line(policy: &Policy, service: Service, reaction: f64) -> String {
    let outlook = Outlook { policy, service, reaction };
    let stretches = course(policy, &service);
    let takes: Option<f64> = stretches.iter().map(|stretch| outlook.takes(stretch)).sum();
    let takes = takes.map_or("the steps never end by themselves".to_owned(), |seconds| {
        format!("the steps take {} at least", time(seconds))
    });
    let first = stretches.iter().enumerate().find(|(_, stretch)| stretch.kind.asks_evidence());
    let first = first.map(|(index, stretch)| {
        let sees = |slo: &ValidSlo| {
            let found = outlook.least_share(slo, stretch, SEEN[0]);
            let share = found.map_or("nothing".to_owned(), |share| format!("{} bad", percent(share)));
            format!("{share} by {}", slo.name)
        };
        let sees: Vec<String> = policy.slos.iter().map(sees).collect();
        format!("; step {} finds {} in its bake, 4 of 5 times", index + 1, sees.join(", "))
    });
    let cost = outlook.cost(0.2);
    let bad = match cost.seconds {
        Some(seconds) => format!("found in {}, after {} failed requests", time(seconds), requests(cost.failed.round())),
        None => format!("promoted more often than found, after {} failed requests", requests(cost.failed.round())),
    };
    let digits = 10_f64.powf(service.rate.log10().floor() - 1.0);
    let rate = (service.rate / digits).round() * digits;
    format!(
        "with about {} {takes}{}; a version that spoils 20 % of them is {bad}",
        rate_words(rate),
        first.unwrap_or_default()
    )
}

#[derive(Clone, Copy)]
struct Outlook<'a> {
    policy: &'a Policy,
    service: Service,
    reaction: f64,
}

impl Outlook<'_> {
    fn steps(&self) -> Vec<StepPlan> {
        let step = |(index, stretch): (usize, Stretch)| StepPlan {
            step: index + 1,
            kind: stretch.kind,
            percent: stretch.percent,
            bake: stretch.leg.seconds,
            takes: self.takes(&stretch),
            canary_requests: stretch.leg.canary * stretch.leg.seconds,
            slos: match stretch.kind {
                Kind::Approval | Kind::Preview => Vec::new(),
                _ => self.policy.slos.iter().map(|slo| self.sight(slo, &stretch)).collect(),
            },
        };
        course(self.policy, &self.service).into_iter().enumerate().map(step).collect()
    }

    /// Seconds that a step takes; `None`: for ever.
    fn takes(&self, stretch: &Stretch) -> Option<f64> {
        let needs = |valid: &ValidSlo| {
            seconds_to_go_on(&slo(valid), rules(self.policy, valid), stretch.leg, self.service.bad(valid.kind))
        };
        let seconds = match stretch.kind.asks_evidence() {
            true => self.policy.slos.iter().map(needs).fold(stretch.leg.seconds, f64::max),
            false => stretch.leg.seconds,
        };
        seconds.is_finite().then_some(seconds)
    }

    fn sight(&self, valid: &ValidSlo, stretch: &Stretch) -> Sight {
        let today = self.service.bad(valid.kind);
        let [found80, found99] = SEEN.map(|probability| self.least_found(valid, stretch, probability));
        Sight { slo: valid.name.clone(), today, found80, found99 }
    }

    /// The mildest regression that begins with this step and is found in its bake with this probability.
    fn least_found(&self, valid: &ValidSlo, stretch: &Stretch, probability: f64) -> Option<Found> {
        let share = self.least_share(valid, stretch, probability)?;
        let seconds = self.detection(valid, stretch, share).within(0.5)?;
        let exposed = if stretch.kind.is_seen_by_callers() { stretch.leg.canary } else { 0.0 };
        let today = self.service.bad(valid.kind);
        Some(Found { share, seconds, failed: (share - today) * exposed * (seconds + self.reaction) })
    }

    /// Its share of bad requests.
    fn least_share(&self, valid: &ValidSlo, stretch: &Stretch, probability: f64) -> Option<f64> {
        let today = self.service.bad(valid.kind);
        let is_found =
            |share: f64| self.detection(valid, stretch, share).probability(stretch.leg.seconds) >= probability;
        if !is_found(1.0) {
            return None;
        }
        // The excess is sought in its logarithm.
        let (mut low, mut high) = ((1e-6_f64).ln(), (1.0 - today).max(1e-6).ln());
        for _ in 0..14 {
            let middle = f64::midpoint(low, high);
            if is_found(today + middle.exp()) { high = middle } else { low = middle }
        }
        Some((today + high.exp()).min(1.0))
    }

    /// Of a version with this share of bad requests, in one step.
    fn detection(&self, valid: &ValidSlo, stretch: &Stretch, share: f64) -> Detection {
        let today = self.service.bad(valid.kind);
        Detection::new(&slo(valid), rules(self.policy, valid), &[stretch.leg], (share, today))
    }

    /// The way through all steps. A step that would never end takes as long as its time limit.
    fn way(&self) -> Vec<(Stretch, Leg)> {
        let timeout = self.policy.spec.limits.step_timeout.as_secs_f64();
        let long = |stretch: Stretch| {
            let seconds = self.takes(&stretch).unwrap_or(timeout.max(stretch.leg.seconds));
            (stretch, Leg { seconds, ..stretch.leg })
        };
        course(self.policy, &self.service).into_iter().map(long).collect()
    }

    fn as_a_whole(&self, name: String) -> PolicyPlan {
        let takes: Option<Vec<f64>> =
            course(self.policy, &self.service).iter().map(|stretch| self.takes(stretch)).collect();
        PolicyPlan {
            name,
            takes: takes.map(|seconds| seconds.iter().sum()),
            costs: TYPICAL.map(|spoils| self.cost(spoils)).into(),
        }
    }

    /// Of a version that spoils this share of good requests: it fails them, or is slow where nothing else is watched.
    fn cost(&self, spoils: f64) -> Cost {
        let way = self.way();
        let legs: Vec<Leg> = way.iter().map(|(_, leg)| *leg).collect();
        let errors = self.policy.slos.iter().any(|slo| slo.kind == SloKind::Errors);
        let sees = self.policy.slos.iter().filter(|slo| !errors || slo.kind == SloKind::Errors);
        let detections: Vec<Detection> = sees
            .map(|valid| {
                let today = self.service.bad(valid.kind);
                Detection::new(&slo(valid), rules(self.policy, valid), &legs, (today + spoils * (1.0 - today), today))
            })
            .collect();
        let all: f64 = legs.iter().map(|leg| leg.seconds).sum();
        let today = if errors { self.service.errors } else { self.service.slow };
        let excess = spoils * (1.0 - today);
        let capped = self.capped_after(&legs, excess);
        let found = detections.iter().map(|detection| detection.probability(all)).fold(0.0, f64::max);
        let within = LUCK.map(|luck| {
            let verdicts = detections.iter().filter_map(|detection| detection.within(luck));
            verdicts.chain(capped).min_by(f64::total_cmp)
        });
        let failed = |until: Option<f64>| excess * exposed(&way, until.map_or(all, |found| found + self.reaction));
        let [_, seconds, seconds90] = within;
        Cost {
            spoils,
            found: if capped.is_some() { 1.0 } else { found },
            seconds,
            seconds90,
            failed: within.iter().zip(COUNTS).map(|(until, counts)| counts * failed(*until)).sum(),
        }
    }

    /// When limits.failedRequests is reached.
    fn capped_after(&self, legs: &[Leg], excess: f64) -> Option<f64> {
        let interval = self.policy.source.interval().as_secs_f64();
        let mut left = self.policy.spec.limits.failed_requests as f64;
        let mut before = 0.0;
        for leg in legs {
            let rate = excess * leg.canary;
            if rate * leg.seconds >= left {
                return Some(before + (left / rate / interval).ceil() * interval);
            }
            left -= rate * leg.seconds;
            before += leg.seconds;
        }
        None
    }

    fn warnings(&self, steps: &[StepPlan]) -> Vec<String> {
        let mut warnings = Vec::new();
        for slo in &self.policy.slos {
            let today = self.service.bad(slo.kind);
            if today > slo.bad_allowed {
                warnings.push(format!(
                    "SLO {}: the service misses its objective as it is ({} bad, {} allowed); the steps are held (SharedFault) while it misses it clearly, and what the objective finds is not in these figures",
                    slo.name,
                    percent(today),
                    percent(slo.bad_allowed)
                ));
            }
            if !slo.only.is_empty() {
                warnings.push(format!(
                    "SLO {}: only some of the requests are its own (latency.only); here it is taken to have all, so it sees less than this",
                    slo.name
                ));
            }
        }
        for step in steps {
            warnings.extend(self.warnings_of(step));
        }
        if self.policy.spec.routes.is_empty() {
            warnings.push("without a route the weight is a share of pods, so it is only as near to what is asked as whole pods allow".to_owned());
        }
        if self.policy.spec.advance == Advance::OnEvidence {
            warnings.push("advance: OnEvidence: a step may end before its bake; here it takes all of it".to_owned());
        }
        warnings
    }

    fn warnings_of(&self, step: &StepPlan) -> Vec<String> {
        let number = step.step;
        let mut warnings = Vec::new();
        match step.kind {
            Kind::Match => warnings.push(format!("step {number}: how many requests match is not known; they come on top of the weight")),
            Kind::Preview => warnings.push(format!("step {number}: a preview has no callers, so nothing is found before the switch, which gives it all of them")),
            Kind::Mirror => warnings.push(format!("step {number}: only requests with the mirror's methods are copied; here all are taken to have them")),
            Kind::Weight | Kind::Approval => {}
        }
        let limits = &self.policy.spec.limits;
        let blind: Vec<&str> =
            step.slos.iter().filter(|sight| sight.found80.is_none()).map(|sight| sight.slo.as_str()).collect();
        let is_blind = !blind.is_empty() && step.bake > 0.0;
        if is_blind {
            warnings.push(format!(
                "step {number} can't see anything in its bake of {} ({}): of about {} canary requests not even a version that fails them all would be found with 80 % probability",
                time(step.bake),
                blind.join(", "),
                requests(step.canary_requests)
            ));
        }
        match step.takes {
            Some(seconds) if seconds > step.bake + 1.0 && step.kind.asks_evidence() => {
                let timeout = limits.step_timeout;
                let late = match (seconds > timeout.as_secs_f64(), limits.on_inconclusive) {
                    (false, _) => String::new(),
                    (true, Otherwise::Hold) => format!("; after {timeout} (limits.stepTimeout) that is said out loud"),
                    (true, Otherwise::Rollback) => {
                        format!("; after {timeout} (limits.stepTimeout, onInconclusive) it is rolled back")
                    }
                };
                warnings.push(format!(
                    "step {number} takes {} and not {}: until then too few requests come to see a regression by{late}",
                    time(seconds),
                    time(step.bake)
                ));
            }
            None => warnings.push(format!(
                "step {number} never ends by itself: beside a service as bad as this no number of requests would show a regression"
            )),
            Some(_) => {}
        }
        warnings
    }
}

/// Callers' requests that the canary gets in so many seconds. Beyond the last step it keeps the last weight.
fn exposed(way: &[(Stretch, Leg)], seconds: f64) -> f64 {
    let (mut rest, mut sum, mut rate) = (seconds, 0.0, 0.0);
    for (stretch, leg) in way {
        let time = rest.min(leg.seconds);
        rate = if stretch.kind.is_seen_by_callers() { leg.canary } else { 0.0 };
        sum += rate * time;
        rest -= time;
        if rest <= 0.0 {
            return sum;
        }
    }
    sum + rate * rest
}

/// All bakes by this factor.
fn baked(policy: &Policy, factor: f64) -> Policy {
    let mut policy = policy.clone();
    for step in &mut policy.steps {
        if let Step::Bake { bake, .. } = step {
            *bake = Millis((bake.0 as f64 * factor).round() as u64);
        }
    }
    policy
}

fn faster(policy: &Policy) -> Policy {
    baked(policy, 0.5)
}

/// Twice the bakes, and a fifth of the first weight.
fn safer(policy: &Policy) -> (Policy, String) {
    let mut policy = baked(policy, 2.0);
    let first = policy.steps.iter_mut().find_map(|step| match step {
        Step::Bake { lets: Lets::Weight(weight), .. } if *weight > 1 => Some(weight),
        _ => None,
    });
    let name = match first {
        Some(weight) => {
            *weight = (*weight / 5).max(1);
            format!("safer: twice the bakes, first weight {weight} %")
        }
        None => "safer: twice the bakes".to_owned(),
    };
    (policy, name)
}

/// A share in percent with two digits that count: "0.42 %", "2.9 %", "37 %".
pub fn percent(share: f64) -> String {
    let percent = 100.0 * share;
    let digits = match percent {
        _ if percent >= 9.95 || percent <= 0.0 => 0,
        _ if percent >= 0.995 => 1,
        _ if percent >= 0.0995 => 2,
        _ => 3,
    };
    let text = format!("{percent:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text} %")
}

/// "200 requests a second", "3 requests a minute".
pub fn rate_words(rate: f64) -> String {
    let (number, unit) = match rate {
        _ if rate >= 0.5 => (rate, "second"),
        _ if rate * 60.0 >= 0.5 => (rate * 60.0, "minute"),
        _ => (rate * 3600.0, "hour"),
    };
    format!("{} requests a {unit}", requests((100.0 * number).round() / 100.0))
}

/// Seconds as people write them, as exact as anybody needs them: "2.5s", "3m20s", "2h5m", "3d4h".
pub fn time(seconds: f64) -> String {
    let to = |unit: f64| (seconds / unit).round() * unit;
    let rounded = match seconds {
        _ if seconds < 10.0 => to(0.1),
        _ if seconds < 3600.0 => to(1.0),
        _ if seconds < 86_400.0 => to(60.0),
        _ => to(3600.0),
    };
    match rounded < 10.0 && (rounded - rounded.round()).abs() > 0.05 {
        true => format!("{rounded:.1}s"),
        false => Millis::seconds(rounded.round() as u64).to_string(),
    }
}

/// A number of requests, in thousands: "12,345"; small ones with a digit: "0.4".
pub fn requests(number: f64) -> String {
    if number < 9.95 && number.fract() > 0.0 {
        let text = format!("{number:.1}");
        return text.strip_suffix(".0").unwrap_or(&text).to_owned();
    }
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_as_exact_as_anybody_needs_them() {
        let percents = [0.0, 0.000_42, 0.0042, 0.0291, 0.374, 1.0].map(percent);
        assert_eq!(percents, ["0 %", "0.042 %", "0.42 %", "2.9 %", "37 %", "100 %"]);
        let times = [0.0, 2.0, 2.46, 9.99, 75.4, 3725.0, 190_000.0].map(time);
        assert_eq!(times, ["0s", "2s", "2.5s", "10s", "1m15s", "1h2m", "2d5h"]);
        let numbers = [0.0, 0.4, 3.0, 12.6, 999.0, 1000.0, 1_234_567.0].map(requests);
        assert_eq!(numbers, ["0", "0.4", "3", "13", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn a_plan_comes_to_a_line() {
        let steps = serde_json::json!([{"weight": 5, "bake": "1m"}, {"weight": 50, "bake": "2m"}]);
        let said = |rate| in_a_line(&policy(&steps), Service { rate, errors: 0.002, slow: 0.0 }, 2.0);
        let line = said(187.0);
        assert!(
            line.starts_with("with about 190 requests a second the steps take 3m at least; step 1 finds 2."),
            "{line}"
        );
        assert!(line.contains("spoils 20 % of them is found in 3s, after 10 failed requests"), "{line}");
        assert!(said(0.05).contains("step 1 finds nothing by errors in its bake"), "{}", said(0.05));
    }

    #[test]
    fn a_safer_policy_begins_smaller_and_bakes_longer() {
        let steps = serde_json::json!([{"approval": {}}, {"weight": 10, "bake": "1m"}, {"weight": 50, "bake": "30s"}]);
        let policy = policy(&steps);
        let (safer, name) = safer(&policy);
        assert_eq!(name, "safer: twice the bakes, first weight 2 %");
        let service = Service { rate: 100.0, errors: 0.0, slow: 0.0 };
        let legs = |policy: &Policy| {
            course(policy, &service).iter().map(|stretch| (stretch.leg.canary, stretch.leg.seconds)).collect::<Vec<_>>()
        };
        assert_eq!(legs(&safer), [(0.0, 0.0), (2.0, 120.0), (50.0, 60.0)]);
        assert_eq!(legs(&faster(&policy)), [(0.0, 0.0), (10.0, 30.0), (50.0, 15.0)]);
    }

    #[test]
    fn copies_cost_no_caller_anything_and_previews_show_nothing() {
        let service = Service { rate: 200.0, errors: 0.002, slow: 0.002 };
        let mirrored = serde_json::json!([{"mirror": {"percent": 20}, "bake": "2m"}, {"weight": 50, "bake": "2m"}]);
        let plan = Plan::new(&policy(&mirrored), service, 2.0);
        let found = plan.steps[0].slos[0].found99.expect("copies are judged");
        assert!(found.failed == 0.0 && found.share < 0.05, "{found:?}");
        assert!(plan.policies[0].costs[0].failed < 1.0, "found among the copies: {plan:?}");
        let preview = Plan::new(&policy(&serde_json::json!([{"blueGreen": {}, "bake": "2m"}])), service, 2.0);
        assert!(preview.steps[0].slos.is_empty() && preview.warnings[0].contains("no callers"), "{preview:?}");
    }

    #[test]
    fn the_cap_of_failed_requests_ends_what_no_verdict_ends() {
        // 10,000 requests a second, and half a percent more errors than 2 %: within the tolerance.
        let service = Service { rate: 10_000.0, errors: 0.02, slow: 0.0 };
        let plan = Plan::new(&policy(&serde_json::json!([{"weight": 50, "bake": "10m"}])), service, 2.0);
        let mild = plan.policies[0].costs[3];
        assert_eq!(mild.found, 1.0);
        assert!((500.0..=700.0).contains(&mild.failed), "{mild:?}");
    }

    fn policy(steps: &serde_json::Value) -> Policy {
        let spec = serde_json::from_value(serde_json::json!({
            "workloadRef": {"kind": "Deployment", "name": "auth"}, "service": "auth",
            "routes": [{"kind": "HTTPRoute", "name": "auth"}],
            "telemetry": {"scrape": {"port": "http"}, "requests": {"counter": "requests", "errors": {"code": "5.."}}},
            "slos": [{"name": "errors", "errors": {"objective": "99%"}}],
            "steps": steps,
        }))
        .expect("a spec");
        crate::api::validate(&spec).expect("valid")
    }
}
