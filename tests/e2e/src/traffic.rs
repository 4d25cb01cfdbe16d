//! Constant load through the gateway (or straight at a Service), each answer recorded.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use load::{Reader, Record};

use crate::Result;

/// A load generator at work; it ends with this value.
pub struct Load {
    child: Child,
    file: PathBuf,
    reader: Option<Reader>,
    records: Vec<Record>,
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.file);
    }
}

impl Load {
    /// Starts it. `seconds` bounds it, `extra` are further arguments of `load`.
    pub fn start(url: &str, host: &str, rate: u32, seconds: u64, extra: &[&str]) -> Result<Self> {
        let file =
            std::env::temp_dir().join(format!("serin-load-{}-{}.jsonl", std::process::id(), host.replace('.', "-")));
        let _ = std::fs::remove_file(&file);
        let program = beside_us("load")?;
        let child = Command::new(program)
            .args(["--url", url, "--host", host, "--rate", &rate.to_string(), "--for", &format!("{seconds}s")])
            .arg("--out")
            .arg(&file)
            .args(extra)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .map_err(|error| format!("load: {error}"))?;
        let mut load = Self { child, file, reader: None, records: Vec::new() };
        let began = Instant::now();
        while load.read()?.is_empty() {
            if began.elapsed() > Duration::from_secs(30) {
                return Err("expected answers to the load within 30 s, found none".into());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(load)
    }

    /// All answers so far.
    pub fn read(&mut self) -> Result<&[Record]> {
        if self.reader.is_none() && self.file.exists() {
            self.reader = Some(Reader::open(&self.file).map_err(|error| error.to_string())?);
        }
        if let Some(reader) = &mut self.reader {
            self.records.extend(reader.read_new().map_err(|error| error.to_string())?);
        }
        Ok(&self.records)
    }
}

/// A program built beside this one.
pub fn beside_us(name: &str) -> Result<PathBuf> {
    let me = std::env::current_exe().map_err(|error| error.to_string())?;
    let folders = me.ancestors().skip(1).take(2).map(Path::to_path_buf);
    let found = folders.map(|folder| folder.join(name)).find(|path| path.is_file());
    found.ok_or_else(|| format!("expected the program {name} beside {}: build the workspace", me.display()))
}
