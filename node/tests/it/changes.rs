//! Changes by several clients, and versions of tables: on real nodes.

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use plexus_model::ErrorKind;
use plexus_node::client::Client;

use crate::harness::{Cluster, number, numbers, run};

async fn version(client: &mut Client) -> i64 {
    number(client, "SELECT CAST(max(version) AS BIGINT) FROM plexus.commits").await.unwrap()
}

async fn rows(client: &mut Client, sql: &str) -> Vec<i64> {
    let (_, batches) = client.query(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    numbers(&batches)
}

/// Waits until all rows are in files, which they are when they are half a minute old.
async fn written_out(client: &mut Client) {
    for _ in 0..600 {
        if number(client, "SELECT count(*) FROM plexus.segments WHERE inline").await.unwrap() == 0 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("rows stay in the log");
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
        let mut values = rows(&mut client, "SELECT v FROM t").await;
        values.sort_unstable();
        // A schema is no commit of rows: its version is that of the next.
        if !statement.starts_with("ALTER") {
            expected.push((version(&mut client).await, values));
        }
        if step == 4 {
            // Rows leave the log for files, and the versions between must still be told apart.
            written_out(&mut client).await;
        }
    }
    for round in 0..2 {
        for node in &cluster.nodes {
            let mut client = node.client().await;
            for (version, values) in &expected {
                let sql = format!("SELECT v FROM t VERSION AS OF {version}");
                let mut found = rows(&mut client, &sql).await;
                found.sort_unstable();
                assert_eq!(&found, values, "at version {version} in round {round}");
            }
            // The session's version, with the schema of that time.
            let (early, values) = &expected[4];
            client.execute(&format!("SET plexus.read_version = {early}")).await.unwrap();
            assert_eq!(rows(&mut client, "SELECT id FROM t").await.len(), values.len());
            let refused = client.execute("DELETE FROM t").await.err().unwrap();
            assert!(refused.message().contains("read_version"), "{refused}");
            client.execute("RESET plexus.read_version").await.unwrap();
            assert_eq!(rows(&mut client, "SELECT key FROM t").await, [4]);
        }
        written_out(&mut client).await;
    }
    for (sql, words) in [
        ("SELECT * FROM t VERSION AS OF 1", "created by version"),
        ("SELECT * FROM t VERSION AS OF 99999999", "yet to come"),
        ("SELECT * FROM t TIMESTAMP AS OF '1999-01-01'", "older than the history"),
        ("SELECT * FROM t TIMESTAMP AS OF 'yesterday'", "TIMESTAMP AS OF"),
    ] {
        let error = client.query(sql).await.unwrap_err();
        assert!(error.message().contains(words), "{sql}: {error}");
    }
    assert_eq!(rows(&mut client, "SELECT key FROM t TIMESTAMP AS OF now()").await, [4]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_transactions_that_change_the_same_rows_the_first_wins() {
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
    // Each sees its own, and nobody else any.
    assert_eq!(number(&mut one, "SELECT v FROM a WHERE id = 1").await.unwrap(), 11);
    assert_eq!(number(&mut two, "SELECT v FROM a WHERE id = 1").await.unwrap(), 15);
    assert_eq!(number(&mut setup, "SELECT v FROM a WHERE id = 1").await.unwrap(), 10);
    one.execute("COMMIT").await.unwrap();
    let error = two.execute("COMMIT").await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.message().contains("run it again"), "{error}");
    assert_eq!(number(&mut two, "SELECT v FROM a WHERE id = 1").await.unwrap(), 11);

    // Different rows go together, also two inserts of different keys; the same key does not.
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

    // What a serializable transaction read must still be so.
    for (isolation, expected) in [("", true), (" ISOLATION LEVEL SERIALIZABLE", false)] {
        setup.execute("CREATE TABLE IF NOT EXISTS b (v BIGINT)").await.unwrap();
        one.execute(&format!("BEGIN{isolation}")).await.unwrap();
        one.execute("INSERT INTO b SELECT sum(v) FROM a").await.unwrap();
        two.execute("UPDATE a SET v = v + 1 WHERE id = 2").await.unwrap();
        assert_eq!(one.execute("COMMIT").await.is_ok(), expected, "isolation {isolation:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transfers_between_two_tables_keep_the_sum_at_every_version() {
    const ACCOUNTS: i64 = 5;
    let cluster = Cluster::start(3).await;
    let mut setup = cluster.nodes[0].client().await;
    for table in ["left_side", "right_side"] {
        let create = format!("CREATE TABLE {table} (id BIGINT PRIMARY KEY, amount BIGINT) WITH (shards = 2)");
        setup.execute(&create).await.unwrap();
        let fill = format!("INSERT INTO {table} SELECT value, 100 FROM generate_series(1, {ACCOUNTS})");
        setup.execute(&fill).await.unwrap();
    }
    let begun = version(&mut setup).await;
    let workers = (0..2).map(|worker| {
        let url = cluster.nodes[worker].flight();
        tokio::spawn(async move {
            let mut client = Client::connect(&url).await.unwrap();
            let (mut moved, mut lost) = (0i64, 0);
            for turn in 0..30i64 {
                let (from, to) = (turn % ACCOUNTS + 1, (turn * 3 + worker as i64) % ACCOUNTS + 1);
                client.execute("BEGIN").await.unwrap();
                let take = format!("UPDATE left_side SET amount = amount - 1 WHERE id = {from}");
                let give = format!("UPDATE right_side SET amount = amount + 1 WHERE id = {to}");
                client.execute(&take).await.unwrap();
                client.execute(&give).await.unwrap();
                match client.execute("COMMIT").await {
                    Ok(_) => moved += 1,
                    Err(e) if e.kind() == ErrorKind::Conflict => lost += 1,
                    Err(e) => panic!("{e}"),
                }
            }
            (moved, lost)
        })
    });
    let mut moved = 0;
    for worker in futures::future::join_all(workers).await {
        let (done, lost) = worker.unwrap();
        println!("{done} transfers, {lost} conflicts");
        moved += done;
    }
    assert!(moved > 0);
    let both = "(SELECT amount FROM left_side {at} UNION ALL SELECT amount FROM right_side {at}) AS s";
    assert_eq!(
        number(&mut setup, "SELECT sum(amount) FROM left_side").await.unwrap(),
        100 * ACCOUNTS - moved
    );
    let (_, batches) = setup
        .query(&format!("SELECT CAST(version AS BIGINT) FROM plexus.commits WHERE version >= {begun}"))
        .await
        .unwrap();
    let versions: Vec<i64> =
        batches.iter().flat_map(|b| b.column(0).as_primitive::<Int64Type>().values().to_vec()).collect();
    assert!(versions.len() as i64 >= moved / 2);
    for version in versions {
        let at = both.replace("{at}", &format!("VERSION AS OF {version}"));
        let sum = number(&mut setup, &format!("SELECT sum(amount) FROM {at}")).await.unwrap();
        assert_eq!(sum, 200 * ACCOUNTS, "at version {version}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn merges_leave_few_segments_and_every_version_and_hold_no_writer_up() {
    let cluster = Cluster::start(3).await;
    let mut client = cluster.nodes[0].client().await;
    client.execute("CREATE TABLE t (id BIGINT PRIMARY KEY, v BIGINT) WITH (shards = 1)").await.unwrap();
    let mut expected = Vec::new();
    // Each load is a file: more than rides in the log.
    for round in 0..20i64 {
        let first = round * 2_000;
        let load =
            format!("INSERT INTO t SELECT value, value + 0 FROM generate_series({first}, {})", first + 1_999);
        client.execute(&load).await.unwrap();
        client.execute(&format!("DELETE FROM t WHERE id % 10 = {}", round % 10)).await.unwrap();
        let sum = number(&mut client, "SELECT sum(v) FROM t").await.unwrap();
        expected.push((version(&mut client).await, sum));
    }
    let merged = "SELECT count(*) FROM plexus.commits WHERE operation LIKE '%merge%'";
    for _ in 0..300 {
        if number(&mut client, "SELECT count(*) FROM plexus.segments").await.unwrap() < 8 {
            break;
        }
        // Writers go on while segments are merged, also a transaction that began before.
        client.execute("BEGIN").await.unwrap();
        client.execute("UPDATE t SET v = v + 1 WHERE id = 36007").await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        client.execute("UPDATE t SET v = v - 1 WHERE id = 36007").await.unwrap();
        client.execute("COMMIT").await.unwrap();
    }
    assert!(number(&mut client, "SELECT count(*) FROM plexus.segments").await.unwrap() < 8);
    assert!(number(&mut client, merged).await.unwrap() > 0);
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
    let words = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && words.contains("primary key (2) exists already"), "{words}");
    assert_eq!(number(&mut client, "SELECT sum(v) FROM t").await.unwrap(), 30);
    assert!(load(&second, &["--mode", "upsert"]).status.success());
    assert_eq!(number(&mut client, "SELECT sum(v) FROM t").await.unwrap(), 61);
    assert!(load(&first, &["--mode", "replace"]).status.success());
    assert_eq!(number(&mut client, "SELECT sum(v) FROM t").await.unwrap(), 30);
}
