//! Statements that tend tables, and what nodes do by themselves: on real nodes.

use std::time::Duration;

use arrow::array::AsArray;
use arrow::datatypes::UInt64Type;
use plexus_model::ErrorKind;
use plexus_node::client::Client;

use crate::harness::{Cluster, damage, files, number, quarantined, run};

/// A column of the one row, or the sum over rows, of what a statement reports.
async fn reported(client: &mut Client, sql: &str, column: &str) -> u64 {
    let (_, batches) = client.query(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    let values = batches.iter().map(|b| b.column_by_name(column).expect("the column"));
    values.flat_map(|c| c.as_primitive::<UInt64Type>().values().to_vec()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_are_checked_on_demand_and_by_themselves() {
    let mut cluster = Cluster::start(3).await;
    let mut client = cluster.nodes[0].client().await;
    client.execute("CREATE TABLE t (id BIGINT) WITH (shards = 2, replicas = 3)").await.unwrap();
    client.execute("INSERT INTO t SELECT value FROM generate_series(1, 100000)").await.unwrap();
    client.execute("INSERT INTO t SELECT value FROM generate_series(1, 100000)").await.unwrap();
    let count = files(&mut client).await as u64;
    cluster.wait_whole(count as i64).await;
    assert_eq!(reported(&mut client, "CHECK TABLE t", "files").await, 3 * count);
    assert_eq!(reported(&mut client, "CHECK TABLE t", "damaged").await, 0);
    damage(&cluster.nodes[1].dir);
    assert_eq!(reported(&mut client, "CHECK TABLE t", "damaged").await, 1);
    assert_eq!(quarantined(&cluster.nodes[1].dir), 1);
    cluster.wait_whole(count as i64).await;
    assert_eq!(reported(&mut client, "CHECK TABLE t", "damaged").await, 0);
    assert_eq!(reported(&mut client, "CHECK TABLE t", "missing").await, 0);
    // Nobody asks: the node reads what it has by itself.
    cluster.nodes[2].kill();
    damage(&cluster.nodes[2].dir);
    cluster.nodes[2].start();
    for _ in 0..300 {
        if quarantined(&cluster.nodes[2].dir) == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(quarantined(&cluster.nodes[2].dir), 1);
    cluster.wait_whole(count as i64).await;
    assert_eq!(reported(&mut client, "CHECK TABLE t", "damaged").await, 0);
    assert_eq!(number(&mut client, "SELECT sum(id) FROM t").await.unwrap(), 2 * 5_000_050_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn optimizing_makes_files_few_and_full_and_leaves_older_versions() {
    let cluster = Cluster::start(3).await;
    let mut client = cluster.nodes[0].client().await;
    client.execute("CREATE TABLE t (id BIGINT, a BIGINT) WITH (shards = 2)").await.unwrap();
    for round in 0..6 {
        let first = round * 10_000;
        let load =
            format!("SELECT value, (value * 7919) % 10007 FROM generate_series({first}, {})", first + 9_999);
        client.execute(&format!("INSERT INTO t {load}")).await.unwrap();
    }
    client.execute("DELETE FROM t WHERE id % 100 = 0").await.unwrap();
    let before =
        number(&mut client, "SELECT CAST(max(version) AS BIGINT) FROM plexus.commits").await.unwrap();
    let sum = number(&mut client, "SELECT sum(id * a) FROM t").await.unwrap();
    assert_eq!(reported(&mut client, "OPTIMIZE t", "rows").await, 59_400);
    assert!(files(&mut client).await <= 2);
    assert_eq!(number(&mut client, "SELECT sum(id * a) FROM t").await.unwrap(), sum);
    // Nothing is left to do.
    assert_eq!(reported(&mut client, "OPTIMIZE t", "files_before").await, 0);
    assert_eq!(reported(&mut client, "OPTIMIZE t ZORDER BY (id, a)", "rows").await, 59_400);
    let at = |v: i64| format!("SELECT sum(id * a) FROM t VERSION AS OF {v}");
    for node in &cluster.nodes {
        let mut client = node.client().await;
        assert_eq!(number(&mut client, &at(before)).await.unwrap(), sum);
        assert_eq!(number(&mut client, "SELECT sum(id * a) FROM t").await.unwrap(), sum);
    }
    // The versions before go when they are told to, and not before.
    let dry = "VACUUM t RETAIN 0 seconds DRY RUN";
    let gone = reported(&mut client, dry, "segments").await;
    assert!(gone >= 6, "{gone}");
    assert_eq!(number(&mut client, &at(before)).await.unwrap(), sum);
    assert_eq!(reported(&mut client, "VACUUM t RETAIN 0 seconds", "segments").await, gone);
    assert_eq!(reported(&mut client, dry, "segments").await, 0);
    let error = client.query(&at(before)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.message().contains("was vacuumed"), "{error}");
    assert_eq!(number(&mut client, "SELECT sum(id * a) FROM t").await.unwrap(), sum);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_is_restored_with_its_rows_and_its_schema() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.nodes[0].client().await;
    client.execute("CREATE TABLE t (id BIGINT PRIMARY KEY, a BIGINT, b BIGINT)").await.unwrap();
    client
        .execute("INSERT INTO t SELECT value, value * 2, value * 3 FROM generate_series(1, 20000)")
        .await
        .unwrap();
    client.execute("DELETE FROM t WHERE id % 10 = 0").await.unwrap();
    let newest = "SELECT CAST(max(version) AS BIGINT) FROM plexus.commits";
    let version = number(&mut client, newest).await.unwrap();
    let sum = number(&mut client, "SELECT sum(a) + sum(b) + count(*) FROM t").await.unwrap();
    for sql in [
        "ALTER TABLE t DROP COLUMN b",
        "ALTER TABLE t ADD COLUMN c BIGINT DEFAULT 7",
        "UPDATE t SET a = 0 WHERE id < 5000",
        "OPTIMIZE t",
        "INSERT INTO t VALUES (10, 1, 1), (-1, 1, 1)",
        "DELETE FROM t WHERE id > 15000",
    ] {
        client.execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    }
    let between = number(&mut client, newest).await.unwrap();
    let sum_between = number(&mut client, "SELECT sum(a) + sum(c) FROM t").await.unwrap();
    client.execute(&format!("RESTORE TABLE t TO VERSION {version}")).await.unwrap();
    assert_eq!(number(&mut client, "SELECT sum(a) + sum(b) + count(*) FROM t").await.unwrap(), sum);
    let error = client.query("SELECT c FROM t").await.unwrap_err();
    assert!(error.message().contains('c'), "{error}");
    // Keys are those of then.
    client.execute("INSERT INTO t VALUES (10, 1, 1)").await.unwrap();
    assert!(client.execute("INSERT INTO t VALUES (11, 1, 1)").await.is_err());
    let sql = format!("SELECT sum(a) + sum(c) FROM t VERSION AS OF {between}");
    assert_eq!(number(&mut client, &sql).await.unwrap(), sum_between);
    // A type that was widened stays wide: versions between have values that need it.
    client.execute("CREATE TABLE w (a INT)").await.unwrap();
    client.execute("INSERT INTO w VALUES (1)").await.unwrap();
    let narrow = number(&mut client, newest).await.unwrap();
    client.execute("ALTER TABLE w ALTER COLUMN a SET DATA TYPE BIGINT").await.unwrap();
    client.execute("INSERT INTO w VALUES (5000000000)").await.unwrap();
    let wide = number(&mut client, newest).await.unwrap();
    client.execute(&format!("RESTORE TABLE w TO VERSION {narrow}")).await.unwrap();
    client.execute("OPTIMIZE w").await.unwrap();
    assert_eq!(number(&mut client, "SELECT sum(a) FROM w").await.unwrap(), 1);
    let sql = format!("SELECT sum(a) FROM w VERSION AS OF {wide}");
    assert_eq!(number(&mut client, &sql).await.unwrap(), 5_000_000_001);
    // What is there already is left as it is.
    let restored = number(&mut client, newest).await.unwrap();
    client.execute(&format!("RESTORE TABLE t TO VERSION {restored}")).await.unwrap();
    assert_eq!(number(&mut client, newest).await.unwrap(), restored);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_copied_to_files_where_the_operator_allows_it() {
    let mut cluster = Cluster::start(1).await;
    let mut client = cluster.nodes[0].client().await;
    client.execute("CREATE TABLE t (id BIGINT, s VARCHAR)").await.unwrap();
    client
        .execute("INSERT INTO t SELECT value, concat('s', value) FROM generate_series(1, 50000)")
        .await
        .unwrap();
    let error = client.execute("COPY t TO 'a.csv'").await.err().unwrap();
    assert!(error.message().contains("--export-dir"), "{error}");
    let export = cluster.dir.path().join("export");
    std::fs::create_dir(&export).unwrap();
    cluster.nodes[0].kill();
    cluster.nodes[0].args.extend(["--export-dir".to_owned(), export.display().to_string()]);
    cluster.nodes[0].start();
    cluster.nodes[0].wait_ready().await;
    let mut client = cluster.nodes[0].client().await;
    let url = cluster.nodes[0].flight();
    for name in ["all.parquet", "all.csv", "all.ndjson", "all.arrow"] {
        assert_eq!(
            client.execute(&format!("COPY t TO '{name}'")).await.unwrap().affected,
            Some(50_000),
            "{name}"
        );
        let table = name.replace('.', "_");
        let file = export.join(name).display().to_string();
        let loaded = run(&["load", &file, "--table", &table, "--create", "--url", &url]);
        assert!(loaded.status.success(), "{name}: {}", String::from_utf8_lossy(&loaded.stderr));
        let sql = format!("SELECT sum(id) + count(DISTINCT s) FROM {table}");
        assert_eq!(number(&mut client, &sql).await.unwrap(), 1_250_025_000 + 50_000, "{name}");
    }
    let query = "COPY (SELECT id FROM t WHERE id < 11 ORDER BY id) TO 'few.txt' STORED AS CSV";
    assert_eq!(client.execute(query).await.unwrap().affected, Some(10));
    let text = std::fs::read_to_string(export.join("few.txt")).unwrap();
    assert_eq!(text.lines().count(), 11, "{text}");
    for (sql, words) in [
        ("COPY t TO 'all.csv'", "exists already"),
        ("COPY t TO '/tmp/plexus.csv'", "relative to"),
        ("COPY t TO '../plexus.csv'", "relative to"),
        ("COPY t TO 'no/where.csv'", "does not exist"),
        ("COPY t TO 'all.xyz'", "is no format"),
        ("COPY nothing TO 'b.csv'", "not found"),
        ("COPY (SELECT id / (id - 5) FROM t) TO 'b.csv'", "zero"),
    ] {
        let error = client.execute(sql).await.err().unwrap_or_else(|| panic!("{sql} should fail"));
        assert!(error.message().contains(words), "{sql}: {error}");
    }
    let mut names: Vec<_> =
        std::fs::read_dir(&export).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["all.arrow", "all.csv", "all.ndjson", "all.parquet", "few.txt"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_commits_of_a_row_become_few_segments() {
    const CLIENTS: i64 = 32;
    const ROWS: i64 = 10_000;
    let cluster = Cluster::start(1).await;
    let mut client = cluster.nodes[0].client().await;
    client.execute("CREATE TABLE t (id BIGINT PRIMARY KEY, v BIGINT) WITH (shards = 2)").await.unwrap();
    let mut writers = Vec::new();
    for writer in 0..CLIENTS {
        let mut client = cluster.nodes[0].client().await;
        writers.push(tokio::spawn(async move {
            for id in (writer..ROWS).step_by(CLIENTS as usize) {
                client.execute(&format!("INSERT INTO t VALUES ({id}, 1)")).await.unwrap();
            }
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    let segments = "SELECT count(*) FROM plexus.segments WHERE table_name = 't'";
    let version =
        number(&mut client, "SELECT CAST(max(version) AS BIGINT) FROM plexus.commits").await.unwrap();
    let before = number(&mut client, segments).await.unwrap();
    client.execute("OPTIMIZE t").await.unwrap();
    let after = number(&mut client, segments).await.unwrap();
    assert!(after <= 2 && after <= before, "{after} segments, {before} before");
    assert_eq!(number(&mut client, "SELECT sum(v) + count(DISTINCT id) FROM t").await.unwrap(), 2 * ROWS);
    let then = format!("SELECT sum(v) + count(DISTINCT id) FROM t VERSION AS OF {version}");
    assert_eq!(number(&mut client, &then).await.unwrap(), 2 * ROWS);
}
