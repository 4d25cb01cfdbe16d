//! A run in plain words, from its decisions made again.

use std::fmt::Write as _;

use jiff::Timestamp;

use super::Made;
use crate::{
    api::{Policy, RolloutRunSpec, ValidSlo},
    evidence::{Judgement, Verdict},
};

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// When.
    pub at: Timestamp,
    /// What, in a sentence or two.
    pub text: String,
}

/// What happened in a run, in order: everything that was told, each weight as it was reached, and each change of mind.
pub fn story(spec: &RolloutRunSpec, made: &[Made]) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut say = |at: Timestamp, text: String| lines.push(Line { at, text });
    if let Some(first) = made.first() {
        let (to, from) = (&spec.to, &spec.from);
        let names =
            |list: String, hash: &str| if list.is_empty() { hash.to_owned() } else { format!("{list} ({hash})") };
        let (to, from) = (names(to.image_list(), &to.hash), names(from.image_list(), &from.hash));
        say(first.at, format!("{to} over {from}; the run is {}", phase(first)));
    }
    let mut last: Option<&Made> = None;
    for one in made {
        for note in &one.decision.notes {
            say(one.at, note.message.clone());
        }
        let (is, was) = (one.decision.status.weight.set, last.map(|last| last.decision.status.weight.set));
        if was.is_some_and(|was| was != is) {
            say(one.at, format!("the route gives the canary {is} % of the requests (before: {} %)", was.unwrap_or(0)));
        }
        let before = last.map_or(&[] as &[Judgement], |last| &last.snapshot.judgements);
        for now in &one.snapshot.judgements {
            let was = before.iter().find(|before| before.name == now.name).map(|before| before.verdict);
            if was != Some(now.verdict) && now.verdict == Verdict::Good {
                say(one.at, format!("{} is good so far: {}", now.name, counts(now)));
            }
        }
        if last.is_none_or(|last| phase(last) != phase(one)) {
            say(one.at, format!("the run is {}", phase(one)));
        }
        last = Some(one);
    }
    lines.dedup();
    lines
}

fn phase(made: &Made) -> String {
    made.decision.status.phase.unwrap_or_default().to_string()
}

fn counts(judgement: &Judgement) -> String {
    let share = |count: crate::evidence::Count| match count.ratio() {
        Some(ratio) => format!("{} of {} bad ({:.2} %)", count.bad, count.total, ratio * 100.0),
        None => "no requests".to_owned(),
    };
    format!("canary {}, stable {}", share(judgement.canary), share(judgement.stable))
}

/// How each SLO stood at the end, with the numbers that its verdict rests on.
pub fn reckoning(policy: &Policy, made: &[Made]) -> Vec<String> {
    // The last look that had counts: after the end nobody counts any more.
    let judged = made.iter().rev().find(|made| !made.snapshot.judgements.is_empty());
    let judgements = judged.map_or(&[] as &[Judgement], |made| &made.snapshot.judgements);
    let of = |judgement: &Judgement| policy.slos.iter().find(|slo| slo.name == judgement.name);
    judgements.iter().map(|judgement| reckon(of(judgement), judgement, policy.alpha)).collect()
}

fn reckon(slo: Option<&ValidSlo>, judgement: &Judgement, alpha: f64) -> String {
    let mut text = format!("{}: {:?}. {}.", judgement.name, judgement.verdict, capital(&counts(judgement)));
    if let Some(slo) = slo {
        let allowed = slo.relative * judgement.stable.ratio().unwrap_or(0.0) + slo.absolute;
        let _ = write!(
            text,
            " Allowed: {} x stable's share + {:.2} % = {:.2} %; the objective allows {:.2} %.",
            slo.relative,
            slo.absolute * 100.0,
            allowed * 100.0,
            slo.bad_allowed * 100.0
        );
    }
    let _ = write!(
        text,
        " Evidence {:.2} of {:.2} nats that it takes, so that at most {:.1} % of healthy runs are ever called bad.",
        judgement.evidence,
        judgement.threshold,
        alpha * 100.0
    );
    if judgement.harm.failed > 0.0 {
        let harm = judgement.harm;
        let _ = write!(
            text,
            " About {:.0} requests went bad because of the release (between {:.0} and {:.0}).",
            harm.failed, harm.low, harm.high
        );
    }
    if judgement.verdict == Verdict::Undecided {
        let _ = write!(
            text,
            " To see a regression to {:.2} % bad requests it takes {} requests at the canary in a step; {} could be judged.",
            judgement.effect * 100.0,
            judgement.needed,
            judgement.judged
        );
    }
    for facet in judgement.facets.iter().filter(|facet| facet.worse) {
        let _ = write!(text, " Worse by itself: {}.", facet.name);
    }
    text
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().collect::<String>() + letters.as_str())
}
