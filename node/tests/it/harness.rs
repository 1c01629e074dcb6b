//! Clusters of real processes on loopback, and clients for them.

use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use plexus_model::Result;
use plexus_node::client::Client;
use plexus_node::command::status;
use plexus_node::status::ClusterStatus;
use tempfile::TempDir;

pub const BINARY: &str = env!("CARGO_BIN_EXE_plexus");
const PATIENCE: Duration = Duration::from_secs(60);

/// Nodes of one cluster. They end with it.
pub struct Cluster {
    pub nodes: Vec<Node>,
    pub dir: TempDir,
}

pub struct Node {
    pub id: u64,
    pub ports: [u16; 3],
    pub dir: PathBuf,
    pub args: Vec<String>,
    child: Option<Child>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Ports that are free for TCP and UDP just now. Not from the range of which the system takes ports for
/// outgoing connections: one of those could be gone a moment later.
pub fn free_ports() -> [u16; 3] {
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

impl Node {
    fn new(id: u64, dir: &Path, args: Vec<String>) -> Self {
        Self { id, ports: free_ports(), dir: dir.join(format!("node{id}")), args, child: None }
    }

    pub fn flight(&self) -> String {
        format!("grpc://127.0.0.1:{}", self.ports[0])
    }

    pub fn peer(&self) -> String {
        format!("127.0.0.1:{}", self.ports[1])
    }

    pub fn http(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[2])
    }

    pub fn start(&mut self) {
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
        command.args(&self.args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().expect("the binary starts"));
    }

    /// Other ports, as if the node had moved to another machine with its directory.
    pub fn move_ports(&mut self) {
        self.ports = free_ports();
    }

    /// SIGTERM, as a supervisor would; returns at once.
    pub fn terminate(&self) {
        let pid = self.child.as_ref().expect("a running node").id();
        // Our own child, for which nobody has waited.
        assert!(Command::new("kill").arg(pid.to_string()).status().expect("kill runs").success());
    }

    /// Waits for the process to end by itself.
    pub fn wait_exit(&mut self) -> ExitStatus {
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

    /// SIGKILL, as a crash.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub async fn client(&self) -> Client {
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

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.with_extension("log")).unwrap_or_default()
    }

    pub async fn wait_ready(&self) {
        let started = Instant::now();
        while status::get(&self.http(), "/ready").await.is_err() {
            assert!(started.elapsed() < PATIENCE, "node {} is not ready:\n{}", self.id, self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn status(&self) -> Result<ClusterStatus> {
        let body = status::get(&self.http(), "/status").await?;
        Ok(serde_json::from_str(&body).expect("status is JSON of our shape"))
    }
}

impl Cluster {
    /// Starts `count` nodes with all roles and waits until each knows all.
    pub async fn start(count: u64) -> Self {
        Self::start_with_roles(&vec!["meta,data,query"; count as usize]).await
    }

    /// Starts a node for each set of roles; the first needs the meta role.
    pub async fn start_with_roles(roles: &[&str]) -> Self {
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

    /// Waits until the first running node sees so many live nodes, and as many voters as that allows.
    pub async fn wait_live(&self, count: usize, meta_nodes: usize) {
        let voters = if meta_nodes.is_multiple_of(2) { meta_nodes - 1 } else { meta_nodes };
        self.wait("live nodes", |status| {
            let live = status.nodes.iter().filter(|n| n.live).count();
            live == count && status.nodes.iter().filter(|n| n.voter).count() >= voters
        })
        .await;
    }

    /// Waits until a running node's view of the cluster is as wanted.
    pub async fn wait(&self, what: &str, wanted: impl Fn(&ClusterStatus) -> bool) {
        let started = Instant::now();
        let mut last = None;
        while started.elapsed() < PATIENCE {
            for node in self.nodes.iter().filter(|n| n.child.is_some()) {
                if let Ok(status) = node.status().await {
                    if wanted(&status) {
                        return;
                    }
                    last = Some(status);
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("waited {PATIENCE:?} for {what}; last seen: {last:#?}");
    }

    /// Lets another node join.
    pub async fn add(&mut self, roles: &str) -> usize {
        self.add_at(roles, free_ports()).await
    }

    /// Lets another node join, which listens on these ports.
    pub async fn add_at(&mut self, roles: &str, ports: [u16; 3]) -> usize {
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

    /// Waits until every node is live and has on its disk what it should keep, which is `files` segments.
    pub async fn wait_whole(&self, files: i64) {
        self.wait("every node has its segments", |s| {
            s.segments_under_replicated == 0
                && s.nodes.iter().all(|n| {
                    n.live
                        && n.segments_missing == Some(0)
                        && n.segments.is_some_and(|has| has as i64 >= files)
                })
        })
        .await;
    }

    pub async fn leader(&self) -> usize {
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

/// The one number that a query gives.
pub async fn number(client: &mut Client, sql: &str) -> Result<i64> {
    let (_, batches) = client.query(sql).await?;
    let batch = batches.iter().find(|b| b.num_rows() > 0).expect("a row");
    let column = arrow::compute::cast(batch.column(0), &arrow::datatypes::DataType::Int64).expect("a number");
    Ok(column.as_primitive::<Int64Type>().value(0))
}

/// Visible segments that are files.
pub async fn files(client: &mut Client) -> i64 {
    number(client, "SELECT count(*) FROM plexus.segments WHERE NOT inline").await.expect("a number")
}

/// All numbers of the first column.
pub fn numbers(batches: &[RecordBatch]) -> Vec<i64> {
    batches
        .iter()
        .flat_map(|b| {
            let column =
                arrow::compute::cast(b.column(0), &arrow::datatypes::DataType::Int64).expect("numbers");
            column.as_primitive::<Int64Type>().values().to_vec()
        })
        .collect()
}

/// Runs the binary to its end.
pub fn run(args: &[&str]) -> Output {
    Command::new(BINARY).args(args).stdin(Stdio::null()).output().expect("the binary runs")
}

/// Runs the binary, which must fail, and returns what it said.
pub fn fails(args: &[&str]) -> String {
    let output = run(args);
    assert!(
        !output.status.success(),
        "{args:?} should fail, and printed {}",
        String::from_utf8_lossy(&output.stdout)
    );
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Changes one byte of one segment in a node's directory.
pub fn damage(node_dir: &Path) {
    let entries = std::fs::read_dir(node_dir.join("segments")).expect("a directory of segments");
    let mut files = entries.filter_map(|e| e.ok()).map(|e| e.path());
    let file = files.find(|p| p.extension().is_some_and(|e| e == "vortex")).expect("a segment");
    let mut bytes = std::fs::read(&file).expect("its bytes");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    std::fs::write(&file, bytes).expect("a place to write");
}

/// Files that a node has set aside.
pub fn quarantined(node_dir: &Path) -> usize {
    std::fs::read_dir(node_dir.join("quarantine")).map_or(0, |entries| entries.count())
}
