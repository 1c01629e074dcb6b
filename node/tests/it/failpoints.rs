//! A node that exits at every step of a write, a compaction or a vacuum; and a full disk.

use plexus_model::ErrorKind;
use plexus_node::client::Client;

use crate::harness::Cluster;
use crate::queries::{execute_all, latest_version, number};

/// The steps at which a process can exit: see [`plexus_model::failpoint`].
const FAILPOINTS: [&str; 9] = [
    "segment.written",
    "segment.named",
    "segment.durable",
    "commit.propose",
    "log.append",
    "log.appended",
    "apply.begin",
    "apply.published",
    "commit.answered",
];

/// The steps of a statement that writes segment files and commits them.
const OF_A_WRITE: &[&str] = &FAILPOINTS;
/// The steps of a statement that only appends an entry to the Raft log.
const OF_A_LOG_ENTRY: &[&str] = &["log.append", "log.appended", "apply.begin", "apply.published"];

/// Represents the content of the table: each statement changes this sum.
const SUM: &str = "SELECT sum(v) FROM t";

async fn sum(client: &mut Client) -> i64 {
    number(client, SUM).await.unwrap_or_else(|e| panic!("{SUM}: {e}"))
}

async fn start_with_failpoints(nodes: u64) -> Cluster {
    let mut cluster = Cluster::start(nodes).await;
    for node in &mut cluster.nodes {
        node.kill();
        node.args.push("--failpoints".to_owned());
        node.start();
    }
    for node in &cluster.nodes {
        node.wait_ready().await;
    }
    cluster
}

/// Statements that run while a node exits.
struct Case {
    nodes: u64,
    /// In one session. `{version}` stands for the version before the last update.
    statements: &'static [&'static str],
    /// What the statements add to the sum.
    adds: i64,
    /// Whether they add it each time that they run. Otherwise a second run has no further effect.
    repeatable: bool,
    /// The failpoints that the statements have to reach.
    passes: &'static [&'static str],
}

impl Case {
    async fn run(&self, client: &mut Client, version: i64) -> plexus_model::Result<()> {
        for statement in self.statements {
            client.execute(&statement.replace("{version}", &version.to_string())).await?;
        }
        Ok(())
    }
}

/// Four segment files with 20,000 rows in two shards.
const LOADS: [&str; 5] = [
    "CREATE TABLE t (id BIGINT PRIMARY KEY, v BIGINT) WITH (shards = 2)",
    "INSERT INTO t SELECT value, value * 0 FROM generate_series(0, 4999)",
    "INSERT INTO t SELECT value, value * 0 FROM generate_series(5000, 9999)",
    "INSERT INTO t SELECT value, value * 0 FROM generate_series(10000, 14999)",
    "INSERT INTO t SELECT value, value * 0 FROM generate_series(15000, 19999)",
];

/// Runs the statements once for each failpoint, at which the node that executes them exits. Afterwards, and
/// after a restart, all nodes have to agree that the statements took effect entirely or not at all, and the
/// statements have to succeed when they run again.
async fn exit_at_every_failpoint(case: Case) {
    let mut cluster = start_with_failpoints(case.nodes).await;
    execute_all(&mut cluster.nodes[0].client().await, &LOADS).await;
    for failpoint in FAILPOINTS {
        exit_at(&mut cluster, &case, failpoint).await;
    }
}

async fn exit_at(cluster: &mut Cluster, case: &Case, failpoint: &str) {
    let statement = case.statements[0];
    let mut client = cluster.nodes[0].client().await;
    let version = latest_version(&mut client).await.unwrap();
    // Gives compaction, vacuum and restore something to do each time.
    client.execute("UPDATE t SET v = v + 1 WHERE id % 10 = 3").await.unwrap();
    let before = sum(&mut client).await;
    client.execute(&format!("CALL plexus.fail_at('{failpoint}')")).await.unwrap();
    let result = case.run(&mut client, version).await;
    // Background work may reach a failpoint that the statements do not reach.
    let exited = result.is_err() || client.execute("CALL plexus.fail_at('')").await.is_err();
    assert!(exited || !case.passes.contains(&failpoint), "{statement} did not reach {failpoint}");
    if exited {
        let status = cluster.nodes[0].wait_exit();
        assert!(!status.success(), "at {failpoint}");
        cluster.nodes[0].start();
        cluster.nodes[0].wait_ready().await;
    }
    let mut client = cluster.nodes[0].client().await;
    let after = sum(&mut client).await;
    let done = before + case.adds;
    let allowed = if result.is_err() { vec![before, done] } else { vec![done] };
    assert!(allowed.contains(&after), "{statement} at {failpoint}: {after}, and {before} before");
    for node in &cluster.nodes {
        let mut client = node.client().await;
        assert_eq!(sum(&mut client).await, after, "{statement} at {failpoint}, on node {}", node.id);
        assert_eq!(number(&mut client, "SELECT count(DISTINCT id) FROM t").await.unwrap(), 20_000);
    }
    let again = case.run(&mut client, version).await;
    again.unwrap_or_else(|e| panic!("{statement} after {failpoint}: {e}"));
    let base = if case.repeatable { after } else { before };
    assert_eq!(sum(&mut client).await, base + case.adds, "{statement} after {failpoint}");
}

const UPDATE_HALF: Case = Case {
    nodes: 1,
    statements: &["UPDATE t SET v = v + 1 WHERE id % 2 = 0"],
    adds: 10_000,
    repeatable: true,
    passes: OF_A_WRITE,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_exits_in_a_commit_leaves_all_of_it_or_nothing() {
    exit_at_every_failpoint(UPDATE_HALF).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_three_that_exits_in_a_commit_leaves_all_of_it_or_nothing() {
    exit_at_every_failpoint(Case { nodes: 3, ..UPDATE_HALF }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_exits_in_a_transaction_leaves_all_of_it_or_nothing() {
    let statements = &[
        "BEGIN",
        "UPDATE t SET v = v + 1 WHERE id % 2 = 0",
        "UPDATE t SET v = v + 2 WHERE id = 7",
        "COMMIT",
    ];
    exit_at_every_failpoint(Case { statements, adds: 10_002, ..UPDATE_HALF }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_exits_in_a_restore_leaves_all_of_it_or_nothing() {
    let statements = &["RESTORE TABLE t TO VERSION {version}"];
    exit_at_every_failpoint(Case { statements, adds: -2_000, repeatable: false, ..UPDATE_HALF }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_exits_in_a_compaction_loses_no_row() {
    exit_at_every_failpoint(Case { statements: &["OPTIMIZE t"], adds: 0, ..UPDATE_HALF }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_exits_in_a_vacuum_loses_no_visible_row() {
    let statements = &["VACUUM t RETAIN 0 seconds"];
    exit_at_every_failpoint(Case { statements, adds: 0, passes: OF_A_LOG_ENTRY, ..UPDATE_HALF }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_fails_statements_and_changes_nothing() {
    let cluster = start_with_failpoints(1).await;
    let mut client = cluster.nodes[0].client().await;
    client.execute("CREATE TABLE t (id BIGINT, v BIGINT) WITH (shards = 1)").await.unwrap();
    for load in 0..4 {
        let first = load * 5_000;
        let load =
            format!("INSERT INTO t SELECT value, value * 1 FROM generate_series({first}, {})", first + 4_999);
        client.execute(&load).await.unwrap();
    }
    client.execute("DELETE FROM t WHERE id % 10 = 3").await.unwrap();
    client.execute("CREATE TABLE other (id BIGINT)").await.unwrap();
    let before = sum(&mut client).await;
    let segments = "SELECT count(*) FROM plexus.segments";
    let count = number(&mut client, segments).await.unwrap();
    client.execute("CALL plexus.fail_at('disk.full')").await.unwrap();
    let files = || std::fs::read_dir(cluster.nodes[0].dir.join("segments")).unwrap().count();
    let on_disk = files();
    for sql in [
        "OPTIMIZE t",
        "OPTIMIZE t ZORDER BY (v)",
        "INSERT INTO t SELECT value, value * 1 FROM generate_series(1, 9999)",
        "INSERT INTO t VALUES (1, 1)",
        "DELETE FROM t WHERE id = 7",
        "CREATE TABLE u (id BIGINT)",
    ] {
        let error = client.execute(sql).await.err().unwrap_or_else(|| panic!("{sql} should fail"));
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{sql}: {error:?}");
        assert!(error.message().contains("is full"), "{sql}: {error}");
    }
    assert_eq!(sum(&mut client).await, before);
    assert_eq!(number(&mut client, segments).await.unwrap(), count);
    assert_eq!(files(), on_disk);
    client.execute("DROP TABLE other").await.unwrap();
    client.execute("CALL plexus.fail_at('')").await.unwrap();
    client.execute("OPTIMIZE t").await.unwrap();
    assert_eq!(sum(&mut client).await, before);
    assert_eq!(number(&mut client, segments).await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failpoints_are_off_unless_the_node_was_started_with_them() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.nodes[0].client().await;
    let error = client.execute("CALL plexus.fail_at('apply.begin')").await.err().unwrap();
    assert!(error.message().contains("not started for them"), "{error}");
    assert_eq!(number(&mut client, "SELECT 1").await.unwrap(), 1);
}
