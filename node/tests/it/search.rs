//! Search on real nodes: identical results for any layout of the rows, visibility of writes, paging,
//! versions, search on the nodes that store the segments, and a node that dies.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrow::array::{Array, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{Float64Type, Int64Type};
use arrow_schema::DataType;
use fastrand::Rng;
use plexus_model::ErrorKind;
use plexus_node::client::Client;
use plexus_node::command::status;

use crate::harness::Cluster;
use crate::queries::{column, execute_all, explain, latest_version, number, wait_indexed, wait_until};

/// Columns of the tables of random documents.
const COLUMNS: &str = "(id BIGINT PRIMARY KEY, body VARCHAR, v VECTOR(4), n INT)";

/// A result row: its id, and the bits of its score, since scores have to be identical and not just close.
type Hit = (i64, u64);

/// The rows of a search in their order.
pub(crate) async fn hits(client: &mut Client, sql: &str) -> Vec<Hit> {
    let (_, batches) = client.query(sql).await.unwrap_or_else(|e| panic!("{sql:.300}: {e}"));
    let mut rows = Vec::new();
    for batch in &batches {
        let ids = batch.column(0).as_primitive::<Int64Type>();
        let scores = batch.column(1).as_primitive::<Float64Type>();
        rows.extend((0..batch.num_rows()).map(|row| (ids.value(row), scores.value(row).to_bits())));
    }
    rows
}

/// A row of random terms and a random vector, which the id determines, as an SQL literal.
fn row(id: u64) -> String {
    const TERMS: [&str; 12] =
        ["wing", "flow", "heat", "lift", "drag", "shock", "mach", "plate", "layer", "jet", "gust", "body"];
    let mut random = Rng::with_seed(id.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let terms: Vec<&str> = (0..1 + random.u64(..12)).map(|_| TERMS[random.u64(..12) as usize]).collect();
    let vector: Vec<String> = (0..4).map(|_| format!("{}.5", random.u64(..5) as i64 - 2)).collect();
    format!("({id}, '{}', [{}], {})", terms.join(" "), vector.join(", "), id % 10)
}

async fn insert(client: &mut Client, table: &str, ids: std::ops::Range<u64>) {
    for chunk in ids.collect::<Vec<_>>().chunks(250) {
        let rows: Vec<String> = chunk.iter().map(|id| row(*id)).collect();
        client.execute(&format!("INSERT INTO {table} VALUES {}", rows.join(", "))).await.unwrap();
    }
}

/// Searches whose results do not depend on the layout of the table `{t}`.
const LAYOUT_SEARCHES: [&str; 7] = [
    "SELECT id, _score FROM text_search({t}, 'wing flow', 20)",
    "SELECT id, _score FROM text_search({t}, '+heat \"lift drag\"~2 jet*', 20, filter => 'n < 7')",
    "SELECT id, _score FROM vector_search({t}, v, [0.5, 1.0, -1.0, 0.1], 20)",
    "SELECT id, _score FROM vector_search({t}, v, [0.5, 1.0, -1.0, 0.1], 20, metric => 'l2', \
     filter => 'n IN (1, 3)')",
    "SELECT id, _score FROM hybrid_search({t}, 'shock', [0.5, 1.0, -1.0, 0.1], 20)",
    "SELECT id, _score FROM hybrid_search({t}, 'gust body', [0.5, 1.0, -1.0, 0.1], 20, fusion => 'weighted', \
     normalization => 'distribution', weights => [0.3, 0.7], offset => 3)",
    "SELECT id, CAST(bm25_score(body, 'wing mach') AS DOUBLE) FROM {t} \
     WHERE text_match(body, 'wing mach') AND n > 2 ORDER BY bm25_score(body, 'wing mach') DESC, id LIMIT 20",
];

/// The results of all [`LAYOUT_SEARCHES`].
async fn results(client: &mut Client, table: &str) -> Vec<Vec<Hit>> {
    let mut all = Vec::new();
    for sql in LAYOUT_SEARCHES {
        all.push(hits(client, &sql.replace("{t}", table)).await);
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_are_identical_for_any_layout() {
    let cluster = Cluster::start(3).await;
    let mut client = cluster.nodes[0].client().await;
    let tables = [("one", 1), ("three", 3), ("sixteen", 16)];
    for (table, shards) in tables {
        client.execute(&format!("CREATE TABLE {table} {COLUMNS} WITH (shards = {shards})")).await.unwrap();
        insert(&mut client, table, 0..1_500).await;
        client.execute(&format!("DELETE FROM {table} WHERE id % 7 = 3")).await.unwrap();
    }
    let expected = results(&mut client, "one").await;
    let counts: Vec<usize> = expected.iter().map(Vec::len).collect();
    assert!(counts.iter().all(|count| *count == 20), "{counts:?}");
    for (table, _) in tables {
        check_on_every_node(&cluster, table, &expected, "with inline segments").await;
        // One segment file per shard, without the deleted rows.
        client.execute(&format!("OPTIMIZE {table}")).await.unwrap();
        assert_eq!(results(&mut client, table).await, expected, "{table} after OPTIMIZE");
        client.execute(&format!("CREATE INDEX {table}_text ON {table} USING text (body)")).await.unwrap();
        assert_eq!(results(&mut client, table).await, expected, "{table} while its index is built");
        wait_indexed(&mut client, table).await;
        check_on_every_node(&cluster, table, &expected, "with its index").await;
    }
    // A table that never had the deleted rows.
    client.execute(&format!("CREATE TABLE copied {COLUMNS} WITH (shards = 2)")).await.unwrap();
    client.execute("INSERT INTO copied SELECT * FROM one").await.unwrap();
    assert_eq!(results(&mut client, "copied").await, expected);
}

async fn check_on_every_node(cluster: &Cluster, table: &str, expected: &[Vec<Hit>], state: &str) {
    for node in &cluster.nodes {
        let mut client = node.client().await;
        assert_eq!(results(&mut client, table).await, expected, "{table} {state}, on node {}", node.id);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_and_deletions_are_visible_at_once_on_every_node() {
    let cluster = Cluster::start(3).await;
    let mut client = cluster.nodes[0].client().await;
    client.execute(&format!("CREATE TABLE t {COLUMNS} WITH (shards = 3)")).await.unwrap();
    client.execute("CREATE INDEX t_text ON t USING text (body)").await.unwrap();
    insert(&mut client, "t", 0..500).await;
    for round in 0..10i64 {
        let id = 10_000 + round;
        let mut writer = cluster.nodes[(round % 3) as usize].client().await;
        let sql =
            format!("INSERT INTO t VALUES ({id}, 'unheard{round} wing', [90.0, {round}.0, 0.0, 0.0], 1)");
        writer.execute(&sql).await.unwrap();
        let searches = [
            format!("SELECT id FROM text_search(t, 'unheard{round}', 1)"),
            format!("SELECT id FROM vector_search(t, v, [90.0, {round}.0, 0.0, 0.0], 1, metric => 'l2')"),
            format!(
                "SELECT id FROM hybrid_search(t, 'unheard{round}', [90.0, {round}.0, 0.0, 0.0], 1, \
                 metric => 'l2')"
            ),
            format!("SELECT id FROM t WHERE text_match(body, 'unheard{round}')"),
        ];
        for node in &cluster.nodes {
            let mut reader = node.client().await;
            for sql in &searches {
                assert_eq!(number(&mut reader, sql).await.unwrap(), id, "{sql} on node {}", node.id);
            }
        }
        writer.execute(&format!("DELETE FROM t WHERE id = {id}")).await.unwrap();
        for node in &cluster.nodes {
            let mut reader = node.client().await;
            for sql in &searches {
                let found = column(&mut reader, sql).await;
                assert!(!found.contains(&id), "{sql} on node {} after the deletion: {found:?}", node.id);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_search_fails_when_a_data_node_is_killed() {
    let mut cluster = Cluster::start(3).await;
    let mut client = cluster.nodes[0].client().await;
    client.execute(&format!("CREATE TABLE t {COLUMNS} WITH (shards = 4, replicas = 2)")).await.unwrap();
    insert(&mut client, "t", 0..1_000).await;
    client.execute("OPTIMIZE t").await.unwrap();
    let expected = results(&mut client, "t").await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut readers = Vec::new();
    for node in [0, 2] {
        let (stop, expected) = (stop.clone(), expected.clone());
        let mut client = cluster.nodes[node].client().await;
        readers.push(tokio::spawn(async move {
            let mut rounds = 0;
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(results(&mut client, "t").await, expected);
                rounds += 1;
            }
            rounds
        }));
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    cluster.nodes[1].kill();
    tokio::time::sleep(Duration::from_secs(5)).await;
    stop.store(true, Ordering::Relaxed);
    for reader in readers {
        assert!(reader.await.unwrap() > 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_have_no_gaps_and_no_repeats_during_writes() {
    let cluster = Cluster::start(3).await;
    let mut client = cluster.nodes[0].client().await;
    client.execute(&format!("CREATE TABLE t {COLUMNS}")).await.unwrap();
    insert(&mut client, "t", 0..400).await;
    let mut fresh = 1_000..;
    for search in [
        "text_search(t, 'wing flow heat', {k}",
        "hybrid_search(t, 'wing', [1, 0, 0, 0], {k}, num_candidates => 400",
    ] {
        let whole = format!("SELECT id, _score FROM {})", search.replace("{k}", "90"));
        let expected = hits(&mut client, &whole).await;
        let (mut paged, mut cursor) = (Vec::new(), String::new());
        for page in 0..9 {
            // Each page comes from another node, after other writes.
            let mut client = cluster.nodes[page % 3].client().await;
            let search = search.replace("{k}", "10");
            let sql = format!("SELECT id, _score, _cursor FROM {search}, search_after => '{cursor}')");
            let (_, batches) = client.query(&sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
            for batch in &batches {
                let ids = batch.column(0).as_primitive::<Int64Type>();
                let scores = batch.column(1).as_primitive::<Float64Type>();
                let cursors = cast(batch.column(2), &DataType::Utf8).unwrap();
                paged.extend((0..batch.num_rows()).map(|row| (ids.value(row), scores.value(row).to_bits())));
                if !cursors.is_empty() {
                    cursor = cursors.as_string::<i32>().value(cursors.len() - 1).to_owned();
                }
            }
            let id = fresh.next().expect("an unbounded range");
            insert(&mut client, "t", id..id + 1).await;
            client.execute(&format!("DELETE FROM t WHERE id = {}", page * 3)).await.unwrap();
        }
        assert_eq!(paged, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_by_offset_continue_one_ranking() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.nodes[0].client().await;
    client.execute(&format!("CREATE TABLE t {COLUMNS} WITH (shards = 1)")).await.unwrap();
    insert(&mut client, "t", 0..2000).await;
    client.execute("CREATE INDEX t_v ON t USING vector (v) WITH (metric = 'l2')").await.unwrap();
    client.execute("OPTIMIZE t").await.unwrap();
    wait_indexed(&mut client, "t").await;
    for search in [
        "hybrid_search(t, 'wing', [1, 0, 0, 0], 50, num_candidates => 60",
        "vector_search(t, v, [0.4, 1.1, -1, 0.1], 50, ef => 60",
        "text_search(t, 'wing flow', 50",
    ] {
        let mut seen = BTreeSet::new();
        for page in 0..8 {
            let sql = format!("SELECT id, _score FROM {search}, offset => {})", page * 50);
            for (id, _) in hits(&mut client, &sql).await {
                assert!(seen.insert(id), "{search}: row {id} is on two pages");
            }
        }
        assert_eq!(seen.len(), 400, "{search}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_version_has_its_own_rows_and_scores() {
    let cluster = Cluster::start(1).await;
    let (mut one, mut other) = (cluster.nodes[0].client().await, cluster.nodes[0].client().await);
    let setup = [
        "CREATE TABLE t (id BIGINT PRIMARY KEY, body VARCHAR, v VECTOR(2))",
        "INSERT INTO t VALUES (1, 'wing', [1.0, 0.0]), (2, 'wing and flutter', [0.0, 1.0])",
    ];
    execute_all(&mut one, &setup).await;
    let version = latest_version(&mut one).await.unwrap();
    let text = "SELECT id, _score FROM text_search(t, 'wing flutter', 9)";
    let hybrid = "SELECT id, _score FROM hybrid_search(t, 'wing', [1.0, 0.0], 9)";
    let score = |hits: &[Hit], wanted: i64| hits.iter().find(|(id, _)| *id == wanted).map(|hit| hit.1);
    let first = [hits(&mut one, text).await, hits(&mut one, hybrid).await];
    assert_eq!(first[0].len(), 2);
    one.execute("INSERT INTO t VALUES (3, 'wing wing', [1.0, 0.1]), (4, 'heat', [0.1, 1.0])").await.unwrap();
    one.execute("DELETE FROM t WHERE id = 1").await.unwrap();
    let second = [hits(&mut one, text).await, hits(&mut one, hybrid).await];
    assert_eq!(second[0].iter().map(|(id, _)| *id).collect::<BTreeSet<_>>(), BTreeSet::from([2, 3]));
    assert_ne!(score(&first[0], 2), score(&second[0], 2), "statistics are those of the version");
    assert_eq!(hits(&mut other, text).await, second[0], "in another session");

    other.execute(&format!("SET plexus.read_version = {version}")).await.unwrap();
    one.execute("BEGIN").await.unwrap();
    one.execute("INSERT INTO t VALUES (5, 'flutter', [0.5, 0.5])").await.unwrap();
    let inside = hits(&mut one, text).await;
    assert_eq!(inside.len(), 3);
    assert_ne!(score(&inside, 2), score(&second[0], 2), "statistics include the transaction's own rows");
    // Twice: the second time, caches are filled.
    for _ in 0..2 {
        let older = [hits(&mut other, text).await, hits(&mut other, hybrid).await];
        assert_eq!(older, first, "at the session's read version");
        assert_eq!(hits(&mut one, text).await, inside, "in the transaction");
        let sql = format!(
            "SELECT id, CAST(bm25_score(body, 'wing flutter') AS DOUBLE) AS s FROM t VERSION AS OF {version} \
             WHERE text_match(body, 'wing flutter') ORDER BY s DESC LIMIT 9"
        );
        assert_eq!(hits(&mut one, &sql).await, first[0], "at the version that the statement names");
    }
    one.execute("COMMIT").await.unwrap();
    other.execute("RESET plexus.read_version").await.unwrap();
    for client in [&mut one, &mut other] {
        assert_eq!(hits(client, text).await, inside, "at the latest version");
    }
}

/// Search requests that nodes have answered for other nodes, of the whole cluster.
async fn remote_requests(cluster: &Cluster) -> u64 {
    const METRIC: &str = "plexus_remote_search_requests_total ";
    let mut total = 0;
    for node in &cluster.nodes {
        let metrics = status::get(&node.http(), "/metrics").await.unwrap();
        let value = metrics.lines().find_map(|l| l.strip_prefix(METRIC));
        total += value.unwrap_or_else(|| panic!("{METRIC}is not in\n{metrics}")).parse::<u64>().unwrap();
    }
    total
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn segments_are_searched_where_they_are_stored() {
    // The last node stores nothing.
    let cluster = Cluster::start_with_roles(&["meta,data,query", "data,query", "data,query", "query"]).await;
    let mut client = cluster.nodes[0].client().await;
    client.execute(&format!("CREATE TABLE replicated {COLUMNS} WITH (replicas = 3)")).await.unwrap();
    client.execute(&format!("CREATE TABLE t {COLUMNS} WITH (shards = 6, replicas = 1)")).await.unwrap();
    for table in ["replicated", "t"] {
        insert(&mut client, table, 0..1_500).await;
        client.execute(&format!("DELETE FROM {table} WHERE id % 7 = 3")).await.unwrap();
        // A flush that runs meanwhile leaves segments of its own.
        wait_until("one segment for each shard", async || {
            client.execute(&format!("OPTIMIZE {table}")).await.unwrap();
            let extra = "SELECT count(*) - count(DISTINCT shard) FROM plexus.segments WHERE table_name =";
            number(&mut client, &format!("{extra} '{table}'")).await.unwrap() == 0
        })
        .await;
        client.execute(&format!("DELETE FROM {table} WHERE id % 11 = 5")).await.unwrap();
    }
    let before = remote_requests(&cluster).await;
    let expected = results(&mut client, "replicated").await;
    assert_eq!(remote_requests(&cluster).await, before, "local segments were searched remotely");
    check_scatter_gather(&cluster, &expected).await;
    client.execute("CREATE INDEX t_text ON t USING text (body)").await.unwrap();
    wait_indexed(&mut client, "t").await;
    check_scatter_gather(&cluster, &expected).await;
    check_remote_errors(&cluster).await;
    check_remote_transaction(&cluster, &expected).await;
}

/// Every node returns the expected results and searches the segments that it lacks on other nodes.
async fn check_scatter_gather(cluster: &Cluster, expected: &[Vec<Hit>]) {
    let mut remote = Vec::new();
    for node in &cluster.nodes {
        let before = remote_requests(cluster).await;
        let mut client = node.client().await;
        assert_eq!(results(&mut client, "t").await, expected, "on node {}", node.id);
        assert!(remote_requests(cluster).await > before, "node {} sent no request", node.id);
        let plan = explain(&mut client, &LAYOUT_SEARCHES[0].replace("{t}", "t")).await;
        let (_, rest) = plan.split_once(" in 6 segments, ").unwrap_or_else(|| panic!("{plan}"));
        let (segments, _) = rest.split_once(" remote").unwrap_or_else(|| panic!("{plan}"));
        remote.push(segments.parse::<u32>().unwrap_or_else(|e| panic!("{e}: {plan}")));
    }
    // Each segment is stored on one of the first three nodes: it is remote for the other two.
    assert_eq!((remote[..3].iter().sum::<u32>(), remote[3]), (12, 6), "{remote:?}");
}

/// A filter that fails on another node fails with the same kind of error as on this one.
async fn check_remote_errors(cluster: &Cluster) {
    for node in &cluster.nodes {
        let mut client = node.client().await;
        let wrong = "SELECT id FROM text_search(t, 'wing', 5, filter => 'CAST(body AS INT) > 1')";
        let error = client.query(wrong).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    }
}

/// A transaction's uncommitted changes are visible in it, on whichever node the rows are, and nowhere else.
async fn check_remote_transaction(cluster: &Cluster, expected: &[Vec<Hit>]) {
    let (mut client, mut other) = (cluster.nodes[0].client().await, cluster.nodes[1].client().await);
    let (first, _) = expected[0][0];
    let delete = format!("DELETE FROM t WHERE id = {first}");
    let insert = "INSERT INTO t VALUES (9000, 'wing flow wing flow', [0, 0, 0, 1], 1)";
    execute_all(&mut client, &["BEGIN", &delete, insert]).await;
    let found: Vec<i64> = results(&mut client, "t").await[0].iter().map(|(id, _)| *id).collect();
    assert!(found.contains(&9_000) && !found.contains(&first), "{found:?} without {first}");
    assert_eq!(results(&mut other, "t").await, expected);
    client.execute("ROLLBACK").await.unwrap();
    assert_eq!(results(&mut client, "t").await, expected);
}

/// A random condition over the columns of a table of documents, and matches of their texts.
fn condition(random: &mut Rng, depth: u32) -> String {
    const MATCHES: [&str; 6] = ["wing", "+flow -heat", "-lift", "\"drag shock\"~4", "je*", "mach~1 plate"];
    const OTHERS: [&str; 4] = ["n < 4", "id % 3 = 0", "body IS NULL", "n IN (1, 5, NULL)"];
    if depth == 0 || random.u8(..4) == 0 {
        return match random.bool() {
            true => format!("text_match(body, '{}')", MATCHES[random.usize(..MATCHES.len())]),
            false => OTHERS[random.usize(..OTHERS.len())].to_owned(),
        };
    }
    match random.u8(..5) {
        0 => format!("NOT ({})", condition(random, depth - 1)),
        1 | 2 => format!("({} AND {})", condition(random, depth - 1), condition(random, depth - 1)),
        _ => format!("({} OR {})", condition(random, depth - 1), condition(random, depth - 1)),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conditions_select_the_rows_for_which_they_are_true() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.nodes[0].client().await;
    client.execute(&format!("CREATE TABLE t {COLUMNS} WITH (shards = 2)")).await.unwrap();
    insert(&mut client, "t", 0..300).await;
    client.execute("OPTIMIZE t").await.unwrap();
    insert(&mut client, "t", 300..400).await;
    client.execute("UPDATE t SET body = NULL WHERE id % 7 = 0").await.unwrap();
    client.execute("DELETE FROM t WHERE id % 11 = 0").await.unwrap();
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = Rng::with_seed(seed);
    for _ in 0..150 {
        let condition = condition(&mut random, 3);
        // What stands in a CASE is evaluated row by row.
        let by_row = format!("SELECT id FROM t WHERE CASE WHEN {condition} THEN 1 END = 1 ORDER BY id");
        let by_sets = format!("SELECT id FROM t WHERE {condition} ORDER BY id");
        assert_eq!(column(&mut client, &by_sets).await, column(&mut client, &by_row).await, "{condition}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_by_expressions_of_distances_are_those_of_all_rows() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.nodes[0].client().await;
    client.execute(&format!("CREATE TABLE t {COLUMNS} WITH (shards = 2)")).await.unwrap();
    insert(&mut client, "t", 0..300).await;
    client.execute("OPTIMIZE t").await.unwrap();
    // Many are so close to each other that one less their distance is the same.
    client.execute("UPDATE t SET v = v * 1e-9 WHERE id % 3 = 0").await.unwrap();
    client.execute("UPDATE t SET v = NULL WHERE id % 13 = 0").await.unwrap();
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = Rng::with_seed(seed);
    for _ in 0..40 {
        let query: Vec<String> = (0..4).map(|_| format!("{}.0", random.i32(-1..2))).collect();
        let query = format!("[{}]", query.join(", "));
        for (order, direction) in [
            ("1 - (v <-> Q)", "DESC"),
            ("1 - (v <=> Q)", "DESC NULLS LAST"),
            ("-(v <-> Q)", "DESC NULLS LAST"),
            ("(v <#> Q) * -2", "DESC NULLS LAST"),
            ("2 * (v <-> Q) + 1", ""),
            ("(v <-> Q) / -3.5", "DESC NULLS LAST"),
            ("1e10 + inner_product(v, Q)", "DESC NULLS LAST"),
        ] {
            let order = order.replace('Q', &query);
            let page = format!("LIMIT {} OFFSET {}", random.u8(1..30), random.u8(..3) * 5);
            let ordered = |by: &str| format!("SELECT id FROM t ORDER BY {by} {direction}, id DESC {page}");
            let by_search = column(&mut client, &ordered(&order)).await;
            // No rule knows what grows with this.
            let by_rows = ordered(&format!("nullif({order}, CAST('NaN' AS DOUBLE))"));
            assert_eq!(by_search, column(&mut client, &by_rows).await, "{by_rows}");
        }
    }
}
