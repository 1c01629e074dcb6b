//! A cluster of real processes on this machine, for the demo and the benches.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use plexus_model::{Error, Result};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::command::status;
use crate::node::default_query_memory;
use crate::status::ClusterStatus;

/// Ports of the first node; the others follow at a distance of ten, unless one is taken.
const FIRST_PORT: u16 = 7070;
const START_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// Nodes that were started here and end with this.
pub struct LocalCluster {
    pub nodes: Vec<LocalNode>,
}

pub struct LocalNode {
    pub child: Child,
    pub id: u64,
    pub flight: SocketAddr,
    pub peer: SocketAddr,
    pub http: SocketAddr,
    log: PathBuf,
}

impl LocalCluster {
    /// Starts `count` nodes of `program` below `dir` and waits until each knows all. When it fails or is
    /// dropped on the way, the nodes end.
    pub async fn start(program: &Path, dir: &Path, count: u16) -> Result<Self> {
        let mut this = Self { nodes: vec![] };
        // Nodes that were a cluster before need each other to be ready.
        let known = dir.join("node1").join("join.token").exists();
        for index in 0..count {
            let node = start_node(program, dir, index, count, this.nodes.first())?;
            this.nodes.push(node);
            if index == 0 && !known {
                this.wait_ready().await?;
            }
        }
        this.wait_ready().await?;
        this.wait_members().await?;
        Ok(this)
    }

    /// Flight URL of the first node.
    pub fn url(&self) -> String {
        format!("grpc://{}", self.nodes[0].flight)
    }

    async fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        for node in &mut self.nodes {
            let url = format!("http://{}", node.http);
            while status::get(&url, "/ready").await.is_err() {
                if let Ok(Some(exit)) = node.child.try_wait() {
                    return Err(Error::unavailable(format!(
                        "node {} ended ({exit}):\n{}",
                        node.id,
                        node.last_words()
                    )));
                }
                if Instant::now() > deadline {
                    return Err(Error::unavailable(format!(
                        "node {} is not ready after {START_TIMEOUT:?}",
                        node.id
                    )));
                }
                sleep(Duration::from_millis(100)).await;
            }
        }
        Ok(())
    }

    async fn wait_members(&self) -> Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let status = self.nodes[0].status().await?;
            let live = status.nodes.iter().filter(|n| n.live).count();
            if live >= self.nodes.len() {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(Error::unavailable(format!("{live} of {} nodes joined", self.nodes.len())));
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Asks all nodes to drain, and ends those that do not.
    pub async fn stop(&mut self) {
        for node in &self.nodes {
            if let Some(pid) = node.child.id() {
                // Our child by its id, which cannot have been reused: nobody has waited for it.
                let _ = std::process::Command::new("kill").arg(pid.to_string()).status();
            }
        }
        for node in &mut self.nodes {
            if timeout(STOP_TIMEOUT, node.child.wait()).await.is_err() {
                let _ = node.child.kill().await;
            }
        }
    }
}

impl LocalNode {
    pub async fn status(&self) -> Result<ClusterStatus> {
        let url = format!("http://{}", self.http);
        let body = status::get(&url, "/status").await?;
        serde_json::from_str(&body).map_err(|e| Error::corrupt(format!("{url}: {e}")))
    }

    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }
}

fn start_node(
    program: &Path,
    dir: &Path,
    index: u16,
    count: u16,
    first: Option<&LocalNode>,
) -> Result<LocalNode> {
    let id = u64::from(index) + 1;
    let [flight, peer, http] = addresses(&dir.join(format!("node{id}.ports")), index)?;
    // They share this machine.
    let query_memory = default_query_memory() / u64::from(count) / (1024 * 1024);
    let data = dir.join(format!("node{id}"));
    let log = dir.join(format!("node{id}.log"));
    let log_file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log)
        .map_err(|e| Error::io(log.display(), e))?;
    let mut command = Command::new(program);
    // What is set for other commands here must not reach the nodes, except how they log.
    let inherited = ["PLEXUS_LOG", "PLEXUS_LOG_FORMAT"];
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PLEXUS_")) {
        if !inherited.contains(&name.as_str()) {
            command.env_remove(name);
        }
    }
    command
        .arg("start")
        .args(["--node-id", &id.to_string()])
        .arg("--data-dir")
        .arg(&data)
        .args(["--flight", &flight.to_string()])
        .args(["--peer", &peer.to_string()])
        .args(["--http", &http.to_string()])
        .args(["--query-memory", &query_memory.max(64).to_string()])
        // However this process ends, the pipe closes and the node stops with it.
        .arg("--stop-with-stdin")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(log_file)
        // Ctrl-C at the terminal is for the shell and for us; we stop the nodes in order.
        .process_group(0)
        .kill_on_drop(true);
    match first {
        None => command.arg("--bootstrap"),
        Some(first) => command
            .args(["--join", &first.peer.to_string()])
            .arg("--join-token")
            .arg(format!("@{}", dir.join("node1").join("join.token").display())),
    };
    let child = command.spawn().map_err(|e| Error::io(format!("starting {}", program.display()), e))?;
    Ok(LocalNode { child, id, flight, peer, http, log })
}

/// The addresses of a node: those that it had the last time, since a cluster whose nodes all move at once
/// does not find together again.
fn addresses(kept: &Path, index: u16) -> Result<[SocketAddr; 3]> {
    if let Ok(text) = std::fs::read_to_string(kept) {
        let addresses: Vec<SocketAddr> = text.split_whitespace().filter_map(|a| a.parse().ok()).collect();
        return addresses
            .try_into()
            .map_err(|_| Error::corrupt(format!("{}: not three addresses: {text:?}", kept.display())));
    }
    let found = ports(index)?;
    let text = found.map(|address| address.to_string()).join("\n");
    std::fs::write(kept, text).map_err(|e| Error::io(kept.display(), e))?;
    Ok(found)
}

/// Three ports for a node: the usual ones, or any that are free.
fn ports(index: u16) -> Result<[SocketAddr; 3]> {
    let usual = |offset: u16| SocketAddr::from(([127, 0, 0, 1], FIRST_PORT + index * 10 + offset));
    let free = |address: SocketAddr| TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok();
    let wanted = [usual(0), usual(1), usual(2)];
    if wanted.iter().all(|a| free(*a)) {
        return Ok(wanted);
    }
    let mut found = wanted;
    let mut held = Vec::new();
    for address in &mut found {
        let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(|e| Error::io("a free port", e))?;
        *address = listener.local_addr().map_err(|e| Error::io("a free port", e))?;
        held.push(listener);
    }
    Ok(found)
}
