//! Serin itself, from outside: its pods, their processes, what they take, what they ask for.

use std::{fs, path::PathBuf, time::Duration};

use serde_json::Value;

use crate::{
    Result,
    cluster::{SERIN, eventually, get, kubectl, list},
};

fn name_of(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

/// Names of its pods.
pub fn controllers() -> Result<Vec<String>> {
    let pods = list(SERIN, "pods")?;
    Ok(pods.iter().filter(|pod| pod["metadata"]["labels"]["app.kubernetes.io/name"] == "serin").map(name_of).collect())
}

/// The process of a pod, where the node's processes can be seen.
pub fn process_of(pod: &str) -> Option<u32> {
    let wanted = format!("POD_NAME={pod}");
    let processes =
        fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    processes.into_iter().find(|process| {
        let of = |file: &str| fs::read(format!("/proc/{process}/{file}")).unwrap_or_default();
        of("comm").trim_ascii() == b"serin"
            && of("environ").split(|byte| *byte == 0).any(|entry| entry == wanted.as_bytes())
    })
}

/// The controller that leads: its pod, and its process where that can be seen.
pub fn leader() -> Result<(String, Option<u32>)> {
    let leader = eventually("a leader that lives", Duration::from_secs(60), || {
        let lease = get(SERIN, "lease", "serin")?.unwrap_or_default();
        let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned();
        Ok(controllers()?.contains(&holder).then_some(holder))
    })?;
    let process = process_of(&leader);
    Ok((leader, process))
}

/// Resident bytes of each controller: the most since it began where the node's processes can be seen, else now, as the
/// kubelet says.
pub fn memory() -> Result<Vec<(String, u64)>> {
    let pods = controllers()?;
    let resident = |pod: &String| {
        let status = fs::read_to_string(format!("/proc/{}/status", process_of(pod)?)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        Some((pod.clone(), line.trim().trim_end_matches(" kB").parse::<u64>().ok()? * 1024))
    };
    let seen: Vec<_> = pods.iter().filter_map(resident).collect();
    if !seen.is_empty() {
        return Ok(seen);
    }
    let mut ours = Vec::new();
    for node in list("", "nodes")? {
        let text = kubectl(&["get", "--raw", &format!("/api/v1/nodes/{}/proxy/stats/summary", name_of(&node))])?;
        let summary: Value = serde_json::from_str(&text).map_err(|error| format!("the kubelet's figures: {error}"))?;
        let pods = summary["pods"].as_array().into_iter().flatten();
        let pods = pods.filter(|pod| pod["podRef"]["namespace"] == SERIN);
        ours.extend(
            pods.filter_map(|pod| {
                Some((pod["podRef"]["name"].as_str()?.to_owned(), pod["memory"]["rssBytes"].as_u64()?))
            }),
        );
    }
    Ok(ours)
}

/// The API server's audit log from a moment on.
pub struct Audit {
    file: PathBuf,
    from: u64,
}

/// What Serin asked the API server for.
#[derive(Debug, Default, PartialEq)]
pub struct Asked {
    /// Requests for leases.
    pub leases: usize,
    /// Watches that ended.
    pub watches: usize,
    /// All others, in words.
    pub others: Vec<String>,
}

impl Audit {
    /// From now on. The log is the file that AUDIT_LOG names.
    pub fn start() -> Result<Self> {
        let file = std::env::var_os("AUDIT_LOG").map(PathBuf::from);
        let file = file.ok_or("expected AUDIT_LOG to name the API server's audit log: tests/cluster/with sets it")?;
        let from = fs::metadata(&file).map_err(|error| format!("{}: {error}", file.display()))?.len();
        Ok(Self { file, from })
    }

    /// Serin's requests since then, told by their user agent.
    pub fn asked(&self) -> Result<Asked> {
        let log = fs::read(&self.file).map_err(|error| format!("{}: {error}", self.file.display()))?;
        let from = usize::try_from(self.from).map_err(|error| error.to_string())?;
        Ok(asked(&String::from_utf8_lossy(log.get(from..).ok_or("the audit log has shrunk")?)))
    }
}

fn asked(log: &str) -> Asked {
    let mut asked = Asked::default();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    for line in lines.filter(|line| line["userAgent"].as_str().is_some_and(|agent| agent.starts_with("serin/"))) {
        match (line["objectRef"]["resource"].as_str(), line["verb"].as_str()) {
            (Some("leases"), _) => asked.leases += 1,
            (_, Some("watch")) => asked.watches += 1,
            (_, verb) => asked.others.push(format!("{} {}", verb.unwrap_or("?"), line["requestURI"])),
        }
    }
    asked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_serins_own_requests_count_and_none_but_leases_and_watches_are_expected() {
        let log = r#"{"userAgent":"serin/0.1","verb":"update","objectRef":{"resource":"leases"},"requestURI":"/l"}
{"userAgent":"serin/0.1","verb":"watch","objectRef":{"resource":"pods"},"requestURI":"/w"}
{"userAgent":"kubelet/1.36","verb":"list","objectRef":{"resource":"pods"},"requestURI":"/k"}
{"userAgent":"serin/0.1","verb":"get","objectRef":{"resource":"services"},"requestURI":"/s"}
{"userAgent":"serin/0.1","verb":"get","objectRef""#;
        assert_eq!(asked(log), Asked { leases: 1, watches: 1, others: vec!["get \"/s\"".to_owned()] });
    }
}
