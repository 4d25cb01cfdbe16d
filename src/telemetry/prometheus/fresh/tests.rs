//! A source and its looks, as stories. Prometheus scrapes each 5 s and is asked each 5 s.

use super::super::super::query::PodCounts;
use super::*;

/// The source's clock is behind ours by so many seconds.
const AHEAD: f64 = 100.0;

struct Story {
    freshness: Freshness,
    now: f64,
    shared: bool,
}

impl Story {
    fn new() -> Story {
        Story { freshness: Freshness::default(), now: 1000.0, shared: true }
    }

    /// Five seconds later: pods that answer, as (name, arm, reading).
    fn look(&mut self, pods: &[(&str, Arm, Option<PodReading>)]) -> Look {
        self.now += 5.0;
        let listed: Vec<Listed> = pods.iter().map(|(name, arm, _)| listed(name, *arm)).collect();
        let some = pods.iter().filter_map(|(name, _, reading)| Some(((*name).to_owned(), reading.clone()?)));
        let clock = Clock { now: self.now, ahead: AHEAD, interval: 5.0 };
        self.freshness.sift(clock, &listed, &some.collect(), self.shared)
    }

    /// The same, with a pod of each arm that was sampled `old` seconds ago.
    fn sampled(&mut self, old: f64, stable: u64, canary: u64) -> Look {
        let at = self.now + 5.0 - AHEAD - old;
        self.look(&[("s", Arm::Stable, counted(at, stable)), ("c", Arm::Canary, counted(at, canary))])
    }

    fn round(&mut self, old: f64, stable: u64, canary: u64) -> Round {
        round(self.sampled(old, stable, canary))
    }
}

fn listed(name: &str, arm: Arm) -> Listed {
    Listed { pod: format!("uid-{name}"), name: name.to_owned(), arm, born_before_run: arm == Arm::Stable }
}

fn counted(at: f64, requests: u64) -> Option<PodReading> {
    Some(PodReading::Sampled { counts: PodCounts { requests, present: true, ..PodCounts::default() }, at })
}

fn unreadable(at: f64) -> Option<PodReading> {
    Some(PodReading::Unreadable { why: "`up` is 0".to_owned(), at })
}

fn round(look: Look) -> Round {
    match look {
        Look::Round(round) => round,
        other => panic!("expected a round, found {other:?}"),
    }
}

fn why(look: Look) -> String {
    match look {
        Look::Blind(why) => why.why().to_owned(),
        other => panic!("expected nothing to be seen, found {other:?}"),
    }
}

#[test]
fn new_samples_of_both_arms_are_a_round() {
    let mut story = Story::new();
    let first = story.round(2.0, 100, 0);
    assert_eq!(first.since, f64::NEG_INFINITY, "nobody knows since when the first counters grew");
    assert_eq!(first.pods.len(), 2);
    assert!(first.pods[0].born_before_run && first.pods[0].pod == "uid-s");
    let second = story.round(2.0, 150, 5);
    assert_eq!(second.seconds, 5.0);
    // the first samples were taken at 1003 on our clock; a second for the clock's
    assert_eq!(second.since, 1002.0);
    assert_eq!((second.fault, second.gap), (None, None));
}

#[test]
fn a_prometheus_that_lags_behind_gives_rounds_all_the_same_and_says_of_when_they_are() {
    let mut story = Story::new();
    story.round(15.0, 100, 0);
    for look in 1..20 {
        let round = story.round(15.0, 100 + look * 50, look * 5);
        assert_eq!(round.seconds, 5.0);
        assert_eq!(round.since, story.now - 15.0 - 5.0 - 1.0);
    }
}

#[test]
fn until_both_arms_have_new_samples_nothing_is_said_and_nothing_is_lost() {
    let mut story = Story::new();
    story.round(2.0, 100, 0);
    let at = story.now - AHEAD;
    // only stable is new
    let half = [("s", Arm::Stable, counted(at + 3.0, 150)), ("c", Arm::Canary, counted(at - 2.0, 0))];
    assert_eq!(story.look(&half), Look::Nothing);
    // then the canary is, and stable counts for the whole time
    let whole = [("s", Arm::Stable, counted(at + 3.0, 150)), ("c", Arm::Canary, counted(at + 4.0, 5))];
    let round = round(story.look(&whole));
    assert_eq!(round.since, at - 2.0 + AHEAD - 1.0);
    let requests: Vec<_> = round.pods.iter().map(|pod| pod.counts.as_ref().map(|counts| counts.requests)).collect();
    assert_eq!(requests, [Some(150), Some(5)]);
}

#[test]
fn a_pod_without_a_new_sample_was_not_read_this_time() {
    let mut story = Story::new();
    let pods = |a, b, c| [("a", Arm::Stable, a), ("b", Arm::Stable, b), ("c", Arm::Canary, c)];
    story.look(&pods(counted(901.0, 10), counted(902.0, 20), counted(903.0, 0)));
    let round = round(story.look(&pods(counted(906.0, 15), counted(902.0, 20), counted(908.0, 1))));
    assert_eq!(round.pods.iter().filter(|pod| pod.counts.is_some()).count(), 2);
    assert!(round.pods[1].counts.is_none());
    assert_eq!(round.fault, None);
}

#[test]
fn a_source_that_stands_still_is_said_after_a_while() {
    let mut story = Story::new();
    for look in 0..5 {
        story.round(2.0, 100 + look * 50, look * 5);
    }
    let last = story.now - AHEAD - 2.0;
    let frozen = [("s", Arm::Stable, counted(last, 300)), ("c", Arm::Canary, counted(last, 20))];
    let looks: Vec<Look> = (0..30).map(|_| story.look(&frozen)).collect();
    let silent = looks.iter().take_while(|look| **look == Look::Nothing).count();
    assert!((2..26).contains(&silent), "{silent} looks of 5 s");
    assert!(matches!(&looks[silent], Look::Blind(Blind::Stale { .. })), "{:?}", looks[silent]);
    let said = why(looks[silent].clone());
    assert!(said.contains("has nothing new of stable's pods for"), "{said}");
    assert!(looks[silent..].iter().all(|look| matches!(look, Look::Blind(_))), "and stays said");
    // back again
    assert_eq!(story.round(2.0, 5000, 300).gap, None);
}

#[test]
fn once_the_rhythm_is_known_a_standstill_is_said_within_half_a_minute() {
    let mut story = Story::new();
    for look in 0..20 {
        story.round(2.0, 100 + look * 50, look * 5);
    }
    let last = story.now - AHEAD - 2.0;
    let frozen = [("s", Arm::Stable, counted(last, 1050)), ("c", Arm::Canary, counted(last, 95))];
    let silent = (0..30).take_while(|_| story.look(&frozen) == Look::Nothing).count();
    assert!(silent <= 6, "{silent} looks of 5 s");
}

#[test]
fn counters_that_repeat_themselves_with_new_times_are_said() {
    let mut story = Story::new();
    for look in 0..10 {
        assert_eq!(story.round(2.0, 100 + look * 50, look * 5).gap, None);
    }
    let gaps: Vec<Option<Blind>> = (0..6).map(|_| story.round(2.0, 550, 45).gap).collect();
    assert_eq!(gaps[0], None, "callers may pause for a moment");
    let Some(Blind::Stale { stale: said }) = gaps[3].clone() else { panic!("expected it to be said: {gaps:?}") };
    assert!(said.contains("stable's requests stand still for 20 s in Prometheus, while about 200 were due"), "{said}");
    assert_eq!(story.round(2.0, 600, 50).gap, None, "they move again");
}

#[test]
fn a_quiet_service_or_a_drained_stable_does_not_count_as_frozen() {
    let mut quiet = Story::new();
    for look in 0..40 {
        // a request each minute
        assert_eq!(quiet.round(2.0, 100 + look / 12, 0).gap, None);
    }
    let mut promoted = Story::new();
    promoted.shared = false;
    for look in 0..20 {
        let stable = if look < 10 { look * 50 } else { 500 };
        assert_eq!(promoted.round(2.0, stable, look * 50).gap, None);
    }
}

#[test]
fn an_arm_that_prometheus_does_not_know_is_said_at_once_and_never_silent() {
    let mut story = Story::new();
    let at = |story: &Story| story.now + 5.0 - AHEAD - 2.0;
    let (first, canary) = (at(&story), ("auth-canary", Arm::Canary, None));
    let said = why(story.look(&[("s", Arm::Stable, counted(first, 9)), canary.clone()]));
    assert!(
        said.contains("has no sample of the canary's pods (auth-canary) of the last 120 s: does it scrape them"),
        "{said}"
    );
    // before there are canary pods stable alone is a round
    let alone = at(&story);
    round(story.look(&[("s", Arm::Stable, counted(alone, 9))]));
}

#[test]
fn a_canary_that_prometheus_can_not_scrape_is_said_and_is_no_silent_one() {
    let mut story = Story::new();
    story.round(2.0, 100, 5);
    for look in 1..20 {
        let at = story.now + 5.0 - AHEAD - 2.0;
        let stable = counted(at, 100 + look * 50);
        let said = why(story.look(&[("s", Arm::Stable, stable), ("c", Arm::Canary, unreadable(at))]));
        assert_eq!(said, "pod c: `up` is 0");
    }
    // what stable did meanwhile comes with the canary's
    let back = story.round(2.0, 1100, 60);
    assert_eq!((back.seconds, back.since), (100.0_f64.min(RAREST), 1002.0));
    // one of several is enough to go on
    let at = story.now + 5.0 - AHEAD - 2.0;
    let two = [
        ("s", Arm::Stable, counted(at, 1150)),
        ("c", Arm::Canary, counted(at, 65)),
        ("d", Arm::Canary, unreadable(at)),
    ];
    let counts: Vec<bool> = round(story.look(&two)).pods.iter().map(|pod| pod.counts.is_some()).collect();
    assert_eq!(counts, [true, true, false]);
}

#[test]
fn counters_that_vanish_are_not_taken_for_a_restart() {
    let mut story = Story::new();
    story.round(2.0, 100, 50);
    let mut looks = Vec::new();
    for look in 1..40 {
        let at = story.now + 5.0 - AHEAD - 2.0;
        let empty = Some(PodReading::Sampled { counts: PodCounts::default(), at });
        looks.push(story.look(&[("s", Arm::Stable, counted(at, 100 + look * 50)), ("c", Arm::Canary, empty)]));
    }
    assert!(!looks.iter().any(|look| matches!(look, Look::Round(_))));
    let said = why(looks.pop().expect("a look"));
    assert!(said.contains("nothing new of the canary's pods"), "{said}");
}
