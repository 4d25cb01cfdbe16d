//! A run in small: real decisions over real counts, taken down and made again.

use jiff::Timestamp;

use super::*;
use crate::{
    api::{Phase, Policy, RolloutRunSpec, validate},
    controller::seen,
    engine::{self, Arm, ArmOwner, Pinned, RouteView, WorkloadView},
    evidence::{Count, PodTick, Slo},
};

const BEGAN: i64 = 1_764_000_000;

fn spec() -> RolloutRunSpec {
    let policy = serde_json::json!({
        "workloadRef": {"kind": "Deployment", "name": "auth"}, "service": "auth",
        "routes": [{"kind": "HTTPRoute", "name": "auth"}],
        "telemetry": {"scrape": {"port": "http"}, "requests": {"counter": "http_requests_total", "errors": {"code": "5.."}}},
        "slos": [{"name": "errors", "errors": {"objective": "99%"}}],
        "steps": [{"weight": 5, "bake": "20s"}, {"weight": 50, "bake": "20s"}]
    });
    let version =
        |hash: &str| serde_json::json!({"hash": hash, "template": hash, "images": {"auth": format!("auth:{hash}")}});
    let spec = serde_json::json!({"rolloutRef": {"name": "auth"}, "from": version("old"), "to": version("new"), "policy": policy});
    serde_json::from_value(spec).expect("a spec")
}

fn policy() -> Policy {
    validate(&spec().policy).expect("valid")
}

/// All is as the decision before wanted it.
fn snapshot(status: &RolloutRunStatus, fold: &Fold) -> Snapshot {
    let arm = |owner| Some(Arm { owner, wanted: 4, pods: 4, ready: 4, ..Arm::default() });
    let ready = [("old".to_owned(), 4), ("new".to_owned(), 4)];
    let pinned = Pinned { name: "auth".into(), hash: Some("old".into()), ready: ready.into(), ..Pinned::default() };
    let route = RouteView {
        name: "HTTPRoute auth".into(),
        share: status.started_at.as_ref().map(|_| status.weight.share()),
        accepted: true,
        owned: true,
        ..RouteView::default()
    };
    let workload = WorkloadView {
        replicas: 4,
        paused: true,
        rollout_label: Some("auth".into()),
        run_label: Some("auth-1".into()),
        template: "new".into(),
        active: [("old".to_owned(), 4)].into(),
        newest: Some("old".into()),
        ..WorkloadView::default()
    };
    let seen = seen(fold);
    Snapshot {
        run: "auth-1".into(),
        workload: Some(workload),
        stable: arm(ArmOwner::Workload),
        canary: arm(ArmOwner::Run),
        services: vec![pinned],
        canary_service: Some(4),
        routes: vec![route],
        traffic: seen.traffic,
        judgements: seen.judgements,
        ..Snapshot::default()
    }
}

fn tick(second: i64, status: &RolloutRunStatus) -> Tick {
    let pod = |name: &str, total, bad| {
        Some(vec![PodTick { pod: name.into(), requests: total, counts: vec![Count { bad, total }] }])
    };
    Tick {
        at: (BEGAN + second) * 1000,
        interval: 1000,
        step: status.step.saturating_sub(1),
        due: status.weight.set * 1000,
        // From the fortieth second on a fifth of the canary's requests fails.
        canary: pod("c", 20, if second > 40 { 4 } else { 0 }),
        stable: pod("s", 180, u64::from(second % 3 == 0)),
        ..Tick::default()
    }
}

/// The run as the cluster has it at its end: a person has aborted it late, and paused it in between.
fn spec_at_the_end() -> RolloutRunSpec {
    RolloutRunSpec { abort: true, approved: 1, ..spec() }
}

/// Plays the run; `end_of_segment` in bytes. Returns what was taken and how the run ended.
fn played(end_of_segment: usize) -> (Vec<Part>, RolloutRunStatus) {
    let (policy, mut spec) = (policy(), spec());
    let slo = Slo { name: "errors".into(), objective: 0.01, relative: 1.5, absolute: 0.001 };
    let mut fold = Fold::new(&[slo.into()], policy.alpha, policy.steps.len());
    let at = |second: i64, part: i64| (BEGAN + second) * 1_000_000_000 + part * 250_000_007;
    let mut recorder = Recorder::with_limit(at(0, 0), &fold, end_of_segment);
    let (mut status, mut parts) = (RolloutRunStatus::default(), Vec::new());
    for second in 0..60 {
        let tick = tick(second, &status);
        fold.fold(&tick);
        recorder.tick(at(second, 0), &fold, &tick);
        spec.paused = (10..15).contains(&second);
        spec.abort = second >= 58;
        spec.approved = u32::from(second >= 58);
        for part in 0..3 {
            let snapshot = snapshot(&status, &fold);
            let now = Timestamp::from_nanosecond(i128::from(at(second, part))).expect("in range");
            let decision = engine::decide(&policy, &spec, &status, &snapshot, false, now);
            let inputs = Inputs {
                at: at(second, part),
                ending: false,
                ticks: recorder.ticks(),
                spec: &spec,
                before: &status,
                snapshot: &snapshot,
            };
            recorder.look(&inputs, &decision);
            // Figures are not worth writing at each look: the next one begins with the old status.
            if part != 1 {
                // As it comes back from the API server.
                let written = serde_json::to_string(&decision.status).expect("JSON");
                status = serde_json::from_str(&written).expect("a status");
            }
        }
        if second % 10 == 9 {
            for part in recorder.take() {
                parts.retain(|known: &Part| known.number != part.number);
                parts.push(part);
            }
        }
    }
    (parts, status)
}

fn replayed(parts: &[Part]) -> Vec<Replay> {
    let read = |part: &Part| Segment::read(&part.bytes).expect("a segment");
    parts.iter().map(|part| replay(&policy(), &spec_at_the_end(), read(part)).expect("a story")).collect()
}

#[test]
fn every_decision_is_made_again_to_the_byte() {
    let (parts, status) = played(usize::MAX);
    assert_eq!(status.reason.as_deref(), Some("SloViolated"), "{status:#?}");
    let [replay] = replayed(&parts).try_into().expect("one segment");
    assert_eq!((replay.ticks.len(), replay.made.len()), (60, 180));
    assert!(replay.first_difference().is_none(), "{:#?}", replay.first_difference());
    assert_eq!(replay.made.last().map(|made| made.decision.status.reason.clone()), Some(status.reason));
}

#[test]
fn each_segment_can_be_replayed_without_the_others() {
    let (parts, _) = played(1500);
    assert!(parts.len() > 2, "{} segments", parts.len());
    for replay in replayed(&parts) {
        assert!(replay.first_difference().is_none(), "{:#?}", replay.first_difference());
        assert!(!replay.made.is_empty());
    }
}

#[test]
fn a_minute_takes_little_room() {
    let (parts, _) = played(usize::MAX);
    let bytes: usize = parts.iter().map(|part| part.bytes.len()).sum();
    assert!(bytes < 16 << 10, "{bytes} bytes for 60 ticks and 180 looks");
}

#[test]
fn what_was_changed_in_a_record_is_noticed() {
    let (parts, _) = played(usize::MAX);
    let mut segment = Segment::read(&parts[0].bytes).expect("a segment");
    let fifty = segment.entries.iter_mut().filter_map(|entry| match entry {
        Entry::Tick(tick) => Some(tick),
        _ => None,
    });
    // Given a record in which the canary's failures were taken out,
    for tick in fifty {
        for pod in tick.canary.iter_mut().flatten() {
            pod.counts[0].bad = 0;
        }
    }
    // the decisions are others.
    let replay = replay(&policy(), &spec(), segment).expect("a story");
    let first = replay.first_difference().expect("a difference");
    assert!(first.at.as_second() > BEGAN + 40, "{}", first.at);
}

#[test]
fn what_is_no_record_is_refused_in_words() {
    let refused = |bytes: &[u8]| Segment::read(bytes).expect_err("no segment").to_string();
    // Given a segment that was cut in the middle, its whole lines are read.
    let (parts, _) = played(usize::MAX);
    let cut = Segment::read(&parts[0].bytes[..parts[0].bytes.len() / 2]).expect("a segment");
    assert!(cut.entries.len() > 10);
    assert!(replay(&policy(), &spec_at_the_end(), cut).expect("a story").first_difference().is_none());
    assert!(refused(b"\xff\xff\xff").contains("deflated segment"), "{}", refused(b"\xff\xff\xff"));
    let deflated = |text: &[u8]| {
        use std::io::Write;
        let mut to = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
        to.write_all(text).expect("memory");
        to.finish().expect("memory")
    };
    assert!(refused(&deflated(b"{}\n")).contains("line 1"));
    assert!(refused(&deflated(b"")).contains("found nothing"));
    // A little that becomes a lot.
    let bomb = deflated(&vec![b'\n'; usize::try_from(MAX_TEXT_BYTES).expect("fits") + 2]);
    assert!(bomb.len() < 100 << 10);
    assert!(refused(&bomb).contains("bytes of text"));
}

#[test]
fn the_story_tells_why_with_numbers() {
    let (parts, _) = played(usize::MAX);
    let made = replayed(&parts).remove(0).made;
    let told: Vec<String> = story(&spec(), &made).into_iter().map(|line| line.text).collect();
    let has = |words: &str| assert!(told.iter().any(|line| line.contains(words)), "{words}: {told:#?}");
    has("auth:new (new) over auth:old (old)");
    has("errors is good so far");
    has("SloViolated");
    has("the run is RollingBack");
    let reckoned = reckoning(&policy(), &made).join(" ");
    for words in ["errors: Bad", "Evidence", "1.5 x stable's share", "of healthy runs"] {
        assert!(reckoned.contains(words), "{words}: {reckoned}");
    }
}

#[test]
fn the_page_stands_alone() {
    let (parts, _) = played(usize::MAX);
    let made = replayed(&parts).remove(0).made;
    let mut run = crate::api::RolloutRun::new("auth-1", spec());
    run.spec.to.images.insert("evil".into(), "<script>alert(1)</script>".into());
    let page = report(&run, &policy(), &made, &["3 s are missing.".into()]);
    assert!(page.contains("<svg") && page.contains("auth-1: RollingBack") && page.contains("3 s are missing."));
    assert!(!page.contains("<script"), "a name became markup");
    for outside in ["http://", "https://", "src=", "href=", "@import", "url("] {
        assert!(!page.contains(outside), "the page needs {outside}");
    }
}

/// The same run, seen by a policy that differs in this.
fn tried(change: impl FnOnce(&mut crate::api::RolloutSpec), segment_bytes: usize) -> Result<Backtest, BacktestError> {
    let (parts, _) = played(segment_bytes);
    let segments = parts.iter().map(|part| Segment::read(&part.bytes).expect("a segment")).collect();
    let mut other = policy().spec;
    change(&mut other);
    backtest(&spec_at_the_end(), &policy(), &other, segments)
}

#[test]
fn a_run_is_tried_with_another_policy() {
    let percent = |text: &str| text.parse::<crate::api::Percent>().expect("percent");
    // The same policy decides the same, also over a record in pieces.
    for bytes in [usize::MAX, 1500] {
        let same = tried(|_| {}, bytes).expect("a backtest");
        assert_eq!((same.recorded.phase, same.departures.len()), (Phase::RollingBack, 0), "{same:?}");
        assert!((40.0..60.0).contains(&same.recorded.seconds) && same.recorded.canary_requests > 800, "{same:?}");
    }
    // One that is less careful takes it back earlier, as its bad seconds are those from the fortieth on.
    let only = |told: Backtest| -> Departure {
        let [one] = told.departures.try_into().expect("one departure");
        one
    };
    let recorded = tried(|_| {}, usize::MAX).expect("a backtest").recorded;
    let hasty = only(tried(|other| other.confidence = percent("50%"), usize::MAX).expect("a backtest"));
    assert_eq!(hasty.what, What::TakesBack, "{hasty:?}");
    assert!(hasty.seconds > 40.0 && hasty.seconds < recorded.seconds, "{hasty:?} {recorded:?}");
    assert!(hasty.canary_requests < recorded.canary_requests && hasty.why.contains("errors"), "{hasty:?}");
    // One that bears a third of errors leaves it.
    let errors = |other: &mut crate::api::RolloutSpec, absolute: &str| {
        let errors = other.slos[0].errors.as_mut().expect("errors");
        (errors.objective, errors.tolerance.absolute) = (percent("50%"), percent(absolute));
    };
    let lax = tried(|other| errors(other, "33%"), usize::MAX).expect("a backtest");
    assert!(lax.departures.iter().any(|departure| departure.what == What::Leaves), "{lax:?}");
    assert!(lax.departures.iter().all(|departure| departure.what != What::TakesBack), "{lax:?}");
}

#[test]
fn what_nobody_counted_is_named_with_what_there_is() {
    let latency = |other: &mut crate::api::RolloutSpec| {
        let slo = serde_json::json!({"name": "slow", "latency": {"threshold": "250ms", "objective": "99%"}});
        other.slos = vec![serde_json::from_value(slo).expect("an SLO")];
    };
    let error = tried(latency, usize::MAX).expect_err("no latency in the record").to_string();
    assert!(error.contains("telemetry.latency"), "{error}");
}

#[test]
fn a_large_look_that_is_said_again_and_again_is_refused_before_it_fills_the_memory() {
    let (parts, _) = played(usize::MAX);
    let mut segment = Segment::read(&parts[0].bytes).expect("a segment");
    let at = segment.entries.iter().position(|entry| matches!(entry, Entry::Look(_))).expect("a look");
    let Entry::Look(first) = &mut segment.entries[at] else { panic!("a look") };
    first.seen.insert("run".into(), Value::String("x".repeat(8 << 20)));
    let same = Look { before: Before::Same, seen: Map::new(), said: None, ..(**first).clone() };
    segment.entries.truncate(at + 1);
    segment.entries.extend((0..10_000).map(|_| Entry::Look(Box::new(same.clone()))));
    let error = replay(&policy(), &spec(), segment).expect_err("too much").to_string();
    assert!(error.starts_with("look 1") && error.contains("bytes together"), "{error}");
}
