//! Entries as bytes: one JSON text a line, deflated.

use std::io::{Read, Write};

use flate2::{Compression, read::DeflateDecoder, write::DeflateEncoder};

use super::Entry;

/// More text than this is in no segment: what is read is bounded before it is looked at.
pub const MAX_TEXT_BYTES: u64 = 16 << 20;

/// Entries that were written together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Segment {
    /// The first is an [`Entry::Begin`].
    pub entries: Vec<Entry>,
}

/// Bytes that are no segment.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    #[error("expected a deflated segment of a record, found something else: {0}")]
    Inflate(#[source] std::io::Error),
    #[error("expected at most {MAX_TEXT_BYTES} bytes of text in a segment, found more")]
    TooLong,
    #[error("line {line}: expected an entry of a record: {source}")]
    Entry { line: usize, source: serde_json::Error },
    #[error("expected a segment to begin with what it goes on from, found {0}")]
    NoBegin(&'static str),
}

impl Segment {
    /// Reads a [`Part`](super::Part)'s bytes.
    ///
    /// # Errors
    /// If it is none.
    pub fn read(bytes: &[u8]) -> Result<Self, SegmentError> {
        let mut text = Vec::new();
        let read = DeflateDecoder::new(bytes).take(MAX_TEXT_BYTES + 1).read_to_end(&mut text);
        match read {
            Ok(_) => {}
            // A segment that still grows has no end.
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {}
            Err(error) => return Err(SegmentError::Inflate(error)),
        }
        if text.len() as u64 > MAX_TEXT_BYTES {
            return Err(SegmentError::TooLong);
        }
        // A last line without its end was cut.
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        Self::parse(&text[..whole])
    }

    fn parse(text: &[u8]) -> Result<Self, SegmentError> {
        let lines = text.split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty());
        let entry = |(index, line): (usize, &[u8])| {
            serde_json::from_slice(line).map_err(|source| SegmentError::Entry { line: index + 1, source })
        };
        let entries: Vec<Entry> = lines.map(entry).collect::<Result<_, _>>()?;
        match entries.first() {
            Some(Entry::Begin(_)) => Ok(Self { entries }),
            Some(Entry::Tick(_)) => Err(SegmentError::NoBegin("a tick")),
            Some(Entry::Look(_)) => Err(SegmentError::NoBegin("a look")),
            None => Err(SegmentError::NoBegin("nothing")),
        }
    }
}

/// Lines on their way into a segment's bytes.
pub(super) struct Deflating(DeflateEncoder<Vec<u8>>);

impl std::fmt::Debug for Deflating {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Deflating").field(&self.0.total_in()).finish()
    }
}

impl Default for Deflating {
    fn default() -> Self {
        Self(DeflateEncoder::new(Vec::new(), Compression::default()))
    }
}

impl Deflating {
    pub fn push(&mut self, entry: &Entry) {
        let mut line = serde_json::to_vec(entry).unwrap_or_default();
        line.push(b'\n');
        // A vector takes all that is written into it.
        self.0.write_all(&line).unwrap_or_default();
    }

    pub fn text_bytes(&self) -> u64 {
        self.0.total_in()
    }

    /// Those that are out; some more are on their way.
    pub fn bytes(&self) -> usize {
        self.0.get_ref().len()
    }

    /// A whole segment of what was pushed so far.
    pub fn so_far(&mut self) -> Vec<u8> {
        // Flushes to a byte, so that a reader finds all of it, though without the stream's end.
        self.0.flush().unwrap_or_default();
        self.0.get_ref().clone()
    }
}
