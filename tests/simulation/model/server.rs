//! The API server: objects as JSON, versions, conflicts, finalizers, admission, and a log that watches read.

use std::{cell::OnceCell, collections::BTreeMap, rc::Rc};

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use serin::{
    api::names,
    controller::{Kind as Written, Verb, Write},
    engine::Latch,
};

use super::{
    START,
    cluster::{Nature, image_of, nature_of},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Rollout,
    Run,
    Deployment,
    ReplicaSet,
    Service,
    Route,
    Pod,
    Endpoints,
    ConfigMap,
}

pub const KINDS: [Kind; 9] = [
    Kind::Rollout,
    Kind::Run,
    Kind::Deployment,
    Kind::ReplicaSet,
    Kind::Service,
    Kind::Route,
    Kind::Pod,
    Kind::Endpoints,
    Kind::ConfigMap,
];

impl From<Written> for Kind {
    fn from(kind: Written) -> Self {
        match kind {
            Written::Rollout => Self::Rollout,
            Written::RolloutRun => Self::Run,
            Written::Deployment => Self::Deployment,
            Written::ReplicaSet => Self::ReplicaSet,
            Written::Pod => Self::Pod,
            Written::Service => Self::Service,
            Written::HttpRoute | Written::GrpcRoute => Self::Route,
            Written::ConfigMap | Written::Secret => Self::ConfigMap,
        }
    }
}

/// One version of an object.
pub struct Object {
    pub value: Value,
    pub version: u64,
    typed: OnceCell<Box<dyn std::any::Any>>,
    keys: Keys,
    as_pod: OnceCell<AsPod>,
}

/// What a pod, or a template, is asked most often.
struct AsPod {
    nature: Nature,
    settings: Option<String>,
}

/// What is asked most often.
struct Keys {
    uid: String,
    name: String,
    hash: String,
    /// uid of the controller among its owners.
    owner: Option<String>,
    going: bool,
    ready: bool,
}

impl Keys {
    fn of(value: &Value) -> Self {
        let metadata = &value["metadata"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let owners = metadata["ownerReferences"].as_array();
        let owner = owners.and_then(|owners| owners.iter().find(|owner| owner["controller"] == json!(true)));
        Self {
            uid: text(&metadata["uid"]),
            name: text(&metadata["name"]),
            hash: text(&metadata["labels"][names::HASH_LABEL]),
            owner: owner.and_then(|owner| owner["uid"].as_str()).map(str::to_owned),
            going: metadata.get("deletionTimestamp").is_some(),
            ready: value["status"]["conditions"][0]["status"] == "True",
        }
    }
}

impl Object {
    fn new(value: Value, version: u64) -> Rc<Self> {
        Rc::new(Self { keys: Keys::of(&value), value, version, typed: OnceCell::new(), as_pod: OnceCell::new() })
    }

    /// As the controller reads it; parsed once.
    pub fn typed<T: DeserializeOwned + Clone + 'static>(&self) -> T {
        let typed = self.typed.get_or_init(|| {
            let parsed: T = T::deserialize(&self.value).expect("the model writes what the controller can read");
            Box::new(parsed)
        });
        typed.downcast_ref::<T>().expect("an object has one type").clone()
    }

    /// Like `Value::pointer`, without its escapes: this is asked often.
    fn at(&self, path: &str) -> Option<&Value> {
        path.split('/').skip(1).try_fold(&self.value, |value, part| match value {
            Value::Array(items) => items.get(part.parse::<usize>().ok()?),
            other => other.get(part),
        })
    }

    pub fn text(&self, path: &str) -> &str {
        self.at(path).and_then(Value::as_str).unwrap_or_default()
    }

    pub fn int(&self, path: &str) -> i64 {
        self.at(path).and_then(Value::as_i64).unwrap_or(0)
    }

    pub fn is(&self, path: &str) -> bool {
        self.at(path).and_then(Value::as_bool).unwrap_or(false)
    }

    pub fn uid(&self) -> &str {
        &self.keys.uid
    }

    pub fn name(&self) -> &str {
        &self.keys.name
    }

    pub fn hash(&self) -> &str {
        &self.keys.hash
    }

    /// uid of the controller among its owners.
    pub fn owner(&self) -> Option<&str> {
        self.keys.owner.as_deref()
    }

    pub fn is_going(&self) -> bool {
        self.keys.going
    }

    /// Its first condition is true and it is not going.
    pub fn is_ready(&self) -> bool {
        self.keys.ready && !self.keys.going
    }

    /// What its image makes of it.
    pub fn nature(&self) -> Nature {
        self.as_pod().nature
    }

    /// The ConfigMap that a pod reads.
    pub fn settings(&self) -> Option<&str> {
        self.as_pod().settings.as_deref()
    }

    /// Read once.
    fn as_pod(&self) -> &AsPod {
        self.as_pod.get_or_init(|| {
            let settings = self.text("/spec/volumes/0/configMap/name");
            AsPod { nature: nature_of(image_of(self)), settings: (!settings.is_empty()).then(|| settings.to_owned()) }
        })
    }
}

/// A change, as a watch shows it.
pub struct Event {
    pub kind: Kind,
    pub name: String,
    /// `None`: deleted.
    pub object: Option<Rc<Object>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    Conflict,
    NotFound,
    Exists,
    Forbidden,
    Invalid(String),
}

pub struct Server {
    objects: BTreeMap<Kind, BTreeMap<String, Rc<Object>>>,
    pub log: Vec<Event>,
    version: u64,
    /// By kind: the version of the newest change.
    changed: BTreeMap<Kind, u64>,
    uids: u64,
    /// Something may have lost its owner.
    orphans: bool,
    /// Simulated time.
    pub now: i64,
    pub latch: Latch,
}

impl Server {
    pub fn new(latch: Latch) -> Self {
        Self {
            objects: BTreeMap::new(),
            log: Vec::new(),
            version: 1000,
            changed: BTreeMap::new(),
            uids: 0,
            orphans: false,
            now: START,
            latch,
        }
    }

    pub fn get(&self, kind: Kind, name: &str) -> Option<&Rc<Object>> {
        self.objects.get(&kind)?.get(name)
    }

    pub fn list(&self, kind: Kind) -> impl Iterator<Item = &Rc<Object>> {
        self.objects.get(&kind).into_iter().flat_map(BTreeMap::values)
    }

    fn all(&self) -> impl Iterator<Item = (Kind, &Rc<Object>)> {
        self.objects.iter().flat_map(|(kind, objects)| objects.values().map(|object| (*kind, object)))
    }

    /// The version of the newest change of these kinds.
    pub fn changed(&self, kinds: &[Kind]) -> u64 {
        kinds.iter().filter_map(|kind| self.changed.get(kind)).copied().max().unwrap_or(0)
    }

    fn time(&self) -> Value {
        let time = jiff::Timestamp::from_millisecond(self.now).expect("in range");
        json!(time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
    }

    fn store(&mut self, kind: Kind, name: &str, mut value: Value) -> u64 {
        self.version += 1;
        value["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let object = Object::new(value, self.version);
        self.objects.entry(kind).or_default().insert(name.to_owned(), Rc::clone(&object));
        self.changed.insert(kind, self.version);
        self.log.push(Event { kind, name: name.to_owned(), object: Some(object) });
        self.version
    }

    fn erase(&mut self, kind: Kind, name: &str) {
        self.version += 1;
        self.objects.entry(kind).or_default().remove(name);
        self.orphans = true;
        self.changed.insert(kind, self.version);
        self.log.push(Event { kind, name: name.to_owned(), object: None });
    }

    pub fn create(&mut self, kind: Kind, mut value: Value, by: &str) -> Result<u64, Refusal> {
        let name = value["metadata"]["name"].as_str().expect("a name").to_owned();
        if self.get(kind, &name).is_some() {
            return Err(Refusal::Exists);
        }
        self.uids += 1;
        value["metadata"]["uid"] = json!(format!("uid-{}", self.uids));
        value["metadata"]["generation"] = json!(1);
        value["metadata"]["creationTimestamp"] = self.time();
        value["metadata"]["managedFields"] = json!([{"manager": by, "time": self.time(), "operation": "Update"}]);
        Ok(self.store(kind, &name, value))
    }

    /// A JSON patch, all of it or nothing.
    pub fn patch(&mut self, kind: Kind, name: &str, ops: &Value, by: &str, subresource: bool) -> Result<u64, Refusal> {
        let before = Rc::clone(self.get(kind, name).ok_or(Refusal::NotFound)?);
        let patch = patch_of(ops).ok_or_else(|| Refusal::Invalid(format!("{name}: not a patch: {ops}")))?;
        let mut after = before.value.clone();
        if let Err(error) = json_patch::patch(&mut after, &patch) {
            let tested = matches!(error.kind, json_patch::PatchErrorKind::TestFailed);
            return Err(if tested { Refusal::Conflict } else { Refusal::Invalid(format!("{name}: {error}: {ops}")) });
        }
        self.update(kind, &before, after, by, subresource)
    }

    /// A whole object, as the built-in controllers write it.
    pub fn replace(
        &mut self,
        kind: Kind,
        before: &Object,
        change: impl FnOnce(&mut Value),
        by: &str,
        subresource: bool,
    ) -> Result<u64, Refusal> {
        let now = Rc::clone(self.get(kind, before.name()).ok_or(Refusal::NotFound)?);
        if now.version != before.version {
            return Err(Refusal::Conflict);
        }
        let mut after = before.value.clone();
        change(&mut after);
        self.update(kind, &now, after, by, subresource)
    }

    fn update(
        &mut self,
        kind: Kind,
        before: &Rc<Object>,
        mut after: Value,
        by: &str,
        subresource: bool,
    ) -> Result<u64, Refusal> {
        // A write of the one leaves the other as it is.
        let kept = if subresource { "spec" } else { "status" };
        if after.get(kept) != before.value.get(kept) {
            match before.value.get(kept) {
                Some(value) => after[kept] = value.clone(),
                None => drop(after.as_object_mut().expect("an object").remove(kept)),
            }
        }
        for kept in ["uid", "name", "generation", "resourceVersion", "creationTimestamp"] {
            if after["metadata"][kept] != before.value["metadata"][kept] {
                after["metadata"][kept] = before.value["metadata"][kept].clone();
            }
        }
        if kind == Kind::Deployment && !subresource {
            self.admit(before, &mut after, by)?;
        }
        if after == before.value {
            return Ok(before.version);
        }
        if !subresource && after["spec"] != before.value["spec"] {
            after["metadata"]["generation"] = json!(before.int("/metadata/generation") + 1);
        }
        // Who only gives its ownership up does not come to own anything by it.
        let gives_up = after["metadata"]["managedFields"] != before.value["metadata"]["managedFields"];
        if matches!(kind, Kind::Service | Kind::Route) && !subresource && !gives_up {
            let mut managers: Vec<Value> =
                before.value["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
            managers.retain(|entry| entry["manager"] != json!(by));
            managers.push(json!({"manager": by, "time": self.time(), "operation": "Update"}));
            after["metadata"]["managedFields"] = Value::Array(managers);
        }
        let held = after.pointer("/metadata/finalizers").and_then(Value::as_array).is_some_and(|all| !all.is_empty());
        let name = before.name().to_owned();
        if before.is_going() && !held && kind != Kind::Pod {
            self.erase(kind, &name);
            return Ok(self.version);
        }
        Ok(self.store(kind, &name, after))
    }

    /// The chart's latch and guard.
    fn admit(&self, before: &Object, after: &mut Value, by: &str) -> Result<(), Refusal> {
        let labelled = before.value.pointer("/metadata/labels/serin.dev~1rollout").is_some();
        if self.latch == Latch::Policy && labelled && after["spec"]["template"] != before.value["spec"]["template"] {
            after["spec"]["paused"] = json!(true);
            after["metadata"]["annotations"][names::LATCHED_ANNOTATION] = json!("true");
        }
        let held = before.value.pointer("/metadata/labels/serin.dev~1run").is_some() && before.is("/spec/paused");
        let loses =
            after.pointer("/metadata/labels/serin.dev~1run").is_none() || after["spec"]["paused"] != json!(true);
        match held && by != names::MANAGER && !before.is_going() && loses {
            true => Err(Refusal::Forbidden),
            false => Ok(()),
        }
    }

    pub fn delete(&mut self, kind: Kind, name: &str, uid: Option<&str>) -> Result<u64, Refusal> {
        let before = Rc::clone(self.get(kind, name).ok_or(Refusal::NotFound)?);
        if uid.is_some_and(|uid| uid != before.uid()) {
            return Err(Refusal::Conflict);
        }
        let held =
            before.value.pointer("/metadata/finalizers").and_then(Value::as_array).is_some_and(|all| !all.is_empty());
        if held || kind == Kind::Pod {
            if !before.is_going() {
                let mut after = before.value.clone();
                after["metadata"]["deletionTimestamp"] = self.time();
                self.store(kind, name, after);
            }
        } else {
            self.erase(kind, name);
        }
        Ok(self.version)
    }

    /// What it owns is nobody's from now on, as a deletion that orphans begins.
    pub fn orphan(&mut self, kind: Kind, name: &str) {
        let Some(uid) = self.get(kind, name).map(|object| object.uid().to_owned()) else { return };
        let owned: Vec<(Kind, String)> = self
            .all()
            .filter(|(_, object)| object.owner() == Some(uid.as_str()))
            .map(|(kind, object)| (kind, object.name().to_owned()))
            .collect();
        for (kind, name) in owned {
            let remove = json!([{"op": "remove", "path": "/metadata/ownerReferences"}]);
            let _ = self.patch(kind, &name, &remove, "kube-controller-manager", false);
        }
    }

    /// A pod is gone, or an object without finalizers.
    pub fn remove(&mut self, kind: Kind, name: &str) {
        self.erase(kind, name);
    }

    /// A write of the controller, answered as production's sender has it.
    pub fn write(&mut self, write: &Write) -> Result<u64, Refusal> {
        let kind = Kind::from(write.kind);
        match &write.verb {
            Verb::Create(body) => self.create(kind, body.clone(), names::MANAGER),
            Verb::Patch(ops) => self.patch(kind, &write.name, ops, names::MANAGER, false),
            Verb::PatchStatus(ops) => self.patch(kind, &write.name, ops, names::MANAGER, true),
            Verb::Delete { uid } => match self.delete(kind, &write.name, Some(uid)) {
                Err(Refusal::NotFound) => Ok(self.version),
                other => other,
            },
        }
    }

    /// Background deletion of what has lost its owners.
    pub fn collect_garbage(&mut self) -> bool {
        if !self.orphans {
            return false;
        }
        let uids: std::collections::BTreeSet<String> = self.all().map(|(_, object)| object.uid().to_owned()).collect();
        let orphan = self.all().find(|(kind, object)| {
            let owners = object.value.pointer("/metadata/ownerReferences").and_then(Value::as_array);
            let lost = owners.is_some_and(|owners| {
                !owners.is_empty()
                    && owners.iter().all(|owner| !uids.contains(owner["uid"].as_str().unwrap_or_default()))
            });
            lost && !object.is_going() && *kind != Kind::Endpoints
        });
        let Some((kind, name)) = orphan.map(|(kind, object)| (kind, object.name().to_owned())) else {
            self.orphans = false;
            return false;
        };
        self.delete(kind, &name, None).is_ok()
    }
}

/// As `Patch` would be deserialized, in half the time: values are copied once.
fn patch_of(ops: &Value) -> Option<json_patch::Patch> {
    use json_patch::{AddOperation, PatchOperation, RemoveOperation, ReplaceOperation, TestOperation};
    let operation = |op: &Value| {
        let path = json_patch::jsonptr::PointerBuf::parse(op["path"].as_str()?).ok()?;
        let value = || op.get("value").cloned();
        Some(match op["op"].as_str()? {
            "add" => PatchOperation::Add(AddOperation { path, value: value()? }),
            "replace" => PatchOperation::Replace(ReplaceOperation { path, value: value()? }),
            "remove" => PatchOperation::Remove(RemoveOperation { path }),
            "test" => PatchOperation::Test(TestOperation { path, value: value()? }),
            _ => return None,
        })
    };
    ops.as_array()?.iter().map(operation).collect::<Option<Vec<_>>>().map(json_patch::Patch)
}
