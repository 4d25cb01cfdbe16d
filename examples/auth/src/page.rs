//! Metrics pages that are broken on purpose, as other people's sometimes are by accident.

use axum::body::{Body, Bytes};
use futures::stream::{self, StreamExt};
use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;
use thiserror::Error;

/// Above the 10 MiB that Serin reads of one page.
const HUGE: usize = 11 * 1024 * 1024;

/// An endless page goes on this often.
const DRIP: Duration = Duration::from_millis(50);

/// What `/metrics` answers with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Page {
    #[default]
    Right,
    /// Ends in the middle of a line.
    Cut,
    /// Right, but over 10 MiB.
    Huge,
    /// Right so far, and never over.
    Endless,
    /// Bytes that are no text.
    Binary,
    /// Requests are counted as `NaN`.
    Nan,
    /// Requests are counted below zero.
    Negative,
    /// Right, but with a label that careless parsers take for the number.
    Misread,
    /// As it was when this began, whatever happens.
    Frozen,
    /// Right, but all that was counted before this began is forgotten.
    Forgetful,
}

impl Page {
    pub const EXPECTED: &str = "right, cut, huge, endless, binary, nan, negative, misread, frozen or forgetful";

    const NAMES: [(&str, Page); 10] = [
        ("right", Page::Right),
        ("cut", Page::Cut),
        ("huge", Page::Huge),
        ("endless", Page::Endless),
        ("binary", Page::Binary),
        ("nan", Page::Nan),
        ("negative", Page::Negative),
        ("misread", Page::Misread),
        ("frozen", Page::Frozen),
        ("forgetful", Page::Forgetful),
    ];
}

#[derive(Debug, Error, PartialEq, Eq)]
#[error("expected {expected}, found \"{found}\"", expected = Page::EXPECTED)]
pub struct PageError {
    found: String,
}

impl FromStr for Page {
    type Err = PageError;

    fn from_str(text: &str) -> Result<Self, PageError> {
        let named = Self::NAMES.iter().find(|(name, _)| *name == text);
        named.map(|(_, page)| *page).ok_or_else(|| PageError { found: text.to_owned() })
    }
}

impl fmt::Display for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = Self::NAMES.iter().find(|(_, page)| page == self);
        f.write_str(named.map_or("", |(name, _)| name))
    }
}

/// What a page remembers from its readers' earlier visits.
#[derive(Debug, Default)]
pub struct Past {
    before: Page,
    text: String,
}

impl Past {
    /// The text as it should be on this page. `forget` lets the counters begin anew.
    pub fn text(
        &mut self,
        page: Page,
        forget: impl FnOnce(),
        now: impl Fn() -> Result<String, fmt::Error>,
    ) -> Result<String, fmt::Error> {
        let begins = page != std::mem::replace(&mut self.before, page);
        match page {
            Page::Frozen if !begins => return Ok(self.text.clone()),
            Page::Forgetful if begins => forget(),
            _ => {}
        }
        let text = now()?;
        self.text = if page == Page::Frozen { text.clone() } else { String::new() };
        Ok(text)
    }
}

/// The page as it is sent, from the text as it should be.
pub fn body(page: Page, text: &str) -> Body {
    let begin = Bytes::from(spoil(page, text));
    match page {
        Page::Endless => Body::from_stream(
            stream::once(async move { begin })
                .chain(stream::unfold((), |()| async {
                    tokio::time::sleep(DRIP).await;
                    Some((Bytes::from_static(b"# and so on\n"), ()))
                }))
                .map(Ok::<_, Infallible>),
        ),
        _ => Body::from(begin),
    }
}

fn spoil(page: Page, text: &str) -> Vec<u8> {
    match page {
        Page::Right | Page::Frozen | Page::Forgetful => text.into(),
        Page::Cut => {
            let half = &text[..text.floor_char_boundary(text.len() / 2)];
            // In the middle of a line, wherever the half may end.
            half.strip_suffix('\n').unwrap_or(half).into()
        }
        Page::Huge => {
            let mut huge = String::with_capacity(HUGE + text.len());
            while huge.len() < HUGE {
                huge.push_str("# one of very many lines, as of a service with a label for each user\n");
            }
            huge.push_str(text);
            huge.into()
        }
        Page::Endless => text.trim_end_matches("# EOF\n").into(),
        Page::Binary => [b"\x08\x96\x01\x12\x00\xff", text.as_bytes()].concat(),
        Page::Nan => requests(text, |line, _| format!("{line} NaN")),
        Page::Negative => requests(text, |line, number| format!("{line} -{number}")),
        Page::Misread => requests(text, |line, number| {
            let labels = line.strip_suffix('}').unwrap_or(line);
            format!("{labels},note=\"a}} 5 b\"}} {number}")
        }),
    }
}

/// Every line that counts requests, made anew from what stands before its number and the number.
fn requests(text: &str, anew: impl Fn(&str, &str) -> String) -> Vec<u8> {
    let mut spoilt = String::with_capacity(2 * text.len());
    for line in text.lines() {
        let sample = line.starts_with("http_requests_total{").then(|| line.rsplit_once(' ')).flatten();
        spoilt.push_str(&sample.map_or_else(|| line.to_owned(), |(before, number)| anew(before, number)));
        spoilt.push('\n');
    }
    spoilt.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# TYPE http_requests counter\nhttp_requests_total{code=\"200\"} 12\nother{a=\"b\"} 3\n# EOF\n";

    fn spoilt(page: Page) -> String {
        String::from_utf8(spoil(page, TEXT)).unwrap()
    }

    #[test]
    fn pages_have_names() {
        for (name, page) in Page::NAMES {
            assert_eq!(name.parse(), Ok(page));
            assert_eq!(page.to_string(), name);
            assert!(Page::EXPECTED.contains(name), "{name}");
        }
        let says = "NaN".parse::<Page>().unwrap_err().to_string();
        assert_eq!(
            says,
            "expected right, cut, huge, endless, binary, nan, negative, misread, frozen or forgetful, found \"NaN\""
        );
    }

    #[test]
    fn each_page_is_broken_in_its_own_way() {
        assert_eq!(spoilt(Page::Right), TEXT);
        let cut = spoilt(Page::Cut);
        assert!(TEXT.starts_with(&cut) && !cut.ends_with('\n') && cut.len() > 10, "{cut}");
        let huge = spoilt(Page::Huge);
        assert!(huge.len() > 10 * 1024 * 1024 && huge.ends_with(TEXT));
        assert!(!spoilt(Page::Endless).contains("# EOF"));
        assert!(String::from_utf8(spoil(Page::Binary, TEXT)).is_err());
        let with = |line: &str| TEXT.replace("http_requests_total{code=\"200\"} 12", line);
        assert_eq!(spoilt(Page::Nan), with("http_requests_total{code=\"200\"} NaN"));
        assert_eq!(spoilt(Page::Negative), with("http_requests_total{code=\"200\"} -12"));
        assert_eq!(spoilt(Page::Misread), with("http_requests_total{code=\"200\",note=\"a} 5 b\"} 12"));
    }

    #[test]
    fn a_frozen_page_stands_still_and_a_forgetful_one_begins_anew_once() {
        let (counted, mut past) = (std::cell::Cell::new(7), Past::default());
        let mut read = |page| past.text(page, || counted.set(0), || Ok(counted.replace(counted.get() + 1).to_string()));
        let pages = [Page::Right, Page::Frozen, Page::Frozen, Page::Right, Page::Forgetful, Page::Forgetful];
        let texts = pages.map(|page| read(page).unwrap());
        assert_eq!(texts, ["7", "8", "8", "9", "0", "1"]);
    }

    #[test]
    fn a_careless_parser_misreads_what_is_there_to_be_misread() {
        let lines = spoilt(Page::Misread);
        let scrape = prometheus_parse::Scrape::parse(lines.lines().map(|line| Ok(line.to_owned()))).unwrap();
        let read: Vec<String> =
            scrape.samples.iter().map(|sample| format!("{} {:?}", sample.metric, sample.value)).collect();
        assert!(read.contains(&"http_requests_total Untyped(5.0)".to_owned()), "{read:?}");
    }
}
