//! Healthy releases of each kind, and what else may happen to a healthy service in mid-run: how many requests are lost.

use std::time::Duration;

use serde_json::{Value, json};
use serin_e2e::{
    Result,
    cluster::eventually,
    figure::{Bound, Figure},
    life::{self, Autoscaler, Drain},
    stage::Stage,
};

use super::{Measured, NEVER_SLOW, count, ended};

/// Requests of each story.
const REQUESTS: usize = 20_000;
/// Requests per second.
const RATE: u32 = 400;
const MINUTE: Duration = Duration::from_secs(60);

/// One story.
struct Story {
    what: &'static str,
    steps: Value,
    /// Of the Rollout.
    change: fn(&mut Value),
    /// Further arguments of the load.
    load: &'static [&'static str],
    /// What is done before the release.
    before: fn(&Stage) -> Result<()>,
    /// What happens in mid-run.
    meanwhile: fn(&Stage) -> Result<()>,
}

/// Weights that take some 20 s.
fn weights() -> Value {
    json!([{"weight": 10, "bake": "10s"}, {"weight": 50, "bake": "10s"}])
}

fn stories() -> Vec<Story> {
    let plain =
        Story { what: "", steps: weights(), change: |_| {}, load: &[], before: |_| Ok(()), meanwhile: |_| Ok(()) };
    vec![
        Story { what: "restart", ..plain },
        Story {
            what: "sticky",
            steps: weights(),
            change: |rollout| rollout["spec"]["sticky"] = json!({}),
            load: &["--users", "400"],
            ..plain
        },
        Story { what: "blue/green", steps: json!([{"blueGreen": {"keepOldFor": "15s"}, "bake": "5s"}]), ..plain },
        Story {
            what: "match",
            steps: json!([{"match": [{"headers": [{"name": "x-tester", "value": "yes"}]}], "bake": "10s"}, {"weight": 50, "bake": "10s"}]),
            load: &["--header", "x-tester:yes"],
            ..plain
        },
        Story {
            what: "mirror",
            steps: json!([{"mirror": {"percent": 100}, "bake": "10s"}, {"weight": 50, "bake": "10s"}]),
            ..plain
        },
        Story {
            what: "share of pods",
            steps: json!([{"weight": 20, "bake": "10s"}, {"weight": 50, "bake": "10s"}]),
            change: |rollout| {
                rollout["spec"].as_object_mut().map(|spec| spec.remove("routes"));
            },
            ..plain
        },
        Story { what: "autoscaled", steps: weights(), meanwhile: autoscaled, ..plain },
        Story { what: "pods evicted", steps: weights(), meanwhile: evicted, ..plain },
        Story {
            what: "drained",
            steps: weights(),
            before: |stage| life::budget(&stage.shop),
            meanwhile: drained,
            ..plain
        },
        Story {
            what: "quota",
            steps: weights(),
            before: |stage| life::quota(&stage.shop, 6),
            meanwhile: without_room,
            ..plain
        },
        Story { what: "young pods", steps: weights(), before: young, ..plain },
    ]
}

/// By a HorizontalPodAutoscaler.
fn autoscaled(stage: &Stage) -> Result<()> {
    let autoscaler = Autoscaler::new(&stage.shop, 4)?;
    for replicas in [8, 3] {
        autoscaler.to(replicas)?;
        std::thread::sleep(Duration::from_secs(6));
    }
    Ok(())
}

/// One pod after the other, of both versions, as a drain does it where a budget lets one go at a time.
fn evicted(stage: &Stage) -> Result<()> {
    life::budget(&stage.shop)?;
    life::evict_each(&stage.shop)
}

/// The only node, which takes pods again once the first one is gone.
fn drained(_: &Stage) -> Result<()> {
    let drain = Drain::begin()?;
    std::thread::sleep(Duration::from_secs(3));
    drain.uncordon()?;
    drain.end()
}

/// The quota has room for the canary, and a while later for the promotion.
fn without_room(stage: &Stage) -> Result<()> {
    eventually("a hold for the quota", MINUTE, || {
        let run = stage.shop.run()?.unwrap_or_default();
        Ok((run["status"]["waiting"]["reason"] == "Quota").then_some(()))
    })?;
    std::thread::sleep(Duration::from_secs(5));
    life::quota(&stage.shop, 20)
}

/// Pods count once they have been ready for some seconds.
fn young(stage: &Stage) -> Result<()> {
    stage.shop.kubectl(&["patch", "deployment/auth", "-p", r#"{"spec": {"minReadySeconds": 8}}"#]).map(drop)
}

impl Measured {
    /// Each story with 20,000 requests and more.
    pub(super) fn lost(&mut self) -> Result<()> {
        for story in stories() {
            self.story(&story)?;
        }
        Ok(())
    }

    fn story(&mut self, story: &Story) -> Result<()> {
        let namespace = format!("figures-{}", story.what.replace([' ', '/'], "-"));
        let mut stage = self.stage_with(&namespace, &[], &story.steps, story.change, RATE, story.load)?;
        (story.before)(&stage)?;
        stage.shop.idle()?;
        let began = stage.begin();
        stage.shop.kubectl(&["rollout", "restart", "deployment/auth"])?;
        stage.follow("traffic", MINUTE, |view| view.phase == "Shifting")?;
        (story.meanwhile)(&stage)?;
        let end = stage.follow_to_the_end()?;
        // Whether the load keeps its rate is shown by the count of its requests.
        let lasting = Duration::from_secs_f64(count(REQUESTS) / f64::from(RATE));
        std::thread::sleep(lasting.saturating_sub(stage.took()));
        let seen = stage.exposure(began, "", NEVER_SLOW)?;
        let mut tell = |what, bound, value| self.tell(Figure::new(format!("{}: {what}", story.what), bound, [value]));
        tell("promoted", Bound::Exactly(1.0), ended(&end, "Succeeded"));
        tell("requests in this story", Bound::AtLeast(count(REQUESTS)), count(seen.requests));
        tell("failed requests", Bound::Exactly(0.0), count(seen.failed));
        Ok(())
    }
}
