//! Is what `serin plan` computes what comes out when releases are tried?

use serde_json::{Value, json};
use serin::{
    api::{Policy, RolloutSpec, validate},
    forecast::{Dice, End, Fault, FaultKind, Onset, Plan, Release, Service, Simulation, Traffic, Why, quantile},
};

use crate::{runs, simulate};

/// One SLO alone, so that nothing else finds what is looked for.
fn policy(slo: &Value, steps: &Value) -> Policy {
    let spec: RolloutSpec = serde_json::from_value(json!({
        "workloadRef": {"kind": "Deployment", "name": "auth"}, "service": "auth",
        "routes": [{"kind": "HTTPRoute", "name": "auth"}],
        "telemetry": {
            "scrape": {"port": "http"},
            "requests": {"counter": "requests", "errors": {"code": "5.."}}, "latency": {"histogram": "seconds"}
        },
        "slos": [slo],
        "steps": steps,
        "limits": {"failedRequests": 1_000_000_000},
    }))
    .expect("a spec");
    validate(&spec).expect("valid")
}

fn errors() -> Value {
    json!({"name": "errors", "errors": {"objective": "99%"}})
}

/// SLOs with facets, whose parts of the evidence see nothing or no more than the whole.
fn with_facets() -> [(&'static str, Value, FaultKind); 3] {
    let by = json!({"label": "route", "values": ["/login", "/session", "/logout"]});
    let latency = json!({"threshold": "250ms", "objective": "99%"});
    [
        ("errors by 3 values", json!({"name": "errors", "errors": {"objective": "99%"}, "by": by}), FaultKind::Errors),
        ("latency and its tail", json!({"name": "latency", "latency": latency}), FaultKind::Slow),
        ("both", json!({"name": "latency", "latency": latency, "by": by}), FaultKind::Slow),
    ]
}

fn usual(slo: &Value) -> Policy {
    let steps = [(5, "1m"), (25, "2m"), (50, "2m")].map(|(weight, bake)| json!({"weight": weight, "bake": bake}));
    policy(slo, &json!(steps))
}

const SERVICES: [(f64, f64); 6] =
    [(200.0, 0.002), (200.0, 0.0), (20.0, 0.002), (2000.0, 0.001), (2.0, 0.002), (200.0, 0.008)];

fn releases(policy: &Policy, service: Service, kind: FaultKind, spoils: f64, runs: u64) -> Vec<Release> {
    let fault = Fault { kind, share: spoils, at: Onset::Step(1), lasts: None };
    let simulation = Simulation::new(policy, service, Traffic::Constant, &[fault], 2.0);
    simulate(runs, |seed| simulation.release(&mut Dice::new(seed + 1)))
}

#[test]
fn what_a_bad_version_costs_is_what_it_costs_when_tried() {
    let runs = runs(20).min(1000);
    // So few vary by themselves.
    let tolerance = if runs >= 1000 { 0.25 } else { 0.5 };
    println!("\nplan and simulation, {runs} releases each: seconds until found, and requests failed on average");
    let mut wrong = Vec::new();
    // With two requests a second a release takes hours, and so does trying it.
    let services = SERVICES.into_iter().filter(|(rate, _)| *rate > 2.0);
    let plain = services.map(|(rate, bad)| ("errors", errors(), FaultKind::Errors, rate, bad));
    let faceted = with_facets().map(|(what, slo, kind)| (what, slo, kind, 200.0, 0.002));
    for (what, slo, kind, rate, bad) in plain.chain(faceted) {
        let service = Service { rate, errors: bad, slow: bad };
        let policy = usual(&slo);
        let plan = Plan::new(&policy, service, 2.0);
        for cost in &plan.policies[0].costs {
            let all = releases(&policy, service, kind, cost.spoils, runs);
            let found = |release: &Release| release.end == End::RolledBack(Why::Verdict);
            let seconds: Vec<f64> =
                all.iter().map(|release| if found(release) { release.seconds } else { f64::INFINITY }).collect();
            let mean = all.iter().map(|release| release.failed as f64).sum::<f64>() / runs as f64;
            let share = all.iter().filter(|release| found(release)).count() as f64 / runs as f64;
            let of = |all: &[f64], q| quantile(all.to_vec(), q).expect("some").value;
            let pairs = [
                ("median", cost.seconds.unwrap_or(f64::INFINITY), of(&seconds, 0.5), 1.0),
                ("9 of 10", cost.seconds90.unwrap_or(f64::INFINITY), of(&seconds, 0.9), 1.0),
                ("failed", cost.failed, mean, 1.0),
            ];
            print!(
                "{what}: {rate:>5}/s {:>4} % -> {:>3} %: found {:.2} {share:.2}",
                100.0 * bad,
                100.0 * cost.spoils,
                cost.found
            );
            for (what, forecast, tried, slack) in pairs {
                print!("; {what} {forecast:.1} {tried:.1}");
                let both_never = forecast.is_infinite() && tried.is_infinite();
                let is_near = both_never || (forecast - tried).abs() <= (tolerance * tried).max(slack);
                if !is_near {
                    print!(" (!)");
                    let case = format!("{slo} {rate}/s {bad} {}", cost.spoils);
                    wrong.push(format!("{case}: {what} {forecast:.1}, tried {tried:.1}"));
                }
            }
            println!();
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn what_a_step_finds_is_what_it_finds_when_tried() {
    let runs = runs(30).min(1000);
    println!("\nthe least excess that a step finds, {runs} releases each: share found at 0.8 and 1.25 times as much");
    let mut wrong = Vec::new();
    for (rate, bad) in SERVICES {
        for (weight, bake) in [(5, "1m"), (50, "2m")] {
            let service = Service { rate, errors: bad, slow: 0.0 };
            let steps = json!([{"weight": weight, "bake": bake}, {"weight": 100, "bake": "0s"}]);
            let policy = policy(&errors(), &steps);
            let plan = Plan::new(&policy, service, 2.0);
            let sight = &plan.steps[0].slos[0];
            for (probability, found) in [(0.8, sight.found80), (0.99, sight.found99)] {
                let Some(found) = found else {
                    println!("{rate:>5}/s {bad} weight {weight} {bake}, {probability}: nothing");
                    continue;
                };
                let excess = (found.share - bad) / (1.0 - bad);
                let share = |times: f64| {
                    let spoils = (excess * times).min(1.0);
                    let all = releases(&policy, service, FaultKind::Errors, spoils, runs);
                    let in_bake = |release: &&Release| {
                        release.end == End::RolledBack(Why::Verdict) && release.seconds <= plan.steps[0].bake + 1e-6
                    };
                    serin::forecast::Share::of(all.iter().map(|release| in_bake(&release)))
                };
                let (less, more) = (share(0.8), share(1.25));
                println!("{rate:>5}/s {bad} weight {weight} {bake}, {probability}: {:.4}: {less}, {more}", found.share);
                // Between the two lies what is found with this probability. Where all fail there is no more of it.
                let least = if 1.25 * excess < 1.0 { probability } else { 0.75 * probability };
                if less.interval().0 > probability || more.interval().1 < least {
                    wrong.push(format!("{rate}/s {bad} weight {weight}, {probability}: {less}, {more}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
