//! A Rollout as it changes: one line a change.

use std::{
    io::{BufReader, Read},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::Result;

/// What of a Rollout is worth a line.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    pub phase: String,
    pub run: String,
    pub step: String,
    pub weight: Option<i64>,
    pub seen: Option<f64>,
    pub message: String,
    pub verdicts: Vec<(String, String, f64, f64)>,
    pub last_run_phase: String,
    pub ready: bool,
}

impl View {
    /// From the object.
    pub fn of(rollout: &Value) -> Self {
        let status = &rollout["status"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let verdicts = status["slos"].as_array().into_iter().flatten().map(|slo| {
            (
                text(&slo["name"]),
                text(&slo["verdict"]),
                slo["evidence"].as_f64().unwrap_or(0.0),
                slo["threshold"].as_f64().unwrap_or(0.0),
            )
        });
        let conditions = status["conditions"].as_array().into_iter().flatten();
        Self {
            phase: text(&status["phase"]),
            run: text(&status["run"]),
            step: text(&status["step"]),
            weight: status["weight"]["set"].as_i64(),
            seen: status["weight"]["seen"].as_f64(),
            message: text(&status["message"]),
            verdicts: verdicts.collect(),
            last_run_phase: text(&status["lastRunPhase"]),
            ready: conditions
                .into_iter()
                .any(|condition| condition["type"] == "Ready" && condition["status"] == "True"),
        }
    }

    /// The run is over, and so is what comes after it.
    pub fn has_ended(&self) -> bool {
        matches!(self.last_run_phase.as_str(), "Succeeded" | "RolledBack" | "Superseded" | "Cancelled")
            && matches!(self.phase.as_str(), "Idle" | "Refused")
    }

    /// What must differ for a new line: not the seconds left, not the evidence's last digit.
    fn gist(&self) -> (String, String, Option<i64>, String, Vec<String>) {
        let words: String = self.message.chars().filter(|c| !c.is_ascii_digit()).collect();
        let verdicts = self.verdicts.iter().map(|(name, verdict, ..)| format!("{name} {verdict}"));
        (self.phase.clone(), self.step.clone(), self.weight, words, verdicts.collect())
    }

    /// The line.
    pub fn line(&self) -> String {
        let seen = self.seen.map_or("-".to_owned(), |seen| format!("{seen:.1}"));
        let weight = self.weight.map_or("-".to_owned(), |weight| weight.to_string());
        let verdicts: Vec<String> =
            self.verdicts.iter().map(|(name, verdict, is, of)| format!("{name} {verdict} {is:.1}/{of:.1}")).collect();
        format!(
            "{:<11} {:>5}  weight {weight:>3}  seen {seen:>5}  {:<52} {}",
            self.phase,
            self.step,
            verdicts.join(", "),
            self.message
        )
    }
}

/// A watch of one Rollout, by kubectl.
pub struct Watch {
    child: Child,
    views: Receiver<View>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Watch {
    /// Begins to watch.
    pub fn start(namespace: &str, name: &str) -> Result<Self> {
        let child = Command::new("kubectl")
            .args(["-n", namespace, "get", "rollouts.serin.dev", name, "--watch", "-o", "json"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut child = child.map_err(|error| format!("kubectl: {error}"))?;
        let stdout = child.stdout.take().ok_or("kubectl has no output")?;
        let (send, views) = mpsc::channel();
        std::thread::spawn(move || {
            let reader: Box<dyn Read> = Box::new(BufReader::new(stdout));
            for object in serde_json::Deserializer::from_reader(reader).into_iter::<Value>() {
                let Ok(object) = object else { break };
                if send.send(View::of(&object)).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, views })
    }

    /// Follows until `done` says so; `tell` gets each view that is worth a line.
    pub fn until(
        &self,
        what: &str,
        within: Duration,
        mut tell: impl FnMut(&View),
        mut done: impl FnMut(&View) -> bool,
    ) -> Result<View> {
        let began = Instant::now();
        let mut last = View::default();
        loop {
            let left = within.saturating_sub(began.elapsed());
            let view = self
                .views
                .recv_timeout(left)
                .map_err(|_| format!("expected {what} within {} s, found: {}", within.as_secs(), last.line()))?;
            if view.gist() != last.gist() {
                tell(&view);
            }
            if done(&view) {
                return Ok(view);
            }
            last = view;
        }
    }
}
