//! Deterministic simulation: production's decisions against a small model of Kubernetes, its callers and its people.
//!
//! `cargo test --release --test simulation` tries 5,000 seeds, without `--release` 300; `SERIN_SEEDS=100000` makes a long
//! run, `SERIN_FIRST` begins elsewhere (a run that was stopped goes on with the number that its progress tells),
//! `SERIN_SEED=7` replays one with its whole trace.

mod everywhere;
mod found;
mod invariants;
#[allow(dead_code, reason = "some fields are there for the trace")]
mod model;
mod sabotage;

/// A fifth faster here than the system's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

use std::{
    io::Write,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use invariants::Watch;
use model::{
    cluster::{Nature, nature_of},
    people::{self, Deed},
    sim::{Setting, Sim},
};

/// In milliseconds that really passed: a contested route alone may hold a run for five minutes.
const AT_MOST: i64 = 1_200_000;

/// As many as fit into some two minutes on two cores; without optimisation some.
const SEEDS: u64 = if cfg!(debug_assertions) { 300 } else { 5_000 };

/// A sweep ends with so many broken seeds, and shows the traces of so many.
const BROKEN_AT_MOST: usize = 100;
const TRACES_AT_MOST: usize = 5;

/// How often a sweep tells how far it is.
const TELL_EACH: Duration = Duration::from_secs(30);

/// Runs a world to its end. `Err`: what was broken.
fn check(sim: &mut Sim, at_most: i64) -> Result<(), String> {
    let mut watch = Watch::default();
    while !sim.is_settled() && sim.passed < at_most {
        sim.step();
        watch.after_step(sim)?;
    }
    if invariants::a_person_decides(sim) {
        return Ok(());
    }
    invariants::at_the_end(sim)?;
    invariants::i7_idle_is_silent(sim)
}

/// A seed once more, with what happened before the promise was broken.
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

/// What is known of a sweep while it goes on.
struct Sweep {
    first: u64,
    end: u64,
    /// The next seed that nobody has begun.
    next: AtomicU64,
    broken: Mutex<Vec<(u64, String)>>,
    began: Instant,
}

impl Sweep {
    /// One thread's share: the next seed, until there are none or too many are broken.
    fn work(&self) {
        loop {
            let seed = self.next.fetch_add(1, Ordering::Relaxed);
            let known = self.broken.lock().expect("no thread panics with it").len();
            if seed >= self.end || known >= BROKEN_AT_MOST {
                return;
            }
            let Err(broken) = check(&mut Sim::new(Setting::of_seed(seed)), AT_MOST) else { continue };
            // Traces are long: the first ones are enough to begin with.
            match known < TRACES_AT_MOST {
                true => println!("{}\n", tell_seed(seed, false)),
                false => println!("seed {seed}: {broken}"),
            }
            self.broken.lock().expect("no thread panics with it").push((seed, broken));
        }
    }

    /// Past the test's captured output: a long run is watched.
    fn tell(&self) {
        let begun = self.next.load(Ordering::Relaxed).min(self.end) - self.first;
        let (all, seconds) = (self.end - self.first, self.began.elapsed().as_secs_f64());
        let left = seconds / begun.max(1) as f64 * (all - begun) as f64;
        let broken: Vec<u64> =
            self.broken.lock().expect("no thread panics with it").iter().map(|(seed, _)| *seed).collect();
        let _ = writeln!(
            std::io::stderr(),
            "simulation: {begun} of {all} seeds in {seconds:.0} s, about {left:.0} s left; broken: {broken:?}; \
             to go on from here: SERIN_FIRST={}",
            (self.first + begun).saturating_sub(threads())
        );
    }
}

fn threads() -> u64 {
    std::thread::available_parallelism().map_or(2, usize::from) as u64
}

#[test]
fn no_seed_breaks_a_promise() {
    if let Some(seed) = number("SERIN_SEED") {
        println!("{}", tell_seed(seed, true));
        let answer = check(&mut Sim::new(Setting::of_seed(seed)), AT_MOST);
        return assert_eq!(answer, Ok(()), "seed {seed}");
    }
    let (first, seeds) = (number("SERIN_FIRST").unwrap_or(0), number("SERIN_SEEDS").unwrap_or(SEEDS));
    let sweep = Sweep {
        first,
        end: first + seeds,
        next: AtomicU64::new(first),
        broken: Mutex::default(),
        began: Instant::now(),
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads()).map(|_| scope.spawn(|| sweep.work())).collect();
        let mut told = Instant::now();
        while !workers.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            std::thread::sleep(Duration::from_millis(100));
            if told.elapsed() >= TELL_EACH {
                sweep.tell();
                told = Instant::now();
            }
        }
    });
    sweep.tell();
    println!("{} bugs that seeds have found are kept as stories: found.rs", found::FOUND.len());
    let mut broken = sweep.broken.into_inner().expect("no thread panics with it");
    broken.sort();
    let lines: Vec<String> = broken.iter().map(|(seed, broken)| format!("seed {seed}: {broken}")).collect();
    assert!(broken.is_empty(), "{} of {seeds} seeds:\n{}", broken.len(), lines.join("\n"));
}

/// I8: the same world with and without crashes, lost writes and second controllers ends alike. Deeds that hit another
/// moment of the run then are left out: what they change is theirs.
#[test]
fn losing_writes_or_memory_changes_no_outcome() {
    let (first, seeds) = (number("SERIN_FIRST").unwrap_or(0), number("SERIN_SEEDS").unwrap_or(SEEDS) / 20);
    for seed in first..first + seeds {
        let mut setting = Setting::of_seed(seed);
        setting.quota = None;
        setting.at_place.clear();
        setting.deeds.retain(|(at, deed)| {
            *at == 15_000 || matches!(deed, Deed::EditOther | Deed::EditRules(_) | Deed::Approve | Deed::Rest)
        });
        // Whether a version with one bad pod of several is refused or mended depends on which requests that pod gets.
        let by_chance = |deed: &Deed| matches!(deed, Deed::Release(image) if nature_of(image) == Nature::OneBad);
        if setting.deeds.iter().any(|(_, deed)| by_chance(deed)) {
            continue;
        }
        let outcome = |failures: f64, crashes: f64, turmoil: bool| {
            let mut sim = Sim::new(Setting { failures, crashes, turmoil, ..setting.clone() });
            assert_eq!(check(&mut sim, AT_MOST), Ok(()), "seed {seed}: {:?}", sim.setting);
            let phase = sim.run().map(|run| run.text("/status/phase").to_owned());
            (phase, people::serving_template(&sim.server))
        };
        assert_eq!(outcome(0.0, 0.0, false), outcome(0.06, 0.02, true), "seed {seed}: {setting:?}");
    }
}
