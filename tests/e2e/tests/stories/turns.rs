//! Who is on the stage. Most stories wait most of the time, so some are told at once; what changes Serin itself, the node or
//! the API server is told alone, after all others: so nobody has to wait for the end of somebody else's story.

use std::{
    collections::BTreeSet,
    sync::{Condvar, LazyLock, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Told at once, at most: SERIN_STORIES_AT_ONCE.
static AT_ONCE: LazyLock<usize> =
    LazyLock::new(|| std::env::var("SERIN_STORIES_AT_ONCE").ok().and_then(|text| text.parse().ok()).unwrap_or(2));

/// By then all stories that there are have come; before, none is told alone.
const GATHERED: Duration = Duration::from_secs(1);

static STAGE: LazyLock<Stage> = LazyLock::new(Stage::default);

/// A story that wants its turn: those for which everybody else must leave come last.
type Story = (Manner, String);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Manner {
    Beside,
    Alone,
}

struct Stage {
    opened: Instant,
    scene: Mutex<Scene>,
    changed: Condvar,
}

impl Default for Stage {
    fn default() -> Self {
        Self { opened: Instant::now(), scene: Mutex::default(), changed: Condvar::new() }
    }
}

#[derive(Default)]
struct Scene {
    waiting: BTreeSet<Story>,
    told: Vec<Story>,
}

impl Scene {
    /// Whose turn it is.
    fn next(&self, at_once: usize, gathered: bool) -> Option<&Story> {
        let next = self.waiting.first()?;
        let may = match (next.0, self.told.first()) {
            (Manner::Beside, Some((Manner::Alone, _))) => false,
            (Manner::Beside, _) => self.told.len() < at_once,
            (Manner::Alone, told) => told.is_none() && gathered,
        };
        may.then_some(next)
    }
}

impl Stage {
    fn scene(&self) -> MutexGuard<'_, Scene> {
        self.scene.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, manner: Manner) -> Turn {
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        let story = (manner, name);
        let mut scene = self.scene();
        scene.waiting.insert(story.clone());
        while scene.next(*AT_ONCE, self.opened.elapsed() >= GATHERED) != Some(&story) {
            scene = self.changed.wait_timeout(scene, GATHERED).unwrap_or_else(PoisonError::into_inner).0;
        }
        scene.waiting.remove(&story);
        scene.told.push(story.clone());
        drop(scene);
        self.changed.notify_all();
        Turn { story, began: Instant::now() }
    }
}

/// A story's time on the stage; how long it took is said at its end.
pub struct Turn {
    story: Story,
    began: Instant,
}

impl Drop for Turn {
    fn drop(&mut self) {
        println!("      {} took {:.0} s", self.story.1, self.began.elapsed().as_secs_f64());
        STAGE.scene().told.retain(|told| *told != self.story);
        STAGE.changed.notify_all();
    }
}

/// For a story that may be told beside others.
pub fn beside() -> Turn {
    STAGE.enter(Manner::Beside)
}

/// For a story that nobody else may see.
pub fn alone() -> Turn {
    STAGE.enter(Manner::Alone)
}

#[test]
fn stories_that_must_be_told_alone_wait_for_all_others() {
    let story = |manner, name: &str| (manner, name.to_owned());
    let [a, b, c] = ["a", "b", "c"].map(|name| story(Manner::Beside, name));
    let alone = story(Manner::Alone, "a");
    let mut scene = Scene { waiting: BTreeSet::from([alone.clone(), b, c.clone()]), told: vec![a] };
    assert_eq!(scene.next(1, true), None, "the stage is full");
    assert_eq!(scene.next(2, true).map(|(_, name)| name.as_str()), Some("b"));
    scene.waiting = BTreeSet::from([alone.clone()]);
    assert_eq!(scene.next(2, true), None, "somebody is still on it");
    scene.told.clear();
    assert_eq!((scene.next(2, false), scene.next(2, true)), (None, Some(&alone)));
    scene.told.push(alone);
    scene.waiting = BTreeSet::from([c]);
    assert_eq!(scene.next(2, true), None);
}
