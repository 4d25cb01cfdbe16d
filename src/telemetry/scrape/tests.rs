//! Against real TCP servers on this machine, each a thread that writes what it likes.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use super::super::query::{CounterQuery, LatencyQuery, Matcher};
use super::*;

const GOOD: &str = "http_requests_total{code=\"200\"} 9\nhttp_requests_total{code=\"500\"} 1\n";

fn query() -> Query {
    let errors = Matcher::new([("code", "5..")]).unwrap();
    let counter = "http_requests_total".to_owned();
    Query {
        requests: CounterQuery { counter, errors, only: Matcher::any(), strata: Vec::new() },
        latencies: vec![LatencyQuery {
            histogram: "h".to_owned(),
            threshold_seconds: 0.25,
            others_seconds: Vec::new(),
            only: Matcher::any(),
            strata: Vec::new(),
        }],
    }
}

fn target(port: u16) -> Target {
    let ip = Ipv4Addr::LOCALHOST.into();
    Target { pod: "auth-1".to_owned(), arm: Arm::Canary, ip, port, path: "/metrics".to_owned() }
}

fn scraper() -> Scraper {
    let deadline = Duration::from_millis(400);
    Scraper::new(ScrapeSettings { deadline, ..ScrapeSettings::default() }, Memory::default()).unwrap()
}

/// Calls `answer` with each connection, on a thread of its own.
fn serve_on(ip: IpAddr, answer: impl Fn(TcpStream) + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind((ip, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer = Arc::new(answer);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = Arc::clone(&answer);
            thread::spawn(move || answer(stream));
        }
    });
    port
}

fn serve(answer: impl Fn(TcpStream) + Send + Sync + 'static) -> u16 {
    serve_on(Ipv4Addr::LOCALHOST.into(), answer)
}

/// The request's head; `None` when the client has gone.
fn request(stream: &TcpStream) -> Option<String> {
    let mut head = String::new();
    for line in BufReader::new(stream).lines() {
        match line.ok()?.as_str() {
            "" => return Some(head),
            line => head.extend([line, "\n"]),
        }
    }
    None
}

fn response(head: &str, body: &str) -> String {
    format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// Answers each request with these bytes and closes.
fn serve_bytes(bytes: impl Into<Vec<u8>>) -> u16 {
    let bytes = bytes.into();
    serve(move |mut stream| {
        request(&stream);
        let _ = stream.write_all(&bytes);
    })
}

async fn scrape_one(target: Target) -> Result<PodCounts, ScrapeError> {
    scraper().scrape(&[target], &query()).await.remove(0).1
}

async fn problem(bytes: impl Into<Vec<u8>>) -> String {
    scrape_one(target(serve_bytes(bytes))).await.unwrap_err().to_string()
}

#[tokio::test]
async fn counts_come_from_the_pod() {
    let (send, received) = mpsc::channel();
    let port = serve(move |mut stream| {
        let _ = send.send(request(&stream).unwrap_or_default());
        let _ = stream.write_all(response("200 OK", GOOD).as_bytes());
    });
    let mut target = target(port);
    target.path = "/metrics?name[]=http_requests_total".to_owned();
    let counts = scrape_one(target).await.unwrap();
    assert_eq!((counts.requests, counts.errors), (10, 1));
    let head = received.recv().unwrap();
    assert!(head.starts_with("GET /metrics?name[]=http_requests_total HTTP/1.1\n"), "{head}");
    assert!(head.contains("user-agent: serin\n"), "{head}");
    assert!(head.contains("accept: text/plain;version=0.0.4"), "{head}");
    assert!(!head.contains("accept-encoding"), "{head}");
}

#[tokio::test]
async fn an_ipv6_pod_is_read() {
    let ip = Ipv6Addr::LOCALHOST.into();
    if TcpListener::bind((ip, 0)).is_err() {
        return; // no IPv6 on this machine
    }
    let port = serve_on(ip, |mut stream| {
        request(&stream);
        let _ = stream.write_all(response("200 OK", GOOD).as_bytes());
    });
    assert_eq!(scrape_one(Target { ip, ..target(port) }).await.unwrap().requests, 10);
}

#[test]
fn a_proxy_in_the_environment_is_ignored() {
    // The environment belongs to the whole process, so the test above runs in one of its own.
    let module = module_path!().split_once("::").map_or("", |(_, path)| path);
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("{module}::counts_come_from_the_pod")])
        .envs(["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"].map(|key| (key, "http://127.0.0.1:9")))
        .env_remove("NO_PROXY")
        .env_remove("no_proxy")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[tokio::test]
async fn connections_are_used_again() {
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    let port = serve(move |mut stream| {
        count.fetch_add(1, Ordering::SeqCst);
        while request(&stream).is_some() {
            let _ = stream.write_all(response("200 OK", GOOD).as_bytes());
        }
    });
    let scraper = scraper();
    for _ in 0..5 {
        let results = scraper.scrape(&[target(port)], &query()).await;
        assert!(results[0].1.is_ok());
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_kept_connection_that_the_pod_closes_is_no_broken_pod() {
    // Reads the second request of a connection and hangs up, as a server does whose keep-alive time is just over.
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    let port = serve(move |mut stream| {
        count.fetch_add(1, Ordering::SeqCst);
        request(&stream);
        let _ = stream.write_all(response("200 OK", GOOD).as_bytes());
        request(&stream);
    });
    let scraper = scraper();
    for _ in 0..4 {
        let result = scraper.scrape(&[target(port)], &query()).await.remove(0).1;
        assert_eq!(result.unwrap().requests, 10);
    }
    assert_eq!(connections.load(Ordering::SeqCst), 4);
}

#[test]
fn a_scrape_may_run_on_any_thread() {
    fn is_send<T: Send>(_: T) {}
    is_send(scraper().scrape(&[], &query()));
}

#[tokio::test]
async fn a_refused_connection_says_where_and_what() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = scrape_one(target(port)).await.unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with(&format!("pod auth-1 at http://127.0.0.1:{port}/metrics: ")), "{text}");
    assert!(text.contains("refused") && text.contains("does the pod listen on this port?"), "{text}");
    assert!(std::error::Error::source(&error).is_some());
}

#[tokio::test]
async fn a_hung_pod_costs_its_deadline_and_nobody_else() {
    let hung = serve(|stream| {
        request(&stream);
        thread::sleep(Duration::from_secs(20));
    });
    let good = serve_bytes(response("200 OK", GOOD));
    let mut targets: Vec<_> = (0..25).map(|_| target(hung)).collect();
    targets.extend((0..25).map(|_| target(good)));
    let start = Instant::now();
    let results = scraper().scrape(&targets, &query()).await;
    assert!(start.elapsed() < Duration::from_millis(1500), "{:?}", start.elapsed());
    for (at, (index, result)) in results.iter().enumerate() {
        assert_eq!(at, *index);
        assert_eq!(result.is_ok(), at >= 25, "{result:?}");
    }
    let error = results[0].1.as_ref().unwrap_err().to_string();
    assert!(error.contains("expected an answer within 400ms, found none"), "{error}");
}

#[tokio::test]
async fn concurrency_is_bounded() {
    let busy = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let (now, top) = (Arc::clone(&busy), Arc::clone(&most));
    let port = serve(move |mut stream| {
        request(&stream);
        top.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        thread::sleep(Duration::from_millis(20));
        now.fetch_sub(1, Ordering::SeqCst);
        let _ = stream.write_all(response("200 OK", GOOD).as_bytes());
    });
    let scraper =
        Scraper::new(ScrapeSettings { concurrency: 3, ..ScrapeSettings::default() }, Memory::default()).unwrap();
    let targets: Vec<_> = (0..12).map(|_| target(port)).collect();
    let results = scraper.scrape(&targets, &query()).await;
    for (_, result) in results {
        assert_eq!(result.unwrap().requests, 10);
    }
    assert!((2..=3).contains(&most.load(Ordering::SeqCst)));
}

#[tokio::test]
async fn a_slow_drip_ends_at_the_deadline() {
    let port = serve(|mut stream| {
        request(&stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n");
        while stream.write_all(b"#").is_ok() {
            thread::sleep(Duration::from_millis(20));
        }
    });
    let start = Instant::now();
    let text = scrape_one(target(port)).await.unwrap_err().to_string();
    assert!(start.elapsed() < Duration::from_millis(900));
    assert!(text.contains("expected the whole text within 400ms, found"), "{text}");
}

#[tokio::test]
async fn an_endless_body_ends_at_the_limit() {
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    let port = serve(move |mut stream| {
        request(&stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        let line = "# endless\n".repeat(1000);
        while stream.write_all(line.as_bytes()).is_ok() {
            count.fetch_add(line.len(), Ordering::SeqCst);
        }
    });
    let limits = Limits { max_bytes: 3 * 1024 * 1024, ..Limits::default() };
    let deadline = Duration::from_secs(10);
    let scraper =
        Scraper::new(ScrapeSettings { deadline, limits, ..ScrapeSettings::default() }, Memory::default()).unwrap();
    let error = scraper.scrape(&[target(port)], &query()).await.remove(0).1.unwrap_err();
    assert!(error.to_string().contains("expected at most 3145728 bytes of metrics"), "{error}");
    drop(scraper);
    // The connection is closed, so the pod stops writing; what is in flight fits in socket buffers.
    let mut last = usize::MAX;
    while last != sent.load(Ordering::SeqCst) {
        last = sent.load(Ordering::SeqCst);
        thread::sleep(Duration::from_millis(50));
    }
    assert!(last < 32 * 1024 * 1024, "{last}");
}

#[tokio::test]
async fn a_body_announced_as_huge_is_not_fetched() {
    let text = problem("HTTP/1.1 200 OK\r\ncontent-length: 10485761\r\n\r\n").await;
    assert!(text.contains("expected at most 10485760 bytes of metrics, found 10485761"), "{text}");
}

#[tokio::test]
async fn a_large_body_leaves_the_runtime_alone() {
    let mut body = "# padding\n".repeat(500_000);
    for at in 0..20_000 {
        body.push_str(&format!("http_requests_total{{code=\"200\",route=\"/{at}\"}} 1\n"));
    }
    let port = serve_bytes(response("200 OK", &body));
    // A busy machine stops us too, but not each time.
    let mut pauses = Vec::new();
    for _ in 0..6 {
        pauses.push(longest_pause_while_scraping(port).await);
        if pauses.last().is_some_and(|pause| *pause < Duration::from_millis(300)) {
            return;
        }
    }
    panic!("blocked each time: {pauses:?}");
}

/// The longest time for which nothing else went on, on this one thread.
async fn longest_pause_while_scraping(port: u16) -> Duration {
    let deadline = Duration::from_secs(30);
    let scraper = Scraper::new(ScrapeSettings { deadline, ..ScrapeSettings::default() }, Memory::default()).unwrap();
    let (targets, query) = (vec![target(port); 6], query());
    let longest = std::cell::Cell::new(Duration::ZERO);
    let mut beats = tokio::time::interval(Duration::from_millis(1));
    let beat = async {
        let mut last = Instant::now();
        loop {
            beats.tick().await;
            longest.set(longest.get().max(last.elapsed()));
            last = Instant::now();
        }
    };
    tokio::select! {
        results = scraper.scrape(&targets, &query) => {
            for (_, result) in results {
                assert_eq!(result.unwrap().requests, 20_000);
            }
        }
        () = beat => {}
    }
    longest.get()
}

#[tokio::test]
async fn a_connection_that_breaks_is_no_text() {
    let cut = format!("HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{GOOD}");
    let text = problem(cut).await;
    assert!(text.contains(&format!("the connection broke after {} bytes", GOOD.len())), "{text}");
    let text = problem("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfoo 1").await;
    assert!(text.contains("the connection broke after"), "{text}");
    // Without a length only the last newline tells.
    let text = problem("HTTP/1.0 200 OK\r\n\r\nhttp_requests_total 12").await;
    assert!(text.contains("line 1: expected a newline at the end of the text"), "{text}");
    let text = problem("").await;
    assert!(text.contains("the connection broke after 0 bytes"), "{text}");
    let text = problem("SSH-2.0-OpenSSH_9.9\r\n").await;
    assert!(text.contains("expected a whole answer"), "{text}");
}

#[tokio::test]
async fn only_200_counts() {
    let text = problem(response("404 Not Found", GOOD)).await;
    assert!(text.contains("expected status 200, found 404 Not Found; correct `path` or `port`"), "{text}");
    let text = problem(response("204 No Content", "")).await;
    assert!(text.contains("found 204 No Content"), "{text}");
    let text = problem(response("401 Unauthorized", "")).await;
    assert!(text.contains("credentials"), "{text}");
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let elsewhere = serve_bytes(response("200 OK", GOOD));
    let head = format!("302 Found\r\nlocation: http://127.0.0.1:{elsewhere}/metrics");
    let text = problem(response(&head, "")).await;
    assert!(text.contains("redirects are not followed; it points to http://127.0.0.1"), "{text}");
}

#[tokio::test]
async fn what_is_no_plain_text_is_refused() {
    let gzip = response("200 OK\r\ncontent-encoding: gzip", "\x1f");
    assert!(problem(gzip).await.contains("found content-encoding: gzip; nothing compressed was asked for"));
    let protobuf = response("200 OK\r\ncontent-type: application/vnd.google.protobuf", "x");
    assert!(problem(protobuf).await.contains("found content-type: application/vnd.google.protobuf"));
    let html = response("200 OK\r\ncontent-type: text/html; charset=utf-8", "<html>");
    assert!(problem(html).await.contains("is this the port and path of metrics"));
    assert!(problem(response("200 OK", "<html>\n")).await.contains("line 1: expected metrics"));
}

#[tokio::test]
async fn open_metrics_has_to_say_that_it_is_whole() {
    let open_metrics =
        |body: &str| response("200 OK\r\ncontent-type: application/openmetrics-text; version=1.0.0", body);
    assert!(problem(open_metrics(GOOD)).await.contains("expected `# EOF`"));
    let port = serve_bytes(open_metrics(&format!("{GOOD}# EOF\n")));
    assert_eq!(scrape_one(target(port)).await.unwrap().requests, 10);
}

#[tokio::test]
async fn an_odd_path_is_refused() {
    for path in ["metrics", "", "@evil.example/metrics", ":80/metrics"] {
        let error = scrape_one(Target { path: path.to_owned(), ..target(1) }).await.unwrap_err();
        assert!(error.to_string().contains("expected a path that begins with `/`"), "{error}");
    }
}

fn key(target: &Target) -> (Arm, &str) {
    (target.arm, &target.pod)
}

#[test]
fn the_chosen_pods_stay_the_same() {
    let pods = |arm, range: std::ops::Range<u16>| {
        range.map(move |at| Target { arm, pod: format!("{arm:?}-{at}"), ..target(at) })
    };
    let mut targets: Vec<_> = pods(Arm::Stable, 0..100).chain(pods(Arm::Canary, 0..3)).collect();
    let chosen = pick(&targets, MAX_PODS_PER_ARM, key);
    assert_eq!(chosen.len(), 28);
    targets.reverse();
    let mut again = pick(&targets, MAX_PODS_PER_ARM, key);
    again.reverse();
    assert_eq!(again, chosen, "whatever the order");
    // Of four pods that go, only the chosen ones are replaced.
    targets.retain(|target| !["Stable-1", "Stable-2", "Stable-3", "Stable-4"].contains(&target.pod.as_str()));
    let fewer = pick(&targets, MAX_PODS_PER_ARM, key);
    let kept = chosen.iter().filter(|target| fewer.contains(target)).count();
    assert_eq!(fewer.len(), 28);
    assert!(kept >= 24, "{kept}");
}
