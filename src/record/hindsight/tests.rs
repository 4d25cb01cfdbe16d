//! Pasts in small: pods that count at an even pace, scraped each 5 s and looked at each 5 s.

use super::*;
use crate::{api::validate, telemetry::PodCounts};

const BEGAN: i64 = 1_764_000_000;
const STEP: i64 = 5;

/// One pod: seconds from `BEGAN` on, requests a second, and the share of them that fails.
#[derive(Clone, Copy)]
struct Life {
    name: &'static str,
    from: i64,
    to: i64,
    rate: f64,
    bad: f64,
}

fn life(name: &'static str, from: i64, to: i64, rate: f64, bad: f64) -> Life {
    Life { name, from, to, rate, bad }
}

fn policy(steps: serde_json::Value) -> Policy {
    let spec = serde_json::json!({
        "workloadRef": {"kind": "Deployment", "name": "auth"}, "service": "auth",
        "routes": [{"kind": "HTTPRoute", "name": "auth"}],
        "telemetry": {"scrape": {"port": "http"}, "requests": {"counter": "http_requests_total", "errors": {"code": "5.."}}},
        "slos": [{"name": "errors", "errors": {"objective": "99%"}}],
        "gates": [{"name": "smoke", "at": "Promotion", "http": {"url": "http://gate.shop.svc"}}],
        "steps": steps
    });
    validate(&serde_json::from_value(spec).expect("a spec")).expect("valid")
}

fn two_steps() -> Policy {
    policy(serde_json::json!([{"weight": 5, "bake": "1m"}, {"approval": {}}, {"weight": 50, "bake": "1m"}]))
}

fn there(lives: &[Life], until: i64) -> BTreeMap<String, BTreeSet<i64>> {
    let times = |life: &Life| {
        let there = (0..=until / STEP).map(|look| look * STEP).filter(|at| (life.from..life.to).contains(at));
        there.map(|at| (BEGAN + at) * 1000).collect()
    };
    lives.iter().map(|life| (life.name.to_owned(), times(life))).collect()
}

/// What Prometheus has at this time: scrapes are two seconds old.
fn readings(lives: &[Life], at: i64) -> BTreeMap<String, PodReading> {
    let scraped = at - 2;
    let reading = |life: &Life| {
        let age = (scraped.min(life.to) - life.from).max(0) as f64;
        let requests = (age * life.rate) as u64;
        let errors = (age * life.rate * life.bad) as u64;
        let counts = PodCounts { requests, errors, present: true, ..PodCounts::default() };
        PodReading::Sampled { counts, at: (BEGAN + scraped.min(life.to)) as f64 }
    };
    lives.iter().filter(|life| life.from < scraped).map(|life| (life.name.to_owned(), reading(life))).collect()
}

/// Tries a policy on the first `until` seconds.
fn tried(policy: &Policy, lives: &[Life], until: i64) -> (Arms, Result<Hindsight, NoCounts>) {
    let arms = Arms::choose(there(lives, until), STEP * 1000, "auth", None).expect("two arms");
    let mut trial = Trial::new(policy, &arms, "shop", Millis::seconds(5)).expect("a query");
    for at in arms.looks((0..=until / STEP).map(|look| (BEGAN + look * STEP) * 1000)) {
        let now = Timestamp::from_millisecond(at).expect("in range");
        trial.look(now, &arms.listed(at), &readings(lives, at / 1000 - BEGAN));
    }
    (arms, trial.hindsight())
}

/// Two pods that have long been there.
const STABLE: [Life; 2] = [
    Life { name: "auth-5c8b4-bcdfg", from: -3600, to: 100_000, rate: 40.0, bad: 0.002 },
    Life { name: "auth-5c8b4-hjklm", from: -3600, to: 100_000, rate: 40.0, bad: 0.002 },
];

fn with(canary: &[Life]) -> Vec<Life> {
    [&STABLE[..], canary].concat()
}

#[test]
fn a_bad_release_is_found_and_when() {
    // Given a new version from the tenth minute on, a fifth of whose requests fail:
    let lives = with(&[life("auth-7d9f6-npqrs", 600, 2000, 20.0, 0.2)]);
    // When the policy is tried on that time:
    let (arms, hindsight) = tried(&two_steps(), &lives, 1200);
    // Then it takes the traffic back within seconds, and says by what.
    let hindsight = hindsight.expect("counts");
    assert_eq!((arms.stable.as_str(), arms.canary.as_str()), ("5c8b4", "7d9f6"));
    let [event] = &hindsight.events[..] else { panic!("{:?}", hindsight.events) };
    assert_eq!((event.what, event.step), (Then::TakesBack, 1));
    assert!(event.seconds <= 20.0 && (50..1000).contains(&event.canary_requests), "{event:?}");
    assert!(event.why.starts_with("SloViolated: SLO errors: the canary "), "{event:?}");
    assert_eq!(hindsight.slos[0].verdict, Verdict::Bad);
    let began = hindsight.began.as_second() - BEGAN;
    assert!((600..620).contains(&began), "{began}");
    assert!((10.0..20.0).contains(&hindsight.share()), "{}", hindsight.share());
}

#[test]
fn a_good_release_is_promoted_after_its_bakes() {
    let lives = with(&[life("auth-7d9f6-npqrs", 600, 2000, 20.0, 0.002)]);
    let hindsight = tried(&two_steps(), &lives, 1200).1.expect("counts");
    let whats: Vec<(Then, u32)> = hindsight.events.iter().map(|event| (event.what, event.step)).collect();
    // The approval in between takes no time, and the gate is not asked.
    assert_eq!(whats, [(Then::GoesOn, 1), (Then::Promotes, 3)]);
    assert_eq!(hindsight.events[0].why, "to step 3");
    assert!((120.0..=130.0).contains(&hindsight.events[1].seconds), "{:?}", hindsight.events);
}

#[test]
fn a_release_that_is_over_too_soon_is_still_waited_for() {
    // Given a rolling update that is through after 40 seconds:
    let lives = [life("auth-5c8b4-bcdfg", -3600, 640, 40.0, 0.002), life("auth-7d9f6-npqrs", 600, 2000, 40.0, 0.002)];
    let hindsight = tried(&two_steps(), &lives, 1200).1.expect("counts");
    let event = hindsight.events.last().expect("an end");
    assert_eq!((event.what, event.step), (Then::Waits, 1));
    assert!(event.seconds < 45.0 && event.why == "Bake: baking at 5 % for 1m at least", "{event:?}");
}

#[test]
fn a_canary_that_goes_is_not_taken_for_a_silent_one() {
    // Given a canary of which one pod goes, and the other has no callers any more:
    let lives = with(&[life("auth-7d9f6-npqrs", 600, 660, 20.0, 0.002), life("auth-7d9f6-tvwxz", 600, 2000, 0.0, 0.0)]);
    let hindsight = tried(&two_steps(), &lives, 1200).1.expect("counts");
    let event = hindsight.events.last().expect("an end");
    assert_eq!(event.what, Then::Waits, "{event:?}");
}

#[test]
fn halves_of_one_version_give_no_alarm() {
    // Given four pods of one version, each with its share of failures:
    let pods = ["auth-5c8b4-bcdfg", "auth-5c8b4-hjklm", "auth-5c8b4-npqrs", "auth-5c8b4-tvwxz"];
    let lives = pods.map(|name| life(name, -3600, 100_000, 20.0, 0.004));
    let (arms, hindsight) = tried(&two_steps(), &lives, 1200);
    assert!(arms.are_halves());
    let hindsight = hindsight.expect("counts");
    assert_eq!(hindsight.events.last().map(|event| event.what), Some(Then::Promotes), "{:?}", hindsight.events);
    assert!((45.0..55.0).contains(&hindsight.share()), "{}", hindsight.share());
    // One pod can't be halved.
    let one = Arms::choose(there(&lives[..1], 600), STEP * 1000, "auth", None).expect_err("one pod");
    assert_eq!(one, ArmsError::OnePod("5c8b4".into()));
}

#[test]
fn a_pod_that_is_bad_by_itself_is_left_out_once() {
    let canary = ["auth-7d9f6-npqrs", "auth-7d9f6-tvwxz", "auth-7d9f6-24567"];
    let mut canary = canary.map(|name| life(name, 600, 2000, 20.0, 0.002));
    canary[1].bad = 0.5;
    let hindsight = tried(&two_steps(), &with(&canary), 1200).1.expect("counts");
    let first = hindsight.events.first().expect("an event");
    assert_eq!(first.what, Then::ReplacesPod, "{:?}", hindsight.events);
    assert!(first.why.contains("auth-7d9f6-tvwxz"), "{first:?}");
    assert_eq!(hindsight.events.last().map(|event| event.what), Some(Then::Promotes), "{:?}", hindsight.events);
}

#[test]
fn a_time_without_data_says_so() {
    let none = Arms::choose(BTreeMap::new(), STEP * 1000, "auth", None).expect_err("no pods");
    assert!(none.to_string().contains("pods called auth-HASH-SUFFIX, found none"), "{none}");
    // Pods that nobody has called:
    let lives = with(&[life("auth-7d9f6-npqrs", 600, 2000, 0.0, 0.0)]);
    let none = tried(&two_steps(), &lives, 1200).1.expect_err("no requests");
    assert_eq!(none.canary, 0);
    assert!(none.to_string().starts_with("expected requests of both versions, found 0 of the canary and"), "{none}");
    // Pods that have no such counter:
    let arms = Arms::choose(there(&lives, 1200), STEP * 1000, "auth", None).expect("two arms");
    let mut trial = Trial::new(&two_steps(), &arms, "shop", Millis::seconds(5)).expect("a query");
    for at in arms.looks((0..=240).map(|look| (BEGAN + look * STEP) * 1000)) {
        trial.look(Timestamp::from_millisecond(at).expect("in range"), &arms.listed(at), &BTreeMap::new());
    }
    let none = trial.hindsight().expect_err("no counts").to_string();
    assert!(none.contains("Prometheus has no sample of stable's pods (auth-5c8b4-bcdfg, auth-5c8b4-hjklm)"), "{none}");
}

#[test]
fn versions_are_guessed_only_where_it_is_clear() {
    let lives = with(&[
        life("auth-7d9f6-npqrs", 600, 800, 20.0, 0.0),
        life("auth-8xz29-npqrs", 800, 2000, 20.0, 0.0),
        life("other-8xz29-npqrs", 0, 2000, 20.0, 0.0),
    ]);
    let choose = |named| Arms::choose(there(&lives, 1200), STEP * 1000, "auth", named);
    let unclear = choose(None).expect_err("three versions").to_string();
    assert!(unclear.contains("7d9f6 (from 2025-11-24T16:10:00Z on), 8xz29 (from"), "{unclear}");
    let named = choose(Some(["5c8b4", "8xz29"])).expect("named");
    assert_eq!((named.stable.as_str(), named.canary.as_str()), ("5c8b4", "8xz29"));
    assert!(choose(Some(["5c8b4", "5c8b4"])).expect("halves").are_halves());
    let unknown = choose(Some(["5c8b4", "zzzzz"])).expect_err("unknown").to_string();
    assert!(unknown.contains("expected pods of version zzzzz, found 5c8b4"), "{unknown}");
    let apart = choose(Some(["7d9f6", "8xz29"])).expect_err("apart").to_string();
    assert!(apart.contains("found them one after the other"), "{apart}");
    // Two that are there from the beginning:
    let both =
        Arms::choose(there(&with(&[life("auth-7d9f6-npqrs", -60, 800, 20.0, 0.0)]), 600), STEP * 1000, "auth", None);
    assert!(matches!(both, Err(ArmsError::Unclear(_))), "{both:?}");
}

#[test]
fn it_looks_from_shortly_before_the_canary_until_one_of_both_is_gone() {
    let lives = [life("auth-5c8b4-bcdfg", -3600, 700, 40.0, 0.0), life("auth-7d9f6-npqrs", 600, 2000, 40.0, 0.0)];
    let arms = Arms::choose(there(&lives, 1200), STEP * 1000, "auth", None).expect("two arms");
    let looks = arms.looks((0..=240).map(|look| (BEGAN + look * STEP) * 1000));
    let ends = [looks.first(), looks.last()].map(|at| at.map(|at| at / 1000 - BEGAN));
    assert_eq!(ends, [Some(480), Some(705)]);
    let names = |seconds: i64| arms.listed((BEGAN + seconds) * 1000).len();
    assert_eq!([695, 700, 705].map(names), [2, 2, 1], "the last sample of one that goes is read, too");
    // Requests before the canary came are history; the canary's count from its first on.
    let at = |seconds: i64| arms.listed((BEGAN + seconds) * 1000);
    assert_eq!(at(500).len(), 1);
    let born: Vec<bool> = at(600).iter().map(|one| one.born_before_run).collect();
    assert_eq!(born, [true, false]);
}

#[test]
fn what_a_canary_counted_at_its_very_end_is_judged() {
    // Given a bad canary that somebody took away after twelve seconds:
    let lives = with(&[life("auth-7d9f6-npqrs", 600, 612, 20.0, 0.2)]);
    let hindsight = tried(&two_steps(), &lives, 1200).1.expect("counts");
    assert_eq!(hindsight.events.last().map(|event| event.what), Some(Then::TakesBack), "{:?}", hindsight.events);
}
