//! The cluster under test, through kubectl and helm. What is asked again and again goes to the API server itself (`api`).

use std::{
    io::Write as _,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{Result, api};

/// Namespace of Serin itself.
pub const SERIN: &str = "serin-system";

/// Runs kubectl; its output, or its error as it said it.
pub fn kubectl(args: &[&str]) -> Result<String> {
    said("kubectl", args, &kubectl_raw(args)?)
}

/// Runs kubectl and keeps exit code and both outputs.
pub fn kubectl_raw(args: &[&str]) -> Result<Output> {
    Command::new("kubectl").args(args).stdin(Stdio::null()).output().map_err(|error| format!("kubectl: {error}"))
}

/// Runs kubectl with this on its standard input.
pub fn kubectl_with(args: &[&str], input: &str) -> Result<String> {
    let child =
        Command::new("kubectl").args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.map_err(|error| format!("kubectl: {error}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).map_err(|error| format!("kubectl: {error}"))?;
    }
    let output = child.wait_with_output().map_err(|error| format!("kubectl: {error}"))?;
    said("kubectl", args, &output)
}

fn said(program: &str, args: &[&str], output: &Output) -> Result<String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(format!("{program} {}: {}", args.join(" "), text(&output.stderr))),
    }
}

/// An object as JSON; `None` if there is none.
pub fn get(namespace: &str, kind: &str, name: &str) -> Result<Option<Value>> {
    api::get(&format!("{}/{name}", api::path(namespace, kind)?))
}

/// All objects of a kind.
pub fn list(namespace: &str, kind: &str) -> Result<Vec<Value>> {
    let path = api::path(namespace, kind)?;
    let list = api::get(&path)?.ok_or_else(|| format!("expected {kind} at {path}, found no such kind"))?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

/// Installs Serin from its chart, with real Helm, and waits until it is ready. `settings`: more of Helm's options.
pub fn install(chart: &str, settings: &[&str]) -> Result<()> {
    let mut args = vec![
        "upgrade",
        "--install",
        "serin",
        chart,
        "--namespace",
        SERIN,
        "--create-namespace",
        "--wait",
        "--timeout",
        "90s",
        "--set",
        "image.tag=dev",
    ];
    args.extend(settings);
    helm(&args).map(drop)
}

/// Runs helm; its output, or its error as it said it.
pub fn helm(args: &[&str]) -> Result<String> {
    let output =
        Command::new("helm").args(args).stdin(Stdio::null()).output().map_err(|error| format!("helm: {error}"))?;
    said("helm", args, &output)
}

/// Asks again and again until there is an answer.
pub fn eventually<T>(what: &str, within: Duration, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let began = Instant::now();
    let mut last = String::from("not yet");
    while began.elapsed() < within {
        match ask() {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) => {}
            Err(error) => last = error,
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Err(format!("expected {what} within {} s: {last}", within.as_secs()))
}
