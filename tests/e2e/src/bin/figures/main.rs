//! The figures that Serin promises, measured on a real cluster.

mod lost;

use std::{
    collections::BTreeMap,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::{Parser, ValueEnum};
use serde_json::{Value, json};
use serin_e2e::{
    Result,
    cluster::{eventually, get, install, kubectl, kubectl_raw, list},
    exposure::{Exposure, exposure, now},
    figure::{Bound, Figure, table},
    serin::{Audit, memory},
    shop::{Shop, repository},
    stage::Stage,
    traffic::Load,
    watch::View,
};

/// Requests per second through the gateway.
const RATE: u32 = 200;
/// No load goes on for longer, in seconds.
const LONGEST: u64 = 900;
/// Nothing counts as slow where errors are what is measured.
const NEVER_SLOW: f64 = f64::INFINITY;

/// Measures Serin's figures on the cluster that KUBECONFIG names. Exit code 0 only if all that is promised is kept.
#[derive(Debug, Parser)]
struct Args {
    /// Which; left out: all.
    names: Vec<Name>,
    /// Address of the gateway `gw` in namespace `gateway`.
    #[arg(long, env = "GATEWAY_URL")]
    gateway: String,
    /// Serin is there already: don't install the chart.
    #[arg(long)]
    installed: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Name {
    /// A good release with 20,000 requests and direct callers
    Good,
    /// Healthy releases of each kind, scaling, evictions, a drain, a quota: 20,000 requests each
    Lost,
    /// 20 % errors at weight 5, five times
    Errors20,
    /// 100 % errors at weight 5, five times
    Errors100,
    /// An outage of both versions for 60 s, three times
    Outage,
    /// The same image with 1 % errors on both versions, twenty times
    Same,
    /// A canary that never answers
    Hang,
    /// A canary that refuses connections
    Refuse,
    /// Five minutes of nothing to do
    Idle,
}

fn main() -> ExitCode {
    match figures(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("figures: {error}");
            ExitCode::FAILURE
        }
    }
}

fn figures(args: &Args) -> Result<bool> {
    let began = Instant::now();
    println!("machine: {}", machine());
    if !args.installed {
        println!("installing Serin with Helm");
        install(&repository().join("charts/serin").display().to_string(), &[])?;
    }
    let names = if args.names.is_empty() { Name::value_variants() } else { &args.names };
    let mut measured = Measured { gateway: args.gateway.clone(), figures: Vec::new(), starts: Vec::new() };
    let mut untold = Vec::new();
    for name in names {
        let named = name.to_possible_value();
        let (word, help) = named.as_ref().map_or(("", None), |named| (named.get_name(), named.get_help()));
        let help = help.map(ToString::to_string).unwrap_or_default();
        println!("\n== {word}: {help} ({} s so far)", began.elapsed().as_secs());
        if let Err(error) = measured.measure(*name) {
            println!("   not measured: {error}");
            untold.push(format!("{word}: {error}"));
        }
    }
    let Measured { mut figures, starts, .. } = measured;
    if !starts.is_empty() {
        figures.push(Figure::new("spec change to the canary's first request, s", Bound::Told, starts));
    }
    let mebibytes = memory()?.iter().map(|(_, bytes)| *bytes as f64 / 1024.0 / 1024.0).collect::<Vec<_>>();
    figures.push(Figure::new(
        "controllers, most memory resident since their start, MiB",
        Bound::Below(40.0),
        mebibytes,
    ));
    println!("\n{}", table(&figures));
    for untold in &untold {
        println!("NOT MEASURED  {untold}");
    }
    println!("machine: {}; all took {} s", machine(), began.elapsed().as_secs());
    Ok(untold.is_empty() && figures.iter().all(Figure::ok))
}

/// What the figures depend on: cores, and what else is going on.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: Vec<&str> = load.split_whitespace().take(3).collect();
    format!("{cores} cores, load average {}", load.join(" "))
}

/// What was measured so far.
struct Measured {
    gateway: String,
    figures: Vec<Figure>,
    /// Of each release that was given traffic: seconds from the change to the canary's first request.
    starts: Vec<f64>,
}

impl Measured {
    fn measure(&mut self, name: Name) -> Result<()> {
        match name {
            Name::Good => self.good(),
            Name::Lost => self.lost(),
            Name::Errors20 => self.errors(20, Bound::MedianAndWorstBelow(5.0, 12.0)),
            Name::Errors100 => self.errors(100, Bound::MedianBelow(3.0)),
            Name::Outage => self.outage(),
            Name::Same => self.same(),
            Name::Hang => self.silent("never answers", "FAULT_HANG=true"),
            Name::Refuse => self.silent("refuses connections", "FAULT_REFUSE=true"),
            Name::Idle => self.idle(),
        }
    }

    fn tell(&mut self, figure: Figure) {
        println!("   {figure}");
        self.figures.push(figure);
    }

    /// A shop under load whose first version has this environment.
    fn stage(&self, namespace: &str, environment: &[&str], steps: &Value) -> Result<Stage> {
        self.stage_with(namespace, environment, steps, |_| {}, RATE, &[])
    }

    /// The same with a changed Rollout, and another load.
    fn stage_with(
        &self,
        namespace: &str,
        environment: &[&str],
        steps: &Value,
        change: fn(&mut Value),
        rate: u32,
        extra: &[&str],
    ) -> Result<Stage> {
        let shop = Shop::open(namespace)?;
        if !environment.is_empty() {
            shop.release(environment)?;
            shop.kubectl(&["rollout", "status", "deployment/auth", "--timeout=90s"])?;
        }
        shop.rollout(steps, change)?;
        shop.idle()?;
        let load = Load::start(&self.gateway, &shop.host, rate, LONGEST, extra)?;
        let mut stage = Stage::new(shop, load)?;
        stage.tells = false;
        Ok(stage)
    }

    fn good(&mut self) -> Result<()> {
        let steps = json!([{"weight": 5, "bake": "30s"}, {"weight": 25, "bake": "40s"}, {"weight": 50, "bake": "40s"}]);
        let mut stage = self.stage("figures-good", &[], &steps)?;
        stage.tells = true;
        let service = get(&stage.shop.namespace, "service", "auth")?.unwrap_or_default();
        let direct = format!("http://{}", service["spec"]["clusterIP"].as_str().unwrap_or_default());
        let mut callers = Load::start(&direct, "direct.example.com", 50, LONGEST, &["--close"])?;
        let sets = list(&stage.shop.namespace, "replicasets")?.len();
        let began = stage.begin();
        stage.shop.kubectl(&["set", "image", "deployment/auth", "auth=serin.local/auth:v2"])?;
        // Waits as a pipeline does, from the beginning.
        let status = std::thread::scope(|scope| {
            let namespace = stage.shop.namespace.clone();
            let status = scope.spawn(move || {
                kubectl_raw(&["-n", &namespace, "rollout", "status", "deployment/auth", "--timeout=300s"])
            });
            let promoting = stage.follow("the promotion", Duration::from_secs(240), |view| view.phase == "Promoting");
            let promoting = promoting.map(|_| now());
            let end = stage.follow_to_the_end();
            let code = status.join().map_err(|_| "kubectl rollout status: its thread ended".to_owned());
            Ok::<_, String>((promoting?, end?, code??.status.code()))
        });
        let (promoting, end, code) = status?;
        let seen = stage.exposure(began, "v2", NEVER_SLOW)?;
        self.starts.extend(seen.first);
        let pods = list(&stage.shop.namespace, "pods")?;
        let restarts = pods.iter().map(|pod| pod["status"]["containerStatuses"][0]["restartCount"].as_f64());
        let new = list(&stage.shop.namespace, "replicasets")?.len().saturating_sub(sets);
        let of_callers = exposure(callers.read()?, began, now(), "v2", NEVER_SLOW);
        let early =
            callers.read()?.iter().filter(|record| record.t < promoting && record.version.as_deref() == Some("v2"));
        let early = early.count();
        self.tell(Figure::new("good release: promoted", Bound::Exactly(1.0), [ended(&end, "Succeeded")]));
        self.tell(Figure::new(
            "good release: requests in this story",
            Bound::AtLeast(20_000.0),
            [count(seen.requests)],
        ));
        self.tell(Figure::new("good release: failed requests", Bound::Exactly(0.0), [count(seen.failed)]));
        self.tell(Figure::new(
            "good release: restarts of pods",
            Bound::Exactly(0.0),
            [restarts.map(|restarts| restarts.unwrap_or(f64::NAN)).sum::<f64>()],
        ));
        self.tell(Figure::new("good release: new ReplicaSets", Bound::Exactly(1.0), [count(new)]));
        let code = code.map_or(f64::NAN, f64::from);
        self.tell(Figure::new("good release: exit code of kubectl rollout status", Bound::Exactly(0.0), [code]));
        let note = format!("of {}", of_callers.requests);
        self.tell(
            Figure::new("direct callers: failed requests", Bound::Exactly(0.0), [count(of_callers.failed)]).note(&note),
        );
        self.tell(
            Figure::new("direct callers: canary's answers before the promotion", Bound::Exactly(0.0), [count(early)])
                .note(&note),
        );
        Ok(())
    }

    /// Releases with this share of errors at weight 5, five times.
    fn errors(&mut self, percent: u32, bound: Bound) -> Result<()> {
        let steps = json!([{"weight": 5, "bake": "30s"}, {"weight": 50, "bake": "30s"}]);
        let mut stage = self.stage(&format!("figures-errors{percent}"), &[], &steps)?;
        let (mut seconds, mut failed, mut back) = (Vec::new(), Vec::new(), Vec::new());
        for number in 1..=5 {
            let version = format!("e{percent}-{number}");
            let (end, seen) = self.release(&mut stage, &version, &[&format!("FAULT_ERRORS={percent}%")])?;
            let exposed = seen.seconds.ok_or("expected bad answers of the canary, found none")?;
            let on_the_way = seen.lost;
            println!(
                "   run {number}: {} after {:.1} s; exposure {exposed:.1} s, {} failed of {}, {on_the_way} lost on the way",
                end.last_run_phase,
                stage.took().as_secs_f64(),
                seen.failed,
                seen.canary
            );
            seconds.push(exposed);
            failed.push(count(seen.failed));
            back.push(ended(&end, "RolledBack"));
            stage.undo()?;
        }
        self.tell(Figure::new(format!("{percent} % errors: rolled back"), Bound::Exactly(1.0), back));
        self.tell(Figure::new(format!("{percent} % errors: first bad to last canary answer, s"), bound, seconds));
        self.tell(Figure::new(format!("{percent} % errors: failed requests"), Bound::Told, failed));
        Ok(())
    }

    /// One release to its end, and its figures.
    fn release(&mut self, stage: &mut Stage, version: &str, environment: &[&str]) -> Result<(View, Exposure)> {
        let began = stage.begin();
        let version_is = format!("VERSION={version}");
        let environment: Vec<&str> = std::iter::once(version_is.as_str()).chain(environment.iter().copied()).collect();
        let end = stage.release(&environment)?;
        let seen = stage.exposure(began, version, NEVER_SLOW)?;
        self.starts.extend(seen.first);
        Ok((end, seen))
    }

    fn outage(&mut self) -> Result<()> {
        let steps = json!([{"weight": 5, "bake": "5s"}, {"weight": 50, "bake": "5s"}]);
        let (mut held, mut back, mut promoted, mut after) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for number in 1..=3 {
            let mut stage = self.stage(&format!("figures-outage-{number}"), &[], &steps)?;
            stage.begin();
            let outage = stage.outage("hit", Duration::from_secs(60))?;
            let seconds = now() - outage.over;
            println!(
                "   outage {number}: {}, {} {seconds:.1} s after it was over",
                if outage.held { "held" } else { "NOT held" },
                outage.end.last_run_phase
            );
            held.push(f64::from(u8::from(outage.held)));
            back.push(ended(&outage.end, "RolledBack"));
            promoted.push(ended(&outage.end, "Succeeded"));
            after.push(seconds);
        }
        self.tell(Figure::new("outage of both for 60 s: rolled back", Bound::Exactly(0.0), back));
        self.tell(Figure::new("outage of both for 60 s: held, and said so", Bound::Exactly(1.0), held));
        self.tell(Figure::new("outage of both for 60 s: promoted by itself", Bound::Exactly(1.0), promoted));
        self.tell(Figure::new("outage of both for 60 s: its end to the promotion's, s", Bound::Told, after));
        Ok(())
    }

    /// Twenty releases that change nothing but a label of the version, each with 1 % errors before and after.
    fn same(&mut self) -> Result<()> {
        println!(
            "   1 % errors on both versions is exactly the objective of 99 %: neither is better, neither is out of it."
        );
        println!("   So no run may blame the new version; by chance one may hold for a while as a fault of both.");
        let mut stage = self.stage("figures-same", &["FAULT_ERRORS=1%"], &json!([{"weight": 50, "bake": "5s"}]))?;
        let mut ends = BTreeMap::<String, usize>::new();
        let (mut back, mut took) = (Vec::new(), Vec::new());
        for number in 1..=20 {
            let (end, seen) = self.release(&mut stage, &format!("same-{number}"), &[])?;
            let seconds = stage.took().as_secs_f64();
            println!(
                "   run {number}: {} after {seconds:.1} s; {} answers of the canary",
                end.last_run_phase, seen.canary
            );
            back.push(ended(&end, "RolledBack"));
            took.push(seconds);
            if end.last_run_phase == "RolledBack" {
                println!("     {}", end.message);
                stage.undo()?;
            }
            *ends.entry(end.last_run_phase).or_default() += 1;
        }
        let ends: Vec<String> = ends.iter().map(|(end, runs)| format!("{runs} {end}")).collect();
        self.tell(
            Figure::new("A/A, 1 % errors on both: rolled back", Bound::SumAtMost(1.0), back).note(ends.join(", ")),
        );
        self.tell(Figure::new("A/A, 1 % errors on both: length of a run, s", Bound::Told, took));
        Ok(())
    }

    fn silent(&mut self, what: &str, fault: &str) -> Result<()> {
        let namespace = format!("figures-{}", what.split(' ').next().unwrap_or_default());
        let mut stage = self.stage(&namespace, &[], &json!([{"weight": 5, "bake": "30s"}]))?;
        stage.begin();
        stage.deploy(&["VERSION=silent", fault])?;
        let (seconds, said) = stage.taken_back()?;
        let end = stage.follow_to_the_end()?;
        let run = stage.shop.run()?.unwrap_or_default();
        let reason = run["status"]["reason"].as_str().unwrap_or_default();
        let note = format!("\"{said}\"; in the end {}: {reason}", end.last_run_phase);
        let figure =
            Figure::new(format!("canary that {what}: first weight to weight 0, s"), Bound::Below(15.0), [seconds]);
        self.tell(figure.note(note));
        let named = f64::from(u8::from(!reason.is_empty() && !said.is_empty()));
        self.tell(Figure::new(format!("canary that {what}: reason named"), Bound::Exactly(1.0), [named]));
        Ok(())
    }

    fn idle(&mut self) -> Result<()> {
        let (minutes, shop) = (5, Shop::open("figures-idle")?);
        shop.rollout(&json!([{"weight": 5, "bake": "30s"}]), |_| {})?;
        shop.idle()?;
        eventually("all earlier shops to be gone", Duration::from_secs(120), || {
            let left = kubectl(&["get", "rollouts.serin.dev", "-A", "-o", "name"])?.lines().count();
            let going = kubectl(&["get", "namespaces"])?.contains("Terminating");
            Ok((left == 1 && !going).then_some(()))
        })?;
        // The last words of what came before.
        std::thread::sleep(Duration::from_secs(8));
        let audit = Audit::start()?;
        for minute in 1..=minutes {
            std::thread::sleep(Duration::from_secs(60));
            println!("   minute {minute} of {minutes}");
        }
        let asked = audit.asked()?;
        for other in asked.others.iter().take(10) {
            println!("     {other}");
        }
        let note = format!("and {} for the lease, {} watches renewed", asked.leases, asked.watches);
        let figure = Figure::new(
            "idle for 5 min: other requests than lease and watches",
            Bound::Exactly(0.0),
            [count(asked.others.len())],
        );
        self.tell(figure.note(note));
        // Else the requests that were looked for are not in the log at all.
        self.tell(Figure::new(
            "idle for 5 min: renewals of the lease seen",
            Bound::AtLeast(1.0),
            [count(asked.leases)],
        ));
        Ok(())
    }
}

fn count(n: usize) -> f64 {
    n as f64
}

/// 1 if the release ended so, else 0.
fn ended(end: &View, phase: &str) -> f64 {
    f64::from(u8::from(end.last_run_phase == phase))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_names_all_figures_in_its_help() {
        let script = std::fs::read_to_string(repository().join("tests/figures")).expect("tests/figures");
        for name in Name::value_variants() {
            let named = name.to_possible_value().expect("none is hidden");
            let help = named.get_help().expect("each says what it is").to_string();
            let line = format!("#   {:<10} {help}\n", named.get_name());
            assert!(script.contains(&line), "expected in tests/figures: {line}");
        }
    }
}
