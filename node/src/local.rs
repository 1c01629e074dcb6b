//! A cluster of node processes on this machine, for the demo and for benchmarks.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use plexus_model::{Error, Result};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::command::status;
use crate::memory::default_query_memory;
use crate::status::ClusterStatus;

/// First port of the first node, which uses three. Ports of further nodes follow in steps of [`PORT_STEP`]. A
/// node whose ports are in use gets free ones instead.
const FIRST_PORT: u16 = 7070;
const PORT_STEP: u16 = 10;
/// Ports for nodes whose default ports are in use. Systems take the ports of outgoing connections from above
/// these, so that none takes a port before its node does.
const OTHER_PORTS: Range<u16> = 20_000..32_000;
/// Least memory limit of queries that a node accepts, in MiB.
const QUERY_MEMORY_MIB_MIN: u64 = 64;
const POLL_INTERVAL: Duration = Duration::from_millis(100);
const START_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// A cluster of local node processes. They end when this is dropped.
pub struct LocalCluster {
    /// The nodes, in the order of their ids.
    pub nodes: Vec<LocalNode>,
    program: PathBuf,
    dir: PathBuf,
}

/// How a node process ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NodeEnd {
    /// It is told to stop, and does what it has to do before.
    Stopped,
    /// It is killed.
    Killed,
}

/// A node process.
pub struct LocalNode {
    /// The process.
    pub child: Child,
    /// Id of the node, from 1.
    pub id: u64,
    /// Address for clients.
    pub flight: SocketAddr,
    /// Address for other nodes.
    pub peer: SocketAddr,
    /// Address for HTTP.
    pub http: SocketAddr,
    log: PathBuf,
}

impl LocalCluster {
    /// Starts `count` nodes with `program`, the `plexus` binary, and waits until all are ready and in the
    /// cluster. Their data is below `dir`; a directory of an earlier cluster is used again. If this fails or
    /// is dropped before it completes, the nodes end.
    ///
    /// # Errors
    /// `Unavailable` when a node ends or is not ready in time; the message has the last lines of its log.
    pub async fn start(program: &Path, dir: &Path, count: u16) -> Result<Self> {
        let mut this = Self { nodes: vec![], program: program.to_owned(), dir: dir.to_owned() };
        // Nodes of an existing cluster need a majority of each other to become ready, so all are started
        // first.
        let existing = dir.join("node1").join("join.token").exists();
        for index in 0..count {
            let node = start_node(program, dir, index, count, this.nodes.first())?;
            this.nodes.push(node);
            if index == 0 && !existing {
                this.wait_ready().await?;
            }
        }
        this.wait_ready().await?;
        this.wait_members().await?;
        Ok(this)
    }

    /// Flight SQL URL of the first node.
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
                        "node {} ended ({exit}); its log ends with:\n{}",
                        node.id,
                        node.log_tail()
                    )));
                }
                if Instant::now() > deadline {
                    return Err(Error::unavailable(format!(
                        "node {} is not ready after {START_TIMEOUT:?}",
                        node.id
                    )));
                }
                sleep(POLL_INTERVAL).await;
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
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Ends a node and waits until it has ended.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn end(&mut self, index: usize, how: NodeEnd) -> Result<()> {
        let node = &mut self.nodes[index];
        match how {
            NodeEnd::Killed => node.child.start_kill().map_err(|e| Error::io("killing a node", e))?,
            NodeEnd::Stopped => node.terminate(),
        }
        match timeout(STOP_TIMEOUT, node.child.wait()).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::unavailable(format!("node {} does not end", node.id))),
        }
    }

    /// Starts a node that has ended, and waits until it is ready.
    ///
    /// # Errors
    /// Those of [`Self::start`].
    pub async fn start_again(&mut self, index: usize) -> Result<()> {
        let count = self.nodes.len() as u16;
        let first = if index == 0 { None } else { self.nodes.first() };
        let node = start_node(&self.program, &self.dir, index as u16, count, first)?;
        self.nodes[index] = node;
        self.wait_ready().await
    }

    /// Stops all nodes gracefully, and kills those that do not end in time.
    pub async fn stop(&mut self) {
        for node in &self.nodes {
            node.terminate();
        }
        for node in &mut self.nodes {
            if timeout(STOP_TIMEOUT, node.child.wait()).await.is_err() {
                let _ = node.child.kill().await;
            }
        }
    }
}

impl LocalNode {
    /// The status of the cluster as this node reports it.
    ///
    /// # Errors
    /// `Unavailable` when the node does not answer, `Corrupt` when its answer does not parse.
    pub async fn status(&self) -> Result<ClusterStatus> {
        let url = format!("http://{}", self.http);
        let body = status::get(&url, "/status").await?;
        serde_json::from_str(&body).map_err(|e| Error::corrupt(format!("{url}: {e}")))
    }

    /// Tells the process to stop.
    fn terminate(&self) {
        if let Some(pid) = self.child.id() {
            // The id cannot have been reused, because the child has not been waited for.
            let _ = std::process::Command::new("kill").arg(pid.to_string()).status();
        }
    }

    /// The last lines of the log.
    fn log_tail(&self) -> String {
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
    // The nodes share the memory of this machine.
    let query_memory = default_query_memory() / u64::from(count) / (1024 * 1024);
    let data = dir.join(format!("node{id}"));
    let log = dir.join(format!("node{id}.log"));
    let log_file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log)
        .map_err(|e| Error::io(log.display(), e))?;
    let mut command = Command::new(program);
    // Environment variables meant for the client command must not configure the nodes, except for logging.
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
        .args(["--query-memory", &query_memory.max(QUERY_MEMORY_MIB_MIN).to_string()])
        // However this process ends, the pipe closes and the nodes stop.
        .arg("--stop-with-stdin")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(log_file)
        // A process group of its own: Ctrl-C at the terminal must reach this process only, which stops the
        // nodes.
        .process_group(0)
        .kill_on_drop(true);
    match first {
        None if data.join("member").exists() => &mut command,
        None => command.arg("--bootstrap"),
        Some(first) => command
            .args(["--join", &first.peer.to_string()])
            .arg("--join-token")
            .arg(format!("@{}", dir.join("node1").join("join.token").display())),
    };
    let child = command.spawn().map_err(|e| Error::io(format!("starting {}", program.display()), e))?;
    Ok(LocalNode { child, id, flight, peer, http, log })
}

/// The flight, peer and HTTP addresses of a node. They are stored in `ports_file` and used again after a
/// restart: nodes find each other at their last known addresses, so they must not all change at once.
fn addresses(ports_file: &Path, index: u16) -> Result<[SocketAddr; 3]> {
    if let Ok(text) = std::fs::read_to_string(ports_file) {
        let addresses: Vec<SocketAddr> = text.split_whitespace().filter_map(|a| a.parse().ok()).collect();
        return addresses.try_into().map_err(|_| {
            Error::corrupt(format!("{}: expected three addresses, found {text:?}", ports_file.display()))
        });
    }
    let found = free_addresses(index)?;
    let text = found.map(|address| address.to_string()).join("\n");
    std::fs::write(ports_file, text).map_err(|e| Error::io(ports_file.display(), e))?;
    Ok(found)
}

/// Three free addresses for a node: the default ones if possible.
fn free_addresses(index: u16) -> Result<[SocketAddr; 3]> {
    let default = |offset: u16| SocketAddr::from(([127, 0, 0, 1], FIRST_PORT + index * PORT_STEP + offset));
    let is_free =
        |address: SocketAddr| TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok();
    let defaults = [default(0), default(1), default(2)];
    if defaults.iter().all(|a| is_free(*a)) {
        return Ok(defaults);
    }
    // Clusters that start at the same time look at different ports first, and so do the nodes of one.
    let count = OTHER_PORTS.end - OTHER_PORTS.start;
    let first = std::process::id() as u16 % count / PORT_STEP * PORT_STEP + index * PORT_STEP;
    let found: Vec<SocketAddr> = (0..count)
        .map(|offset| OTHER_PORTS.start + (first + offset) % count)
        .map(|port| SocketAddr::from(([127, 0, 0, 1], port)))
        .filter(|address| is_free(*address))
        .take(3)
        .collect();
    found.try_into().map_err(|_| {
        Error::unavailable(format!(
            "fewer than three ports from {} to {} are free",
            OTHER_PORTS.start, OTHER_PORTS.end
        ))
    })
}
