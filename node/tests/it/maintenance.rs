//! Maintenance statements and background maintenance, on real nodes.

use std::path::PathBuf;

use plexus_model::ErrorKind;

use crate::harness::{Cluster, damage, quarantined, run};
use crate::queries::{execute_all, latest_version, number, reported, segment_files, wait_until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_are_scrubbed_on_demand_and_in_the_background() {
    let mut cluster = Cluster::start(3).await;
    let mut client = cluster.nodes[0].client().await;
    client.execute("CREATE TABLE t (id BIGINT) WITH (shards = 2, replicas = 3)").await.unwrap();
    client.execute("INSERT INTO t SELECT value FROM generate_series(1, 100000)").await.unwrap();
    client.execute("INSERT INTO t SELECT value FROM generate_series(1, 100000)").await.unwrap();
    let count = segment_files(&mut client).await as u64;
    cluster.wait_replicated(count as i64).await;
    assert_eq!(reported(&mut client, "CHECK TABLE t", "files").await, 3 * count);
    assert_eq!(reported(&mut client, "CHECK TABLE t", "damaged").await, 0);
    damage(&cluster.nodes[1].dir);
    assert_eq!(reported(&mut client, "CHECK TABLE t", "damaged").await, 1);
    assert_eq!(quarantined(&cluster.nodes[1].dir), 1);
    cluster.wait_replicated(count as i64).await;
    assert_eq!(reported(&mut client, "CHECK TABLE t", "damaged").await, 0);
    assert_eq!(reported(&mut client, "CHECK TABLE t", "missing").await, 0);
    // The background scrub finds damage without a statement.
    cluster.nodes[2].kill();
    damage(&cluster.nodes[2].dir);
    cluster.nodes[2].start();
    wait_until("the damaged file is quarantined", async || quarantined(&cluster.nodes[2].dir) == 1).await;
    cluster.wait_replicated(count as i64).await;
    assert_eq!(reported(&mut client, "CHECK TABLE t", "damaged").await, 0);
    assert_eq!(number(&mut client, "SELECT sum(id) FROM t").await.unwrap(), 2 * 5_000_050_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn optimize_compacts_and_keeps_older_versions_until_vacuum() {
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
    let before = latest_version(&mut client).await.unwrap();
    let sum = number(&mut client, "SELECT sum(id * a) FROM t").await.unwrap();
    assert_eq!(reported(&mut client, "OPTIMIZE t", "rows").await, 59_400);
    assert!(segment_files(&mut client).await <= 2);
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
    // VACUUM removes older versions, and a dry run does not.
    let dry = "VACUUM t RETAIN 0 seconds DRY RUN";
    let removed = reported(&mut client, dry, "segments").await;
    assert!(removed >= 6, "{removed}");
    assert_eq!(number(&mut client, &at(before)).await.unwrap(), sum);
    assert_eq!(reported(&mut client, "VACUUM t RETAIN 0 seconds", "segments").await, removed);
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
    let setup = [
        "CREATE TABLE t (id BIGINT PRIMARY KEY, a BIGINT, b BIGINT)",
        "INSERT INTO t SELECT value, value * 2, value * 3 FROM generate_series(1, 20000)",
        "DELETE FROM t WHERE id % 10 = 0",
    ];
    execute_all(&mut client, &setup).await;
    let version = latest_version(&mut client).await.unwrap();
    let sum = number(&mut client, "SELECT sum(a) + sum(b) + count(*) FROM t").await.unwrap();
    let changes = [
        "ALTER TABLE t DROP COLUMN b",
        "ALTER TABLE t ADD COLUMN c BIGINT DEFAULT 7",
        "UPDATE t SET a = 0 WHERE id < 5000",
        "OPTIMIZE t",
        "INSERT INTO t VALUES (10, 1, 1), (-1, 1, 1)",
        "DELETE FROM t WHERE id > 15000",
    ];
    execute_all(&mut client, &changes).await;
    let between = latest_version(&mut client).await.unwrap();
    let sum_between = number(&mut client, "SELECT sum(a) + sum(c) FROM t").await.unwrap();
    client.execute(&format!("RESTORE TABLE t TO VERSION {version}")).await.unwrap();
    assert_eq!(number(&mut client, "SELECT sum(a) + sum(b) + count(*) FROM t").await.unwrap(), sum);
    let error = client.query("SELECT c FROM t").await.unwrap_err();
    assert!(error.message().contains('c'), "{error}");
    // The primary keys are those of the restored version.
    client.execute("INSERT INTO t VALUES (10, 1, 1)").await.unwrap();
    assert!(client.execute("INSERT INTO t VALUES (11, 1, 1)").await.is_err());
    let sql = format!("SELECT sum(a) + sum(c) FROM t VERSION AS OF {between}");
    assert_eq!(number(&mut client, &sql).await.unwrap(), sum_between);
    // A restore to the latest version makes no commit.
    let latest = latest_version(&mut client).await.unwrap();
    client.execute(&format!("RESTORE TABLE t TO VERSION {latest}")).await.unwrap();
    assert_eq!(latest_version(&mut client).await.unwrap(), latest);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_does_not_narrow_a_widened_column() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.nodes[0].client().await;
    execute_all(&mut client, &["CREATE TABLE w (a INT)", "INSERT INTO w VALUES (1)"]).await;
    let narrow = latest_version(&mut client).await.unwrap();
    let widen = ["ALTER TABLE w ALTER COLUMN a SET DATA TYPE BIGINT", "INSERT INTO w VALUES (5000000000)"];
    execute_all(&mut client, &widen).await;
    let wide = latest_version(&mut client).await.unwrap();
    client.execute(&format!("RESTORE TABLE w TO VERSION {narrow}")).await.unwrap();
    client.execute("OPTIMIZE w").await.unwrap();
    assert_eq!(number(&mut client, "SELECT sum(a) FROM w").await.unwrap(), 1);
    // Versions in between have values that need the wide type.
    let sql = format!("SELECT sum(a) FROM w VERSION AS OF {wide}");
    assert_eq!(number(&mut client, &sql).await.unwrap(), 5_000_000_001);
}

/// Restarts the first node with an export directory, and returns it.
async fn allow_exports(cluster: &mut Cluster) -> PathBuf {
    let export = cluster.dir.path().join("export");
    std::fs::create_dir(&export).unwrap();
    let node = &mut cluster.nodes[0];
    node.kill();
    node.args.extend(["--export-dir".to_owned(), export.display().to_string()]);
    node.start();
    node.wait_ready().await;
    export
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copy_writes_files_only_to_the_export_directory() {
    let mut cluster = Cluster::start(1).await;
    let mut client = cluster.nodes[0].client().await;
    client.execute("CREATE TABLE t (id BIGINT, s VARCHAR)").await.unwrap();
    client
        .execute("INSERT INTO t SELECT value, concat('s', value) FROM generate_series(1, 50000)")
        .await
        .unwrap();
    let error = client.execute("COPY t TO 'a.csv'").await.err().unwrap();
    assert!(error.message().contains("--export-dir"), "{error}");
    let export = allow_exports(&mut cluster).await;
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
    // What a CSV file could confuse comes back as it was.
    client.execute("CREATE TABLE odd (id BIGINT, s VARCHAR, b BYTEA, d DOUBLE, l INT[])").await.unwrap();
    client
        .execute(
            "INSERT INTO odd VALUES (1, '', CAST('' AS BYTEA), 'NaN', []), (2, NULL, NULL, NULL, NULL), \
             (3, 'NULL', decode('ff00', 'hex'), 'inf', [1, NULL]), \
             (4, 'a,\"b\"\nc ', decode('2c', 'hex'), 0.1, [2])",
        )
        .await
        .unwrap();
    client.execute("CREATE TABLE copied AS SELECT * FROM odd WHERE false").await.unwrap();
    client.execute("COPY odd TO 'odd.csv'").await.unwrap();
    let file = export.join("odd.csv").display().to_string();
    let loaded = run(&["load", &file, "--table", "copied", "--url", &url]);
    assert!(loaded.status.success(), "{}", String::from_utf8_lossy(&loaded.stderr));
    let same = "SELECT count(*) FROM odd a JOIN copied b ON a.id = b.id AND a.s IS NOT DISTINCT FROM b.s \
                AND a.b IS NOT DISTINCT FROM b.b AND a.d IS NOT DISTINCT FROM b.d \
                AND a.l IS NOT DISTINCT FROM b.l";
    assert_eq!(number(&mut client, same).await.unwrap(), 4);
    for (sql, message) in [
        ("COPY t TO 'all.csv'", "exists already"),
        ("COPY t TO '/tmp/plexus.csv'", "relative to"),
        ("COPY t TO '../plexus.csv'", "relative to"),
        ("COPY t TO 'no/where.csv'", "does not exist"),
        ("COPY t TO 'all.xyz'", "is unknown: use parquet"),
        ("COPY nothing TO 'b.csv'", "not found"),
        ("COPY (SELECT id / (id - 5) FROM t) TO 'b.csv'", "zero"),
        ("COPY t TO 'b.csv' OPTIONS (compression 'gzip')", "has delimiter, header and null"),
        ("COPY (SELECT 1 AS a, 2 AS a) TO 'b.csv'", "two columns are called \"a\""),
        ("COPY (SELECT id FROM t TABLESAMPLE (10)) TO 'b.csv'", "TABLESAMPLE"),
        ("COPY (SELECT INTERVAL '1 month' AS i) TO 'b.parquet'", "a Parquet file cannot have the intervals"),
    ] {
        let error = client.execute(sql).await.err().unwrap_or_else(|| panic!("{sql} should fail"));
        assert!(error.message().contains(message), "{sql}: {error}");
    }
    let mut names: Vec<_> =
        std::fs::read_dir(&export).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["all.arrow", "all.csv", "all.ndjson", "all.parquet", "few.txt", "odd.csv"]);
}

/// An exported query means what it means elsewhere, and what is in its nested values is read back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exported_queries_are_read_back() {
    let mut cluster = Cluster::start(1).await;
    let export = allow_exports(&mut cluster).await;
    let (url, mut client) = (cluster.nodes[0].flight(), cluster.nodes[0].client().await);
    client.execute("CREATE TABLE n (i BIGINT)").await.unwrap();
    client.execute("INSERT INTO n VALUES (3), (4)").await.unwrap();
    let query = "SELECT i, i^2, 1e0 AS one, sum(i) OVER (ORDER BY i) FROM n WHERE i^2 > 8 ORDER BY i";
    client.execute(&format!("COPY ({query}) TO 'powers.csv'")).await.unwrap();
    let text = std::fs::read_to_string(export.join("powers.csv")).unwrap();
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("i,i ^ 2,one,sum(i) OVER (ORDER BY i)"));
    assert_eq!(lines.collect::<Vec<_>>(), ["3,9.0,1.0,3", "4,16.0,1.0,7"]);

    let columns = "s STRUCT<b BYTEA>, l BYTEA[], d DOUBLE[], b BYTEA";
    client.execute(&format!("CREATE TABLE original ({columns})")).await.unwrap();
    let row = "INSERT INTO original VALUES ({'b': x'00ff'}, [x'0a', CAST(NULL AS BYTEA)], \
               ['NaN'::DOUBLE, 1.5e0, '-Infinity'::DOUBLE, NULL], x'6b6c')";
    client.execute(row).await.unwrap();
    for name in ["nested.csv", "nested.ndjson", "nested.arrow", "nested.parquet"] {
        client.execute(&format!("COPY original TO '{name}'")).await.unwrap();
        let table = name.replace('.', "_");
        client.execute(&format!("CREATE TABLE {table} ({columns})")).await.unwrap();
        let file = export.join(name).display().to_string();
        let loaded = run(&["load", &file, "--table", &table, "--url", &url]);
        assert!(loaded.status.success(), "{name}: {}", String::from_utf8_lossy(&loaded.stderr));
        let same = format!(
            "SELECT count(*) FROM (SELECT s, l, d, b FROM original INTERSECT SELECT s, l, d, b FROM {table})"
        );
        assert_eq!(number(&mut client, &same).await.unwrap(), 1, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_single_row_commits_become_few_segments() {
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
    let version = latest_version(&mut client).await.unwrap();
    let before = number(&mut client, segments).await.unwrap();
    client.execute("OPTIMIZE t").await.unwrap();
    let after = number(&mut client, segments).await.unwrap();
    assert!(after <= 2 && after <= before, "{after} segments, {before} before");
    assert_eq!(number(&mut client, "SELECT sum(v) + count(DISTINCT id) FROM t").await.unwrap(), 2 * ROWS);
    let at_version = format!("SELECT sum(v) + count(DISTINCT id) FROM t VERSION AS OF {version}");
    assert_eq!(number(&mut client, &at_version).await.unwrap(), 2 * ROWS);
}
