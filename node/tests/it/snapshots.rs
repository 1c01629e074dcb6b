//! Snapshots of plans, of `EXPLAIN` and of error messages: what users read changes only on purpose.
//!
//! `INSTA_UPDATE=always cargo test --release -p plexus-node --test it snapshots` records them in `snapshots/`
//! beside this file. What differs between runs is redacted: ids, ports, versions and sizes.

use plexus_node::client::Client;

use crate::harness::Cluster;
use crate::queries::{execute_all, explain, latest_version, wait_indexed};

/// A table with a primary key, a text index and a vector index on one segment file, and the same rows without
/// indexes in another table.
const SETUP: [&str; 9] = [
    // Plans would depend on the number of processors otherwise.
    "SET datafusion.execution.target_partitions = 2",
    "CREATE TABLE docs (id BIGINT PRIMARY KEY, title VARCHAR, body VARCHAR, year INT, v VECTOR(2)) \
     WITH (shards = 1, replicas = 1)",
    "INSERT INTO docs SELECT value, concat('title ', value % 10), concat('wing flow ', value % 7), \
     1900 + value % 100, make_array(cos(value), sin(value)) FROM generate_series(1, 3000)",
    "OPTIMIZE docs",
    "CREATE TABLE plain (id BIGINT, body VARCHAR, year INT, v VECTOR(2)) WITH (shards = 1, replicas = 1)",
    "INSERT INTO plain SELECT id, body, year, v FROM docs",
    "OPTIMIZE plain",
    "CREATE INDEX docs_text ON docs USING text (title, body) WITH (tokenizer = 'en_stem')",
    "CREATE INDEX docs_vectors ON docs USING vector (v) WITH (metric = 'l2')",
];

/// Queries with the names of their snapshots.
const EXPLAINED: [(&str, &str); 13] = [
    ("scan_with_filter", "SELECT id FROM docs WHERE year > 1950"),
    ("lookup_by_primary_key", "SELECT title FROM docs WHERE id = 7"),
    ("aggregate", "SELECT year, count(*) FROM docs GROUP BY year"),
    ("join", "SELECT a.title, b.body FROM docs a JOIN plain b ON a.id = b.id WHERE b.year = 1950"),
    ("top_k", "SELECT id FROM docs ORDER BY year DESC, id LIMIT 3"),
    ("text_search_without_index", "SELECT id FROM text_search(plain, 'wing', 5)"),
    ("text_search_with_index", "SELECT id, title FROM text_search(docs, 'wing 3', 5)"),
    ("text_match", "SELECT count(*) FROM docs WHERE text_match(body, 'wing') AND year < 1920"),
    ("vector_search_without_index", "SELECT id FROM vector_search(plain, v, [1.0, 0.0], 5, metric => 'l2')"),
    ("vector_search_with_index", "SELECT id FROM vector_search(docs, v, [1.0, 0.0], 5, metric => 'l2')"),
    (
        "vector_search_with_filter",
        "SELECT id FROM vector_search(docs, v, [1.0, 0.0], 5, metric => 'l2', filter => 'year = 1950')",
    ),
    ("order_by_distance", "SELECT id FROM docs WHERE year > 1950 ORDER BY v <-> [1.0, 0.0] LIMIT 5"),
    ("hybrid_search", "SELECT id FROM hybrid_search(docs, 'wing 3', [1.0, 0.0], 5, metric => 'l2')"),
];

/// Statements that fail for the reasons of SQL.
const INVALID_SQL: [&str; 14] = [
    "SELEC 1",
    "SELECT nothing FROM docs",
    "SELECT * FROM nowhere",
    "INSERT INTO docs (id) VALUES (1)",
    "INSERT INTO docs (id) VALUES (NULL)",
    "INSERT INTO docs (id, year) VALUES (0, 3000000000)",
    "INSERT INTO docs (id, v) VALUES (0, [1.0, 2.0, 3.0])",
    "INSERT INTO plain (id) VALUES (1) ON CONFLICT DO NOTHING",
    "CREATE TABLE docs (id BIGINT)",
    "CREATE TABLE wrong (id BIGINT) WITH (shards = 0)",
    "ALTER TABLE docs DROP COLUMN id",
    "CREATE VIEW wrong AS SELECT 1",
    "SET plexus.nothing = 1",
    "SELECT * FROM docs VERSION AS OF 99999999",
];

/// Statements that fail for the reasons of search.
const INVALID_SEARCHES: [&str; 12] = [
    "SELECT * FROM text_search(docs, 'wing AND (', 5, strict => true)",
    "SELECT * FROM text_search(docs, 'wing', 0)",
    "SELECT * FROM text_search(docs, 'wing', 5, nothing => 1)",
    "SELECT * FROM text_search(docs, 'wing', 5, filter => 'year +')",
    "SELECT * FROM text_search(docs, 'wing', 5, filter => 'year + 1')",
    "SELECT * FROM text_search(docs, 'wing', 5, index => 'nothing')",
    "SELECT * FROM vector_search(docs, v, [1.0], 5)",
    "SELECT * FROM vector_search(docs, v, [1.0, 0.0], 5, metric => 'nothing')",
    "SELECT * FROM vector_search(docs, body, [1.0, 0.0], 5)",
    "SELECT * FROM hybrid_search(docs, 'wing', [1.0, 0.0], 5, weights => [1, 2, 3])",
    "SET plexus.recall_target = 1",
    "CREATE INDEX wrong ON docs USING text (body) WITH (tokenizer = 'nothing')",
];

async fn start() -> (Cluster, Client) {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.nodes[0].client().await;
    execute_all(&mut client, &SETUP).await;
    wait_indexed(&mut client, "docs").await;
    (cluster, client)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_of_explain() {
    let (_cluster, mut client) = start().await;
    for (name, sql) in EXPLAINED {
        check(&format!("explain_{name}"), sql, &explain(&mut client, sql).await);
    }
    client.execute("SET plexus.exact_search = true").await.unwrap();
    let sql = "SELECT id FROM vector_search(docs, v, [1.0, 0.0], 5, metric => 'l2')";
    check("explain_exact_vector_search", sql, &explain(&mut client, sql).await);
    let version = latest_version(&mut client).await.unwrap();
    let plan = explain(&mut client, &format!("SELECT id FROM docs VERSION AS OF {version}")).await;
    check("explain_time_travel", "SELECT id FROM docs VERSION AS OF (latest)", &plan);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_of_errors() {
    let (_cluster, mut client) = start().await;
    let sql_errors = errors(&mut client, &INVALID_SQL).await;
    check("errors_of_sql", "statements with their errors", &sql_errors);
    let search_errors = errors(&mut client, &INVALID_SEARCHES).await;
    check("errors_of_search", "searches with their errors", &search_errors);
}

/// The kind and the message of each statement's error.
async fn errors(client: &mut Client, statements: &[&str]) -> String {
    let mut text = String::new();
    for sql in statements {
        let Err(error) = client.query(sql).await else { panic!("{sql} should fail") };
        text.push_str(&format!("{sql}\n    {:?}: {}\n\n", error.kind(), error.message()));
    }
    text
}

/// Compares a text with its snapshot. `description` becomes part of the file.
fn check(name: &str, description: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_description(description);
    settings.set_omit_expression(true);
    settings.set_prepend_module_to_snapshot(false);
    settings.bind(|| insta::assert_snapshot!(name, redact(text)));
}

/// Replaces what differs between runs.
fn redact(text: &str) -> String {
    let mut redacted = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if !is_word(first) {
            redacted.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        }
        let (word, after) = rest.split_at(rest.find(|c| !is_word(c)).unwrap_or(rest.len()));
        let placeholder = placeholder(&redacted, word);
        redacted.push_str(placeholder.unwrap_or(word));
        rest = after;
    }
    redacted
}

/// The placeholder of a word, given the text before it.
fn placeholder(before: &str, word: &str) -> Option<&'static str> {
    if uuid::Uuid::parse_str(word).is_ok() {
        return Some("[id]");
    }
    if !word.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let after = |ending: &str| before.to_ascii_lowercase().ends_with(ending);
    if after("127.0.0.1:") {
        Some("[port]")
    } else if after("version ") || after("as of ") || after("the latest is ") {
        Some("[version]")
    } else if after("..") {
        // The end of a byte range: the size of a file.
        Some("[bytes]")
    } else {
        None
    }
}

#[test]
fn redaction_replaces_ids_ports_versions_and_sizes() {
    let text = "shard-0/0190f1a2-7b3c-7def-8a1b-0123456789ab:0..4711, node 1 at https://127.0.0.1:15003, \
                version 12";
    let expected = "shard-0/[id]:0..[bytes], node 1 at https://127.0.0.1:[port], version [version]";
    assert_eq!(redact(text), expected);
}
