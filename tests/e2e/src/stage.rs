//! A shop on stage: under load, watched, one release after another.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::{
    Result,
    cluster::eventually,
    exposure::{Exposure, exposure, now},
    shop::Shop,
    traffic::Load,
    watch::{View, Watch},
};

/// A release ends within this time, or something is wrong.
const RELEASE: Duration = Duration::from_secs(180);
const MINUTE: Duration = Duration::from_secs(60);

/// Weight of the canary since a moment.
pub struct Weighted {
    /// Unix seconds.
    pub at: f64,
    /// Percent.
    pub weight: f64,
}

/// The stage. It ends with this value.
pub struct Stage {
    /// What releases.
    pub load: Load,
    /// Weights as they were seen.
    pub weights: Vec<Weighted>,
    /// Prints a line for each change.
    pub tells: bool,
    watch: Watch,
    began: Instant,
    last_run: String,
    // Last, so that load and watch end before it goes.
    pub shop: Shop,
}

/// How an outage of both versions went.
pub struct Outage {
    /// The run said that it holds for it.
    pub held: bool,
    /// When it was over, in Unix seconds.
    pub over: f64,
    /// The release's end.
    pub end: View,
}

impl Stage {
    /// Of a shop whose Rollout is Ready, and its load.
    pub fn new(shop: Shop, load: Load) -> Result<Self> {
        let watch = Watch::start(&shop.namespace, "auth")?;
        let last_run = shop.run()?.and_then(|run| run["metadata"]["name"].as_str().map(str::to_owned));
        Ok(Self {
            load,
            weights: Vec::new(),
            tells: true,
            watch,
            began: Instant::now(),
            last_run: last_run.unwrap_or_default(),
            shop,
        })
    }

    /// The clock of the lines begins anew. Unix seconds.
    pub fn begin(&mut self) -> f64 {
        self.began = Instant::now();
        now()
    }

    /// Since [`begin`](Self::begin).
    pub fn took(&self) -> Duration {
        self.began.elapsed()
    }

    /// A line with the time.
    pub fn say(&self, words: &str) {
        if self.tells {
            println!("{:6.1} s  {words}", self.began.elapsed().as_secs_f64());
        }
    }

    /// Follows the run that begins now until it is so; one line a change.
    pub fn follow(&mut self, what: &str, within: Duration, mut done: impl FnMut(&View) -> bool) -> Result<View> {
        let Self { watch, weights, last_run, tells, began, .. } = self;
        watch.until(
            what,
            within,
            |view| {
                if view.run == *last_run {
                    return;
                }
                weights.push(Weighted { at: now(), weight: view.weight.unwrap_or(0) as f64 });
                if *tells {
                    println!("{:6.1} s  {}", began.elapsed().as_secs_f64(), view.line());
                }
            },
            |view| view.run != *last_run && done(view),
        )
    }

    /// Follows it to its end.
    pub fn follow_to_the_end(&mut self) -> Result<View> {
        let view = self.follow("the release to end", RELEASE, View::has_ended)?;
        self.last_run.clone_from(&view.run);
        Ok(view)
    }

    /// Begins a release by `kubectl set env`.
    pub fn deploy(&self, environment: &[&str]) -> Result<()> {
        self.shop.release(environment)?;
        self.say(&format!("kubectl set env deployment/auth {}", environment.join(" ")));
        Ok(())
    }

    /// Releases by `kubectl set env` and follows to the end of the run.
    pub fn release(&mut self, environment: &[&str]) -> Result<View> {
        self.deploy(environment)?;
        self.follow_to_the_end()
    }

    /// Figures since `from` (Unix seconds); `slow` in milliseconds.
    pub fn exposure(&mut self, from: f64, canary: &str, slow: f64) -> Result<Exposure> {
        // The last answers are still on their way into the file.
        std::thread::sleep(Duration::from_millis(1500));
        Ok(exposure(self.load.read()?, from, now(), canary, slow))
    }

    /// Back to the version that serves, as a person would.
    pub fn undo(&mut self) -> Result<()> {
        self.shop.serin(&["undo", "auth"])?;
        self.say("kubectl serin undo auth");
        self.watch.until("the Rollout to be Ready", MINUTE, |_| {}, |view| view.ready && view.phase == "Idle").map(drop)
    }

    /// Follows the release that begins now until its canary has had traffic and has none any more: after how many
    /// seconds, and what the Rollout said.
    pub fn taken_back(&mut self) -> Result<(f64, String)> {
        self.follow("the first weight", MINUTE, |view| view.weight > Some(0))?;
        let weighted = now();
        let view = self.follow("weight 0", MINUTE, |view| view.weight == Some(0))?;
        Ok((now() - weighted, view.message))
    }

    /// Releases a version, and once its canary has traffic all pods answer 20 % errors for this long.
    pub fn outage(&mut self, version: &str, lasting: Duration) -> Result<Outage> {
        self.deploy(&[&format!("VERSION={version}")])?;
        self.follow("the canary to get traffic", MINUTE, |view| view.weight > Some(0) && view.phase == "Shifting")?;
        self.shop.faults(&json!({"errors": "20%"}))?;
        let began = Instant::now();
        self.say("the outage begins: all pods answer 20 % errors");
        let held =
            self.follow("a hold", Duration::from_secs(30), |view| view.message.contains("both versions are bad"));
        std::thread::sleep(lasting.saturating_sub(began.elapsed()));
        eventually("the faults to be switched off", Duration::from_secs(20), || {
            self.shop.faults(&json!({"errors": "0%"})).map(Some)
        })?;
        let over = now();
        self.say("the outage is over");
        let end = self.follow_to_the_end()?;
        Ok(Outage { held: held.is_ok(), over, end })
    }
}
