//! Four stories on a real cluster, told as they happen: a good release, a bad one, a slow one, an outage of both.

use std::{
    fmt::Write as _,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Parser;
use serde_json::json;
use serin_e2e::{
    Result,
    cluster::{eventually, install},
    exposure::{Exposure, exposure, now},
    shop::{Shop, repository},
    traffic::Load,
    watch::{View, Watch},
};

/// Tells four stories of releases on the cluster that KUBECONFIG names.
#[derive(Debug, Parser)]
struct Args {
    /// Address of the gateway `gw` in namespace `gateway`.
    #[arg(long, env = "GATEWAY_URL")]
    gateway: String,
    /// Requests per second.
    #[arg(long, default_value_t = 200)]
    rate: u32,
    /// Where the picture of weight and error ratio goes.
    #[arg(long, default_value = "target/demo.svg")]
    picture: std::path::PathBuf,
    /// Serin is there already: don't install the chart.
    #[arg(long)]
    installed: bool,
}

/// A story's end, for the table.
struct Told {
    story: &'static str,
    promised: &'static str,
    ended: String,
    kept: bool,
    took: Duration,
    figures: Exposure,
}

/// A point of the picture.
struct Point {
    at: f64,
    weight: f64,
}

struct Stage<'a> {
    shop: &'a Shop,
    load: Load,
    watch: Watch,
    began: Instant,
    points: Vec<Point>,
    last_run: String,
}

fn main() -> ExitCode {
    match demo(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn demo(args: &Args) -> Result<bool> {
    if !args.installed {
        println!("installing Serin with Helm");
        install(&repository().join("charts/serin").display().to_string(), &[])?;
    }
    println!("starting auth:v1 (4 pods) with its Service, HTTPRoute and Rollout");
    let shop = Shop::open("demo")?;
    let steps = json!([{"weight": 5, "bake": "5s"}, {"weight": 25, "bake": "5s"}, {"weight": 50, "bake": "5s"}]);
    shop.rollout(&steps, |_| {})?;
    shop.idle()?;
    println!("load: {} requests/s through the gateway, each answer recorded", args.rate);
    let load = Load::start(&args.gateway, &shop.host, args.rate, 900, &[])?;
    let watch = Watch::start(&shop.namespace, "auth")?;
    let mut stage =
        Stage { shop: &shop, load, watch, began: Instant::now(), points: Vec::new(), last_run: String::new() };
    let began = now();
    let told = [good(&mut stage)?, bad(&mut stage)?, slow(&mut stage)?, outage(&mut stage)?];
    print!("{}", table(&told));
    let records = stage.load.read()?;
    let lost = records.iter().filter(|record| record.failed() && record.version.is_none()).count();
    println!("\n{} requests in all; {lost} lost on the way (answered by no version).", records.len());
    picture(&args.picture, &stage.points, records, began)?;
    println!("Picture of weight and error ratio: {}", args.picture.display());
    Ok(told.iter().all(|story| story.kept))
}

impl Stage<'_> {
    fn tell(&mut self, title: &str) {
        println!("\n== {title}");
        self.began = Instant::now();
    }

    /// Follows the run that begins now until it ends; one line a change.
    fn follow(&mut self, what: &str, within: Duration, mut done: impl FnMut(&View) -> bool) -> Result<View> {
        let (began, points, last_run) = (self.began, &mut self.points, self.last_run.clone());
        let mut told = |view: &View| {
            points.push(Point { at: now(), weight: view.weight.unwrap_or(0) as f64 });
            println!("{:6.1} s  {}", began.elapsed().as_secs_f64(), view.line());
        };
        self.watch.until(
            what,
            within,
            |view| {
                if view.run != last_run {
                    told(view)
                }
            },
            |view| view.run != last_run && done(view),
        )
    }

    /// Releases by `kubectl set env` and follows to the end of the run.
    fn release(&mut self, environment: &[&str]) -> Result<View> {
        self.shop.release(environment)?;
        println!(
            "{:6.1} s  kubectl set env deployment/auth {}",
            self.began.elapsed().as_secs_f64(),
            environment.join(" ")
        );
        let view = self.follow("the release to end", Duration::from_secs(180), |view| {
            matches!(view.last_run_phase.as_str(), "Succeeded" | "RolledBack" | "Superseded" | "Cancelled")
                && matches!(view.phase.as_str(), "Idle" | "Refused")
        })?;
        self.last_run.clone_from(&view.run);
        Ok(view)
    }

    fn end(
        &mut self,
        story: &'static str,
        promised: &'static str,
        view: &View,
        began: f64,
        canary: &str,
    ) -> Result<Told> {
        // The last answers are still on their way into the file.
        std::thread::sleep(Duration::from_millis(1500));
        let records = self.load.read()?;
        let figures = exposure(records, began, now(), canary, 250.0);
        for lost in
            records.iter().filter(|record| record.t >= began && record.failed() && record.version.is_none()).take(5)
        {
            println!(
                "          lost on the way: status {} after {:.0} ms, {}",
                lost.status,
                lost.ms,
                lost.error.as_deref().unwrap_or("no version")
            );
        }
        let ended = view.last_run_phase.clone();
        // One slow answer of a version that was promoted is no exposure.
        let seconds = figures.seconds.filter(|_| ended != "Succeeded");
        let figures = Exposure { seconds, ..figures };
        let kept = ended == promised && figures.lost == 0;
        println!(
            "{:6.1} s  {ended}: {}",
            self.began.elapsed().as_secs_f64(),
            if kept { "as promised" } else { "NOT as promised" }
        );
        Ok(Told { story, promised, ended, kept, took: self.began.elapsed(), figures })
    }

    /// Back to the version that serves, as a person would.
    fn undo(&mut self) -> Result<()> {
        self.shop.serin(&["undo", "auth"])?;
        println!("{:6.1} s  kubectl serin undo auth", self.began.elapsed().as_secs_f64());
        self.watch
            .until(
                "the Rollout to be Ready",
                Duration::from_secs(60),
                |_| {},
                |view| view.ready && view.phase == "Idle",
            )
            .map(drop)
    }
}

fn good(stage: &mut Stage<'_>) -> Result<Told> {
    stage.tell("A good release is promoted (kubectl set image deployment/auth auth=serin.local/auth:v2)");
    let began = now();
    stage.shop.kubectl(&["set", "image", "deployment/auth", "auth=serin.local/auth:v2"])?;
    let view = stage.follow("the release to end", Duration::from_secs(180), |view| {
        view.last_run_phase == "Succeeded" && view.phase == "Idle"
    })?;
    stage.last_run.clone_from(&view.run);
    let status = stage.shop.kubectl(&["rollout", "status", "deployment/auth", "--timeout=20s"])?;
    println!("          kubectl rollout status: {}", status.lines().last().unwrap_or_default());
    stage.end("good release", "Succeeded", &view, began, "v2")
}

fn bad(stage: &mut Stage<'_>) -> Result<Told> {
    stage.tell("A bad release (20 % errors) is rolled back");
    let began = now();
    let view = stage.release(&["VERSION=v3-bad", "FAULT_ERRORS=20%"])?;
    let told = stage.end("bad release", "RolledBack", &view, began, "v3-bad")?;
    stage.undo()?;
    Ok(told)
}

fn slow(stage: &mut Stage<'_>) -> Result<Told> {
    stage.tell("A slow release (30 % of the requests take 400 ms) is rolled back");
    let began = now();
    let view = stage.release(&["VERSION=v4-slow", "FAULT_LATENCY=400ms", "FAULT_LATENCY_SHARE=30%"])?;
    let told = stage.end("slow release", "RolledBack", &view, began, "v4-slow")?;
    stage.undo()?;
    Ok(told)
}

/// The outage begins when the canary has its first weight and lasts 20 seconds.
fn outage(stage: &mut Stage<'_>) -> Result<Told> {
    stage.tell("An outage hits both versions (20 % errors): held, not rolled back");
    let began = now();
    stage.shop.release(&["VERSION=v5"])?;
    stage.follow("the canary to get traffic", Duration::from_secs(60), |view| {
        view.weight.unwrap_or(0) > 0 && view.phase == "Shifting"
    })?;
    stage.shop.faults(&json!({"errors": "20%"}))?;
    println!("{:6.1} s  the outage begins: all pods answer 20 % errors", stage.began.elapsed().as_secs_f64());
    let held = stage.follow("a hold", Duration::from_secs(30), |view| view.message.contains("both versions are bad"));
    std::thread::sleep(Duration::from_secs(20));
    eventually("the faults to be switched off", Duration::from_secs(20), || {
        stage.shop.faults(&json!({"errors": "0%"})).map(Some)
    })?;
    println!("{:6.1} s  the outage is over", stage.began.elapsed().as_secs_f64());
    let view = stage.follow("the release to end", Duration::from_secs(180), |view| {
        matches!(view.last_run_phase.as_str(), "Succeeded" | "RolledBack")
            && matches!(view.phase.as_str(), "Idle" | "Refused")
    })?;
    stage.last_run.clone_from(&view.run);
    let mut told = stage.end("outage of both", "Succeeded", &view, began, "v5")?;
    told.kept &= held.is_ok();
    Ok(told)
}

fn table(told: &[Told]) -> String {
    let mut text = format!(
        "\n{:<15} {:<11} {:<11} {:>8} {:>9} {:>7} {:>11} {:>14}\n",
        "STORY", "PROMISED", "ENDED", "SECONDS", "REQUESTS", "FAILED", "BY OUR DOING", "EXPOSURE S"
    );
    for story in told {
        let seconds = story.figures.seconds.map_or("-".to_owned(), |seconds| format!("{seconds:.1}"));
        let _ = writeln!(
            text,
            "{:<15} {:<11} {:<11} {:>8.1} {:>9} {:>7} {:>11} {:>14}{}",
            story.story,
            story.promised,
            story.ended,
            story.took.as_secs_f64(),
            story.figures.requests,
            story.figures.failed,
            story.figures.lost,
            seconds,
            if story.kept { "" } else { "  <- not as promised" }
        );
    }
    text.push_str("Exposure: from the canary's first bad answer to its last answer of any kind.\n");
    text
}

/// An SVG of weight, and of the error ratio of each second, over time.
fn picture(path: &std::path::Path, points: &[Point], records: &[load::Record], began: f64) -> Result<()> {
    let span = (now() - began).max(1.0);
    let (width, height) = (1000.0, 300.0);
    let x = |at: f64| 50.0 + (at - began) / span * (width - 70.0);
    let y = |percent: f64| height - 40.0 - percent / 100.0 * (height - 70.0);
    let mut weight = format!("M {:.1} {:.1}", x(began), y(0.0));
    for point in points {
        let _ = write!(weight, " H {:.1} V {:.1}", x(point.at), y(point.weight));
    }
    let _ = write!(weight, " H {:.1}", x(began + span));
    let mut seconds = std::collections::BTreeMap::<i64, (u32, u32)>::new();
    for record in records.iter().filter(|record| record.t >= began) {
        let second = seconds.entry((record.t - began) as i64).or_default();
        second.1 += 1;
        second.0 += u32::from(record.failed());
    }
    let mut errors = String::new();
    for (second, (failed, all)) in &seconds {
        let percent = 100.0 * f64::from(*failed) / f64::from((*all).max(1));
        let _ = write!(
            errors,
            "{}{:.1} {:.1} ",
            if errors.is_empty() { "M " } else { "L " },
            x(began + *second as f64),
            y(percent)
        );
    }
    let mut grid = String::new();
    for percent in [0, 25, 50, 75, 100] {
        let at = y(f64::from(percent));
        let _ = write!(
            grid,
            "<line x1='50' x2='{}' y1='{at}' y2='{at}' stroke='#ddd'/><text x='8' y='{}'>{percent} %</text>",
            width - 20.0,
            at + 4.0
        );
    }
    let svg = format!(
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' font-family='sans-serif' font-size='12'>\
         <rect width='100%' height='100%' fill='white'/>{grid}\
         <path d='{weight}' fill='none' stroke='#2a6f97' stroke-width='2'/><path d='{errors}' fill='none' stroke='#c1121f'/>\
         <text x='60' y='18' fill='#2a6f97'>weight of the canary</text><text x='220' y='18' fill='#c1121f'>failed requests, all callers, each second</text>\
         <text x='{}' y='{}'>{span:.0} s</text></svg>",
        width - 60.0,
        height - 18.0
    );
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    std::fs::write(path, svg).map_err(|error| format!("{}: {error}", path.display()))
}
