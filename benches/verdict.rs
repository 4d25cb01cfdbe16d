//! What a verdict costs: one tick of many runs, each with 10 SLOs, 24 alternatives and 8 histogram bounds.
//!
//! `cargo bench --bench verdict`

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use serin::evidence::{Count, Evidence, Sample, Slo, TailBounds, Watch};

const SLOS: usize = 10;
const BOUNDS: [f64; 8] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];
const WITHIN: [u64; 8] = [5000, 7500, 9000, 9500, 9900, 9950, 9990, 10_000];

/// A run that has been going on for so many ticks, with `bounds` bounds for each SLO.
fn run(slos: usize, bounds: usize, ticks: u64) -> Evidence {
    let slo = |number| Slo { name: format!("slo-{number}"), objective: 0.01, relative: 1.5, absolute: 0.005 };
    let watch = |number| {
        let watch = Watch::from(slo(number));
        match TailBounds::choose(&BOUNDS[..bounds], &WITHIN[..bounds], 10_000, BOUNDS[bounds - 1]) {
            Ok(bounds) => watch.through_bounds(&bounds),
            Err(error) => unreachable!("{error}"),
        }
    };
    let watches: Vec<Watch> = (0..slos).map(watch).collect();
    let mut evidence = Evidence::watching(&watches, 0.01, 3);
    for number in 0..ticks {
        evidence.fold(&tick(slos, bounds, number));
    }
    evidence
}

/// Counts as a service with 200 requests a second has them.
fn tick(slos: usize, bounds: usize, number: u64) -> Vec<Sample> {
    let sample = |column: usize| {
        let bad = u64::from((number + column as u64).is_multiple_of(3));
        Sample { canary: Count { bad: 0, total: 20 }, stable: Count { bad, total: 180 } }
    };
    (0..slos * bounds).map(sample).collect()
}

/// A tick of every run, and is any of them bad?
fn fold(runs: &mut [Evidence], tick: &[Sample]) -> bool {
    runs.iter_mut().fold(false, |bad, run| {
        run.fold(tick);
        bad | run.any_bad()
    })
}

fn verdicts(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fold one tick, 10 SLOs x 8 bounds");
    group.sample_size(10);
    let now = tick(SLOS, BOUNDS.len(), 7);
    for count in [1, 10, 100, 1000] {
        let mut runs = vec![run(SLOS, BOUNDS.len(), 100); count];
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::new("runs", count), |bencher| {
            bencher.iter(|| fold(black_box(&mut runs), &now));
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("fold one tick, one run");
    for (slos, bounds) in [(1, 1), (1, 8), (10, 1), (10, 4)] {
        let (mut runs, now) = ([run(slos, bounds, 100)], tick(slos, bounds, 7));
        group.bench_function(format!("{slos} SLOs x {bounds} bounds"), |bencher| {
            bencher.iter(|| fold(black_box(&mut runs), &now));
        });
    }
    for ticks in [100, 10_000] {
        let mut runs = [run(SLOS, BOUNDS.len(), ticks)];
        let now = tick(SLOS, BOUNDS.len(), 7);
        group.bench_function(format!("after {ticks} ticks"), |bencher| {
            bencher.iter(|| fold(black_box(&mut runs), &now));
        });
    }
    group.finish();

    let judged = run(SLOS, BOUNDS.len(), 100);
    criterion.bench_function("judge one run, with all that explains it", |bencher| {
        bencher.iter(|| black_box(&judged).judge());
    });
}

criterion_group!(benches, verdicts);
criterion_main!(benches);
