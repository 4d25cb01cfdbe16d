//! Deterministic simulation: production's decisions against a small model of Kubernetes, its callers and its people.
//!
//! `SERIN_SEEDS=5000 cargo test --test simulation` tries more seeds, `SERIN_SEED=7` replays one with its whole trace.

mod invariants;
mod model;

use invariants::Watch;
use model::sim::{Setting, Sim};

/// In milliseconds that really passed: a contested route alone may hold a run for five minutes.
const AT_MOST: i64 = 1_200_000;

/// Runs a world to its end. `Err`: what was broken.
fn check(sim: &mut Sim) -> Result<(), String> {
    let mut watch = Watch::default();
    while !sim.is_settled() && sim.passed < AT_MOST {
        sim.step();
        watch.after_step(sim)?;
    }
    invariants::at_the_end(sim)?;
    invariants::i7_idle_is_silent(sim)
}

fn try_seed(seed: u64, loud: bool) -> Result<(), String> {
    let mut sim = Sim::new(Setting::of_seed(seed));
    sim.loud = loud;
    let setting = format!("{:?}", sim.setting);
    check(&mut sim).map_err(|broken| {
        let trace: Vec<String> = sim.trace.iter().rev().take(60).rev().cloned().collect();
        format!("{}\nseed {seed}: {broken}\n{setting}\n(replay: SERIN_SEED={seed} cargo test --test simulation)", trace.join("\n"))
    })
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

#[test]
fn no_seed_breaks_a_promise() {
    if let Some(seed) = number("SERIN_SEED") {
        return try_seed(seed, true).unwrap_or_else(|broken| panic!("{broken}"));
    }
    let (first, seeds) = (number("SERIN_FIRST").unwrap_or(0), number("SERIN_SEEDS").unwrap_or(1_000));
    let threads = std::thread::available_parallelism().map_or(2, usize::from) as u64;
    let broken: Vec<String> = std::thread::scope(|scope| {
        let part = |thread: u64| move || (first..first + seeds).filter(|seed| seed % threads == thread).filter_map(|seed| try_seed(seed, false).err().inspect(|broken| println!("{broken}\n"))).collect::<Vec<_>>();
        let all: Vec<_> = (0..threads).map(|thread| scope.spawn(part(thread))).collect();
        all.into_iter().flat_map(|thread| thread.join().expect("a seed panicked")).collect()
    });
    let summary: Vec<&str> = broken.iter().flat_map(|text| text.lines()).filter(|line| line.starts_with("seed ")).collect();
    assert!(broken.is_empty(), "{} of {seeds} seeds:\n{}", broken.len(), summary.join("\n"));
}
