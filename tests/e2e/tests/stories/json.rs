//! Counts as JSON over HTTP: here the callers' own, as a gateway's or a vendor's API would have them.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use serde_json::json;
use serin_e2e::{cluster::eventually, exposure::now, shop::Shop, traffic::Load};

use super::{assert_tidy, figures, gateway, held, node, serin};

const MINUTE: Duration = Duration::from_secs(60);

/// Tells by JSON what the callers got: `{"time": ..., "stable": {"requests", "errors"}, "canary": {...}}`. Ends with this
/// value.
struct Counter {
    address: SocketAddr,
    load: Arc<Mutex<Load>>,
    /// The version under release.
    canary: Arc<Mutex<String>>,
    /// Tells what it told last.
    stands_still: Arc<AtomicBool>,
    ends: Arc<AtomicBool>,
    task: Option<JoinHandle<()>>,
}

impl Counter {
    fn start(load: Load) -> Self {
        let listener = TcpListener::bind((node(), 0)).expect("a port");
        listener.set_nonblocking(true).expect("non-blocking");
        let mut counter = Self {
            address: listener.local_addr().expect("an address"),
            load: Arc::new(Mutex::new(load)),
            canary: Arc::default(),
            stands_still: Arc::default(),
            ends: Arc::default(),
            task: None,
        };
        let (load, canary) = (Arc::clone(&counter.load), Arc::clone(&counter.canary));
        let (stands_still, ends) = (Arc::clone(&counter.stands_still), Arc::clone(&counter.ends));
        let task = std::thread::spawn(move || {
            let mut told = String::new();
            while !ends.load(Ordering::Relaxed) {
                let Ok((mut stream, _)) = listener.accept() else {
                    std::thread::sleep(Duration::from_millis(20));
                    continue;
                };
                let _ = stream.set_nonblocking(false);
                let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
                let _ = stream.read(&mut [0; 4096]);
                if !stands_still.load(Ordering::Relaxed) {
                    told = counts(&load, &canary.lock().expect("no panic"));
                }
                let head = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}",
                    told.len()
                );
                let _ = stream.write_all(format!("{head}\r\n\r\n{told}").as_bytes());
            }
        });
        counter.task = Some(task);
        counter
    }

    fn releases(&self, version: &str) {
        version.clone_into(&mut self.canary.lock().expect("no panic"));
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(task) = self.task.take() {
            let _ = task.join();
        }
    }
}

fn counts(load: &Mutex<Load>, canary: &str) -> String {
    let mut load = load.lock().expect("no panic");
    let records = load.read().expect("records");
    let of = |is_canary: bool| {
        let mine = || records.iter().filter(move |one| (one.version.as_deref() == Some(canary)) == is_canary);
        json!({"requests": mine().count(), "errors": mine().filter(|one| one.failed()).count()})
    };
    json!({"time": now(), "stable": of(false), "canary": of(true)}).to_string()
}

#[test]
fn a_release_is_judged_by_json_and_held_while_it_is_old() {
    let _stage = super::beside();
    serin();
    let shop = Shop::open("json").expect("a shop");
    let counter = Counter::start(Load::start(&gateway(), &shop.host, 200, 600, &[]).expect("load"));
    let url = format!("http://{}/counts", counter.address);
    shop.rollout(&json!([{"weight": 20, "bake": "5s"}, {"weight": 50, "bake": "5s"}]), |rollout| {
        rollout["spec"]["telemetry"] = json!({"http": {
            "url": url, "interval": "1s", "requests": "/{arm}/requests", "errors": "/{arm}/errors", "time": "/time"}});
        let slos = rollout["spec"]["slos"].as_array_mut().expect("SLOs");
        slos.retain(|slo| slo["name"] == "errors");
    })
    .expect("a Rollout");
    shop.idle().expect("Ready");

    // given a source that stands still, the run holds and says so
    counter.releases("v2");
    let began = now();
    shop.release(&["VERSION=v2"]).expect("release");
    let shifting = eventually("weight 20", MINUTE, || {
        Ok(shop.run()?.filter(|run| run["status"]["weight"]["set"] == 20 && run["status"]["phase"] == "Shifting"))
    });
    shifting.expect("weight 20");
    counter.stands_still.store(true, Ordering::Relaxed);
    held(&shop, None, "StaleData", "the newest numbers are");
    // and goes on with it, by what the callers counted
    counter.stands_still.store(false, Ordering::Relaxed);
    let run = shop.run_in("Succeeded", None, 2 * MINUTE).unwrap_or_else(|error| panic!("{error}"));
    let slo = &run["status"]["slos"][0];
    assert!(slo["canary"]["requests"].as_u64() > Some(100) && slo["stable"]["requests"].as_u64() > Some(100), "{slo}");
    let seen = figures(&mut counter.load.lock().expect("no panic"), began, "v2");
    assert_eq!((seen.failed, seen.lost), (0, 0));
    shop.idle().expect("Ready again");

    // and a bad version is taken back
    counter.releases("v3");
    let (first, began) = (run["metadata"]["name"].as_str(), now());
    shop.release(&["VERSION=v3", "FAULT_ERRORS=20%"]).expect("release");
    let run = shop.run_in("RolledBack", first, 2 * MINUTE).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(run["status"]["reason"], "SloViolated", "{}", run["status"]["message"]);
    figures(&mut counter.load.lock().expect("no panic"), began, "v3");
    assert_tidy(&shop);
}
