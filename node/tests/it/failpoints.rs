//! A node that ends at every step of a change, a merge, a vacuum; and a disk that is full.

use plexus_model::ErrorKind;
use plexus_node::client::Client;

use crate::harness::{Cluster, number};

/// Where a process ends: see [`plexus_model::failpoint`].
const PLACES: [&str; 9] = [
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

/// Those that a statement passes that writes files and commits them.
const OF_A_WRITE: &[&str] = &PLACES;
/// Those of a statement that is an entry of the log and nothing else.
const OF_AN_ENTRY: &[&str] = &["log.append", "log.appended", "apply.begin", "apply.published"];

/// What the table holds: the sum of `v`, which each statement changes.
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

/// What is run while a node ends.
struct Case {
    nodes: u64,
    /// In one session; `{version}` is the version before the latest change.
    statements: &'static [&'static str],
    /// What they add to the sum.
    changes_by: i64,
    /// Whether they do so every time.
    again: bool,
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

/// Runs statements while the node that takes them ends at a place. Then, and after it is back, the table is as
/// before or as after, everywhere the same, and the statements can be run again.
async fn end_at_every_place(case: Case) {
    let Case { nodes, statements, changes_by, again, passes } = case;
    let statement = statements[0];
    let mut cluster = start_with_failpoints(nodes).await;
    let mut client = cluster.nodes[0].client().await;
    client.execute("CREATE TABLE t (id BIGINT PRIMARY KEY, v BIGINT) WITH (shards = 2)").await.unwrap();
    for part in 0..4 {
        let first = part * 5_000;
        let load =
            format!("INSERT INTO t SELECT value, value * 0 FROM generate_series({first}, {})", first + 4_999);
        client.execute(&load).await.unwrap();
    }
    for place in PLACES {
        let mut client = cluster.nodes[0].client().await;
        let newest = "SELECT CAST(max(version) AS BIGINT) FROM plexus.commits";
        let version = number(&mut client, newest).await.unwrap();
        // Something to merge, to vacuum, and to undo, each time.
        client.execute("UPDATE t SET v = v + 1 WHERE id % 10 = 3").await.unwrap();
        let before = sum(&mut client).await;
        client.execute(&format!("CALL plexus.fail_at('{place}')")).await.unwrap();
        let answer = case.run(&mut client, version).await;
        // Where the statement does not come by, what runs in the background may.
        let ended = answer.is_err() || client.execute("CALL plexus.fail_at('')").await.is_err();
        assert!(ended || !passes.contains(&place), "{statement} did not pass {place}");
        if ended {
            let status = cluster.nodes[0].wait_exit();
            assert!(!status.success(), "at {place}");
            cluster.nodes[0].start();
            cluster.nodes[0].wait_ready().await;
        }
        let died = answer.is_err();
        let mut client = cluster.nodes[0].client().await;
        let now = sum(&mut client).await;
        let whole = if died { vec![before, before + changes_by] } else { vec![before + changes_by] };
        assert!(whole.contains(&now), "{statement} at {place}: {now}, and {before} before");
        for node in &cluster.nodes {
            let mut client = node.client().await;
            assert_eq!(sum(&mut client).await, now, "{statement} at {place}, on node {}", node.id);
            assert_eq!(number(&mut client, "SELECT count(DISTINCT id) FROM t").await.unwrap(), 20_000);
        }
        case.run(&mut client, version).await.unwrap_or_else(|e| panic!("{statement} after {place}: {e}"));
        let base = if again { now } else { before };
        assert_eq!(sum(&mut client).await, base + changes_by, "{statement} after {place}");
    }
}

const UPDATE_HALF: Case = Case {
    nodes: 1,
    statements: &["UPDATE t SET v = v + 1 WHERE id % 2 = 0"],
    changes_by: 10_000,
    again: true,
    passes: OF_A_WRITE,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_ends_in_a_commit_leaves_all_of_it_or_nothing() {
    end_at_every_place(UPDATE_HALF).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_three_that_ends_in_a_commit_leaves_all_of_it_or_nothing() {
    end_at_every_place(Case { nodes: 3, ..UPDATE_HALF }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_ends_in_a_transaction_leaves_all_of_it_or_nothing() {
    let statements = &[
        "BEGIN",
        "UPDATE t SET v = v + 1 WHERE id % 2 = 0",
        "UPDATE t SET v = v + 2 WHERE id = 7",
        "COMMIT",
    ];
    end_at_every_place(Case { statements, changes_by: 10_002, ..UPDATE_HALF }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_ends_while_it_restores_leaves_all_of_it_or_nothing() {
    let statements = &["RESTORE TABLE t TO VERSION {version}"];
    end_at_every_place(Case { statements, changes_by: -2_000, again: false, ..UPDATE_HALF }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_ends_in_a_merge_loses_no_row() {
    end_at_every_place(Case { statements: &["OPTIMIZE t"], changes_by: 0, ..UPDATE_HALF }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_ends_in_a_vacuum_loses_nothing_that_is_seen() {
    let statements = &["VACUUM t RETAIN 0 seconds"];
    end_at_every_place(Case { statements, changes_by: 0, passes: OF_AN_ENTRY, ..UPDATE_HALF }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_in_a_merge_is_an_error_and_changes_nothing() {
    let cluster = start_with_failpoints(1).await;
    let mut client = cluster.nodes[0].client().await;
    client.execute("CREATE TABLE t (id BIGINT, v BIGINT) WITH (shards = 1)").await.unwrap();
    for part in 0..4 {
        let first = part * 5_000;
        let load =
            format!("INSERT INTO t SELECT value, value * 1 FROM generate_series({first}, {})", first + 4_999);
        client.execute(&load).await.unwrap();
    }
    client.execute("DELETE FROM t WHERE id % 10 = 3").await.unwrap();
    let (before, segments) = (sum(&mut client).await, "SELECT count(*) FROM plexus.segments");
    let count = number(&mut client, segments).await.unwrap();
    client.execute("CALL plexus.fail_at('disk.full')").await.unwrap();
    let files = || std::fs::read_dir(cluster.nodes[0].dir.join("segments")).unwrap().count();
    let on_disk = files();
    for sql in [
        "OPTIMIZE t",
        "OPTIMIZE t ZORDER BY (v)",
        "INSERT INTO t SELECT value, value * 1 FROM generate_series(1, 9999)",
    ] {
        let error = client.execute(sql).await.err().unwrap_or_else(|| panic!("{sql} should fail"));
        assert!(
            matches!(error.kind(), ErrorKind::ResourceExhausted | ErrorKind::Unavailable),
            "{sql}: {error:?}"
        );
        assert!(error.message().contains("no storage space"), "{sql}: {error}");
    }
    assert_eq!(sum(&mut client).await, before);
    assert_eq!(number(&mut client, segments).await.unwrap(), count);
    assert_eq!(files(), on_disk);
    client.execute("CALL plexus.fail_at('')").await.unwrap();
    client.execute("OPTIMIZE t").await.unwrap();
    assert_eq!(sum(&mut client).await, before);
    assert_eq!(number(&mut client, segments).await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_makes_a_node_fail_that_was_not_started_for_it() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.nodes[0].client().await;
    let error = client.execute("CALL plexus.fail_at('apply.begin')").await.err().unwrap();
    assert!(error.message().contains("not started for them"), "{error}");
    assert_eq!(number(&mut client, "SELECT 1").await.unwrap(), 1);
}
