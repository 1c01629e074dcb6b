//! The SQL suite `tests/slt/*.slt` through Flight SQL, distributed execution, and sessions.

use arrow::array::AsArray;
use plexus_model::ErrorKind;
use plexus_node::client::Client;
use sqllogictest_flightsql::runner::FlightSqlDB;

use crate::harness::Cluster;
use crate::queries::{column, execute_all, explain, number, segment_files};

/// Runs all files. `task_bytes` is so small that every scan is distributed, or so large that none is.
async fn run_suite(nodes: u64, task_bytes: u64) {
    let cluster = Cluster::start(nodes).await;
    let mut files: Vec<_> = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/slt"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "slt"))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    let url = cluster.nodes.last().unwrap().flight().replace("grpc", "http");
    for file in files {
        println!("{}", file.display());
        let mut runner =
            sqllogictest::Runner::new(|| FlightSqlDB::new_from_endpoint("plexus", url.clone(), "test", ""));
        runner.with_column_validator(sqllogictest::strict_column_validator);
        let setting = format!("statement ok\nSET plexus.task_bytes = {task_bytes}\n");
        runner.run_script_async(&setting).await.unwrap();
        runner.run_file_async(&file).await.unwrap_or_else(|e| panic!("{}", e.display(false)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn suite_on_one_node() {
    run_suite(1, 1 << 40).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn suite_on_three_nodes() {
    run_suite(3, 1 << 40).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn suite_on_three_nodes_with_distributed_scans() {
    run_suite(3, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_in_a_remote_task_is_the_error_of_the_statement() {
    let cluster = Cluster::start(3).await;
    let mut client = cluster.nodes[0].client().await;
    client.execute("CREATE TABLE t (id BIGINT, v VARCHAR) WITH (shards = 6, replicas = 1)").await.unwrap();
    let insert = "INSERT INTO t SELECT value, concat('x', value) FROM generate_series(1, 100000)";
    client.execute(insert).await.unwrap();
    client.execute("SET plexus.task_bytes = 1").await.unwrap();
    let error = client.query("SELECT max(CAST(v AS BIGINT)) FROM t").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    assert!(error.message().contains("'x"), "{error}");
    // The error does not mark a node as unavailable: all nodes still get tasks.
    let plan = explain(&mut client, "SELECT max(id % 7) FROM t").await;
    assert!((1..=3).all(|id| plan.contains(&format!(": node {id} at"))), "{plan}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_run_where_their_segments_are_stored() {
    let cluster = Cluster::start(3).await;
    let mut client = cluster.nodes[0].client().await;
    client.execute("CREATE TABLE t (id BIGINT) WITH (shards = 12, replicas = 1)").await.unwrap();
    client.execute("INSERT INTO t SELECT value FROM generate_series(1, 600000)").await.unwrap();
    client.execute("SET plexus.task_bytes = 1").await.unwrap();
    let plan = explain(&mut client, "SELECT count(*) FROM t WHERE id % 2 = 0").await;
    let tables = cluster.nodes[0].status().await.unwrap().tables;
    // Compares the node of each task with the replicas of the segments that the task names.
    let mut checked = 0;
    for (task, line) in plan.lines().filter(|l| l.contains(": node ")).enumerate() {
        let node: u64 = line.split(": node ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        let of_task = plan.lines().find(|l| l.contains(&format!("t{task}: DataSourceExec"))).unwrap();
        for shard in &tables[0].shards {
            if of_task.contains(&format!("shard-{}/", shard.shard)) {
                assert_eq!(
                    shard.replicas,
                    [node],
                    "task {task} reads shard {} elsewhere:\n{plan}",
                    shard.shard
                );
                checked += 1;
            }
        }
    }
    assert!(checked > 0, "no task names its segments:\n{plan}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_shows_stages_nodes_and_segments() {
    let cluster = Cluster::start(3).await;
    let mut client = cluster.nodes[0].client().await;
    client.execute("CREATE TABLE t (id BIGINT, v BIGINT) WITH (shards = 6, replicas = 1)").await.unwrap();
    client.execute("INSERT INTO t SELECT value, value % 10 FROM generate_series(1, 600000)").await.unwrap();
    client.execute("SET plexus.task_bytes = 1").await.unwrap();
    let plan = explain(&mut client, "SELECT v, count(*) FROM t GROUP BY v").await;
    for id in 1..=3 {
        assert!(plan.contains(&format!(": node {id} at https://")), "node {id} has no task:\n{plan}");
    }
    assert!(plan.contains("stage 1 task 0"), "{plan}");
    let (_, segments) = client.query("SELECT segment_id FROM plexus.segments").await.unwrap();
    let mut named = 0;
    for batch in segments {
        let ids = arrow::compute::cast(batch.column(0), &arrow::datatypes::DataType::Utf8).unwrap();
        named += ids.as_string::<i32>().iter().flatten().filter(|id| plan.contains(id)).count();
    }
    assert_eq!(named, 6, "not every segment is named:\n{plan}");
    // A filter outside of the bounds of all segments prunes them.
    let plan = explain(&mut client, "SELECT * FROM t WHERE id < 0").await;
    assert!(!plan.contains("shard-"), "segments are not pruned:\n{plan}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cached_plans_respect_the_transaction_and_schema_of_a_session() {
    let cluster = Cluster::start(1).await;
    let (mut one, mut other) = (cluster.nodes[0].client().await, cluster.nodes[0].client().await);
    let setup = [
        "CREATE TABLE t (id BIGINT PRIMARY KEY)",
        "INSERT INTO t VALUES (1), (2)",
        "CREATE SCHEMA b",
        "CREATE TABLE b.t (id BIGINT PRIMARY KEY)",
        "INSERT INTO b.t VALUES (4)",
    ];
    execute_all(&mut one, &setup).await;
    let sum = "SELECT sum(id) FROM t";
    let check = async |client: &mut Client, expected: i64, what: &str| {
        assert_eq!(number(client, sum).await.unwrap(), expected, "{what}");
    };
    check(&mut one, 3, "at first").await;
    one.execute("BEGIN").await.unwrap();
    one.execute("DELETE FROM t WHERE id = 1").await.unwrap();
    for _ in 0..2 {
        check(&mut one, 2, "in the transaction").await;
        check(&mut other, 3, "outside of it").await;
    }
    one.execute("ROLLBACK").await.unwrap();
    check(&mut one, 3, "after it").await;
    other.execute("SET schema = 'b'").await.unwrap();
    for _ in 0..2 {
        check(&mut other, 4, "in another schema").await;
        check(&mut one, 3, "in the first").await;
        one.execute("INSERT INTO t VALUES (10)").await.unwrap();
        check(&mut one, 13, "after a change").await;
        one.execute("DELETE FROM t WHERE id = 10").await.unwrap();
    }
    one.execute("DROP TABLE t").await.unwrap();
    assert_eq!(number(&mut one, sum).await.unwrap_err().kind(), ErrorKind::NotFound);
    one.execute("CREATE TABLE t (id BIGINT PRIMARY KEY)").await.unwrap();
    one.execute("INSERT INTO t VALUES (7)").await.unwrap();
    check(&mut one, 7, "of the new table with the same name").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_files_are_looked_up_by_their_whole_key() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.nodes[0].client().await;
    client.execute("CREATE TABLE k (a BIGINT, s TEXT, v BIGINT, PRIMARY KEY (s, a))").await.unwrap();
    for first in [0, 30_000] {
        let rows = format!(
            "SELECT value % 500, concat('n', value), value FROM generate_series({first}, {})",
            first + 29_999
        );
        client.execute(&format!("INSERT INTO k {rows}")).await.unwrap();
    }
    assert!(segment_files(&mut client).await > 0);
    execute_all(&mut client, &["DELETE FROM k WHERE v % 7 = 0", "UPDATE k SET v = -v WHERE v % 5 = 0"]).await;
    for n in [0, 5, 7, 11, 35, 12_345, 29_999, 30_001, 59_995, 59_999, 60_000] {
        let sql = format!("SELECT v FROM k WHERE a = {} AND s = 'n{n}'", n % 500);
        let expected = match n {
            60_000.. => vec![],
            n if n % 7 == 0 => vec![],
            n if n % 5 == 0 => vec![-n],
            n => vec![n],
        };
        assert_eq!(column(&mut client, &sql).await, expected, "{sql}");
        // A part of the key, or a key that is computed, is filtered.
        assert_eq!(column(&mut client, &format!("SELECT v FROM k WHERE s = 'n{n}'")).await, expected);
        let counted = format!("SELECT count(*) FROM k WHERE a = {} AND s = 'n{n}' AND v > 0", n % 500);
        let positive = expected.iter().filter(|v| **v > 0).count() as i64;
        assert_eq!(column(&mut client, &counted).await, [positive], "{counted}");
    }
    let plan = explain(&mut client, "SELECT v FROM k WHERE a = 11 AND s = 'n11'").await;
    assert!(!plan.contains("file_groups"), "{plan}");
    assert!(explain(&mut client, "SELECT v FROM k WHERE s = 'n11'").await.contains("file_groups"));
    // A key whose hash is in the index is looked up also for changes.
    let changed = client.execute("UPDATE k SET v = 1 WHERE a = 11 AND s = 'n11'").await.unwrap();
    assert_eq!(changed.affected, Some(1));
    let changed = client.execute("DELETE FROM k WHERE a = 12 AND s = 'n11'").await.unwrap();
    assert_eq!(changed.affected, Some(0));
    assert_eq!(column(&mut client, "SELECT v FROM k WHERE s = 'n11'").await, [1]);
}

/// Lists and chains of thousands of constants, with nulls among the values that are looked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_lists_and_chains_mean_what_short_ones_do() {
    const ITEMS: i64 = 3_000;
    let cluster = Cluster::start(1).await;
    let mut client = cluster.nodes[0].client().await;
    let load = "INSERT INTO l SELECT nullif(value, (value / 10) * 10), value % 100, \
                CASE WHEN value % 10 > 0 THEN concat('n', value) END FROM generate_series(1, 20000)";
    execute_all(&mut client, &["CREATE TABLE l (id BIGINT, small SMALLINT, s TEXT)", load]).await;
    let numbers: Vec<String> = (1..=ITEMS).map(|n| n.to_string()).collect();
    let texts: Vec<String> = (1..=ITEMS).map(|n| format!("'n{n}'")).collect();
    let chain = |op: &str, term: &str| {
        let terms: Vec<String> = numbers.iter().map(|n| format!("{term}{n}")).collect();
        terms.join(op)
    };
    let (numbers, texts) = (numbers.join(", "), texts.join(", "));
    // 18,000 values are not null, 2,700 of them up to 3,000.
    for (condition, expected) in [
        (format!("id IN ({numbers})"), 2_700),
        (format!("id NOT IN ({numbers})"), 15_300),
        (format!("NOT (id IN ({numbers}))"), 15_300),
        (format!("(id IN ({numbers})) IS NULL"), 2_000),
        (format!("id IN ({numbers}, NULL)"), 2_700),
        (format!("id NOT IN ({numbers}, NULL)"), 0),
        (format!("id + 0 IN ({numbers}) AND small IN ({numbers}) AND small < 50"), 1_350),
        (format!("id NOT IN ({numbers}) AND s NOT IN ({texts})"), 15_300),
        (format!("id IN ({numbers}) OR s IN ({texts})"), 2_700),
        (format!("s IN ({texts})"), 2_700),
        (format!("upper(s) NOT IN ({texts})"), 18_000),
        (format!("EXISTS (SELECT 1 FROM l m WHERE m.id = l.id AND m.id IN ({numbers}))"), 2_700),
        (chain(" OR ", "id = "), 2_700),
        (chain(" AND ", "id <> "), 15_300),
        (format!("NOT ({})", chain(" OR ", "id = ")), 15_300),
        (chain(" AND ", "id > -"), 18_000),
        (format!("small >= 0 AND {}", chain(" AND ", "coalesce(id, 0) <> ")), 17_300),
    ] {
        let sql = format!("SELECT count(*) FROM l WHERE {condition}");
        assert_eq!(column(&mut client, &sql).await, [expected], "{sql:.100}");
    }
    let deleted = client.execute(&format!("DELETE FROM l WHERE id IN ({numbers})")).await.unwrap();
    assert_eq!(deleted.affected, Some(2_700));
    let sql = format!("UPDATE l SET small = 0 WHERE s NOT IN ({texts})");
    assert_eq!(client.execute(&sql).await.unwrap().affected, Some(15_300));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_table_is_shown_as_makes_it_again() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.nodes[0].client().await;
    client.execute(r#"CREATE SCHEMA "S 1""#).await.unwrap();
    let definitions = [
        r#"CREATE TABLE t (id BIGINT, "Order" SMALLINT UNSIGNED NOT NULL, "a""b" VARCHAR DEFAULT 'it''s',
            d DECIMAL(20, 3) DEFAULT 1.5 CHECK (d > 0), at TIMESTAMP(3), z TIMESTAMP(6) WITH TIME ZONE,
            day DATE, t TIME(6), f REAL, g DOUBLE, b BOOLEAN, bytes BYTEA, l INT[][], v VECTOR(3),
            h HALFVEC(2), s STRUCT<a INT, "B c" VARCHAR[]>, PRIMARY KEY ("Order", id),
            CONSTRAINT "both ""ways""" CHECK (f < g OR "a""b" <> '\'))
           WITH (shards = 3, replicas = 1, retention = '3 hours') CLUSTER BY (day, "a""b")"#,
        r#"CREATE TABLE "S 1"."check" ("primary" INT, body VARCHAR, "select" VARCHAR, v VECTOR(4))"#,
    ];
    for definition in definitions {
        client.execute(definition).await.unwrap();
    }
    let indexes = [
        r#"CREATE INDEX words ON "S 1"."check" USING text (body, "select") WITH (tokenizer = 'whitespace')"#,
        r#"CREATE INDEX "near by" ON "S 1"."check" USING vector (v) WITH (metric = 'l2')"#,
    ];
    for index in indexes {
        client.execute(index).await.unwrap();
    }
    for table in ["t", r#""S 1"."check""#] {
        let shown = definition_of(&mut client, table).await;
        client.execute(&format!("DROP TABLE {table}")).await.unwrap();
        for statement in shown.split(";\n") {
            client.execute(statement).await.unwrap_or_else(|e| panic!("{statement}: {e}"));
        }
        assert_eq!(definition_of(&mut client, table).await, shown);
    }
    let error = client.query("SHOW CREATE TABLE missing").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
}

/// What `SHOW CREATE TABLE` says.
async fn definition_of(client: &mut Client, table: &str) -> String {
    let (_, rows) = client.query(&format!("SHOW CREATE TABLE {table}")).await.unwrap();
    let text = arrow::compute::cast(rows[0].column(2), &arrow_schema::DataType::Utf8).unwrap();
    text.as_string::<i32>().value(0).to_owned()
}
