//! Is `seen` what was `set`?

use serin::evidence::{Off, SampleRatio};
use serin::forecast::{Dice, Share};

use crate::{median, runs, simulate};

/// Seconds until a mismatch is told, at 200 requests a second, and which way it is off.
fn told(seed: u64, asked: impl Fn(usize) -> f64, times: f64) -> Option<(usize, Off)> {
    let (mut dice, mut split) = (Dice::new(seed + 1), SampleRatio::default());
    (0..900).find_map(|second| {
        let asked = asked(second);
        let got = asked / 100.0 * times;
        split.push(dice.poisson(200.0 * got), dice.poisson(200.0 * (1.0 - got)), asked, 1.0);
        split.mismatch().map(|mismatch| (second, mismatch.off))
    })
}

#[test]
fn a_broken_split_is_told_and_a_sound_one_is_not() {
    let runs = runs(100);
    let steps = |second: usize| [5.0, 25.0, 50.0][second / 300];
    let sound = Share::of(simulate(runs, |seed| told(seed, steps, 1.0).is_some()));
    let broken = simulate(runs, |seed| told(seed, |_| 5.0, 1.6));
    let found = Share::of(broken.iter().map(|told| told.is_some_and(|(_, off)| off == Off::More)));
    let seconds = median(broken.iter().flatten().map(|(second, _)| *second as f64 + 1.0).collect());
    println!(
        "\nsplit, 200 requests a second: sound ones blamed {sound}; 8 % instead of 5 % found {found}, median after {seconds} s"
    );
    assert!(sound.may_be_at_most(0.01) && found.hits == runs, "{sound}, {found}");
}
