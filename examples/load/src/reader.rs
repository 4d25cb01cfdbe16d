//! Follows a file of records while it is being written.

use crate::Record;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use thiserror::Error;

#[derive(Debug, Error)]
pub enum ReadError {
    #[error("expected to read {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path}, line {line}: expected a record of `load` ({problem}), found {found:?}")]
    NotARecord { path: PathBuf, line: u64, problem: serde_json::Error, found: String },
    #[error("{path}: expected a file that only grows, found it shorter than before; open it again")]
    Shrunk { path: PathBuf },
}

/// Reads the complete lines that have come since the last time.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    file: File,
    read: u64,
    lines: u64,
    /// The beginning of a line whose end has not been written yet.
    partial: Vec<u8>,
}

impl Reader {
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ReadError> {
        let path = path.as_ref().to_path_buf();
        match File::open(&path) {
            Ok(file) => Ok(Self { path, file, read: 0, lines: 0, partial: Vec::new() }),
            Err(source) => Err(ReadError::Io { path, source }),
        }
    }

    /// The records whose lines have been completed since the last call; never waits. A line that is no record is reported once, the
    /// next call goes on after the lines read with it.
    pub fn read_new(&mut self) -> Result<Vec<Record>, ReadError> {
        self.fill()?;
        let Some(end) = self.partial.iter().rposition(|byte| *byte == b'\n') else {
            return Ok(Vec::new());
        };
        let rest = self.partial.split_off(end + 1);
        let complete = std::mem::replace(&mut self.partial, rest);
        let first = self.lines + 1;
        let lines: Vec<&[u8]> = complete[..end].split(|byte| *byte == b'\n').collect();
        self.lines += lines.len() as u64;
        lines.into_iter().zip(first..).map(|(line, number)| self.parse(line, number)).collect()
    }

    /// Takes in what has been written since.
    fn fill(&mut self) -> Result<(), ReadError> {
        let failed = |source| ReadError::Io { path: self.path.clone(), source };
        if self.file.metadata().map_err(failed)?.len() < self.read {
            return Err(ReadError::Shrunk { path: self.path.clone() });
        }
        self.read += self.file.read_to_end(&mut self.partial).map_err(failed)? as u64;
        Ok(())
    }

    fn parse(&self, line: &[u8], number: u64) -> Result<Record, ReadError> {
        serde_json::from_slice(line).map_err(|problem| ReadError::NotARecord {
            path: self.path.clone(),
            line: number,
            problem,
            found: String::from_utf8_lossy(line).chars().take(120).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// A file of its own for each test, away when the test is over.
    struct Scratch(PathBuf, File);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("load-reader-{name}-{}.jsonl", std::process::id()));
            let file = File::create(&path).unwrap();
            Self(path, file)
        }

        fn write(&mut self, text: &str) {
            self.1.write_all(text.as_bytes()).unwrap();
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn times(records: Vec<Record>) -> Vec<f64> {
        records.into_iter().map(|record| record.t).collect()
    }

    #[test]
    fn only_complete_lines_are_read_and_each_once() {
        let mut scratch = Scratch::new("follow");
        let mut reader = Reader::open(&scratch.0).unwrap();
        assert!(reader.read_new().unwrap().is_empty());

        scratch.write("{\"t\":1.5,\"ms\":2,\"status\":200,\"version\":\"v1\"}\n{\"t\":2.5,\"ms\"");
        assert_eq!(times(reader.read_new().unwrap()), [1.5]);
        assert!(reader.read_new().unwrap().is_empty());

        scratch.write(":2,\"status\":0,\"version\":null,\"error\":\"ä\"}\n");
        scratch.write("{\"t\":3.5,\"ms\":2,\"status\":200,\"version\":null}\n");
        assert_eq!(times(reader.read_new().unwrap()), [2.5, 3.5]);
        assert!(reader.read_new().unwrap().is_empty());
    }

    #[test]
    fn a_line_that_is_no_record_is_named() {
        let mut scratch = Scratch::new("wrong");
        scratch.write("{\"t\":1,\"ms\":2,\"status\":200,\"version\":null}\nnonsense\n");
        let mut reader = Reader::open(&scratch.0).unwrap();
        let says = reader.read_new().unwrap_err().to_string();
        assert!(says.contains("line 2: expected a record") && says.contains("\"nonsense\""), "{says}");
        scratch.write("{\"t\":4,\"ms\":2,\"status\":200,\"version\":null}\n");
        assert_eq!(times(reader.read_new().unwrap()), [4.0]);
    }

    #[test]
    fn a_file_that_shrinks_is_an_error() {
        let mut scratch = Scratch::new("shrunk");
        scratch.write("{\"t\":1,\"ms\":2,\"status\":200,\"version\":null}\n");
        let mut reader = Reader::open(&scratch.0).unwrap();
        reader.read_new().unwrap();
        scratch.1.set_len(0).unwrap();
        assert!(matches!(reader.read_new(), Err(ReadError::Shrunk { .. })));
    }
}
