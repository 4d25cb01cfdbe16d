//! Deterministic simulation: production's decisions against a small model of Kubernetes, its callers and its people.
//!
//! `cargo test --release --test simulation` tries 5,000 seeds, without `--release` 500; `SERIN_SEEDS=100000` makes a long
//! run, `SERIN_FIRST` begins elsewhere, `SERIN_SEED=7` replays one with its whole trace.

mod invariants;
#[allow(dead_code, reason = "some fields are there for the trace")]
mod model;
mod sabotage;

use invariants::Watch;
use model::{
    people::{self, Deed},
    sim::{Setting, Sim},
};

/// In milliseconds that really passed: a contested route alone may hold a run for five minutes.
const AT_MOST: i64 = 1_200_000;

/// As many as fit into two minutes on two cores; without optimisation a tenth of it.
const SEEDS: u64 = if cfg!(debug_assertions) { 500 } else { 5_000 };

/// Runs a world to its end. `Err`: what was broken.
fn check(sim: &mut Sim, at_most: i64) -> Result<(), String> {
    let mut watch = Watch::default();
    while !sim.is_settled() && sim.passed < at_most {
        sim.step();
        watch.after_step(sim)?;
    }
    invariants::at_the_end(sim)?;
    invariants::i7_idle_is_silent(sim)
}

fn try_seed(seed: u64) -> Result<(), String> {
    check(&mut Sim::new(Setting::of_seed(seed)), AT_MOST).map_err(|_| tell_seed(seed, false))
}

/// The same once more, with what happened before the promise was broken.
fn tell_seed(seed: u64, loud: bool) -> String {
    let mut sim = Sim::new(Setting::of_seed(seed));
    sim.traces = true;
    sim.loud = loud;
    let setting = format!("{:?}", sim.setting);
    match check(&mut sim, AT_MOST) {
        Ok(()) => format!("seed {seed}: no promise is broken"),
        Err(broken) => {
            let trace: Vec<String> = sim.trace.iter().rev().take(60).rev().cloned().collect();
            format!(
                "{}\nseed {seed}: {broken}\n{setting}\n(replay: SERIN_SEED={seed} cargo test --test simulation)",
                trace.join("\n")
            )
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

#[test]
fn no_seed_breaks_a_promise() {
    if let Some(seed) = number("SERIN_SEED") {
        let told = tell_seed(seed, true);
        println!("{told}");
        return try_seed(seed).unwrap_or_else(|broken| panic!("{broken}"));
    }
    let (first, seeds) = (number("SERIN_FIRST").unwrap_or(0), number("SERIN_SEEDS").unwrap_or(SEEDS));
    let threads = std::thread::available_parallelism().map_or(2, usize::from) as u64;
    let broken: Vec<String> = std::thread::scope(|scope| {
        let part = |thread: u64| {
            move || {
                (first..first + seeds)
                    .filter(|seed| seed % threads == thread)
                    .filter_map(|seed| try_seed(seed).err().inspect(|broken| println!("{broken}\n")))
                    .collect::<Vec<_>>()
            }
        };
        let all: Vec<_> = (0..threads).map(|thread| scope.spawn(part(thread))).collect();
        all.into_iter().flat_map(|thread| thread.join().expect("a seed panicked")).collect()
    });
    let summary: Vec<&str> =
        broken.iter().flat_map(|text| text.lines()).filter(|line| line.starts_with("seed ")).collect();
    assert!(broken.is_empty(), "{} of {seeds} seeds:\n{}", broken.len(), summary.join("\n"));
}

/// I8: the same world with and without crashes, lost writes and second controllers ends alike. Deeds that hit another
/// moment of the run then are left out: what they change is theirs.
#[test]
fn losing_writes_or_memory_changes_no_outcome() {
    let (first, seeds) = (number("SERIN_FIRST").unwrap_or(0), number("SERIN_SEEDS").unwrap_or(SEEDS) / 20);
    for seed in first..first + seeds {
        let mut setting = Setting::of_seed(seed);
        setting.quota = None;
        setting.deeds.retain(|(at, deed)| {
            *at == 15_000 || matches!(deed, Deed::EditOther | Deed::EditRules(_) | Deed::Approve | Deed::Rest)
        });
        let outcome = |failures: f64, crashes: f64, turmoil: bool| {
            let mut sim = Sim::new(Setting { failures, crashes, turmoil, ..setting.clone() });
            assert_eq!(check(&mut sim, AT_MOST), Ok(()), "seed {seed}: {:?}", sim.setting);
            let phase = sim.run().map(|run| run.text("/status/phase").to_owned());
            (phase, people::serving_template(&sim.server))
        };
        assert_eq!(outcome(0.0, 0.0, false), outcome(0.06, 0.02, true), "seed {seed}: {setting:?}");
    }
}

/// What the simulation found once, as stories: seeds of the sweep change with the model. Each names its first seed.
mod found {
    use serde_json::json;

    use super::{
        AT_MOST, Deed, Setting, Sim, check,
        model::{
            cluster::{endpoints_of, percent},
            server::{Kind, Object},
        },
    };

    fn holds(setting: Setting, word: &str, deeds: &[(i64, Deed)]) {
        holds_in(0..4, setting, word, deeds);
    }

    fn holds_in(seeds: std::ops::Range<u64>, setting: Setting, word: &str, deeds: &[(i64, Deed)]) {
        for seed in seeds {
            let deeds = [&[(15_000, Deed::Release(format!("auth:v2-{word}")))], deeds].concat();
            let mut sim = Sim::new(Setting { seed, deeds, ..setting.clone() });
            assert_eq!(check(&mut sim, AT_MOST), Ok(()), "{:#?}", sim.trace);
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
        while !sim.run().is_some_and(|run| reached(&run)) {
            sim.step();
            assert!(sim.passed < AT_MOST);
        }
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
}
