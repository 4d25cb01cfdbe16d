//! What happens to a workload's objects, at every place of a run: the sweep's seeds come by some of it, this by all.

use serde_json::json;

use crate::{
    AT_MOST, check,
    model::{
        people::Deed,
        sim::{PLACES, Setting, Sim, events},
    },
    number,
};

/// Tries one in so many, each time the same; a long run tries all.
fn one_in() -> usize {
    match number("SERIN_SEEDS") {
        Some(20_000..) => 1,
        _ if cfg!(debug_assertions) => 40,
        _ => 4,
    }
}

fn release(word: &str) -> Vec<(i64, Deed)> {
    vec![(15_000, Deed::Release(format!("auth:v2-{word}")))]
}

/// Runs that together come by every place.
fn runs() -> Vec<(&'static str, Setting)> {
    let steps = json!([{"weight": 50, "bake": "4s"}]);
    let preview = json!([{"blueGreen": {"keepOldFor": "8s"}, "bake": "2s"}]);
    let calm = |word: &str| Setting { steps: steps.clone(), deeds: release(word), ..Setting::calm() };
    vec![
        ("a good version", calm("good")),
        ("a bad version", calm("bad")),
        ("a good version without a route", Setting { routed: false, ..calm("good") }),
        ("a version that never gets ready, without a route", Setting { routed: false, ..calm("never-ready") }),
        ("a good version with a preview", Setting { steps: preview, ..calm("good") }),
        ("a good version, ready for 5 s at least", Setting { min_ready: 5, ..calm("good") }),
    ]
}

#[test]
fn whatever_happens_at_whatever_place_the_promises_hold() {
    let mut all = Vec::new();
    for (run, setting) in runs() {
        for place in PLACES {
            all.extend(events().into_iter().map(|(what, happens)| (run, setting.clone(), place, what, happens)));
        }
    }
    let worlds: Vec<_> = all.into_iter().step_by(one_in()).collect();
    let (mut broken, mut come_by) = (Vec::new(), 0);
    for (run, setting, place, what, happens) in worlds {
        let at_place = happens.into_iter().map(|(after, deed)| (place, after, deed)).collect();
        let mut sim = Sim::new(Setting { at_place, ..setting });
        let answer = check(&mut sim, AT_MOST);
        come_by += usize::from(sim.setting.at_place.is_empty());
        if let Err(said) = answer {
            broken.push(format!("{run}, in {place}: {what}: {said}"));
        }
    }
    println!("{come_by} worlds in which something happened at its place");
    assert!(come_by >= 800 / one_in(), "only {come_by}");
    assert!(broken.is_empty(), "{} of {come_by}:\n{}", broken.len(), broken.join("\n"));
}

/// A GitOps tool applies route and Service as Git has them, by force, at whatever moment.
#[test]
fn whenever_git_is_applied_the_promises_hold() {
    for (run, setting) in runs() {
        for at in (15_000..50_000).step_by(500 * one_in()) {
            let again = [(at, Deed::ResetRoute), (at, Deed::ResetService)];
            let mut sim =
                Sim::new(Setting { deeds: [setting.deeds.clone(), again.to_vec()].concat(), ..setting.clone() });
            assert_eq!(check(&mut sim, AT_MOST), Ok(()), "{run}, at {at} ms");
        }
    }
}
