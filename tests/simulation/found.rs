//! What the simulation found once, as stories: seeds of the sweep change with the model. [`FOUND`] counts them.

use serde_json::json;
use serin::{engine::Latch, traffic};

use crate::{
    AT_MOST, check,
    model::{
        cluster::{endpoints_of, percent},
        people::{self, Deed, serving_template},
        server::{Kind, Object, Refusal},
        sim::{Setting, Sim},
    },
};

/// Each bug by the seed that found it first (`None`: found by reading) and the story that is kept of it.
pub const FOUND: &[(Option<u64>, &str)] = &[
    (Some(11), "a_pin_goes_with_its_deployment"),
    (Some(15), "a_rollout_goes_after_its_runs"),
    (Some(21), "data_that_spoil_both_versions_refuse_neither"),
    (Some(35), "a_contested_canary_keeps_its_pods_until_the_gateway_knows"),
    (Some(36), "a_share_of_pods_is_reached_as_nearly_as_pods_can"),
    (Some(56), "a_run_that_a_late_cache_does_not_show_is_not_doubled"),
    (Some(297), "what_was_baked_before_a_crash_does_not_count"),
    (Some(326), "without_its_rollout_a_held_template_waits_for_a_person"),
    (Some(343), "endpoints_that_a_cache_has_not_shown_yet_are_not_lost"),
    (Some(344), "a_reference_that_a_late_cache_hid_is_taken_out"),
    (Some(585), "a_rollout_does_not_go_without_a_run_that_is_not_shown_yet"),
    (Some(621), "an_outage_refuses_a_good_version_only_where_it_stands_alone"),
    (Some(907), "a_paused_run_that_prepares_keeps_its_pins"),
    (Some(1011), "a_contested_canary_keeps_its_pods_until_a_late_cache_knows"),
    (Some(1126), "a_paused_share_of_pods_is_told_as_paused"),
    (Some(1743), "a_weight_that_was_taken_back_is_not_due"),
    (Some(1882), "no_room_for_more_pods_late_in_a_promotion_is_said_and_ends"),
    (Some(2641), "what_a_run_made_just_before_its_end_is_cleared_away"),
    (Some(3545), "out_of_the_route_a_canary_is_not_silent"),
    (Some(3665), "what_was_in_one_route_is_not_forgotten_for_another"),
    (Some(7050), "undone_in_a_handover_the_deployment_goes_back_and_we_with_it"),
    (Some(7441), "copies_that_the_gateway_does_not_make_yet_are_not_missed"),
    (Some(6372), "a_run_that_is_over_leaves_the_pins_of_the_next_one"),
    (Some(7485), "a_newer_version_does_not_turn_a_handover_back"),
    (Some(11870), "older_data_that_a_late_leader_stamped_is_not_taken_for_an_undo"),
    (Some(12815), "handed_over_and_without_a_deployment_pods_are_left_alone"),
    (Some(15670), "the_only_canary_pod_is_not_replaced"),
    (Some(21300), "after_a_conflict_nothing_is_taken_back"),
    (Some(25034), "a_weight_that_a_late_cache_hides_is_taken_back_before_the_pods_go"),
    (Some(32029), "a_canary_without_any_owner_is_scaled_away"),
    (Some(42559), "a_late_write_of_an_earlier_run_does_not_take_a_pin_off"),
    (None, "without_a_route_the_traffic_goes_back_though_the_status_cannot_be_written"),
    (None, "late_in_a_promotion_the_traffic_goes_back_though_the_status_cannot_be_written"),
];

/// Every story is in [`FOUND`], and nothing else is.
#[test]
fn each_bug_is_counted() {
    let mut stories: Vec<&str> = include_str!("found.rs")
        .split("#[test]\nfn ")
        .skip(1)
        .filter_map(|text| text.split_once("()").map(|(name, _)| name))
        .filter(|name| *name != "each_bug_is_counted")
        .collect();
    let mut counted: Vec<&str> = FOUND.iter().map(|(_, story)| *story).collect();
    stories.sort_unstable();
    counted.sort_unstable();
    assert_eq!(counted, stories);
}

/// The world once more, with what happened before the promise was broken.
fn tell(setting: Setting, broken: &str) -> String {
    let mut sim = Sim::new(setting);
    sim.traces = true;
    let _ = check(&mut sim, AT_MOST);
    let trace: Vec<String> = sim.trace.into_iter().collect();
    format!("{}\n{broken}\n{:?}", trace.join("\n"), sim.setting)
}

fn holds(setting: Setting, word: &str, deeds: &[(i64, Deed)]) {
    holds_in(0..4, setting, word, deeds);
}

fn holds_in(seeds: std::ops::Range<u64>, setting: Setting, word: &str, deeds: &[(i64, Deed)]) {
    for seed in seeds {
        let deeds = [&[(15_000, Deed::Release(format!("auth:v2-{word}")))], deeds].concat();
        let setting = Setting { seed, deeds, ..setting.clone() };
        if let Err(broken) = check(&mut Sim::new(setting.clone()), AT_MOST) {
            panic!("{}", tell(setting, &broken));
        }
    }
}

/// The very worlds in which it was found, while the model makes them so: it took more than one accident.
fn again(seeds: &[u64]) {
    for seed in seeds {
        assert_eq!(check(&mut Sim::new(Setting::of_seed(*seed)), AT_MOST), Ok(()), "seed {seed}");
    }
}

/// A few writes at a time, none of which fails by itself.
fn unhurried(seed: u64, setting: Setting) -> Sim {
    let deeds = vec![(15_000, Deed::Release("auth:v2-good".into()))];
    Sim::new(Setting { seed, failures: 1e-9, deeds, ..setting })
}

/// Until it is so, after the step that made it so.
fn step_until(sim: &mut Sim, so: impl Fn(&Sim) -> bool) {
    while !so(sim) {
        sim.step();
        assert!(sim.passed < AT_MOST);
    }
}

/// Seed 11: without the Deployment's labels the pinned Service was not found again, and the pin stayed.
#[test]
fn a_pin_goes_with_its_deployment() {
    holds(Setting::calm(), "good", &[(20_000, Deed::DeleteDeployment)]);
}

/// Seed 15: the Rollout let go in the look in which its run ended; nobody took the run's finalizer off any more.
#[test]
fn a_rollout_goes_after_its_runs() {
    holds(Setting::calm(), "good", &[(20_000, Deed::DeleteRollout)]);
}

/// Seed 21: a Deployment made anew read its ConfigMap as it was by then, and that was bad: what served was as bad as the
/// canary. The run held, and the model's people did nothing about it.
#[test]
fn data_that_spoil_both_versions_refuse_neither() {
    let deeds = vec![
        (15_000, Deed::DeleteDeployment),
        (25_000, Deed::Configure("bad 1".into())),
        (30_000, Deed::CreateDeployment),
        (120_000, Deed::Rest),
    ];
    let mut sim = Sim::new(Setting { tracks: true, deeds, ..Setting::calm() });
    while sim.passed < 110_000 {
        sim.step();
    }
    assert_eq!(sim.run().expect("a run").text("/status/waiting/reason"), "SharedFault");
    assert_eq!(check(&mut sim, AT_MOST), Ok(()));
    assert_eq!(sim.run().expect("a run").text("/status/phase"), "Succeeded");
}

/// Seed 56: a second leader knew of the run by the Rollout's status only, took it for deleted, and began another.
#[test]
fn a_run_that_a_late_cache_does_not_show_is_not_doubled() {
    for rival in [8_000, 12_000, 14_000] {
        let setting = Setting { lag: true, rival: Some(rival), failures: 0.06, ..Setting::calm() };
        holds_in(0..12, setting, "good", &[(60_000, Deed::Rest)]);
    }
}

/// Seed 585: deleted just after its run was made, a Rollout went before a late cache had shown the run, which stayed.
#[test]
fn a_rollout_does_not_go_without_a_run_that_is_not_shown_yet() {
    for at in (15_200..17_000).step_by(200) {
        holds_in(
            0..30,
            Setting { lag: true, ..Setting::calm() },
            "good",
            &[(at, Deed::DeleteRollout), (60_000, Deed::Rest)],
        );
    }
}

/// Seed 35: contested; the canary's pods went while the gateway had not yet taken the weight away.
#[test]
fn a_contested_canary_keeps_its_pods_until_the_gateway_knows() {
    let resets: Vec<(i64, Deed)> = (0..5).map(|time| (20_000 + time * 4_000, Deed::ResetRoute)).collect();
    holds(
        Setting { lag: true, replicas: 1, steps: json!([{"weight": 100, "bake": "20s"}]), ..Setting::calm() },
        "good",
        &resets,
    );
}

/// Seed 36: without a route 25 % of 4 pods is 1 in 5, which is 20 %; the step waited for 25 forever.
#[test]
fn a_share_of_pods_is_reached_as_nearly_as_pods_can() {
    holds(Setting { routed: false, steps: json!([{"weight": 25, "bake": "3s"}]), ..Setting::calm() }, "good", &[]);
}

/// Seed 297: a canary that crashed in the middle of a bake was promoted on its few good seconds.
#[test]
fn what_was_baked_before_a_crash_does_not_count() {
    let steps = json!([{"weight": 50, "bake": "5s"}]);
    holds(Setting { routed: false, replicas: 1, steps, ..Setting::calm() }, "crashing", &[]);
}

/// Seed 343: a controller that came to lead knew the run's stage, and its cache of EndpointSlices was older; it took
/// the promoted canary for lost and rolled a good version back.
#[test]
fn endpoints_that_a_cache_has_not_shown_yet_are_not_lost() {
    let steps = json!([{"weight": 50, "bake": "2s"}]);
    for rival in [26_000, 28_000, 30_000, 32_000] {
        let setting = Setting { lag: true, rival: Some(rival), steps: steps.clone(), ..Setting::calm() };
        holds_in(0..6, setting, "good", &[(70_000, Deed::Rest)]);
    }
}

/// Seed 1011: a second leader whose cache of routes was older than the run's status took the run for contested, and
/// the canary's pods away while the gateway still sent requests to them.
#[test]
fn a_contested_canary_keeps_its_pods_until_a_late_cache_knows() {
    let steps = json!([{"weight": 50, "bake": "5s"}]);
    let setting = Setting { lag: true, second_route: true, replicas: 1, steps, ..Setting::calm() };
    holds_in(0..25, Setting { rival: Some(19_000), ..setting }, "good", &[(60_000, Deed::Rest)]);
}

/// Seed 1882: scaled up late in a promotion, beyond the quota: it waited for the route, which had long been accepted, and
/// so for ever.
#[test]
fn no_room_for_more_pods_late_in_a_promotion_is_said_and_ends() {
    for at in 33..42 {
        let setting = Setting { replicas: 2, quota: Some(5), ..Setting::calm() };
        holds_in(0..1, setting, "good", &[(at * 1_000, Deed::Scale(5))]);
    }
}

/// Seed 3665: the answer to a route's patch was lost, and a late cache did not show the run with that route's weights yet;
/// they were overwritten by the second route's, and the first came back with a weight that it had not had.
#[test]
fn what_was_in_one_route_is_not_forgotten_for_another() {
    let names_canary = |sim: &Sim, route: &str| {
        sim.server.get(Kind::Route, route).is_some_and(|route| route.value.to_string().contains("auth-canary"))
    };
    let kept = |sim: &Sim| {
        sim.run()
            .is_some_and(|run| run.value["status"]["originalWeights"].to_string().contains("HTTPRoute/auth/0/auth:80"))
    };
    let mut told = 0;
    for seed in 0..40 {
        let mut sim = unhurried(seed, Setting { second_route: true, ..Setting::calm() });
        step_until(&mut sim, kept);
        sim.controllers[0].stall(Kind::Run, 4_000);
        step_until(&mut sim, |sim| names_canary(sim, "auth"));
        if !names_canary(&sim, people::SECOND_ROUTE) {
            told += 1;
            while sim.controllers[0].in_flight().is_some() {}
        }
        assert_eq!(check(&mut sim, AT_MOST), Ok(()), "seed {seed}");
    }
    assert!(told > 3, "{told} of 40 stop between the two routes");
}

/// Some callers reach the canary.
fn exposed(sim: &Sim) -> bool {
    let canary = sim.run().expect("a run").text("/spec/to/hash").to_owned();
    let behind = |service: &str| {
        let pods = endpoints_of(&sim.server, service);
        pods.iter().any(|pod| sim.server.get(Kind::Pod, pod).is_some_and(|pod| pod.hash() == canary))
    };
    let routed = sim.cluster.in_force.get("auth").is_some_and(|backends| percent(backends, "auth-canary") > 0);
    behind("auth") || routed && behind("auth-canary")
}

/// The run's status can't be written from some moment on; an abort takes the traffic back all the same.
fn retreats_without_a_status(setting: Setting, reached: impl Fn(&Object) -> bool) {
    let mut sim = Sim::new(Setting { deeds: vec![(15_000, Deed::Release("auth:v2-good".into()))], ..setting });
    step_until(&mut sim, |sim| sim.run().is_some_and(|run| reached(&run)));
    assert!(exposed(&sim));
    sim.setting.unwritable = Some(0);
    sim.act(&Deed::Abort);
    (0..100).for_each(|_| sim.step());
    assert_ne!(sim.run().expect("a run").text("/status/phase"), "RollingBack");
    assert!(!exposed(&sim));
}

/// By reading: without a route the retreat is the canary's size, which waited for the status.
#[test]
fn without_a_route_the_traffic_goes_back_though_the_status_cannot_be_written() {
    let steps = json!([{"weight": 50, "bake": "20s"}]);
    retreats_without_a_status(Setting { routed: false, steps, ..Setting::calm() }, |run| {
        run.text("/status/waiting/reason") == "Bake"
    });
}

/// By reading: late in a promotion the retreat is the apex's pin, which waited for the status.
#[test]
fn late_in_a_promotion_the_traffic_goes_back_though_the_status_cannot_be_written() {
    retreats_without_a_status(Setting::calm(), |run| run.text("/status/stage") == "Quiet");
}

/// At a place of the run: milliseconds from then, and what happens.
fn at(place: &'static str, happens: &[(i64, Deed)]) -> Vec<(&'static str, i64, Deed)> {
    happens.iter().map(|(after, deed)| (place, *after, deed.clone())).collect()
}

/// Seed 907: paused while it prepared, a run did not pin again: a Service that GitOps had put back sent direct callers to
/// the canary that stood already.
#[test]
fn a_paused_run_that_prepares_keeps_its_pins() {
    let happens = at("Preparing", &[(1_000, Deed::Pause(true)), (1_500, Deed::ResetService), (60_000, Deed::Rest)]);
    holds(Setting { at_place: happens, ..Setting::calm() }, "good", &[]);
}

/// Seed 1126: paused, a share of pods does not grow with the Deployment; it was told as missing capacity, so that nobody
/// knew to resume it.
#[test]
fn a_paused_share_of_pods_is_told_as_paused() {
    let steps = json!([{"weight": 50, "bake": "20s"}]);
    let happens = at("Shifting", &[(3_000, Deed::Pause(true)), (4_000, Deed::Scale(6))]);
    holds(Setting { routed: false, replicas: 2, steps, at_place: happens, ..Setting::calm() }, "good", &[]);
}

/// Seed 621: in a promotion the canary has every request, and nothing tells an outage of both versions from a fault of the
/// new one: a good version may be refused then, and a retry promotes it. Before the promotion an outage is never its fault.
#[test]
fn an_outage_refuses_a_good_version_only_where_it_stands_alone() {
    for (place, after) in [("Shifting", 2_000), ("Grow", 0), ("Return", 3_000), ("Quiet", 0), ("Quiet", 1_500)] {
        for seed in 0..12 {
            let outage = [(after, Deed::Outage(true)), (after + 8_000, Deed::Outage(false))];
            let deeds =
                vec![(15_000, Deed::Release("auth:v2-good".into())), (150_000, Deed::Retry), (250_000, Deed::Rest)];
            let mut sim = Sim::new(Setting {
                seed,
                deeds,
                at_place: at(place, &outage),
                lag: true,
                replicas: 1,
                ..Setting::calm()
            });
            assert_eq!(check(&mut sim, AT_MOST), Ok(()), "{place}: {:#?}", sim.trace);
            let phases: Vec<String> =
                sim.server.list(Kind::Run).map(|run| run.text("/status/phase").to_owned()).collect();
            assert_eq!(phases.last().map(String::as_str), Some("Succeeded"), "{place}: {phases:?}");
            assert!(place != "Shifting" || phases.len() == 1, "{phases:?}");
        }
    }
}

fn serving_image(sim: &Sim) -> Option<String> {
    let template = serving_template(&sim.server)?;
    template["spec"]["containers"][0]["image"].as_str().map(str::to_owned)
}

/// Seed 326: its Rollout deleted, a template that was not released stays held, the serving version serves, and nothing of
/// ours is left: from here on the Deployment is a person's, who resumes it.
#[test]
fn without_its_rollout_a_held_template_waits_for_a_person() {
    let mut sim = Sim::new(Setting {
        deeds: vec![
            (15_000, Deed::Release("auth:v2-good".into())),
            (22_000, Deed::DeleteRollout),
            (60_000, Deed::Rest),
        ],
        ..Setting::calm()
    });
    assert_eq!(check(&mut sim, AT_MOST), Ok(()), "{:#?}", sim.trace);
    let deployment = sim.server.get(Kind::Deployment, "auth").cloned().expect("the Deployment");
    assert!(deployment.is("/spec/paused"));
    assert_eq!(deployment.value["metadata"]["labels"], json!({"app": "auth"}));
    assert_eq!(serving_image(&sim).as_deref(), Some("auth:v1-good"));
    let resume = json!([{"op": "replace", "path": "/spec/paused", "value": false}]);
    sim.server.patch(Kind::Deployment, "auth", &resume, "kubectl", false).expect("nobody holds it");
    (0..400).for_each(|_| sim.step());
    assert_eq!(serving_image(&sim).as_deref(), Some("auth:v2-good"));
}

/// Seeds 7485 and 7615 (100,000 in one run): a newer version came when the ReplicaSet was handed over and a late cache still
/// showed it as the run's: the traffic went back to stable, which had no pods any more.
#[test]
fn a_newer_version_does_not_turn_a_handover_back() {
    for after in [0, 500, 1_000, 1_500] {
        for place in ["HandOver", "Converge"] {
            let happens = at(place, &[(after, Deed::Release("auth:v3-good".into()))]);
            let setting = Setting { lag: true, turmoil: true, replicas: 5, at_place: happens, ..Setting::calm() };
            holds_in(0..10, setting, "good", &[(120_000, Deed::Rest)]);
        }
    }
}

/// Seed 7050 (100,000 in one run): undone while the Deployment took the new ReplicaSet over, it went back to the old one;
/// we scaled that one down, and callers had nobody.
#[test]
fn undone_in_a_handover_the_deployment_goes_back_and_we_with_it() {
    for (routed, latch) in [(true, Latch::Policy), (false, Latch::Policy), (true, Latch::Pause), (false, Latch::Pause)]
    {
        for after in [0, 300, 600, 1_000, 2_000] {
            for place in ["HandOver", "Converge"] {
                let setting = Setting { routed, latch, at_place: at(place, &[(after, Deed::Undo)]), ..Setting::calm() };
                holds_in(0..2, setting.clone(), "good", &[]);
                holds_in(0..4, Setting { lag: true, turmoil: true, ..setting }, "good", &[(90_000, Deed::Rest)]);
            }
        }
    }
}

/// Seed 7441 (100,000 in one run): a mirror that somebody had taken out of the route was in it again, and the gateway did
/// not make copies yet; the canary, which got none, was taken for silent.
#[test]
fn copies_that_the_gateway_does_not_make_yet_are_not_missed() {
    let steps = json!([{"mirror": {"percent": 50}, "bake": "3s"}, {"weight": 50, "bake": "3s"}]);
    let resets: Vec<(i64, Deed)> = (0..10).map(|time| (17_656 + 3_000 * time, Deed::ResetRoute)).collect();
    let setting = Setting { lag: true, latch: Latch::Pause, replicas: 1, failures: 0.06, steps, ..Setting::calm() };
    holds_in(0..60, setting, "good", &[resets, vec![(90_000, Deed::Rest)]].concat());
}

/// Seed 344: rolled back while it was introduced; a late cache showed the route without the canary's reference, which was
/// then left in it.
#[test]
fn a_reference_that_a_late_cache_hid_is_taken_out() {
    holds_in(0..80, Setting { lag: true, replicas: 3, ..Setting::calm() }, "crashing", &[(45_000, Deed::Rest)]);
}

/// Seed 2641: superseded at once, a run ended before a late cache had shown the ReplicaSet that it had made; it was left.
#[test]
fn what_a_run_made_just_before_its_end_is_cleared_away() {
    for after in (0..1_000).step_by(100) {
        let happens = at("Preparing", &[(after, Deed::Release("auth:v3-good".into()))]);
        let setting = Setting { lag: true, crashes: 0.05, replicas: 2, at_place: happens, ..Setting::calm() };
        holds_in(0..8, setting, "good", &[(60_000, Deed::Rest)]);
    }
}

/// Seed 3545: somebody put his route back again and again; the canary, out of it, was taken for silent.
#[test]
fn out_of_the_route_a_canary_is_not_silent() {
    let steps = json!([{"weight": 25, "bake": "3s"}, {"approval": {}}, {"weight": 50, "bake": "3s"}]);
    let resets: Vec<(i64, Deed)> = (0..5).map(|time| (38_239 + 3_000 * time, Deed::ResetRoute)).collect();
    let setting = Setting { lag: true, turmoil: true, crashes: 0.02, replicas: 1, steps, ..Setting::calm() };
    for second_route in [false, true] {
        holds_in(0..40, Setting { second_route, ..setting.clone() }, "good", &resets);
    }
}

/// Seed 1743: contested, the canary had its weight taken back; the weight that was known last was due to it still, and it
/// was taken for silent.
#[test]
fn a_weight_that_was_taken_back_is_not_due() {
    let steps = json!([{"weight": 60, "bake": "40s"}]);
    let resets: Vec<(i64, Deed)> = (0..6).map(|time| (28_000 + 3_000 * time, Deed::ResetRoute)).collect();
    let setting = Setting { lag: true, replicas: 2, steps, ..Setting::calm() };
    for second_route in [false, true] {
        holds_in(0..30, Setting { second_route, ..setting.clone() }, "good", &resets);
    }
}

/// Seed 6372: who led no more, and saw the run before as not quite over, took the next one's pin off again and again, as
/// what it knew of the Service was new.
#[test]
fn a_run_that_is_over_leaves_the_pins_of_the_next_one() {
    again(&[6_372]);
}

/// Seed 11870: who led no more, and saw the ConfigMap as it was, stamped the template with the older data; who led took that
/// for a person's undo, and left it.
#[test]
fn older_data_that_a_late_leader_stamped_is_not_taken_for_an_undo() {
    again(&[11_870, 33_695, 46_016, 52_775, 83_211, 85_291]);
}

/// Seed 12815: its Deployment was deleted just after the handover; the run waited for ever for the pods of a ReplicaSet
/// that was nobody's.
#[test]
fn handed_over_and_without_a_deployment_pods_are_left_alone() {
    again(&[12_815]);
}

/// Seed 15670: scaled to 0 in mid-run the canary kept one pod, and that was the bad one: it was replaced with half of the
/// requests upon it.
#[test]
fn the_only_canary_pod_is_not_replaced() {
    again(&[15_670]);
}

/// Seed 21300: a late cache showed the run before its handover, and something to take it back for; the status could not be
/// written over what was there by then, and the canary was scaled away all the same, for ever.
#[test]
fn after_a_conflict_nothing_is_taken_back() {
    again(&[21_300, 86_343]);
}

/// Seed 25034: a newer version came just after a weight was written, which a late cache did not show: the canary's pods went
/// with requests upon them.
#[test]
fn a_weight_that_a_late_cache_hides_is_taken_back_before_the_pods_go() {
    again(&[25_034, 54_989, 77_863]);
}

/// Seed 32029: orphaned by people and without a Deployment that adopts it, the canary's ReplicaSet had no owner to test for;
/// no write to it succeeded.
#[test]
fn a_canary_without_any_owner_is_scaled_away() {
    again(&[32_029]);
}

/// Seed 42559: a controller that led no more took the pin of its run off, and that was the next run's by then: the same
/// version is pinned to.
#[test]
fn a_late_write_of_an_earlier_run_does_not_take_a_pin_off() {
    let mut sim = unhurried(1, Setting::calm());
    let pin = |sim: &Sim| {
        let service = sim.server.get(Kind::Service, "auth").expect("a Service");
        service.text("/spec/selector/pod-template-hash").to_owned()
    };
    // Given the write that takes the first run's pin off, under way for long:
    step_until(&mut sim, |sim| !pin(sim).is_empty());
    let first = pin(&sim);
    let late = traffic::unpin(&sim.server.get(Kind::Service, "auth").expect("a Service").typed());
    sim.act(&Deed::Abort);
    step_until(&mut sim, |sim| pin(sim).is_empty());
    sim.act(&Deed::Release("auth:v3-good".into()));
    step_until(&mut sim, |sim| !pin(sim).is_empty());
    assert_eq!(pin(&sim), first);
    // When it arrives, then it comes too late:
    assert_eq!(sim.server.patch(Kind::Service, "auth", &late, "serin", false), Err(Refusal::Conflict));
    assert_eq!(check(&mut sim, AT_MOST), Ok(()));
}
