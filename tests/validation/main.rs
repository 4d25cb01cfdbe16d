//! Is what the evidence promises true? Simulated runs by the ten thousand, with intervals.
//!
//! `cargo test --test validation` tries a few of each, in seconds. All of them:
//!
//! ```sh
//! SERIN_RUNS=10000 cargo test --release --test validation -- --nocapture --test-threads=1
//! ```

mod blame;
mod detection;
mod false_alarms;
mod forecast;
mod harm;
mod split;

use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use serin::forecast::quantile;

/// How many simulated runs a row has: few, where a debug build is to take seconds.
fn runs(few: u64) -> u64 {
    std::env::var("SERIN_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(few)
}

/// Results of seeds 0..runs, on all processors; in order.
fn simulate<T: Send>(runs: u64, run: impl Fn(u64) -> T + Sync) -> Vec<T> {
    let next = AtomicU64::new(0);
    let work = || {
        let seeds = std::iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed)).take_while(|seed| *seed < runs);
        seeds.map(|seed| (seed, run(seed))).collect::<Vec<_>>()
    };
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let mut all: Vec<(u64, T)> = thread::scope(|scope| {
        let spawned: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        spawned.into_iter().flat_map(|worker| worker.join().expect("no run panics")).collect()
    });
    all.sort_by_key(|(seed, _)| *seed);
    all.into_iter().map(|(_, result)| result).collect()
}

/// Of no results there is none.
fn median(all: Vec<f64>) -> f64 {
    quantile(all, 0.5).map_or(f64::NAN, |median| median.value)
}
