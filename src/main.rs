//! The `serin` binary. Under the name `kubectl-serin` it is kubectl's plugin.

use std::process::ExitCode;

fn main() -> ExitCode {
    serin::cli::main()
}
