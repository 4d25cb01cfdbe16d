//! One readable trace per story, from the simulation in a calm world: a change of behaviour shows in review.
//!
//! `SERIN_BLESS=1 cargo test --test golden` writes the traces anew.

#[allow(dead_code, reason = "the stories need a part of the model")]
#[path = "../simulation/model/mod.rs"]
mod model;

use std::{fmt::Write as _, fs, path::PathBuf};

use model::{
    START,
    people::{Deed, PREVIEW_HOST},
    serin::Told,
    sim::{Setting, Sim, preview_steps},
};
use serde_json::json;

/// Nothing happens for so long: the story is over.
const QUIET: i64 = 15_000;
const AT_MOST: i64 = 600_000;

fn release(word: &str) -> Vec<(i64, Deed)> {
    vec![(10_000, Deed::Release(format!("auth:v2-{word}")))]
}

fn and(mut deeds: Vec<(i64, Deed)>, more: &[(i64, Deed)]) -> Vec<(i64, Deed)> {
    deeds.extend_from_slice(more);
    deeds
}

fn routed(deeds: Vec<(i64, Deed)>) -> Setting {
    Setting { deeds, ..Setting::calm() }
}

fn route_less(word: &str) -> Setting {
    Setting { routed: false, deeds: release(word), ..Setting::calm() }
}

/// Decisions in words; what repeats is told once.
fn trace(told: &[Told]) -> String {
    let mut text = String::new();
    let mut last = String::new();
    for told in told {
        let mut line = String::new();
        if let Some(status) = &told.run {
            let phase = status.phase.unwrap_or_default();
            let stage = status.stage.map(|stage| format!("/{stage:?}")).unwrap_or_default();
            let _ = write!(
                line,
                "{phase}{stage} step {} weight {}/{}",
                status.step, status.weight.wanted, status.weight.set
            );
            if let Some(waiting) = &status.waiting {
                let _ = write!(line, " waits for {:?}", waiting.reason);
            }
        } else {
            line.push_str("between runs");
        }
        for action in &told.actions {
            let _ = write!(line, "\n           {action:?}");
        }
        for note in &told.notes {
            let _ = write!(line, "\n           \"{}: {}\"", note.reason, note.message);
        }
        if line != last {
            let _ = writeln!(text, "{:>7.1}s   {line}", (told.at - START) as f64 / 1000.0);
            last = line;
        }
    }
    text
}

fn tell(setting: Setting) -> String {
    let mut sim = Sim::new(setting);
    sim.controllers[0].tells = true;
    while sim.passed < AT_MOST && !(sim.ending && !sim.is_under_way() && sim.quiet > QUIET) {
        sim.step();
    }
    trace(&sim.controllers[0].told)
}

fn story(name: &str, setting: Setting) {
    let is = tell(setting);
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.txt"));
    if std::env::var_os("SERIN_BLESS").is_some() {
        fs::write(&path, is).expect("written");
        return;
    }
    let was = fs::read_to_string(&path).unwrap_or_default();
    let differs = was
        .lines()
        .zip(is.lines())
        .position(|(was, is)| was != is)
        .unwrap_or(was.lines().count().min(is.lines().count()));
    let around = |text: &str| text.lines().skip(differs.saturating_sub(3)).take(8).collect::<Vec<_>>().join("\n");
    assert!(
        was == is,
        "{name} is told differently from line {} on (SERIN_BLESS=1 writes it anew)\nbefore:\n{}\nnow:\n{}",
        differs + 1,
        around(&was),
        around(&is)
    );
}

#[test]
fn good() {
    story("good", routed(release("good")));
}

#[test]
fn bad_errors() {
    story("bad-errors", routed(release("bad")));
}

/// Five canary pods, one of which is bad by itself.
#[test]
fn bad_pod() {
    let steps = json!([{"weight": 50, "bake": "5s", "pods": 5}]);
    story("bad-pod", Setting { replicas: 5, steps, ..routed(release("one-bad")) });
}

#[test]
fn slow() {
    story("slow", routed(release("slow")));
}

#[test]
fn a_shared_fault_is_held() {
    story("shared-fault", routed(and(release("good"), &[(17_000, Deed::Outage(true)), (37_000, Deed::Outage(false))])));
}

#[test]
fn superseded() {
    story("superseded", routed(and(release("bad"), &[(13_000, Deed::Release("auth:v3-good".into()))])));
}

#[test]
fn cancelled() {
    story("cancelled", routed(and(release("good"), &[(18_000, Deed::Undo)])));
}

#[test]
fn aborted() {
    story("aborted", routed(and(release("good"), &[(18_000, Deed::Abort)])));
}

#[test]
fn paused() {
    story("paused", routed(and(release("good"), &[(15_000, Deed::Pause(true)), (40_000, Deed::Pause(false))])));
}

#[test]
fn approval() {
    let steps = json!([{"weight": 25, "bake": "3s"}, {"approval": {}}, {"weight": 50, "bake": "3s"}]);
    story("approval", Setting { steps, ..routed(and(release("good"), &[(60_000, Deed::Approve)])) });
}

#[test]
fn a_contested_route() {
    let again: Vec<(i64, Deed)> = (0..5).map(|time| (15_000 + time * 3_000, Deed::ResetRoute)).collect();
    story("contested-route", routed(and(release("good"), &again)));
}

#[test]
fn a_preview_with_a_host_name() {
    story("preview", Setting { steps: preview_steps(), ..routed(release("good")) });
}

#[test]
fn a_preview_that_is_aborted() {
    let steps = json!([{"blueGreen": {"previewHost": PREVIEW_HOST}, "bake": "20s"}]);
    story("preview-aborted", Setting { steps, ..routed(and(release("good"), &[(25_000, Deed::Abort)])) });
}

#[test]
fn never_ready() {
    story("never-ready", routed(release("never-ready")));
}

#[test]
fn configuration() {
    let edits = [(10_000, "bad 1"), (60_000, "good 2")].map(|(at, words)| (at, Deed::Configure(words.into())));
    story("configuration", Setting { tracks: true, ..routed(edits.to_vec()) });
}

#[test]
fn good_without_a_route() {
    story("route-less-good", route_less("good"));
}

#[test]
fn bad_without_a_route() {
    story("route-less-bad", route_less("bad"));
}

#[test]
fn a_deployment_made_anew() {
    let anew = [(18_000, Deed::DeleteDeployment), (18_500, Deed::CreateDeployment)];
    story("made-anew", routed(and(release("good"), &anew)));
}

#[test]
fn a_run_deleted() {
    story("run-deleted", routed(and(release("good"), &[(18_000, Deed::DeleteRun)])));
}

#[test]
fn a_service_turned_elsewhere() {
    let turned = [(18_000, Deed::TurnService), (24_000, Deed::ResetService)];
    story("service-turned", routed(and(release("good"), &turned)));
}
