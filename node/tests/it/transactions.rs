//! Concurrent transactions, time travel, compaction under load, and load modes, on real nodes.

use plexus_model::ErrorKind;
use plexus_node::client::Client;

use crate::harness::{Cluster, run};
use crate::queries::{COMPACTION, column, commits_of, execute_all, latest_version, number, wait_flushed};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_does_not_survive_a_restart_in_part() {
    let mut cluster = Cluster::start(1).await;
    let mut client = cluster.nodes[0].client().await;
    for statement in [
        "CREATE TABLE accounts (id INT PRIMARY KEY, balance INT)",
        "INSERT INTO accounts VALUES (1, 100), (2, 100)",
        "BEGIN",
        "UPDATE accounts SET balance = balance - 50 WHERE id = 1",
    ] {
        client.execute(statement).await.unwrap_or_else(|e| panic!("{statement}: {e}"));
    }
    cluster.nodes[0].kill();
    cluster.nodes[0].start();
    cluster.nodes[0].wait_ready().await;
    // The session ended with the node. A new one in its place would commit this statement alone.
    let statement = "UPDATE accounts SET balance = balance + 50 WHERE id = 2";
    let refused = client.execute(statement).await.err().unwrap();
    assert!(refused.message().contains("connect again"), "{refused}");
    let mut client = cluster.nodes[0].client().await;
    assert_eq!(column(&mut client, "SELECT balance FROM accounts ORDER BY id").await, [100, 100]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_version_of_a_table_can_be_read_on_every_node() {
    let cluster = Cluster::start(3).await;
    let mut client = cluster.nodes[0].client().await;
    client.execute("CREATE TABLE t (id BIGINT, v BIGINT) WITH (shards = 2)").await.unwrap();
    let mut expected: Vec<(i64, Vec<i64>)> = Vec::new();
    let statements = [
        "INSERT INTO t VALUES (1, 1), (2, 2)",
        "INSERT INTO t VALUES (3, 3)",
        "DELETE FROM t WHERE id = 2",
        "INSERT INTO t SELECT value, value + 0 FROM generate_series(10, 5000)",
        "UPDATE t SET v = -v WHERE id < 20",
        "ALTER TABLE t RENAME COLUMN id TO key",
        "DELETE FROM t WHERE key > 100",
        "TRUNCATE TABLE t",
        "INSERT INTO t VALUES (4, 4)",
    ];
    for (step, statement) in statements.into_iter().enumerate() {
        client.execute(statement).await.unwrap_or_else(|e| panic!("{statement}: {e}"));
        let mut values = column(&mut client, "SELECT v FROM t").await;
        values.sort_unstable();
        // A change of the schema alone has no version: the next commit of rows has it.
        if !statement.starts_with("ALTER") {
            expected.push((latest_version(&mut client).await.unwrap(), values));
        }
        if step == 4 {
            // Files that merge rows of several versions must still tell these versions apart.
            wait_flushed(&mut client).await;
        }
    }
    for round in 0..2 {
        for node in &cluster.nodes {
            let mut client = node.client().await;
            for (version, values) in &expected {
                let sql = format!("SELECT v FROM t VERSION AS OF {version}");
                let mut found = column(&mut client, &sql).await;
                found.sort_unstable();
                assert_eq!(&found, values, "at version {version} in round {round}");
            }
            // The session's read version applies with the schema of that version.
            let (early, values) = &expected[4];
            client.execute(&format!("SET plexus.read_version = {early}")).await.unwrap();
            assert_eq!(column(&mut client, "SELECT id FROM t").await.len(), values.len());
            let refused = client.execute("DELETE FROM t").await.err().unwrap();
            assert!(refused.message().contains("read_version"), "{refused}");
            client.execute("RESET plexus.read_version").await.unwrap();
            assert_eq!(column(&mut client, "SELECT key FROM t").await, [4]);
        }
        wait_flushed(&mut client).await;
    }
    for (sql, message) in [
        ("SELECT * FROM t VERSION AS OF 1", "created by version"),
        ("SELECT * FROM t VERSION AS OF 99999999", "yet to come"),
        ("SELECT * FROM t TIMESTAMP AS OF '1999-01-01'", "older than the commit history"),
        ("SELECT * FROM t TIMESTAMP AS OF 'yesterday'", "TIMESTAMP AS OF"),
    ] {
        let error = client.query(sql).await.unwrap_err();
        assert!(error.message().contains(message), "{sql}: {error}");
    }
    assert_eq!(column(&mut client, "SELECT key FROM t TIMESTAMP AS OF now()").await, [4]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_committer_wins_a_write_conflict() {
    let cluster = Cluster::start(1).await;
    let mut setup = cluster.nodes[0].client().await;
    setup.execute("CREATE TABLE a (id BIGINT PRIMARY KEY, v BIGINT)").await.unwrap();
    setup.execute("INSERT INTO a VALUES (1, 10), (2, 20)").await.unwrap();
    let (mut one, mut two) = (cluster.nodes[0].client().await, cluster.nodes[0].client().await);
    for client in [&mut one, &mut two] {
        client.execute("BEGIN").await.unwrap();
        assert_eq!(number(client, "SELECT count(*) FROM a").await.unwrap(), 2);
    }
    one.execute("UPDATE a SET v = v + 1 WHERE id = 1").await.unwrap();
    two.execute("UPDATE a SET v = v + 5 WHERE id = 1").await.unwrap();
    // Each transaction sees its own changes, and other sessions see none.
    assert_eq!(number(&mut one, "SELECT v FROM a WHERE id = 1").await.unwrap(), 11);
    assert_eq!(number(&mut two, "SELECT v FROM a WHERE id = 1").await.unwrap(), 15);
    assert_eq!(number(&mut setup, "SELECT v FROM a WHERE id = 1").await.unwrap(), 10);
    one.execute("COMMIT").await.unwrap();
    let error = two.execute("COMMIT").await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.message().contains("run it again"), "{error}");
    assert_eq!(number(&mut two, "SELECT v FROM a WHERE id = 1").await.unwrap(), 11);

    // Changes of different rows do not conflict, nor do inserts of different keys. Inserts of one key do.
    for client in [&mut one, &mut two] {
        client.execute("BEGIN").await.unwrap();
    }
    one.execute("UPDATE a SET v = 100 WHERE id = 1").await.unwrap();
    two.execute("UPDATE a SET v = 200 WHERE id = 2").await.unwrap();
    one.execute("INSERT INTO a VALUES (3, 3)").await.unwrap();
    two.execute("INSERT INTO a VALUES (4, 4)").await.unwrap();
    one.execute("COMMIT").await.unwrap();
    two.execute("COMMIT").await.unwrap();
    assert_eq!(number(&mut setup, "SELECT sum(v) FROM a").await.unwrap(), 307);
    for client in [&mut one, &mut two] {
        client.execute("BEGIN").await.unwrap();
        client.execute("INSERT INTO a VALUES (5, 5)").await.unwrap();
    }
    one.execute("COMMIT").await.unwrap();
    assert_eq!(two.execute("COMMIT").await.err().unwrap().kind(), ErrorKind::Conflict);

    // A serializable transaction fails if rows that it read have changed. Snapshot isolation allows that.
    for (isolation, expected) in [("", true), (" ISOLATION LEVEL SERIALIZABLE", false)] {
        setup.execute("CREATE TABLE IF NOT EXISTS b (v BIGINT)").await.unwrap();
        one.execute(&format!("BEGIN{isolation}")).await.unwrap();
        one.execute("INSERT INTO b SELECT sum(v) FROM a").await.unwrap();
        two.execute("UPDATE a SET v = v + 1 WHERE id = 2").await.unwrap();
        assert_eq!(one.execute("COMMIT").await.is_ok(), expected, "isolation {isolation:?}");
    }
}

/// Accounts in each of the two tables.
const ACCOUNTS: i64 = 5;

/// Moves one unit from one table to the other in each of 30 transactions. Returns how many of them committed
/// and how many failed with a conflict.
async fn transfer(url: String, worker: i64) -> (i64, i64) {
    let mut client = Client::connect(&url).await.unwrap();
    let (mut moved, mut conflicts) = (0, 0);
    for turn in 0..30i64 {
        let (from, to) = (turn % ACCOUNTS + 1, (turn * 3 + worker) % ACCOUNTS + 1);
        let withdraw = format!("UPDATE left_side SET amount = amount - 1 WHERE id = {from}");
        let deposit = format!("UPDATE right_side SET amount = amount + 1 WHERE id = {to}");
        execute_all(&mut client, &["BEGIN", &withdraw, &deposit]).await;
        match client.execute("COMMIT").await {
            Ok(_) => moved += 1,
            Err(e) if e.kind() == ErrorKind::Conflict => conflicts += 1,
            Err(e) => panic!("{e}"),
        }
    }
    (moved, conflicts)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transfers_between_tables_keep_their_sum_at_every_version() {
    let cluster = Cluster::start(3).await;
    let mut setup = cluster.nodes[0].client().await;
    for table in ["left_side", "right_side"] {
        let create = format!("CREATE TABLE {table} (id BIGINT PRIMARY KEY, amount BIGINT) WITH (shards = 2)");
        setup.execute(&create).await.unwrap();
        let fill = format!("INSERT INTO {table} SELECT value, 100 FROM generate_series(1, {ACCOUNTS})");
        setup.execute(&fill).await.unwrap();
    }
    let first_version = latest_version(&mut setup).await.unwrap();
    let workers = (0..2).map(|worker| tokio::spawn(transfer(cluster.nodes[worker].flight(), worker as i64)));
    let mut moved = 0;
    for worker in futures::future::join_all(workers).await {
        let (done, conflicts) = worker.unwrap();
        println!("{done} transfers, {conflicts} conflicts");
        moved += done;
    }
    assert!(moved > 0);
    let both = "(SELECT amount FROM left_side {at} UNION ALL SELECT amount FROM right_side {at}) AS s";
    assert_eq!(
        number(&mut setup, "SELECT sum(amount) FROM left_side").await.unwrap(),
        100 * ACCOUNTS - moved
    );
    let sql = format!("SELECT CAST(version AS BIGINT) FROM plexus.commits WHERE version >= {first_version}");
    let versions = column(&mut setup, &sql).await;
    assert!(versions.len() as i64 >= moved / 2);
    for version in versions {
        let at = both.replace("{at}", &format!("VERSION AS OF {version}"));
        let sum = number(&mut setup, &format!("SELECT sum(amount) FROM {at}")).await.unwrap();
        assert_eq!(sum, 200 * ACCOUNTS, "at version {version}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compaction_keeps_every_version_and_delays_no_writer() {
    let cluster = Cluster::start(3).await;
    let mut client = cluster.nodes[0].client().await;
    client.execute("CREATE TABLE t (id BIGINT PRIMARY KEY, v BIGINT) WITH (shards = 1)").await.unwrap();
    let mut expected = Vec::new();
    // Each load becomes a file, since it is too large for an inline segment.
    for round in 0..20i64 {
        let first = round * 2_000;
        let load =
            format!("INSERT INTO t SELECT value, value + 0 FROM generate_series({first}, {})", first + 1_999);
        client.execute(&load).await.unwrap();
        client.execute(&format!("DELETE FROM t WHERE id % 10 = {}", round % 10)).await.unwrap();
        let sum = number(&mut client, "SELECT sum(v) FROM t").await.unwrap();
        expected.push((latest_version(&mut client).await.unwrap(), sum));
    }
    let segments = "SELECT count(*) FROM plexus.segments";
    for _ in 0..300 {
        if number(&mut client, segments).await.unwrap() < 8 {
            break;
        }
        // Writers continue during compaction, including a transaction that began before it.
        client.execute("BEGIN").await.unwrap();
        client.execute("UPDATE t SET v = v + 1 WHERE id = 36007").await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        client.execute("UPDATE t SET v = v - 1 WHERE id = 36007").await.unwrap();
        client.execute("COMMIT").await.unwrap();
    }
    assert!(number(&mut client, segments).await.unwrap() < 8);
    assert!(commits_of(&mut client, COMPACTION).await > 0);
    for node in &cluster.nodes {
        let mut client = node.client().await;
        for (version, sum) in &expected {
            let sql = format!("SELECT sum(v) FROM t VERSION AS OF {version}");
            assert_eq!(number(&mut client, &sql).await.unwrap(), *sum, "at version {version}");
        }
        assert_eq!(number(&mut client, "SELECT sum(v) FROM t").await.unwrap(), expected[19].1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loads_append_upsert_and_replace() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.nodes[0].client().await;
    let url = cluster.nodes[0].flight();
    let file = |name: &str, content: &str| {
        let path = cluster.dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    };
    let (first, second) = (file("first.csv", "id,v\n1,10\n2,20\n"), file("second.csv", "id,v\n2,21\n3,30\n"));
    let load = |file: &str, more: &[&str]| {
        let args = ["load", file, "--table", "t", "--url", &url];
        run(&[&args[..], more].concat())
    };
    assert!(load(&first, &["--create", "--primary-key", "id"]).status.success());
    let refused = load(&second, &[]);
    let message = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && message.contains("primary key (2) exists already"), "{message}");
    assert_eq!(number(&mut client, "SELECT sum(v) FROM t").await.unwrap(), 30);
    assert!(load(&second, &["--mode", "upsert"]).status.success());
    assert_eq!(number(&mut client, "SELECT sum(v) FROM t").await.unwrap(), 61);
    assert!(load(&first, &["--mode", "replace"]).status.success());
    assert_eq!(number(&mut client, "SELECT sum(v) FROM t").await.unwrap(), 30);
}
