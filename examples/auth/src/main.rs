//! Starts the service, says so, and turns the way it ended into an exit code.

use auth::{Config, Ended, Server};
use serde_json::json;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

// One thread is plenty for a demo service and keeps its memory small.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let config = match Config::from_vars(std::env::vars_os()) {
        Ok(config) => config,
        Err(error) => return fail(2, &error),
    };
    let version = config.version.clone();
    if config.crash.is_some_and(|after| after.is_zero()) {
        println!("{}", json!({"msg": "crashed", "version": version, "why": "FAULT_CRASH=start"}));
        return ExitCode::from(1);
    }
    let faults = config.faults_summary();
    let (mut terminate, mut interrupt) = match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
        (Err(error), _) | (_, Err(error)) => return fail(1, &error),
    };
    let server = match Server::bind(config).await {
        Ok(server) => server,
        Err(error) => return fail(1, &error),
    };
    println!(
        "{}",
        json!({"msg": "started", "version": version, "listen": server.address(), "control": server.control_address(), "faults": faults})
    );
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    };
    match server.run(stop).await {
        Ended::Stopped { why, unfinished } => {
            println!("{}", json!({"msg": "stopped", "version": version, "why": why, "unfinished_in_time": unfinished}));
            ExitCode::SUCCESS
        }
        Ended::Crashed => {
            println!("{}", json!({"msg": "crashed", "version": version, "why": "FAULT_CRASH"}));
            ExitCode::from(1)
        }
    }
}

fn fail(code: u8, error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("auth: {error}");
    ExitCode::from(code)
}
