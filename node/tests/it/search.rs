//! Search on real nodes: the same answers on any layout, what was just written, relevance on judged collections, a node
//! that dies.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{Float32Type, Float64Type, Int64Type};
use arrow_schema::DataType;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use plexus_model::ErrorKind;
use plexus_node::client::Client;
use plexus_node::command::status;

use crate::harness::{Cluster, number, run};

/// Judged collections: `PLEXUS_TEST_DATA` names the folder. They are not part of the project.
fn collection(name: &str) -> Option<PathBuf> {
    let named = std::env::var_os("PLEXUS_TEST_DATA").map(PathBuf::from);
    let beside = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data"));
    let path = named.unwrap_or(beside).join(name);
    if path.join("docs.parquet").exists() {
        return Some(path);
    }
    println!("collection {name:?} is not at {}: set PLEXUS_TEST_DATA to test with it", path.display());
    None
}

fn read(path: &Path) -> RecordBatch {
    let reader =
        ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap().build().unwrap();
    let batches: Vec<RecordBatch> = reader.map(Result::unwrap).collect();
    arrow::compute::concat_batches(&batches[0].schema(), &batches).unwrap()
}

struct Question {
    id: i64,
    text: String,
    vector: String,
}

fn questions(path: &Path) -> Vec<Question> {
    let batch = read(&path.join("queries.parquet"));
    let ids = batch.column_by_name("id").unwrap().as_primitive::<Int64Type>().clone();
    let texts = cast(batch.column_by_name("text").unwrap(), &DataType::Utf8).unwrap();
    let vectors = batch.column_by_name("embedding").unwrap().as_fixed_size_list().clone();
    (0..batch.num_rows())
        .map(|row| {
            let vector = vectors.value(row);
            let numbers: Vec<String> =
                vector.as_primitive::<Float32Type>().values().iter().map(|v| format!("{v:.8}")).collect();
            Question {
                id: ids.value(row),
                text: plain(texts.as_string::<i32>().value(row)),
                vector: format!("[{}]", numbers.join(", ")),
            }
        })
        .collect()
}

/// Words alone: what the language of queries gives a meaning is left out.
fn plain(text: &str) -> String {
    let letters: String = text.chars().map(|c| if c.is_alphanumeric() { c } else { ' ' }).collect();
    let words = letters
        .split_whitespace()
        .filter(|w| !["AND", "OR", "NOT", "IN"].contains(&w.to_uppercase().as_str()));
    words.collect::<Vec<_>>().join(" ")
}

/// The rows of a search, in its order: id and score.
async fn hits(client: &mut Client, sql: &str) -> Vec<(i64, u64)> {
    let (_, batches) = client.query(sql).await.unwrap_or_else(|e| panic!("{sql:.300}: {e}"));
    let mut rows = Vec::new();
    for batch in &batches {
        let ids = batch.column(0).as_primitive::<Int64Type>();
        let scores = batch.column(1).as_primitive::<Float64Type>();
        rows.extend((0..batch.num_rows()).map(|row| (ids.value(row), scores.value(row).to_bits())));
    }
    rows
}

fn searches(question: &Question, table: &str, k: usize) -> [String; 3] {
    let Question { text, vector, .. } = question;
    [
        format!("SELECT id, _score FROM text_search({table}, '{text}', {k})"),
        format!("SELECT id, _score FROM vector_search({table}, embedding, {vector}, {k})"),
        format!("SELECT id, _score FROM hybrid_search({table}, '{text}', {vector}, {k})"),
    ]
}

fn load(cluster: &Cluster, path: &Path, table: &str, shards: &str) {
    let file = path.join("docs.parquet").display().to_string();
    let url = cluster.nodes[0].flight();
    let args = [
        "load",
        &file,
        "--table",
        table,
        "--create",
        "--primary-key",
        "id",
        "--shards",
        shards,
        "--url",
        &url,
    ];
    let loaded = run(&args);
    assert!(loaded.status.success(), "{}", String::from_utf8_lossy(&loaded.stderr));
}

/// Normalised discounted cumulative gain at ten, with gains of 2^grade - 1 (Järvelin and Kekäläinen: "Cumulated
/// gain-based evaluation of IR techniques", 2002).
fn ndcg(found: &[(i64, u64)], grades: &BTreeMap<i64, i64>) -> f64 {
    let gain = |grade: i64| f64::from((1 << grade) - 1);
    let discounted = |gains: &mut dyn Iterator<Item = f64>| -> f64 {
        gains.take(10).enumerate().map(|(i, g)| g / (i as f64 + 2.0).log2()).sum()
    };
    let mut best: Vec<i64> = grades.values().copied().collect();
    best.sort_unstable_by(|a, b| b.cmp(a));
    let ideal = discounted(&mut best.into_iter().map(gain));
    let got = discounted(&mut found.iter().map(|(id, _)| grades.get(id).map_or(0.0, |g| gain(*g))));
    if ideal > 0.0 { got / ideal } else { 0.0 }
}

fn judgements(path: &Path) -> BTreeMap<i64, BTreeMap<i64, i64>> {
    let batch = read(&path.join("qrels.parquet"));
    let column = |name: &str| {
        let column = cast(batch.column_by_name(name).unwrap(), &DataType::Int64).unwrap();
        column.as_primitive::<Int64Type>().clone()
    };
    let (queries, docs, grades) = (column("query_id"), column("doc_id"), column("grade"));
    let mut all: BTreeMap<i64, BTreeMap<i64, i64>> = BTreeMap::new();
    for row in 0..batch.num_rows() {
        all.entry(queries.value(row)).or_default().insert(docs.value(row), grades.value(row));
    }
    all
}

/// Loads a collection, and compares the relevance of text, vectors and hybrid with what is known of it.
async fn relevance(name: &str, text: f64, dense: f64) {
    let Some(path) = collection(name) else {
        return;
    };
    let cluster = Cluster::start(1).await;
    load(&cluster, &path, "docs", "3");
    let mut client = cluster.nodes[0].client().await;
    let index = "CREATE INDEX docs_text ON docs USING text (title, text) WITH (tokenizer = 'en_stem')";
    client.execute(index).await.unwrap();
    let (questions, judgements) = (questions(&path), judgements(&path));
    let mut sums = [0.0; 3];
    let mut judged = 0;
    for question in &questions {
        let Some(grades) = judgements.get(&question.id) else {
            continue;
        };
        judged += 1;
        for (sum, sql) in sums.iter_mut().zip(searches(question, "docs", 10)) {
            *sum += ndcg(&hits(&mut client, &sql).await, grades);
        }
    }
    let [found_text, found_dense, hybrid] = sums.map(|sum| sum / f64::from(judged));
    println!("{name}: nDCG@10 text {found_text:.4}, vectors {found_dense:.4}, hybrid {hybrid:.4}");
    assert!((found_text - text).abs() <= 0.01, "text {found_text}, and {text} by the library alone");
    assert!((found_dense - dense).abs() <= 0.001, "vectors {found_dense}, and {dense} exactly");
    assert!(hybrid > found_text && hybrid > found_dense, "hybrid {hybrid}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cranfield_is_ranked_as_well_as_it_can_be() {
    relevance("cranfield", 0.3616, 0.3684).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cacm_is_ranked_as_well_as_it_can_be() {
    relevance("cacm", 0.4223, 0.4163).await;
}

/// Documents of words and vectors that a number decides.
fn row(id: u64) -> String {
    const WORDS: [&str; 12] =
        ["wing", "flow", "heat", "lift", "drag", "shock", "mach", "plate", "layer", "jet", "gust", "body"];
    let mut state = id.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let words: Vec<&str> = (0..1 + next(12)).map(|_| WORDS[next(12) as usize]).collect();
    let vector: Vec<String> = (0..4).map(|_| format!("{}.5", next(5) as i64 - 2)).collect();
    format!("({id}, '{}', [{}], {})", words.join(" "), vector.join(", "), id % 10)
}

async fn insert(client: &mut Client, table: &str, ids: std::ops::Range<u64>) {
    for part in ids.collect::<Vec<_>>().chunks(250) {
        let rows: Vec<String> = part.iter().map(|id| row(*id)).collect();
        client.execute(&format!("INSERT INTO {table} VALUES {}", rows.join(", "))).await.unwrap();
    }
}

const LAYOUT_SEARCHES: [&str; 7] = [
    "SELECT id, _score FROM text_search({t}, 'wing flow', 20)",
    "SELECT id, _score FROM text_search({t}, '+heat \"lift drag\"~2 jet*', 20, filter => 'n < 7')",
    "SELECT id, _score FROM vector_search({t}, v, [0.5, 1.0, -1.0, 0.1], 20)",
    "SELECT id, _score FROM vector_search({t}, v, [0.5, 1.0, -1.0, 0.1], 20, metric => 'l2', filter => 'n IN (1, 3)')",
    "SELECT id, _score FROM hybrid_search({t}, 'shock', [0.5, 1.0, -1.0, 0.1], 20)",
    "SELECT id, _score FROM hybrid_search({t}, 'gust body', [0.5, 1.0, -1.0, 0.1], 20, fusion => 'weighted', \
     normalization => 'distribution', weights => [0.3, 0.7], offset => 3)",
    "SELECT id, CAST(bm25_score(body, 'wing mach') AS DOUBLE) FROM {t} WHERE text_match(body, 'wing mach') AND n > 2 \
     ORDER BY bm25_score(body, 'wing mach') DESC, id LIMIT 20",
];

async fn answers(client: &mut Client, table: &str) -> Vec<Vec<(i64, u64)>> {
    let mut all = Vec::new();
    for sql in LAYOUT_SEARCHES {
        all.push(hits(client, &sql.replace("{t}", table)).await);
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_the_same_bits_however_rows_lie() {
    let cluster = Cluster::start(3).await;
    let mut client = cluster.nodes[0].client().await;
    let columns = "(id BIGINT PRIMARY KEY, body VARCHAR, v VECTOR(4), n INT)";
    let tables = [("one", 1), ("three", 3), ("sixteen", 16)];
    for (table, shards) in tables {
        client.execute(&format!("CREATE TABLE {table} {columns} WITH (shards = {shards})")).await.unwrap();
        insert(&mut client, table, 0..1_500).await;
        client.execute(&format!("DELETE FROM {table} WHERE id % 7 = 3")).await.unwrap();
    }
    let expected = answers(&mut client, "one").await;
    assert!(
        expected.iter().all(|rows| rows.len() == 20),
        "{:?}",
        expected.iter().map(Vec::len).collect::<Vec<_>>()
    );
    for (table, _) in tables {
        for node in &cluster.nodes {
            let mut client = node.client().await;
            assert_eq!(answers(&mut client, table).await, expected, "{table} on node {}", node.id);
        }
        // Files instead of rows in the log, few instead of many, without those that are deleted; then indexed.
        client.execute(&format!("OPTIMIZE {table}")).await.unwrap();
        assert_eq!(answers(&mut client, table).await, expected, "{table} after OPTIMIZE");
        client.execute(&format!("CREATE INDEX {table}_text ON {table} USING text (body)")).await.unwrap();
        assert_eq!(answers(&mut client, table).await, expected, "{table} with an index in the making");
        wait_indexed(&mut client, table).await;
        for node in &cluster.nodes {
            let mut client = node.client().await;
            assert_eq!(
                answers(&mut client, table).await,
                expected,
                "{table} with its index, on node {}",
                node.id
            );
        }
    }
    // The same rows without those that were deleted, never deleted.
    client.execute(&format!("CREATE TABLE kept {columns} WITH (shards = 2)")).await.unwrap();
    client.execute("INSERT INTO kept SELECT * FROM one").await.unwrap();
    assert_eq!(answers(&mut client, "kept").await, expected);
}

async fn wait_indexed(client: &mut Client, table: &str) {
    let lacking = format!(
        "SELECT CAST(sum(segments - segments_indexed) AS BIGINT) FROM plexus.indexes WHERE table_name = '{table}'"
    );
    for _ in 0..300 {
        if number(client, &lacking).await.unwrap() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{table} was not indexed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_written_is_found_at_once_on_every_node_and_what_was_deleted_is_not() {
    let cluster = Cluster::start(3).await;
    let mut client = cluster.nodes[0].client().await;
    let create = "CREATE TABLE t (id BIGINT PRIMARY KEY, body VARCHAR, v VECTOR(4), n INT) WITH (shards = 3)";
    client.execute(create).await.unwrap();
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
                "SELECT id FROM hybrid_search(t, 'unheard{round}', [90.0, {round}.0, 0.0, 0.0], 1, metric => 'l2')"
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
                let (_, batches) = reader.query(sql).await.unwrap();
                let found: Vec<i64> = batches
                    .iter()
                    .flat_map(|b| b.column(0).as_primitive::<Int64Type>().values().to_vec())
                    .collect();
                assert!(!found.contains(&id), "{sql} on node {} after the deletion: {found:?}", node.id);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_search_fails_when_a_data_node_is_killed() {
    let mut cluster = Cluster::start(3).await;
    let mut client = cluster.nodes[0].client().await;
    let create = "CREATE TABLE t (id BIGINT PRIMARY KEY, body VARCHAR, v VECTOR(4), n INT) WITH (shards = 4, replicas = 2)";
    client.execute(create).await.unwrap();
    insert(&mut client, "t", 0..1_000).await;
    client.execute("OPTIMIZE t").await.unwrap();
    let expected = answers(&mut client, "t").await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut load = Vec::new();
    for node in [0, 2] {
        let (stop, expected) = (stop.clone(), expected.clone());
        let mut client = cluster.nodes[node].client().await;
        load.push(tokio::spawn(async move {
            let mut rounds = 0;
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(answers(&mut client, "t").await, expected);
                rounds += 1;
            }
            rounds
        }));
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    cluster.nodes[1].kill();
    tokio::time::sleep(Duration::from_secs(5)).await;
    stop.store(true, Ordering::Relaxed);
    for task in load {
        assert!(task.await.unwrap() > 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_have_no_gaps_and_no_repeats_while_rows_come_and_go() {
    let cluster = Cluster::start(3).await;
    let mut client = cluster.nodes[0].client().await;
    client.execute("CREATE TABLE t (id BIGINT PRIMARY KEY, body VARCHAR, v VECTOR(4), n INT)").await.unwrap();
    insert(&mut client, "t", 0..400).await;
    let mut fresh = 1_000..;
    for search in [
        "text_search(t, 'wing flow heat', {k}",
        "hybrid_search(t, 'wing', [1, 0, 0, 0], {k}, candidates => 400",
    ] {
        let whole = format!("SELECT id, _score FROM {})", search.replace("{k}", "90"));
        let expected = hits(&mut client, &whole).await;
        let (mut paged, mut cursor) = (Vec::new(), String::new());
        for page in 0..9 {
            // Another node each time, and other rows than on the page before.
            let mut client = cluster.nodes[page % 3].client().await;
            let search = search.replace("{k}", "10");
            let sql = format!("SELECT id, _score, _cursor FROM {search}, after => '{cursor}')");
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
            let id = fresh.next().expect("numbers do not end");
            insert(&mut client, "t", id..id + 1).await;
            client.execute(&format!("DELETE FROM t WHERE id = {}", page * 3)).await.unwrap();
        }
        assert_eq!(paged, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_version_has_its_own_rows_and_scores() {
    let cluster = Cluster::start(1).await;
    let (mut one, mut other) = (cluster.nodes[0].client().await, cluster.nodes[0].client().await);
    for sql in [
        "CREATE TABLE t (id BIGINT PRIMARY KEY, body VARCHAR, v VECTOR(2))",
        "INSERT INTO t VALUES (1, 'wing', [1.0, 0.0]), (2, 'wing and flutter', [0.0, 1.0])",
    ] {
        one.execute(sql).await.unwrap();
    }
    let version = number(&mut one, "SELECT max(version) FROM plexus.commits").await.unwrap();
    let words = "SELECT id, _score FROM text_search(t, 'wing flutter', 9)";
    let both = "SELECT id, _score FROM hybrid_search(t, 'wing', [1.0, 0.0], 9)";
    let first = [hits(&mut one, words).await, hits(&mut one, both).await];
    assert_eq!(first[0].len(), 2);
    one.execute("INSERT INTO t VALUES (3, 'wing wing', [1.0, 0.1]), (4, 'heat', [0.1, 1.0])").await.unwrap();
    one.execute("DELETE FROM t WHERE id = 1").await.unwrap();
    let second = [hits(&mut one, words).await, hits(&mut one, both).await];
    assert_eq!(second[0].iter().map(|(id, _)| *id).collect::<BTreeSet<_>>(), BTreeSet::from([2, 3]));
    assert_ne!(first[0].iter().find(|(id, _)| *id == 2), second[0].iter().find(|(id, _)| *id == 2));
    assert_eq!(hits(&mut other, words).await, second[0], "of another session");

    other.execute(&format!("SET plexus.read_version = {version}")).await.unwrap();
    one.execute("BEGIN").await.unwrap();
    one.execute("INSERT INTO t VALUES (5, 'flutter', [0.5, 0.5])").await.unwrap();
    let inside = hits(&mut one, words).await;
    assert_eq!(inside.len(), 3);
    let of = |hits: &[(i64, u64)], id: i64| hits.iter().find(|(of, _)| *of == id).copied();
    assert_ne!(of(&inside, 2), of(&second[0], 2), "what the transaction wrote counts in it");
    for _ in 0..2 {
        assert_eq!(
            [hits(&mut other, words).await, hits(&mut other, both).await],
            first,
            "of the older version"
        );
        assert_eq!(hits(&mut one, words).await, inside, "in the transaction");
        let sql = "SELECT id, CAST(bm25_score(body, 'wing flutter') AS DOUBLE) AS s FROM t VERSION AS OF {} \
                   WHERE text_match(body, 'wing flutter') ORDER BY s DESC LIMIT 9";
        let then = hits(&mut one, &sql.replace("{}", &version.to_string())).await;
        assert_eq!(then, first[0], "of a version that the statement names");
    }
    one.execute("COMMIT").await.unwrap();
    other.execute("RESET plexus.read_version").await.unwrap();
    for client in [&mut one, &mut other] {
        assert_eq!(hits(client, words).await, inside, "of the newest version");
    }
}

/// Questions that nodes have answered for others.
async fn answered(cluster: &Cluster) -> u64 {
    let mut all = 0;
    for node in &cluster.nodes {
        let metrics = status::get(&node.http(), "/metrics").await.unwrap();
        let value = metrics.lines().find_map(|l| l.strip_prefix("plexus_peer_searches_total ")).unwrap();
        all += value.parse::<u64>().unwrap();
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn searches_run_where_the_segments_are_kept() {
    // One of the nodes keeps nothing.
    let cluster = Cluster::start_with_roles(&["meta,data,query", "data,query", "data,query", "query"]).await;
    let mut client = cluster.nodes[0].client().await;
    let columns = "(id BIGINT PRIMARY KEY, body VARCHAR, v VECTOR(4), n INT)";
    client.execute(&format!("CREATE TABLE here {columns} WITH (replicas = 3)")).await.unwrap();
    client.execute(&format!("CREATE TABLE t {columns} WITH (shards = 6, replicas = 1)")).await.unwrap();
    for table in ["here", "t"] {
        insert(&mut client, table, 0..1_500).await;
        client.execute(&format!("DELETE FROM {table} WHERE id % 7 = 3")).await.unwrap();
        client.execute(&format!("OPTIMIZE {table}")).await.unwrap();
        client.execute(&format!("DELETE FROM {table} WHERE id % 11 = 5")).await.unwrap();
    }
    let before = answered(&cluster).await;
    let expected = answers(&mut client, "here").await;
    assert_eq!(answered(&cluster).await, before, "what is here is searched here");
    for indexed in [false, true] {
        if indexed {
            client.execute("CREATE INDEX t_text ON t USING text (body)").await.unwrap();
            wait_indexed(&mut client, "t").await;
        }
        let mut elsewhere = Vec::new();
        for node in &cluster.nodes {
            let before = answered(&cluster).await;
            let mut client = node.client().await;
            assert_eq!(answers(&mut client, "t").await, expected, "on node {}", node.id);
            assert!(answered(&cluster).await > before, "node {} asked nobody", node.id);
            let (_, batches) =
                client.query(&format!("EXPLAIN {}", LAYOUT_SEARCHES[0].replace("{t}", "t"))).await.unwrap();
            let plan = arrow::util::pretty::pretty_format_batches(&batches).unwrap().to_string();
            let told = plan.split(" in 6 segments, ").nth(1).unwrap_or_else(|| panic!("{plan}"));
            let parts: u32 = told.split(' ').next().and_then(|n| n.parse().ok()).unwrap();
            assert!(told.contains(" on other nodes"), "{plan}");
            elsewhere.push(parts);
        }
        // Each segment is at one of the first three, and none at the last.
        assert_eq!((elsewhere[..3].iter().sum::<u32>(), elsewhere[3]), (12, 6), "{elsewhere:?}");
    }
    // What is wrong with a filter is told as if it had been evaluated here.
    for node in &cluster.nodes {
        let mut client = node.client().await;
        let wrong = "SELECT id FROM text_search(t, 'wing', 5, filter => 'CAST(body AS INT) > 1')";
        let error = client.query(wrong).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    }
    // What a transaction has changed is seen in it, wherever the rows are, and by nobody else.
    let mut other = cluster.nodes[1].client().await;
    client.execute("BEGIN").await.unwrap();
    let (first, _) = expected[0][0];
    client.execute(&format!("DELETE FROM t WHERE id = {first}")).await.unwrap();
    client.execute("INSERT INTO t VALUES (9000, 'wing flow wing flow', [0, 0, 0, 1], 1)").await.unwrap();
    let found: Vec<i64> = answers(&mut client, "t").await[0].iter().map(|(id, _)| *id).collect();
    assert!(found.contains(&9_000) && !found.contains(&first), "{found:?} without {first}");
    assert_eq!(answers(&mut other, "t").await, expected);
    client.execute("ROLLBACK").await.unwrap();
    assert_eq!(answers(&mut client, "t").await, expected);
}
