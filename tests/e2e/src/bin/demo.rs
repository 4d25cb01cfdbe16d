//! Four stories on a real cluster, told as they happen: a good release, a bad one, a slow one, an outage of both.

use std::{fmt::Write as _, process::ExitCode, time::Duration};

use clap::Parser;
use serde_json::json;
use serin_e2e::{
    Result,
    cluster::install,
    exposure::{Exposure, now},
    shop::{Shop, repository},
    stage::{Stage, Weighted},
    traffic::Load,
    watch::View,
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
    /// Send the load to a public address, too.
    #[arg(long)]
    allow_any: bool,
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
    let shop = Shop::open("serin-demo")?;
    let steps = json!([{"weight": 5, "bake": "5s"}, {"weight": 25, "bake": "5s"}, {"weight": 50, "bake": "5s"}]);
    shop.rollout(&steps, |_| {})?;
    shop.idle()?;
    println!("load: {} requests/s through the gateway, each answer recorded", args.rate);
    let anywhere = args.allow_any.then_some("--allow-any");
    let load = Load::start(&args.gateway, &shop.host, args.rate, 900, anywhere.as_slice())?;
    let mut stage = Stage::new(shop, load)?;
    let began = now();
    let told = [good(&mut stage)?, bad(&mut stage)?, slow(&mut stage)?, outage(&mut stage)?];
    print!("{}", table(&told));
    let records = stage.load.read()?;
    let lost = records.iter().filter(|record| record.failed() && record.version.is_none()).count();
    println!("\n{} requests in all; {lost} lost on the way (answered by no version).", records.len());
    picture(&args.picture, &stage.weights, records, began)?;
    println!("Picture of weight and error ratio: {}", args.picture.display());
    Ok(told.iter().all(|story| story.kept))
}

fn begin(stage: &mut Stage, title: &str) -> f64 {
    println!("\n== {title}");
    stage.begin()
}

fn end(
    stage: &mut Stage,
    story: &'static str,
    promised: &'static str,
    view: &View,
    began: f64,
    canary: &str,
) -> Result<Told> {
    let figures = stage.exposure(began, canary, 250.0)?;
    let records = stage.load.read()?;
    for lost in records.iter().filter(|record| record.t >= began && record.failed() && record.version.is_none()).take(5)
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
    stage.say(&format!("{ended}: {}", if kept { "as promised" } else { "NOT as promised" }));
    Ok(Told { story, promised, ended, kept, took: stage.took(), figures })
}

fn good(stage: &mut Stage) -> Result<Told> {
    let began = begin(stage, "A good release is promoted (kubectl set image deployment/auth auth=serin.local/auth:v2)");
    stage.shop.kubectl(&["set", "image", "deployment/auth", "auth=serin.local/auth:v2"])?;
    let view = stage.follow_to_the_end()?;
    let status = stage.shop.kubectl(&["rollout", "status", "deployment/auth", "--timeout=20s"])?;
    println!("          kubectl rollout status: {}", status.lines().last().unwrap_or_default());
    end(stage, "good release", "Succeeded", &view, began, "v2")
}

fn bad(stage: &mut Stage) -> Result<Told> {
    let began = begin(stage, "A bad release (20 % errors) is rolled back");
    let view = stage.release(&["VERSION=v3-bad", "FAULT_ERRORS=20%"])?;
    let told = end(stage, "bad release", "RolledBack", &view, began, "v3-bad")?;
    stage.undo()?;
    Ok(told)
}

fn slow(stage: &mut Stage) -> Result<Told> {
    let began = begin(stage, "A slow release (30 % of the requests take 400 ms) is rolled back");
    let view = stage.release(&["VERSION=v4-slow", "FAULT_LATENCY=400ms", "FAULT_LATENCY_SHARE=30%"])?;
    let told = end(stage, "slow release", "RolledBack", &view, began, "v4-slow")?;
    stage.undo()?;
    Ok(told)
}

/// The outage begins when the canary has its first weight and lasts 20 seconds.
fn outage(stage: &mut Stage) -> Result<Told> {
    let began = begin(stage, "An outage hits both versions (20 % errors): held, not rolled back");
    let outage = stage.outage("v5", Duration::from_secs(20))?;
    let mut told = end(stage, "outage of both", "Succeeded", &outage.end, began, "v5")?;
    told.kept &= outage.held;
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
fn picture(path: &std::path::Path, weights: &[Weighted], records: &[load::Record], began: f64) -> Result<()> {
    let span = (now() - began).max(1.0);
    let (width, height) = (1000.0, 300.0);
    let x = |at: f64| 50.0 + (at - began) / span * (width - 70.0);
    let y = |percent: f64| height - 40.0 - percent / 100.0 * (height - 70.0);
    let mut weight = format!("M {:.1} {:.1}", x(began), y(0.0));
    for point in weights {
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
