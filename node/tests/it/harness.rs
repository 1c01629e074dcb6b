//! Clusters of real processes on loopback, and runs of the binary's commands.

use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use plexus_model::Result;
use plexus_node::client::Client;
use plexus_node::command::status;
use plexus_node::status::ClusterStatus;
use tempfile::TempDir;

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_plexus");
/// How long tests wait for something that happens in the background: longer than inline segments stay in the
/// log, and short of the limit that the test runner sets.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// The nodes of one cluster. Dropping it kills them and removes their data.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    pub(crate) dir: TempDir,
}

/// One node: a process, or the directory and the arguments of one that is not running.
pub(crate) struct Node {
    pub(crate) id: u64,
    /// Of Flight SQL, of the peer protocol and of HTTP.
    pub(crate) ports: [u16; 3],
    pub(crate) dir: PathBuf,
    pub(crate) args: Vec<String>,
    child: Option<Child>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Ports that are free for TCP and UDP at this moment. They are not from the range of ephemeral ports: the
/// system could give such a port to an outgoing connection a moment later.
pub(crate) fn free_ports() -> [u16; 3] {
    const FIRST: u32 = 15_000;
    const COUNT: u32 = 15_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(97);
    let mut candidates = std::iter::repeat_with(|| {
        (FIRST + start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT) as u16
    })
    .take(COUNT as usize)
    .filter(|&port| {
        TcpListener::bind(("127.0.0.1", port)).is_ok() && UdpSocket::bind(("127.0.0.1", port)).is_ok()
    });
    let mut next = || candidates.next().expect("a free port");
    [next(), next(), next()]
}

/// A process that is killed when it goes out of scope, also when a test fails.
pub(crate) struct KilledOnDrop(pub(crate) Child);

impl Drop for KilledOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Node {
    fn new(id: u64, dir: &Path, args: Vec<String>) -> Self {
        Self { id, ports: free_ports(), dir: dir.join(format!("node{id}")), args, child: None }
    }

    pub(crate) fn flight(&self) -> String {
        format!("grpc://127.0.0.1:{}", self.ports[0])
    }

    pub(crate) fn peer(&self) -> String {
        format!("127.0.0.1:{}", self.ports[1])
    }

    pub(crate) fn http(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[2])
    }

    /// Starts the process.
    pub(crate) fn start(&mut self) {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.with_extension("log"))
            .expect("a log file");
        let mut command = Command::new(BINARY);
        command.arg("start").args(["--node-id", &self.id.to_string()]).arg("--data-dir").arg(&self.dir);
        for (name, port) in ["--flight", "--peer", "--http"].iter().zip(self.ports) {
            command.args([*name, &format!("127.0.0.1:{port}")]);
        }
        // A cluster is founded once.
        let is_member = self.dir.join("member").exists();
        command.args(self.args.iter().filter(|arg| !(is_member && *arg == "--bootstrap")));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().expect("the binary starts"));
    }

    /// Assigns other ports, as if the node had moved to another machine with its directory.
    pub(crate) fn move_ports(&mut self) {
        self.ports = free_ports();
    }

    /// Sends SIGTERM, as a supervisor would. Returns at once.
    pub(crate) fn terminate(&self) {
        let pid = self.child.as_ref().expect("a running node").id();
        // The id cannot belong to another process: nobody has waited for this child.
        assert!(Command::new("kill").arg(pid.to_string()).status().expect("kill runs").success());
    }

    /// The processor time that the process has used so far.
    pub(crate) fn processor_time(&self) -> Duration {
        let pid = self.child.as_ref().expect("a running node").id();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
        // The name of the process, in brackets, may contain blanks.
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        let ticks: u64 = fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
        // A tick is a hundredth of a second on every Linux.
        Duration::from_millis(ticks * 10)
    }

    /// Waits until the process ends by itself.
    pub(crate) fn wait_exit(&mut self) -> ExitStatus {
        let started = Instant::now();
        let mut child = self.child.take().expect("a running node");
        loop {
            if let Some(status) = child.try_wait().expect("our child") {
                return status;
            }
            if started.elapsed() > PATIENCE {
                child.kill().expect("our child");
                panic!("node {} did not end:\n{}", self.id, self.log());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Sends SIGKILL, which has the effect of a crash. Returns when the process has ended.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Connects to the node, as soon as it accepts connections.
    pub(crate) async fn client(&self) -> Client {
        let started = Instant::now();
        loop {
            match Client::connect(&self.flight()).await {
                Ok(client) => return client,
                Err(e) if started.elapsed() > PATIENCE => {
                    panic!("node {}: {e}\n{}", self.id, self.log())
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// What the node has logged since its directory was created.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.with_extension("log")).unwrap_or_default()
    }

    /// Waits until the node serves clients.
    pub(crate) async fn wait_ready(&self) {
        let started = Instant::now();
        while status::get(&self.http(), "/ready").await.is_err() {
            assert!(started.elapsed() < PATIENCE, "node {} is not ready:\n{}", self.id, self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The node's view of the cluster.
    pub(crate) async fn status(&self) -> Result<ClusterStatus> {
        let body = status::get(&self.http(), "/status").await?;
        Ok(serde_json::from_str(&body).expect("the status is JSON of a known shape"))
    }
}

impl Cluster {
    /// Starts `count` nodes with all roles and waits until all of them are live.
    pub(crate) async fn start(count: u64) -> Self {
        Self::start_with_roles(&vec!["meta,data,query"; count as usize]).await
    }

    /// Starts a node for each set of roles. The first must have the meta role, since it founds the cluster.
    pub(crate) async fn start_with_roles(roles: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut first =
            Node::new(1, dir.path(), vec!["--bootstrap".into(), "--roles".into(), roles[0].into()]);
        first.start();
        first.wait_ready().await;
        let token = format!("@{}", first.dir.join("join.token").display());
        let join = ["--join".into(), first.peer(), "--join-token".into(), token];
        let mut nodes = vec![first];
        for (id, roles) in (2..).zip(&roles[1..]) {
            let args = join.iter().cloned().chain(["--roles".into(), (*roles).into()]).collect();
            let mut node = Node::new(id, dir.path(), args);
            node.start();
            node.wait_ready().await;
            nodes.push(node);
        }
        let cluster = Self { nodes, dir };
        let voters = roles.iter().filter(|r| r.contains("meta")).count();
        cluster.wait_live(roles.len(), voters).await;
        cluster
    }

    /// Waits until a running node sees `count` live nodes, and as many voters as `meta_nodes` allow: an odd
    /// number.
    pub(crate) async fn wait_live(&self, count: usize, meta_nodes: usize) {
        let voters = if meta_nodes.is_multiple_of(2) { meta_nodes - 1 } else { meta_nodes };
        self.wait("live nodes", |status| {
            let live = status.nodes.iter().filter(|n| n.live).count();
            live == count && status.nodes.iter().filter(|n| n.voter).count() >= voters
        })
        .await;
    }

    /// Waits until some running node's view of the cluster meets a condition.
    pub(crate) async fn wait(&self, what: &str, condition: impl Fn(&ClusterStatus) -> bool) {
        let started = Instant::now();
        let mut last = None;
        while started.elapsed() < PATIENCE {
            for node in self.nodes.iter().filter(|n| n.child.is_some()) {
                if let Ok(status) = node.status().await {
                    if condition(&status) {
                        return;
                    }
                    last = Some(status);
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("waited {PATIENCE:?} for {what}; last status: {last:#?}");
    }

    /// Adds a node to the cluster. Returns its index.
    pub(crate) async fn add(&mut self, roles: &str) -> usize {
        self.add_at(roles, free_ports()).await
    }

    /// Adds a node that listens on the given ports. Returns its index.
    pub(crate) async fn add_at(&mut self, roles: &str, ports: [u16; 3]) -> usize {
        let id = self.nodes.iter().map(|n| n.id).max().unwrap_or(0) + 1;
        let token = format!("@{}", self.nodes[0].dir.join("join.token").display());
        let running = self.nodes.iter().find(|n| n.child.is_some()).expect("a running node");
        let args = ["--join", &running.peer(), "--join-token", &token, "--roles", roles].map(Into::into);
        let mut node = Node::new(id, self.dir.path(), args.to_vec());
        node.ports = ports;
        node.start();
        node.wait_ready().await;
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// Waits until every node is live and none lacks a replica. Each must have at least `files` segment
    /// files.
    pub(crate) async fn wait_replicated(&self, files: i64) {
        self.wait("every node has its segment files", |s| {
            s.segments_under_replicated == 0
                && s.nodes.iter().all(|n| {
                    n.live
                        && n.segments_missing == Some(0)
                        && n.segments.is_some_and(|has| has as i64 >= files)
                })
        })
        .await;
    }

    /// The index of the Raft leader, as soon as a running node knows it.
    pub(crate) async fn leader(&self) -> usize {
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            for node in self.nodes.iter().filter(|n| n.child.is_some()) {
                if let Ok(status) = node.status().await
                    && let Some(at) =
                        self.nodes.iter().position(|n| Some(n.id) == status.leader && n.child.is_some())
                {
                    return at;
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("no leader within {PATIENCE:?}");
    }
}

/// Runs the binary to its end, without input.
pub(crate) fn run(args: &[&str]) -> Output {
    Command::new(BINARY).args(args).stdin(Stdio::null()).output().expect("the binary runs")
}

/// Runs the binary, which must fail. Returns its standard error.
pub(crate) fn fails(args: &[&str]) -> String {
    let output = run(args);
    assert!(
        !output.status.success(),
        "{args:?} should fail, and printed {}",
        String::from_utf8_lossy(&output.stdout)
    );
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Inverts one byte in the middle of one segment file of a node.
pub(crate) fn damage(node_dir: &Path) {
    let entries = std::fs::read_dir(node_dir.join("segments")).expect("a directory of segments");
    let mut files = entries.filter_map(|e| e.ok()).map(|e| e.path());
    let file = files.find(|p| p.extension().is_some_and(|e| e == "vortex")).expect("a segment");
    let mut bytes = std::fs::read(&file).expect("its bytes");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    std::fs::write(&file, bytes).expect("the file is writable");
}

/// How many damaged files a node has moved to its quarantine.
pub(crate) fn quarantined(node_dir: &Path) -> usize {
    std::fs::read_dir(node_dir.join("quarantine")).map_or(0, |entries| entries.count())
}
