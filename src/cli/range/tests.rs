//! Against a made-up Prometheus on this machine, which has two versions side by side.

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
};

use clap::Parser;
use serde_json::{Value, json};

use super::*;

/// 2026-01-31T10:00:00Z.
const TEN: i64 = 1_769_853_600;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    range: RangeArgs,
}

/// A pod: name, first second after ten, requests a second, and of a hundred of them the errors.
type Life = (&'static str, i64, i64, i64);

const STABLE: [Life; 2] = [("auth-5c8b4d7f9-bcdfg", -7200, 40, 0), ("auth-5c8b4d7f9-hjklm", -7200, 40, 0)];
const BAD: Life = ("auth-7d9f6c4b8-npqrs", 720, 20, 8);

fn counters((name, from, rate, bad): Life, at: i64) -> Vec<Value> {
    let requests = (at - TEN - from) * rate;
    let (errors, good) = (requests * bad / 100, requests - requests * bad / 100);
    let series = |metric: &str, label: &str, value: &str, count: i64| {
        let metric = json!({"__name__": metric, "namespace": "shop", "pod": name, label: value, "route": "/login",
            "job": "pods", "instance": name});
        json!({"metric": metric, "values": [[at as f64, count.to_string()]]})
    };
    // Half of all within 25 ms, all within a quarter of a second.
    let bucket = |le: &str, part: i64| series("http_request_duration_seconds_bucket", "le", le, requests * part / 100);
    let codes = [("200", good), ("500", errors)];
    let codes = codes.map(|(code, count)| series("http_requests_total", "code", code, count));
    let buckets = [("0.025", 50), ("0.1", 98), ("0.25", 100), ("0.5", 100), ("+Inf", 100)];
    [&codes[..], &buckets.map(|(le, part)| bucket(le, part))].concat()
}

/// Answers a form as Prometheus does; pods are scraped each 5 s. `bad{pods="NAMES"}` is the share of errors of one of them.
fn answer(lives: &[Life], form: &HashMap<String, String>) -> Value {
    let number = |name: &str| form[name].parse::<f64>().expect("a number") as i64;
    if form["query"].starts_with("bad{") {
        let (_, _, _, bad) = lives.iter().find(|(name, ..)| form["query"].contains(name)).expect("a pod");
        let share = json!([number("time"), (*bad as f64 / 100.0).to_string()]);
        return json!({"status": "success", "data": {"resultType": "vector", "result": [{"metric": {}, "value": share}]}});
    }
    let result: Vec<Value> = if form.contains_key("start") {
        let times = |from: i64| (number("start")..=number("end")).step_by(5).filter(move |at| at - TEN >= from);
        let series = |(name, from, ..): &Life| {
            let values: Vec<Value> = times(*from).map(|at| json!([at, "2"])).collect();
            json!({"metric": {"pod": name}, "values": values})
        };
        lives.iter().map(series).collect()
    } else {
        let at = number("time") / 5 * 5 - 1;
        let living = lives
            .iter()
            .filter(|(name, from, ..)| at - TEN >= *from && form["query"].contains(&name.replace('-', r"\\-")));
        living.flat_map(|life| counters(*life, at)).collect()
    };
    json!({"status": "success", "data": {"resultType": "matrix", "result": result}})
}

fn respond(mut stream: TcpStream, lives: &[Life], secret: Option<&str>) -> std::io::Result<()> {
    let (mut bytes, mut part) = (Vec::new(), [0; 4096]);
    let (head, body) = loop {
        let read = stream.read(&mut part)?;
        bytes.extend_from_slice(&part[..read]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.to_lowercase().lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        if body.len() >= length.unwrap_or(0) {
            break (head.to_owned(), body.to_owned());
        }
    };
    let url = Url::parse(&format!("http://here/?{body}")).map_err(std::io::Error::other)?;
    let form: HashMap<String, String> = url.query_pairs().into_owned().collect();
    let let_in = secret.is_none_or(|secret| head.contains(secret));
    let (status, body) = match let_in {
        true => ("200 OK", answer(lives, &form).to_string()),
        false => ("401 Unauthorized", String::new()),
    };
    write!(stream, "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// To those only who have the secret, if there is one.
fn serve(lives: Vec<Life>, secret: Option<&'static str>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = respond(stream, &lives, secret);
        }
    });
    address
}

fn example() -> Rollout {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/auth/manifests/rollout.yaml");
    files::rollout(&file).expect("the example").0
}

fn asked(rollout: &Rollout, args: &[&str]) -> Result<Question, String> {
    let line = Line::try_parse_from([&["backtest"], args].concat()).map_err(|error| error.to_string())?;
    question(&line.range, rollout, "shop".into(), Timestamp::from_second(TEN + 7200).unwrap())
}

async fn told(lives: &[Life], more: &[&str]) -> Result<Report, String> {
    let address = serve(lives.to_vec(), None);
    let args = ["--prometheus", &address, "--from", "2026-01-31T10:00:00Z", "--to", "1h"];
    ask(&asked(&example(), &[&args, more].concat())?).await
}

#[tokio::test]
async fn the_readme_shows_what_is_told_of_a_bad_release() {
    const COMMAND: &str = "--from 2026-01-31T10:00:00Z --to 2026-01-31T11:00:00Z\n";
    let report = told(&[&STABLE[..], &[BAD]].concat(), &[]).await.expect("a report");
    let said = text(&report);
    assert!(said.contains("takes the traffic back: SloViolated: SLO errors"), "{said}");
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(readme).expect("README.md");
    let shown = readme.split_once(COMMAND).map(|(_, shown)| shown).unwrap_or_default();
    let shown = shown.split_once("```").expect("its end").0;
    assert!(shown == said, "README shows something else after {COMMAND}{said}");
    let json = serde_json::to_value(&report).expect("JSON");
    assert_eq!((&json["canary"], &json["events"][0]["what"]), (&json!("7d9f6c4b8"), &json!("TakesBack")));
}

#[tokio::test]
async fn a_good_release_is_promoted_and_halves_give_no_alarm() {
    let good = Life::from((BAD.0, BAD.1, BAD.2, 0));
    let said = text(&told(&[&STABLE[..], &[good]].concat(), &[]).await.expect("a report"));
    assert!(said.contains("3/3") && said.contains("promotes: all steps are done"), "{said}");
    for more in [&[][..], &["--stable", "5c8b4d7f9", "--canary", "5c8b4d7f9"]] {
        let said = text(&told(&STABLE, more).await.expect("a report"));
        assert!(said.starts_with("Policy auth, two halves of the pods of version 5c8b4d7f9 in shop"), "{said}");
        assert!(!said.contains("takes the traffic back"), "{said}");
    }
}

#[tokio::test]
async fn a_query_of_the_policys_own_is_asked_of_that_time() {
    // Given a policy whose SLO is on latency, and a query that sees the errors:
    let mut rollout = example();
    rollout.spec.slos.retain(|slo| slo.name == "latency");
    rollout.spec.telemetry.scrape = None;
    let source = json!({"address": "https://prometheus.shop.svc", "queries": [
        {"name": "answers", "query": "bad{pods=\"{pods}\"}", "most": "2%", "window": "20s", "windows": 3}]});
    rollout.spec.telemetry.prometheus = Some(serde_json::from_value(source).expect("a source"));
    let told = async |canary: Life| {
        let address = serve([&STABLE[..], &[canary]].concat(), None);
        let args = ["--prometheus", &address, "--from", "2026-01-31T10:00:00Z", "--to", "1h"];
        text(&ask(&asked(&rollout, &args).expect("a question")).await.expect("a report"))
    };
    // Then its third bad window takes the traffic back, and a good version is promoted.
    let said = told(BAD).await;
    assert!(said.contains("takes the traffic back: SloViolated: query answers: the canary was above 2.0 %"), "{said}");
    assert!(said.contains("in 3 windows in a row") && said.contains("answers  Bad      8 %     0 %"), "{said}");
    let said = told((BAD.0, BAD.1, BAD.2, 1)).await;
    assert!(said.contains("promotes: all steps are done") && said.contains("answers  Good"), "{said}");
}

#[tokio::test]
async fn what_is_missing_is_told_with_where_it_was_looked_for() {
    let none = told(&[], &[]).await.err().expect("no pods");
    assert!(
        none.starts_with(
            "auth in namespace shop, 2026-01-31T10:00:00Z to 2026-01-31T11:00:00Z: expected counters of pods"
        ),
        "{none}"
    );
    let other = told(&STABLE, &["--workload", "api"]).await.err().expect("others' pods");
    assert!(other.contains("api-HASH-SUFFIX"), "{other}");
}

#[tokio::test]
async fn secrets_are_given_by_a_file_and_asked_for_by_name() {
    let file = std::env::temp_dir().join(format!("serin-secret-{}", std::process::id()));
    let path = file.display().to_string();
    // user:word in base64
    for (flag, text, header) in
        [("--token-file", "secret\n", "Bearer secret"), ("--user-file", "user:word\n", "Basic dXNlcjp3b3Jk")]
    {
        let address = serve(STABLE.to_vec(), Some(header));
        let args = ["--prometheus", &address, "--from", "2h"];
        let refused = ask(&asked(&example(), &args).unwrap()).await.err().expect("no secret");
        assert!(refused.contains("give --token-file or --user-file"), "{refused}");
        fs::write(&file, text).unwrap();
        let told = ask(&asked(&example(), &[&args[..], &[flag, &path]].concat()).unwrap()).await;
        let plain = asked(&example(), &["--prometheus", "http://far.example", "--from", "2h", flag, &path]);
        assert!(told.is_ok(), "{flag}: {:?}", told.err());
        assert!(plain.err().is_some_and(|error| error.contains("expected an address with https://")));
    }
    fs::write(&file, "user").unwrap();
    let wrong = |flag: &str| asked(&example(), &["--prometheus", "http://localhost", "--from", "2h", flag, &path]);
    let [user, ca] = ["--user-file", "--ca-file"].map(|flag| wrong(flag).err().unwrap_or_default());
    assert!(user.contains("expected USER:PASSWORD, found no colon"), "{user}");
    assert!(ca.contains("expected CA certificates as PEM"), "{ca}");
    fs::remove_file(&file).unwrap();
}

#[test]
fn what_can_not_be_asked_is_refused_with_what_to_do() {
    let here = ["--prometheus", "http://localhost:9090"];
    let error = |args: &[&str]| asked(&example(), &[&here, args].concat()).err().unwrap_or_default();
    assert!(error(&["--from", "8d", "--to", "1h"]).contains("expected at most 5000 looks, found"));
    assert!(error(&["--from", "1h", "--to", "2h"]).contains("expected --from before --to, found 2026-01-31T11:00:00Z"));
    assert!(error(&["--from", "yesterday"]).contains("or a duration ago such as 2h"));
    assert!(error(&[]).contains("--from"));
    assert!(error(&["--from", "2h", "--stable", "a"]).contains("--canary"));
    let ftp = asked(&example(), &["--prometheus", "ftp://localhost", "--from", "2h"]).err().unwrap_or_default();
    assert!(ftp.contains("expected http:// or https://") && ftp.contains("found ftp"), "{ftp}");
    let mut router = example();
    router.spec.telemetry = serde_json::from_value(json!({"router": {}})).expect("telemetry");
    let refused = asked(&router, &[&here[..], &["--from", "2h"]].concat()).err().unwrap_or_default();
    assert!(refused.contains("found telemetry.router"), "{refused}");
}

#[test]
fn runs_and_a_range_are_not_tried_at_once() {
    use clap::CommandFactory;
    crate::cli::Cli::command().debug_assert();
    let range = ["serin", "backtest", "a.yaml", "--prometheus", "http://localhost:9090", "--from", "2h"];
    assert!(crate::cli::Cli::try_parse_from(range).is_ok());
    let both = crate::cli::Cli::try_parse_from([&range[..], &["--run", "auth-7"]].concat());
    assert!(both.err().is_some_and(|error| error.to_string().contains("cannot be used with")));
}

#[test]
fn labels_are_the_policys_unless_others_are_given() {
    let mut rollout = example();
    rollout.spec.telemetry.scrape = None;
    let source = json!({"address": "https://prometheus.shop.svc", "interval": "15s", "podLabel": "kubernetes_pod"});
    rollout.spec.telemetry.prometheus = Some(serde_json::from_value(source).expect("a source"));
    let args = ["--prometheus", "http://localhost:9090", "--from", "2h"];
    let theirs = asked(&rollout, &args).unwrap();
    assert_eq!((theirs.labels.pod.as_str(), theirs.interval), ("kubernetes_pod", Millis::seconds(15)));
    let given = asked(&rollout, &[&args[..], &["--pod-label", "p", "--namespace-label", "n"]].concat()).unwrap();
    assert_eq!(given.labels, Labels { namespace: ("n".into(), "shop".into()), pod: "p".into() });
}
