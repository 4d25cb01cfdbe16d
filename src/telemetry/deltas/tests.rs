use proptest::prelude::*;

use super::*;

fn counts(requests: u64, errors: u64, total: u64, slow: u64) -> PodCounts {
    let latencies = vec![LatencyCount { total, slow }];
    PodCounts { requests, errors, latencies, present: true, ..PodCounts::default() }
}

fn pod(id: &str, arm: Arm, counts: PodCounts) -> PodScrape {
    PodScrape { pod: id.to_owned(), arm, born_before_run: arm == Arm::Stable, counts: Some(counts) }
}

fn canary(id: &str, requests: u64, errors: u64) -> PodScrape {
    pod(id, Arm::Canary, counts(requests, errors, requests, errors))
}

fn stable(id: &str, requests: u64, errors: u64) -> PodScrape {
    pod(id, Arm::Stable, counts(requests, errors, requests, errors))
}

fn unreadable(mut scrape: PodScrape) -> PodScrape {
    scrape.counts = None;
    scrape
}

fn without_warmup() -> Deltas {
    Deltas::new(DeltaSettings { warmup_seconds: 0.0, ..DeltaSettings::default() })
}

fn arm(counts: Option<ArmCounts>) -> (u64, u64, u64, u64) {
    counts.unwrap().pods.iter().fold((0, 0, 0, 0), |sum, pod| {
        let latency = pod.latencies.first().copied().unwrap_or_default();
        (sum.0 + pod.requests, sum.1 + pod.errors, sum.2 + latency.total, sum.3 + latency.slow)
    })
}

#[test]
fn history_from_before_the_run_is_no_evidence() {
    let mut deltas = without_warmup();
    let first = deltas.observe(0.0, &[stable("s", 1_000_000, 500), canary("c", 5, 1)]);
    assert_eq!(arm(first.stable), (0, 0, 0, 0));
    assert_eq!(arm(first.canary), (0, 0, 0, 0), "there at the first tick: from its first value on");
    let second = deltas.observe(1.0, &[stable("s", 1_000_100, 501), canary("c", 8, 1)]);
    assert_eq!(arm(second.stable), (100, 1, 100, 1));
    assert_eq!(arm(second.canary), (3, 0, 3, 0));
}

#[test]
fn a_pod_that_comes_later_counts_from_zero() {
    let mut deltas = without_warmup();
    deltas.observe(0.0, &[stable("s", 10, 0)]);
    let tick = deltas.observe(1.0, &[stable("s", 10, 0), canary("c", 7, 7)]);
    assert_eq!(arm(tick.canary), (7, 7, 7, 7), "the very first errors count");
}

#[test]
fn an_old_pod_that_was_unreadable_at_first_keeps_its_history_to_itself() {
    let mut deltas = without_warmup();
    // On the list at the first tick, though nobody flagged it.
    let mut listed = unreadable(stable("listed", 0, 0));
    listed.born_before_run = false;
    let tick = deltas.observe(0.0, &[listed.clone()]);
    assert_eq!(tick.stable, None);
    listed.counts = Some(counts(9_000, 90, 9_000, 90));
    // Not even on the list, but known to be old.
    let tick = deltas.observe(1.0, &[listed, stable("sampled-late", 8_000, 80)]);
    assert_eq!(arm(tick.stable), (0, 0, 0, 0));
    let tick = deltas.observe(2.0, &[stable("listed", 9_001, 90), stable("sampled-late", 8_002, 81)]);
    assert_eq!(arm(tick.stable), (3, 1, 3, 1));
}

#[test]
fn a_counter_that_shrinks_is_a_new_process() {
    let mut deltas = without_warmup();
    deltas.observe(0.0, &[stable("s", 1000, 10)]);
    let tick = deltas.observe(1.0, &[stable("s", 30, 2)]);
    assert_eq!(tick.stable.as_ref().map(|counts| counts.resets), Some(1));
    assert_eq!(arm(tick.stable), (30, 2, 30, 2));
    // One field is enough: after a long gap the requests may have outgrown the old ones.
    let tick = deltas.observe(2.0, &[stable("s", 40, 1)]);
    assert_eq!(arm(tick.stable), (40, 1, 40, 1), "all fields of that pod");
}

#[test]
fn requests_that_turn_from_good_to_bad_are_a_new_process_too() {
    let mut deltas = without_warmup();
    deltas.observe(0.0, &[stable("s", 100, 0)]);
    let tick = deltas.observe(1.0, &[stable("s", 110, 50)]);
    assert_eq!(arm(tick.stable), (110, 50, 110, 50), "at most as many errors as requests");
}

#[test]
fn slow_requests_may_dip_without_a_restart() {
    let read = |total, slow| [pod("s", Arm::Stable, counts(total, 0, total, slow))];
    let mut deltas = without_warmup();
    deltas.observe(0.0, &read(1_000_000, 50));
    // The bucket was read first, then a fast request came, then the total was read: one slow one too many.
    assert_eq!(arm(deltas.observe(1.0, &read(1_000_010, 53)).stable), (10, 0, 10, 3));
    assert_eq!(arm(deltas.observe(2.0, &read(1_000_020, 52)).stable), (10, 0, 10, 0));
    assert_eq!(arm(deltas.observe(3.0, &read(1_000_030, 55)).stable), (10, 0, 10, 2), "not counted twice");
}

#[test]
fn an_unreadable_pod_brings_what_was_missed() {
    let mut deltas = without_warmup();
    deltas.observe(0.0, &[canary("c", 10, 0), stable("s", 0, 0)]);
    let tick = deltas.observe(1.0, &[unreadable(canary("c", 0, 0)), stable("s", 5, 0)]);
    assert_eq!(tick.canary, None, "pods, but none readable: no data, not zero");
    assert_eq!(arm(tick.stable), (5, 0, 5, 0));
    let tick = deltas.observe(2.0, &[canary("c", 25, 3), unreadable(canary("d", 0, 0))]);
    let read = tick.canary.clone().unwrap();
    assert_eq!((read.pods.len(), read.pods_unreadable), (1, 1));
    assert_eq!(arm(tick.canary), (15, 3, 15, 3));
    assert_eq!(arm(tick.stable), (0, 0, 0, 0), "no pods at all did nothing");
}

#[test]
fn a_pod_that_leaves_and_returns_goes_on_where_it_was() {
    let settings = DeltaSettings { warmup_seconds: 0.0, forget_after_seconds: 60.0 };
    let mut deltas = Deltas::new(settings);
    deltas.observe(0.0, &[stable("s", 1, 0)]);
    deltas.observe(1.0, &[canary("c", 100, 0)]);
    deltas.observe(30.0, &[]);
    let tick = deltas.observe(50.0, &[canary("c", 101, 0)]);
    assert_eq!(arm(tick.canary), (1, 0, 1, 0));
    deltas.observe(109.0, &[]);
    assert_eq!(deltas.pods.len(), 1, "s is forgotten, c not yet");
    deltas.observe(110.0, &[]);
    assert!(deltas.pods.is_empty());
}

#[test]
fn what_is_remembered_is_bounded() {
    let mut deltas = without_warmup();
    for tick in 0..3000 {
        deltas.observe(f64::from(tick), &[canary(&format!("c{tick}"), 1, 0)]);
    }
    assert_eq!(deltas.pods.len(), MAX_GONE + 1);
    assert!(deltas.pods.contains_key("c2999") && !deltas.pods.contains_key("c10"));
}

#[test]
fn a_fresh_pod_is_slow_at_first_and_not_judged_by_it() {
    let mut deltas = Deltas::new(DeltaSettings { warmup_seconds: 10.0, ..DeltaSettings::default() });
    deltas.observe(0.0, &[stable("s", 500, 0)]);
    let mut tick = |now, requests, slow, stable_requests| {
        let fresh = pod("c", Arm::Canary, counts(requests, 1, requests, slow));
        let mut scaled_up = stable("new", stable_requests, stable_requests);
        scaled_up.born_before_run = false;
        let tick = deltas.observe(now, &[fresh, scaled_up, stable("s", 500 + requests, 0)]);
        (arm(tick.canary), arm(tick.stable))
    };
    // Idle time does not warm.
    assert_eq!(tick(1.0, 0, 0, 0).0.2, 0);
    // First request at 100: requests and errors count at once, latency does not; a new stable pod is treated alike.
    let (canary, stable) = tick(100.0, 20, 20, 5);
    assert_eq!((canary.0, canary.2, canary.3), (20, 0, 0));
    assert_eq!((stable.0, stable.2), (25, 20), "the old pod's latency alone");
    assert_eq!(tick(109.0, 30, 25, 5).0.2, 0);
    // Warm at 110, but what came since 109 may be from before.
    assert_eq!(tick(110.0, 40, 26, 5).0, (10, 0, 0, 0));
    assert_eq!(tick(111.0, 50, 27, 5).0, (10, 0, 10, 1), "the warmup's slow ones stay out for good");
}

#[test]
fn a_restarted_process_is_cold_again() {
    let mut deltas = Deltas::new(DeltaSettings { warmup_seconds: 10.0, ..DeltaSettings::default() });
    deltas.observe(0.0, &[stable("s", 500, 0)]);
    assert_eq!(arm(deltas.observe(1.0, &[stable("s", 510, 0)]).stable).2, 10);
    assert_eq!(arm(deltas.observe(2.0, &[stable("s", 5, 5)]).stable), (5, 5, 0, 0));
    assert_eq!(arm(deltas.observe(11.0, &[stable("s", 6, 5)]).stable).2, 0);
    deltas.observe(12.0, &[stable("s", 7, 5)]);
    assert_eq!(arm(deltas.observe(13.0, &[stable("s", 9, 6)]).stable), (2, 1, 2, 1));
}

#[test]
fn a_gap_that_began_cold_stays_out() {
    let mut deltas = Deltas::new(DeltaSettings { warmup_seconds: 10.0, ..DeltaSettings::default() });
    deltas.observe(0.0, &[]);
    deltas.observe(1.0, &[canary("c", 1, 1)]);
    deltas.observe(5.0, &[unreadable(canary("c", 0, 0))]);
    assert_eq!(arm(deltas.observe(60.0, &[canary("c", 500, 100)]).canary), (499, 99, 0, 0));
    assert_eq!(arm(deltas.observe(61.0, &[canary("c", 510, 100)]).canary), (10, 0, 10, 0));
}

#[test]
fn a_pod_named_twice_counts_once() {
    let mut deltas = without_warmup();
    deltas.observe(0.0, &[]);
    let tick = deltas.observe(1.0, &[canary("c", 5, 0), canary("c", 5, 0)]);
    let counts = tick.canary.unwrap();
    assert_eq!((counts.pods[0].requests, counts.pods.len()), (5, 1));
}

#[test]
fn another_query_or_arm_starts_anew() {
    let mut deltas = without_warmup();
    deltas.observe(0.0, &[canary("c", 5, 0)]);
    let mut two = canary("c", 9, 0);
    two.counts.as_mut().unwrap().latencies.push(LatencyCount { total: 100, slow: 0 });
    let tick = deltas.observe(1.0, &[two.clone()]).canary.unwrap();
    let pod = &tick.pods[0];
    assert_eq!((pod.requests, pod.latencies.len(), pod.latencies[1].total), (0, 2, 0));
    two.arm = Arm::Stable;
    assert_eq!(arm(deltas.observe(2.0, &[two]).stable), (0, 0, 0, 0));
}

#[test]
fn each_pod_is_told_apart() {
    let mut deltas = Deltas::new(DeltaSettings { warmup_seconds: 10.0, ..DeltaSettings::default() });
    deltas.observe(0.0, &[stable("s", 5, 0), stable("t", 5, 0)]);
    let tick = deltas.observe(1.0, &[stable("s", 25, 1), stable("t", 9, 0), canary("c", 3, 2)]);
    let delta = |pod: &str, requests, errors, total, slow| PodDelta {
        pod: pod.to_owned(),
        requests,
        errors,
        strata: Vec::new(),
        latencies: vec![LatencyCount { total, slow }],
    };
    assert_eq!(tick.stable.unwrap().pods, [delta("s", 20, 1, 20, 1), delta("t", 4, 0, 4, 0)]);
    assert_eq!(tick.canary.unwrap().pods, [delta("c", 3, 2, 0, 0)], "cold: no latency yet");
}

#[test]
fn a_restarted_controller_goes_on() {
    let mut deltas = Deltas::new(DeltaSettings::default());
    deltas.observe(0.0, &[canary("c", 5, 0), stable("s", 5, 0)]);
    let saved = serde_json::to_string(&deltas).unwrap();
    let mut loaded: Deltas = serde_json::from_str(&saved).unwrap();
    assert_eq!(loaded, deltas);
    let next = [canary("c", 25, 1), stable("s", 9, 0), canary("d", 3, 0)];
    assert_eq!(loaded.observe(9.0, &next), deltas.observe(9.0, &next));
}

proptest! {
    /// A pod serves, fails to answer, restarts. What is counted never exceeds what was served, and without restarts
    /// nothing is lost.
    #[test]
    fn evidence_is_never_invented(
        events in proptest::collection::vec((0..50_u64, 0..50_u64, 0..50_u64, 0..10_u8), 1..60)
    ) {
        let mut deltas = without_warmup();
        deltas.observe(0.0, &[]);
        let (mut good, mut bad, mut slow) = (0, 0, 0);
        let (mut served, mut failed, mut lagged, mut restarted) = (0, 0, 0, false);
        let mut sum = (0, 0, 0, 0);
        for (at, (more_good, more_bad, more_slow, event)) in events.into_iter().enumerate() {
            if event == 0 {
                (good, bad, slow, restarted) = (0, 0, 0, true);
            }
            good += more_good;
            bad += more_bad;
            slow += more_slow.min(more_good);
            served += more_good + more_bad;
            failed += more_bad;
            lagged += more_slow.min(more_good);
            let mut scrape = pod("c", Arm::Canary, counts(good + bad, bad, good + bad, slow));
            if event == 1 {
                scrape = unreadable(scrape);
            }
            let readable = scrape.counts.is_some();
            let tick = deltas.observe(at as f64, &[scrape]);
            prop_assert_eq!(tick.canary.is_some(), readable);
            if let Some(counts) = tick.canary {
                let (requests, errors, total, slow) = arm(Some(counts));
                prop_assert!(errors <= requests && slow <= total);
                sum = (sum.0 + requests, sum.1 + errors, sum.2 + total, sum.3 + slow);
                if !restarted {
                    prop_assert_eq!(sum, (served, failed, served, lagged));
                }
            }
            prop_assert!(sum.0 <= served && sum.1 <= failed && sum.2 <= served && sum.3 <= lagged);
        }
    }
}

#[test]
fn strata_are_differenced_as_the_whole_is() {
    let scrape = |strata: &[(u64, u64)]| {
        let strata = strata.iter().map(|(requests, errors)| StratumCount { requests: *requests, errors: *errors });
        pod("c", Arm::Canary, PodCounts { strata: strata.collect(), ..counts(100, 9, 0, 0) })
    };
    let mut deltas = without_warmup();
    let mut seen = |strata: &[(u64, u64)]| -> Vec<(u64, u64)> {
        let pods = deltas.observe(0.0, &[scrape(strata)]).canary.unwrap().pods;
        pods[0].strata.iter().map(|count| (count.requests, count.errors)).collect()
    };
    assert_eq!(seen(&[(10, 1), (0, 0)]), [(0, 0), (0, 0)], "the first reading is history");
    assert_eq!(seen(&[(15, 2), (3, 3)]), [(5, 1), (3, 3)]);
    // A series that begins anew counts nothing until it is beyond what it was.
    assert_eq!(seen(&[(1, 0), (4, 3)]), [(0, 0), (1, 0)]);
    // Asked for more than before: nothing to compare with.
    assert_eq!(seen(&[(2, 0), (5, 3), (900, 900)]), [(0, 0); 3]);
}
