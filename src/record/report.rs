//! A run as one page: what the callers got, what was counted, and why it was decided so. Needs nothing outside itself.

use std::fmt::Write as _;

use jiff::Timestamp;

use super::{
    Made,
    chart::{Chart, Series, clock, escaped},
    story::{reckoning, story},
};
use crate::{
    api::{Policy, RolloutRun},
    evidence::{Count, Judgement},
};

/// Bad shares are taken over so many seconds.
const WINDOW: f64 = 5.0;

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1c1f23; --paper: #fff; --faint: #8a9099; --grid: #e4e7eb; --canary: #d9480f; --stable: #1864ab; --set: #5f3dc4; --limit: #c92a2a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --paper: #16181b; --faint: #8a9099; --grid: #2b2f35; --canary: #ff922b; --stable: #74c0fc; --set: #b197fc; --limit: #ff8787; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 960px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .3rem; } p { margin: .3rem 0; }
figure { margin: .5rem 0; } svg { width: 100%; height: auto; } figcaption { color: var(--faint); font-size: 13px; }
figcaption span { margin-left: 1em; } figcaption span::before { content: '\\2014\\00a0'; font-weight: bold; }
path { fill: none; stroke-width: 1.8; stroke-linejoin: round; } .grid { stroke: var(--grid); } .axis { fill: var(--faint); font-size: 11px; }
.mark { stroke: var(--faint); stroke-dasharray: 2 3; } line.limit { stroke: var(--limit); stroke-dasharray: 6 3; } text.limit { fill: var(--limit); font-size: 11px; }
path.canary { stroke: var(--canary); } path.stable { stroke: var(--stable); } path.set { stroke: var(--set); }
span.canary::before { color: var(--canary); } span.stable::before { color: var(--stable); } span.set::before { color: var(--set); }
table { border-collapse: collapse; width: 100%; } td { vertical-align: top; padding: .15rem .6rem .15rem 0; border-top: 1px solid var(--grid); } td:first-child { white-space: nowrap; font-variant-numeric: tabular-nums; color: var(--faint); }
";

/// The page. `made`: the run's decisions, in order; `gaps`: what the record lacks, in words.
pub fn report(run: &RolloutRun, policy: &Policy, made: &[Made], gaps: &[String]) -> String {
    let name = run.metadata.name.as_deref().unwrap_or_default();
    let began = made.first().map(|made| made.at).unwrap_or_default();
    let seconds = |at: Timestamp| at.duration_since(began).as_secs_f64();
    let end = made.last().map_or(0.0, |made| seconds(made.at));
    let marks: Vec<(f64, String)> = phases(made).map(|(at, phase)| (seconds(at), phase)).collect();
    let chart = |unit, series, limit| Chart { unit, seconds: end, series, limit, marks: marks.clone() }.svg();

    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>{0}</title><style>{STYLE}</style>\n<h1>{0}: {1}</h1>\n<p>{2} over {3}</p>\n<p>{4}; {5}</p>\n",
        escaped(name),
        made.last().map(|made| made.decision.status.phase.unwrap_or_default().to_string()).unwrap_or_default(),
        escaped(&run.spec.to.image_list()),
        escaped(&run.spec.from.image_list()),
        began.strftime("%Y-%m-%d %H:%M:%S UTC"),
        clock(end),
    );
    for gap in gaps {
        let _ = writeln!(page, "<p>{}</p>", escaped(gap));
    }
    let of = |value: &dyn Fn(&Made) -> Option<f64>| -> Vec<(f64, f64)> {
        made.iter().filter_map(|made| Some((seconds(made.at), value(made)?))).collect()
    };
    page.push_str("<h2>The canary's share of the requests</h2>\n");
    page.push_str(&chart(
        "percent of requests",
        vec![
            Series {
                name: "set in the route",
                class: "set",
                points: of(&|made| Some(f64::from(made.decision.status.weight.set))),
                holds: true,
            },
            Series { name: "seen", class: "canary", points: of(&|made| made.snapshot.traffic.seen), holds: false },
        ],
        None,
    ));
    for slo in &policy.slos {
        let judged: Vec<(f64, &Judgement)> =
            made.iter().filter_map(|made| Some((seconds(made.at), judgement(made, &slo.name)?))).collect();
        let _ = writeln!(page, "<h2>{}</h2>", escaped(&slo.name));
        page.push_str(&chart(
            "percent bad, over 5 seconds",
            vec![
                Series {
                    name: "canary",
                    class: "canary",
                    points: bad_share(&judged, |judgement| judgement.canary),
                    holds: false,
                },
                Series {
                    name: "stable",
                    class: "stable",
                    points: bad_share(&judged, |judgement| judgement.stable),
                    holds: false,
                },
            ],
            Some((slo.bad_allowed * 100.0, "objective")),
        ));
        let threshold = judged.first().map(|(_, judgement)| (judgement.threshold, "bad from here on"));
        page.push_str(&chart(
            "evidence against the canary, nats",
            vec![Series {
                name: "evidence",
                class: "set",
                points: judged.iter().map(|(at, judgement)| (*at, judgement.evidence)).collect(),
                holds: true,
            }],
            threshold,
        ));
        if judged.iter().any(|(_, judgement)| judgement.harm.failed > 0.0) {
            page.push_str(&chart(
                "requests that went bad because of the release (estimate)",
                vec![Series {
                    name: "failed",
                    class: "canary",
                    points: judged.iter().map(|(at, judgement)| (*at, judgement.harm.failed)).collect(),
                    holds: true,
                }],
                None,
            ));
        }
    }
    page.push_str("<h2>How it stood at the end</h2>\n");
    for line in reckoning(policy, made) {
        let _ = writeln!(page, "<p>{}</p>", escaped(&line));
    }
    page.push_str("<h2>What happened</h2>\n<table>\n");
    for line in story(&run.spec, made) {
        let _ = writeln!(page, "<tr><td>{}</td><td>{}</td></tr>", clock(seconds(line.at)), escaped(&line.text));
    }
    page.push_str("</table>\n</html>\n");
    page
}

fn judgement<'a>(made: &'a Made, slo: &str) -> Option<&'a Judgement> {
    made.snapshot.judgements.iter().find(|judgement| judgement.name == slo)
}

/// When each phase began.
fn phases(made: &[Made]) -> impl Iterator<Item = (Timestamp, String)> {
    let mut last = None;
    made.iter().filter_map(move |made| {
        let phase = made.decision.status.phase?;
        (last.replace(phase) != Some(phase)).then(|| (made.at, phase.to_string()))
    })
}

/// Percent of an arm's requests that were bad, over the last seconds before each look.
fn bad_share(judged: &[(f64, &Judgement)], of: fn(&Judgement) -> Count) -> Vec<(f64, f64)> {
    let mut points = Vec::new();
    let mut from = 0;
    for (at, now) in judged {
        while judged.get(from + 1).is_some_and(|(earlier, _)| *earlier <= at - WINDOW) {
            from += 1;
        }
        let Some((_, then)) = judged.get(from) else { continue };
        let (now, then) = (of(now), of(then));
        let (bad, total) = (now.bad.saturating_sub(then.bad), now.total.saturating_sub(then.total));
        if total > 0 {
            points.push((*at, 100.0 * bad.min(total) as f64 / total as f64));
        }
    }
    points
}
