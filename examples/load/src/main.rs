//! Parses the flags, runs, and prints the summary.

use clap::Parser;
use load::args::{Args, Plan};
use std::process::ExitCode;

// Sending some hundred requests a second needs one thread; a second one writes them down.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = Args::parse();
    match start(args).await {
        Ok(summary) => {
            print!("{summary}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn start(args: Args) -> Result<String, Box<dyn std::error::Error>> {
    let plan = Plan::new(args).await?;
    Ok(load::run::run(plan).await?.to_string())
}
