//! `serin plan`: what a policy sees and costs, before the release.

use std::{fmt::Write as _, path::Path};

use kube::{Api, Client};

use super::{
    files, people,
    service::{Output, ServiceArgs},
    table::{Side, table},
};
use crate::{
    api::{Policy, Rollout, RolloutRun, SloKind, validate},
    controller,
    forecast::{Cost, Found, Kind, Plan, Service, StepPlan, percent, rate_words, requests, time},
};

#[derive(Debug, clap::Args)]
pub(super) struct PlanArgs {
    /// A YAML file with a Rollout; or the name of one in the cluster, whose last run tells the rates.
    target: String,
    /// Namespace of the Rollout in the cluster; the kubeconfig's if left out.
    #[arg(short, long)]
    namespace: Option<String>,
    #[command(flatten)]
    service: ServiceArgs,
    /// How it is written.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

pub(super) fn plan(args: &PlanArgs) -> Result<(), String> {
    let (rollout, policy, observed) = match files::is_file(&args.target) && args.namespace.is_none() {
        true => files::rollout(Path::new(&args.target)).map(|(rollout, policy)| (rollout, policy, None))?,
        false => super::on_runtime(live(&args.target, args.namespace.clone()))?,
    };
    let service = args.service.service(&policy, observed.as_ref().map(|(service, _)| *service))?;
    let plan = Plan::new(&policy, service, args.service.reaction.as_secs_f64());
    let name = rollout.metadata.name.unwrap_or_default();
    match args.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&plan).map_err(|error| error.to_string())?),
        Output::Text => {
            if let Some((_, from)) = observed {
                println!("Rates as counted in RolloutRun {from}, where none are given.\n");
            }
            print!("{}", text(&name, &policy, &plan));
        }
    }
    Ok(())
}

/// The Rollout as the cluster has it, and what its last run that was counted tells of the service.
async fn live(name: &str, namespace: Option<String>) -> Result<(Rollout, Policy, Option<(Service, String)>), String> {
    let client: Client = controller::client().await.map_err(|error| error.to_string())?;
    let namespace = namespace.unwrap_or_else(|| client.default_namespace().to_owned());
    let rollouts: Api<Rollout> = Api::namespaced(client.clone(), &namespace);
    let rollout = rollouts.get(name).await.map_err(|error| {
        format!(
            "could not read Rollout {name} in {namespace} (for a file give its path, such as ./{name}.yaml): {error}"
        )
    })?;
    let policy = validate(&rollout.spec).map_err(|error| error.to_string())?;
    let runs = people::newest_first(&Api::namespaced(client, &namespace), name).await?;
    let now = jiff::Timestamp::now();
    let observed = runs.iter().find_map(|run| {
        let service = observed(run, now)?;
        Some((service, run.metadata.name.clone().unwrap_or_default()))
    });
    Ok((rollout, policy, observed))
}

/// What a run's counts tell: requests over the time that it took, and stable's bad ones.
fn observed(run: &RolloutRun, now: jiff::Timestamp) -> Option<Service> {
    let status = run.status.as_ref()?;
    let policy = validate(&run.spec.policy).ok()?;
    let ended = status.finished_at.as_ref().map_or(now, |time| time.0);
    let seconds = ended.duration_since(status.started_at.as_ref()?.0).as_secs_f64();
    let mut service = Service { rate: 0.0, errors: 0.0, slow: 0.0 };
    for slo in &policy.slos {
        let Some(counted) = status.slos.iter().find(|counted| counted.name == slo.name) else { continue };
        let requests = counted.canary.requests + counted.stable.requests;
        service.rate = service.rate.max(requests as f64 / seconds.max(1.0));
        if counted.stable.requests > 0 {
            let bad = counted.stable.bad as f64 / counted.stable.requests as f64;
            match slo.kind {
                SloKind::Errors => service.errors = service.errors.max(bad),
                SloKind::Latency { .. } => service.slow = service.slow.max(bad),
            }
        }
    }
    (service.rate > 0.0).then_some(service)
}

fn text(name: &str, policy: &Policy, plan: &Plan) -> String {
    let mut text = String::new();
    let Service { rate, errors, slow } = plan.service;
    let takes = plan.policies.first().and_then(|policy| policy.takes);
    let takes =
        takes.map_or("does not end by itself".to_owned(), |seconds| format!("takes {} at least", time(seconds)));
    let now = policy.slos.iter().map(|slo| match slo.kind {
        SloKind::Errors => format!("{} fail", percent(errors)),
        SloKind::Latency { threshold } => format!("{} are slower than {threshold}", percent(slow)),
    });
    let mut now: Vec<String> = now.collect();
    now.dedup();
    // Writing to a String does not fail.
    let _ = writeln!(
        text,
        "Rollout {name} {takes}. The service gets {}, of which {}; {} after a decision the traffic is back.\n",
        rate_words(rate),
        now.join(", "),
        time(plan.reaction)
    );
    let _ = writeln!(
        text,
        "What each step finds within its bake: the least bad share, and the requests that such a version fails until it is found"
    );
    text.push_str(&steps(plan));
    let _ = writeln!(
        text,
        "\nA version that is bad from its first request: found after (9 of 10 within), failed requests on average"
    );
    text.push_str(&costs(plan));
    if !plan.warnings.is_empty() {
        text.push('\n');
    }
    for warning in &plan.warnings {
        let _ = writeln!(text, "Note: {warning}.");
    }
    text
}

fn steps(plan: &Plan) -> String {
    const HEAD: [&str; 9] =
        ["STEP", "CANARY", "BAKE", "REQUESTS", "SLO", "4 OF 5 TIMES", "FAILED", "99 OF 100 TIMES", "FAILED"];
    use Side::{Left, Right};
    let mut rows = vec![HEAD.map(str::to_owned).to_vec()];
    for step in &plan.steps {
        let head = [step.step.to_string(), gets(step), time(step.bake), requests(step.canary_requests)];
        if step.slos.is_empty() {
            rows.push(head[..3].to_vec());
        }
        for (index, sight) in step.slos.iter().enumerate() {
            let mut row = if index == 0 { head.to_vec() } else { vec![String::new(); head.len()] };
            row.push(sight.slo.clone());
            for found in [sight.found80, sight.found99] {
                row.extend(found_words(found));
            }
            rows.push(row);
        }
    }
    table(&[Left, Left, Right, Right, Left, Right, Right, Right, Right], &rows)
}

fn gets(step: &StepPlan) -> String {
    match step.kind {
        Kind::Weight => format!("{} %", step.percent),
        Kind::Match => format!("{} % and matches", step.percent),
        Kind::Mirror => format!("copies of {} %", step.percent),
        Kind::Preview => "preview".to_owned(),
        Kind::Approval => "approval".to_owned(),
    }
}

fn found_words(found: Option<Found>) -> [String; 2] {
    match found {
        Some(found) => [percent(found.share), requests(found.failed.round())],
        None => ["nothing".to_owned(), String::new()],
    }
}

fn costs(plan: &Plan) -> String {
    let mut rows = vec![vec!["FAILS".to_owned()], vec!["takes at least".to_owned()]];
    for policy in &plan.policies {
        rows[0].push(policy.name.to_uppercase());
        rows[1].push(policy.takes.map_or("no end".to_owned(), time));
    }
    let costs = plan.policies.first().map_or(&[] as &[Cost], |policy| &policy.costs);
    for (index, cost) in costs.iter().enumerate() {
        let mut row = vec![format!("{} of requests", percent(cost.spoils))];
        row.extend(plan.policies.iter().map(|policy| cost_words(policy.costs[index])));
        rows.push(row);
    }
    table(&[Side::Left], &rows)
}

fn cost_words(cost: Cost) -> String {
    let failed = requests(cost.failed.round());
    match (cost.seconds, cost.seconds90) {
        (Some(seconds), Some(seconds90)) => format!("{} ({}), {failed}", time(seconds), time(seconds90)),
        (Some(seconds), None) => format!("{} (promoted), {failed}", time(seconds)),
        (None, _) => format!("promoted, {failed}; found {} of the times", percent(cost.found)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn example() -> (Rollout, Policy) {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/auth/manifests/rollout.yaml");
        files::rollout(&file).expect("the example")
    }

    fn said(rate: f64) -> String {
        let (rollout, policy) = example();
        let plan = Plan::new(&policy, Service { rate, errors: 0.002, slow: 0.002 }, 2.0);
        text(rollout.metadata.name.as_deref().expect("a name"), &policy, &plan)
    }

    #[test]
    fn the_readme_shows_what_the_command_says() {
        const COMMAND: &str =
            "$ serin plan examples/auth/manifests/rollout.yaml --rate 200 --errors 0.2% --slow 0.2%\n";
        let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
        let readme = std::fs::read_to_string(readme).expect("README.md");
        let shown = readme.split_once(COMMAND).expect("the command").1;
        let shown = shown.split_once("```").expect("its end").0;
        let said = said(200.0);
        assert!(shown == said, "README shows another table than {COMMAND}{said}");
    }

    #[test]
    fn where_nothing_can_be_seen_it_is_said() {
        let said = said(0.05);
        assert!(said.contains("3 requests a minute"), "{said}");
        assert!(said.contains("step 1 can't see anything in its bake of 1m (errors, latency)"), "{said}");
        assert!(said.contains("after 30m (limits.stepTimeout) that is said out loud"), "{said}");
    }

    #[test]
    fn rates_are_those_of_the_last_run() {
        let (rollout, _) = example();
        let mut run = RolloutRun::new(
            "auth-7",
            serde_json::from_value(json!({
                "rolloutRef": {"name": "auth"}, "from": {"hash": "a"}, "to": {"hash": "b"}, "policy": rollout.spec,
            }))
            .expect("a run"),
        );
        let now: jiff::Timestamp = "2026-01-01T00:10:00Z".parse().expect("a time");
        assert_eq!(observed(&run, now), None);
        run.status = serde_json::from_value(json!({
            "startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:05:00Z",
            "slos": [{"name": "errors", "verdict": "Good", "evidence": 0.0, "threshold": 6.0,
                "canary": {"requests": 10_000, "bad": 300}, "stable": {"requests": 50_000, "bad": 100}}],
        }))
        .expect("a status");
        assert_eq!(observed(&run, now), Some(Service { rate: 200.0, errors: 0.002, slow: 0.0 }));
    }
}
