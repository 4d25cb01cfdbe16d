//! Writes records down on a thread of its own, so that a slow disk never delays a request.

use crate::Record;
use crate::tally::Tally;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;
use thiserror::Error;

/// Lines are gathered for this long before they are written: half of the 100 ms that readers are promised.
const GATHER: Duration = Duration::from_millis(50);

#[derive(Debug, Error)]
pub enum SinkError {
    #[error("--out: expected to write {path}: {source}")]
    Write { path: PathBuf, source: io::Error },
    #[error("the writing thread panicked: a bug of load")]
    Panicked,
}

pub struct Sink {
    path: PathBuf,
    thread: JoinHandle<io::Result<Tally>>,
}

impl Sink {
    /// Creates the file. Once all senders are gone, what they sent is written and the thread ends.
    pub fn open(path: &Path) -> Result<(Self, Sender<Record>), SinkError> {
        let failed = |source| SinkError::Write { path: path.to_path_buf(), source };
        let file = File::create(path).map_err(failed)?;
        let (sender, records) = channel();
        let thread = std::thread::Builder::new()
            .name("sink".to_owned())
            .spawn(move || pump(&records, BufWriter::new(file)))
            .map_err(failed)?;
        Ok((Self { path: path.to_path_buf(), thread }, sender))
    }

    /// Whether writing has ended, which before the end of sending means that it failed.
    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for the last line. The senders must be gone.
    pub fn finish(self) -> Result<Tally, SinkError> {
        match self.thread.join() {
            Ok(Ok(tally)) => Ok(tally),
            Ok(Err(source)) => Err(SinkError::Write { path: self.path, source }),
            Err(_) => Err(SinkError::Panicked),
        }
    }
}

fn pump(records: &Receiver<Record>, mut out: impl Write) -> io::Result<Tally> {
    let mut tally = Tally::default();
    while let Ok(first) = records.recv() {
        // One wake-up and one write for all that come meanwhile.
        std::thread::sleep(GATHER);
        for record in std::iter::once(first).chain(records.try_iter()) {
            serde_json::to_writer(&mut out, &record)?;
            out.write_all(b"\n")?;
            tally.add(&record);
        }
        out.flush()?;
    }
    Ok(tally)
}
