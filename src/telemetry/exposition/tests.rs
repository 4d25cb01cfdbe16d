use proptest::prelude::*;

use super::*;

type Labels = Vec<(String, String)>;

fn limits() -> Limits {
    Limits::default()
}

/// Labels (sorted) and value of each series of `name`.
fn read(body: &str, name: &str) -> Result<Vec<(Labels, f64)>, ExpositionError> {
    let series = parse(body.as_bytes(), &limits())?.series(name)?;
    let sorted = |labels: HashMap<String, String>| {
        let mut labels: Vec<_> = labels.into_iter().collect();
        labels.sort();
        labels
    };
    Ok(series.into_iter().map(|one| (sorted(one.labels), one.value)).collect())
}

fn message(body: &[u8], name: &str) -> String {
    let exposition = match parse(body, &limits()) {
        Ok(exposition) => exposition,
        Err(error) => return error.to_string(),
    };
    match exposition.series(name) {
        Ok(series) => format!("{} series", series.len()),
        Err(error) => error.to_string(),
    }
}

/// What `prometheus-parse` makes of a text by itself.
fn crate_alone(body: &str) -> Vec<(String, Labels, String)> {
    let scrape = prometheus_parse::Scrape::parse(body.lines().map(|line| Ok(line.to_owned())));
    let samples = scrape.unwrap().samples.into_iter().map(|sample| {
        let mut labels: Vec<_> = sample.labels.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        labels.sort();
        (sample.metric, labels, format!("{:?}", sample.value))
    });
    samples.collect()
}

#[test]
fn lines_that_the_crate_misreads_are_read_right() {
    type Story = (&'static str, &'static str, &'static [(&'static str, &'static str)], f64);
    let stories: &[Story] = &[
        ("job:http:rate 5\n", "job:http:rate", &[], 5.0),
        ("foo{} 1\n", "foo", &[], 1.0),
        ("foo {a=\"b\"} 1\n", "foo", &[("a", "b")], 1.0),
        ("foo{a=\"b\"}1\n", "foo", &[("a", "b")], 1.0),
        ("foo{ a = \"b\" , c=\"d\" } 1\n", "foo", &[("a", "b"), ("c", "d")], 1.0),
        ("foo{r=\"/u/{id}\"} 1\n", "foo", &[("r", "/u/{id}")], 1.0),
        // It reads 5 here.
        ("foo{r=\"a} 5 b\"} 1\n", "foo", &[("r", "a} 5 b")], 1.0),
        ("foo{r=\"a,b\",code=\"500\"} 1\n", "foo", &[("code", "500"), ("r", "a,b")], 1.0),
        // It reads a label `code` that is not there.
        ("foo{r=\"x,code=500\"} 1\n", "foo", &[("r", "x,code=500")], 1.0),
        ("foo{r=\"a=b\"} 1\n", "foo", &[("r", "a=b")], 1.0),
        ("foo{r=\"say \\\"hi\\\"\"} 1\n", "foo", &[("r", "say \"hi\"")], 1.0),
        ("foo{r=\"C:\\\\n\"} 1\n", "foo", &[("r", "C:\\n")], 1.0),
        ("foo{r=\"a\\nb\"} 1\n", "foo", &[("r", "a\nb")], 1.0),
        ("{\"http.requests\",\"a.b\"=\"c\"} 1\n", "http.requests", &[("a.b", "c")], 1.0),
        ("\u{feff}foo 1\n", "foo", &[], 1.0),
    ];
    for (body, name, labels, value) in stories {
        let labels: Vec<_> = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let right = ((*name).to_owned(), labels.clone(), format!("Untyped({value:?})"));
        assert_ne!(crate_alone(body), [right], "the crate reads {body:?} right by now");
        assert_eq!(read(body, name), Ok(vec![(labels, *value)]), "{body:?}");
    }
}

#[test]
fn buckets_count_wherever_their_type_stands() {
    // The crate groups buckets only after `# TYPE`; half of these would be missing from its histogram.
    let body = "h_bucket{le=\"1\"} 1\n# TYPE h histogram\nh_bucket{le=\"+Inf\"} 2\n";
    assert_eq!(read(body, "h_bucket").unwrap().len(), 2);
    assert_eq!(parse(body.as_bytes(), &limits()).unwrap().kind("h"), Ok(Some(Kind::Histogram)));
}

#[test]
fn a_bucket_without_bound_is_not_lost() {
    let body = "# TYPE h histogram\nh_bucket{a=\"b\"} 1\n";
    assert!(crate_alone(body).is_empty());
    assert_eq!(read(body, "h_bucket").unwrap().len(), 1);
}

#[test]
fn ordinary_lines_read_as_they_stand() {
    let one = |body: &str| read(body, "foo").unwrap().remove(0).1;
    assert_eq!(one("foo 1\n"), 1.0);
    assert_eq!(one("foo\t1.5e+03 1395066363000\n"), 1500.0);
    assert_eq!(one("foo{a=\"b\",} 1 -3982045\n"), 1.0);
    assert_eq!(one("  foo  1  \r\n"), 1.0);
    assert_eq!(one("foo{ } 1\n"), 1.0);
    assert_eq!(one("foo +Inf\n"), f64::INFINITY);
    assert_eq!(one("foo{a=\"~0\"} 7\n"), 7.0);
    assert!(one("foo NaN\n").is_nan());
    assert_eq!(one("foo{le=\"1\"} 3 # {trace_id=\"a}b\"} 0.67 1520879607.789\n"), 3.0);
    assert_eq!(one("foo 3 1520879607.789 # {} 0.67\n# EOF"), 3.0);
    assert_eq!(one("# HELP foo says \"hi\n#foo 9\n\n# some words\nfoo 3\n"), 3.0);
    // An escape that the format does not know keeps its backslash.
    assert_eq!(read("foo{a=\"\\d~\"} 1\n", "foo").unwrap()[0].0[0].1, "\\d~");
    assert_eq!(read("foo{a=\"~0\",b=\",\"} 1\n", "foo").unwrap()[0].0[0].1, "~0");
    assert_eq!(read("foo{a=\"é 日本\"} 1\n", "foo").unwrap()[0].0[0].1, "é 日本");
}

#[test]
fn wrong_lines_fail_those_who_need_them() {
    let stories = [
        ("foo abc", "line 1: expected a number, found `abc` in `foo abc`; correct what writes"),
        ("foo", "line 1: expected a blank or `{` after the metric name, found the end of the line"),
        ("foo{a=\"b\"}", "line 1: expected a number, found the end of the line"),
        ("foo 1 2 3", "expected nothing but a timestamp after the number, found `3`"),
        ("foo 1 soon", "expected nothing but a timestamp after the number, found `soon`"),
        ("foo 0x1p4", "expected a number, found `0x1p4`"),
        ("foo 1_000", "expected a number"),
        ("foo 1,5", "expected a number, found `1,5`"),
        ("foo . ", "expected a number"),
        ("foo 1e", "expected a number"),
        ("foo 1\rfoo 2", "expected a number"),
        ("foo 1# {} 2", "expected a number"),
        ("foo{a=b} 1", "expected a label value in double quotes, found `b} 1`"),
        ("foo{a} 1", "expected `=` after a label name"),
        ("foo{a=\"b\" c=\"d\"} 1", "expected `,` or `}` after a label"),
        ("foo{,} 1", "expected a label name or `}`"),
        ("foo{a=\"b\",a=\"c\"} 1", "expected each label once, found `a`"),
        ("foo-bar 1", "expected a blank or `{` after the metric name, found `-bar 1`"),
    ];
    for (line, wanted) in stories {
        let found = message(format!("{line}\nother 1\n").as_bytes(), "foo");
        assert!(found.contains(wanted), "{line:?}: {found}");
        // ... and nobody else.
        assert_eq!(message(format!("{line}\nother 1\n").as_bytes(), "other"), "1 series");
    }
}

#[test]
fn the_line_is_named_however_far_down() {
    let found = message(b"# HELP foo f\n\nother 1\nfoo{a=\"b\"} x\n", "foo");
    assert!(found.starts_with("line 4: "), "{found}");
}

#[test]
fn the_same_series_twice_would_count_twice() {
    let found = message(b"foo{a=\"1\",b=\"2\"} 1\nfoo{b=\"2\",a=\"1\",c=\"\"} 1\n", "foo");
    assert!(found.starts_with("line 2: expected each series once"), "{found}");
}

#[test]
fn two_types_for_one_metric_are_refused() {
    let body = b"# TYPE foo counter\nfoo 1\n# TYPE foo gauge\n";
    let error = parse(body, &limits()).unwrap().kind("foo").unwrap_err().to_string();
    assert!(error.starts_with("line 3: expected one type for a metric"), "{error}");
    let twice = b"# TYPE foo counter\nfoo 1\n# TYPE foo counter\n";
    assert_eq!(parse(twice, &limits()).unwrap().kind("foo"), Ok(Some(Kind::Counter)));
}

#[test]
fn cut_text_is_refused_at_every_byte() {
    let body = "# TYPE foo counter\nfoo{a=\"b\"} 1234\nfoo 5678\n";
    for end in 1..body.len() {
        let result = parse(&body.as_bytes()[..end], &limits());
        // Whole lines only show at a line's end; that case is the connection's to tell.
        assert_eq!(result.is_ok(), body.as_bytes()[end - 1] == b'\n', "cut at {end}");
    }
    let found = message(b"foo 1\nfoo{a=\"b\"} 12", "foo");
    assert!(found.starts_with("line 2: expected a newline at the end"), "{found}");
    assert!(found.contains("`foo{a=\"b\"} 12`"), "{found}");
}

#[test]
fn an_open_quote_poisons_what_follows() {
    // The second line may be the rest of a label value that has a raw newline in it.
    let found = message(b"other{a=\"x\nfoo 5\n\"} 1\n", "foo");
    assert!(found.starts_with("line 1: expected a closing quote"), "{found}");
}

#[test]
fn what_is_no_metrics_is_refused() {
    for body in ["<html>\n</html>\n", "OK\n", "Not found\n", "{\"error\":\"x\"}\n", "9foo 1\n", "{a=\"b\"} 1\n"] {
        let found = message(body.as_bytes(), "foo");
        assert!(found.contains("is this the port and path of the metrics?"), "{body:?}: {found}");
    }
    // A pod that has counted nothing yet may have nothing to say.
    for body in ["", "\n", "# EOF\n", "# EOF", "# TYPE foo counter\n"] {
        assert_eq!(message(body.as_bytes(), "foo"), "0 series", "{body:?}");
    }
}

#[test]
fn binary_is_refused() {
    assert!(message(b"\x1f\x8b\x08\x00rest", "foo").contains("this is gzip"));
    assert!(message(b"foo 1\n\x00\n", "foo").starts_with("line 2: expected UTF-8 text, found byte 0x00"));
    let found = message(b"foo 1\nfoo{a=\"\xff\"} 1\n", "foo");
    assert!(found.starts_with("line 2: expected UTF-8 text, found byte 0xff"), "{found}");
}

#[test]
fn too_much_is_refused() {
    let huge = vec![b'#'; 10 * 1024 * 1024 + 1];
    let found = message(&huge, "foo");
    assert!(found.starts_with("expected at most 10485760 bytes of metrics, found 10485761"), "{found}");

    let limits = Limits { max_series: 2, ..limits() };
    let error = parse(b"foo 1\nbar 1\n# a\nbaz 1\n", &limits).unwrap_err();
    assert_eq!(error, ExpositionError::TooManySeries { limit: 2, line: 4 });
    let error = parse(b"# HELP a\n# HELP a again\n# TYPE b counter\n# HELP c\nfoo 1\n", &limits).unwrap_err();
    assert_eq!(error, ExpositionError::TooManySeries { limit: 2, line: 4 }, "names without series count");

    let labels: Vec<_> = (0..=MAX_LABELS).map(|at| format!("l{at}=\"\"")).collect();
    let found = message(format!("foo{{{}}} 1\nx 1\n", labels.join(",")).as_bytes(), "foo");
    assert!(found.contains("expected at most 128 labels"), "{found}");
}

#[test]
fn messages_stay_short_and_on_one_line() {
    let body = format!("foo {}\nx 1\n", "\u{1b}é".repeat(100_000));
    let found = message(body.as_bytes(), "foo");
    assert!(found.len() < 1000 && !found.contains(char::is_control), "{found}");
}

/// `cargo test --release -- --ignored --nocapture one_mebibyte`
#[test]
#[ignore = "prints how long it takes"]
fn one_mebibyte() {
    let mut body = String::new();
    for at in 0.. {
        let _ = writeln!(body, "foo_bucket{{route=\"/r/{{{at}}}\",code=\"200\",le=\"0.25\"}} {at}");
        if body.len() > 1024 * 1024 {
            break;
        }
    }
    let start = std::time::Instant::now();
    let exposition = parse(body.as_bytes(), &limits()).unwrap();
    let checked = start.elapsed();
    let series = exposition.series("foo_bucket").unwrap().len();
    println!("{} bytes: checked in {checked:?}, {series} series read in {:?}", body.len(), start.elapsed() - checked);
}

proptest! {
    #[test]
    fn random_bytes_never_panic(body in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(exposition) = parse(&body, &limits()) {
            let _ = exposition.series("a");
        }
    }

    #[test]
    fn random_almost_metrics_never_panic(
        lines in proptest::collection::vec(r#"(a|a_b|"é|\{|\}|=|"|,|\\|é| |~0|1e5|# TYPE|\t|\r|#|NaN|:|x){0,12}"#, 0..8)
    ) {
        let body = lines.join("\n") + "\n";
        if let Ok(exposition) = parse(body.as_bytes(), &limits()) {
            for name in exposition.metrics.keys() {
                let _ = exposition.series(name);
            }
        }
    }

    /// Any label value comes back as it was, whatever the crate would make of it.
    #[test]
    fn label_values_come_back(values in proptest::collection::vec(any::<String>(), 0..5), count in any::<u32>()) {
        let values: Vec<_> = values.iter().map(|value| value.replace('\0', "")).collect();
        let escape = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let labels: Vec<_> = values.iter().enumerate().map(|(at, value)| format!("l{at}=\"{}\"", escape(value))).collect();
        let series = read(&format!("foo{{{}}} {count}\n", labels.join(",")), "foo").unwrap();
        prop_assert_eq!(series.len(), 1);
        prop_assert_eq!(series[0].1, f64::from(count));
        let found: Vec<_> = series[0].0.iter().map(|(_, value)| value.clone()).collect();
        prop_assert_eq!(found, values);
    }
}
