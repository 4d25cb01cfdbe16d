//! Each seed of the fuzzer is tried here, too, those that once broke something among them.

#[path = "checks"]
mod checks {
    pub mod exposition;
    pub mod http;
    pub mod ledger;
    pub mod prometheus;
    pub mod record;
}

use std::path::Path;

/// All seeds of a target, in turn.
fn tried(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/seeds").join(target);
    let mut seeds = 0;
    for entry in std::fs::read_dir(&folder).expect("the seeds") {
        let path = entry.expect("an entry").path();
        println!("{}", path.display());
        check(&std::fs::read(&path).expect("a seed"));
        seeds += 1;
    }
    assert!(seeds > 0, "no seeds in {}", folder.display());
}

#[test]
fn exposition() {
    tried("exposition", checks::exposition::check);
}

#[test]
fn prometheus() {
    tried("prometheus", checks::prometheus::check);
}

#[test]
fn http() {
    tried("http", checks::http::check);
}

#[test]
fn ledger() {
    tried("ledger", checks::ledger::check);
}

#[test]
fn record() {
    tried("record", checks::record::check);
}
