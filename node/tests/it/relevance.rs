//! The relevance of full-text, vector and hybrid search on judged collections.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{Float32Type, Int64Type};
use arrow_schema::DataType;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::harness::{Cluster, run};
use crate::search::hits;
use crate::test_data::collection;

/// Relevance grades of documents by id, for one query.
type Grades = BTreeMap<i64, i64>;

fn read_parquet(path: &Path) -> RecordBatch {
    let reader =
        ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap().build().unwrap();
    let batches: Vec<RecordBatch> = reader.map(Result::unwrap).collect();
    arrow::compute::concat_batches(&batches[0].schema(), &batches).unwrap()
}

struct Query {
    id: i64,
    text: String,
    /// As an SQL literal.
    vector: String,
}

fn read_queries(collection: &Path) -> Vec<Query> {
    let batch = read_parquet(&collection.join("queries.parquet"));
    let ids = batch.column_by_name("id").unwrap().as_primitive::<Int64Type>().clone();
    let texts = cast(batch.column_by_name("text").unwrap(), &DataType::Utf8).unwrap();
    let vectors = batch.column_by_name("embedding").unwrap().as_fixed_size_list().clone();
    (0..batch.num_rows())
        .map(|row| {
            let vector = vectors.value(row);
            let components: Vec<String> =
                vector.as_primitive::<Float32Type>().values().iter().map(|v| format!("{v:.8}")).collect();
            Query {
                id: ids.value(row),
                text: plain_terms(texts.as_string::<i32>().value(row)),
                vector: format!("[{}]", components.join(", ")),
            }
        })
        .collect()
}

/// The terms of a text without what the query language gives a meaning: punctuation and operators.
fn plain_terms(text: &str) -> String {
    let letters: String = text.chars().map(|c| if c.is_alphanumeric() { c } else { ' ' }).collect();
    let terms = letters
        .split_whitespace()
        .filter(|w| !["AND", "OR", "NOT", "IN"].contains(&w.to_uppercase().as_str()));
    terms.collect::<Vec<_>>().join(" ")
}

fn read_judgements(collection: &Path) -> BTreeMap<i64, Grades> {
    let batch = read_parquet(&collection.join("qrels.parquet"));
    let column = |name: &str| {
        let column = cast(batch.column_by_name(name).unwrap(), &DataType::Int64).unwrap();
        column.as_primitive::<Int64Type>().clone()
    };
    let (queries, docs, grades) = (column("query_id"), column("doc_id"), column("grade"));
    let mut all: BTreeMap<i64, Grades> = BTreeMap::new();
    for row in 0..batch.num_rows() {
        all.entry(queries.value(row)).or_default().insert(docs.value(row), grades.value(row));
    }
    all
}

/// Normalized discounted cumulative gain at ten, with gains of 2^grade - 1 (Järvelin and Kekäläinen:
/// "Cumulated gain-based evaluation of IR techniques", ACM TOIS 20, 2002).
fn ndcg(found: &[(i64, u64)], grades: &Grades) -> f64 {
    let gain = |grade: i64| f64::from((1 << grade) - 1);
    let discounted = |gains: &mut dyn Iterator<Item = f64>| -> f64 {
        gains.take(10).enumerate().map(|(i, g)| g / (i as f64 + 2.0).log2()).sum()
    };
    let mut best: Vec<i64> = grades.values().copied().collect();
    best.sort_unstable_by(|a, b| b.cmp(a));
    let ideal = discounted(&mut best.into_iter().map(gain));
    let actual = discounted(&mut found.iter().map(|(id, _)| grades.get(id).map_or(0.0, |g| gain(*g))));
    if ideal > 0.0 { actual / ideal } else { 0.0 }
}

/// Full-text, vector and hybrid search of the ten best documents.
fn searches(query: &Query) -> [String; 3] {
    let Query { text, vector, .. } = query;
    [
        format!("SELECT id, _score FROM text_search(docs, '{text}', 10)"),
        format!("SELECT id, _score FROM vector_search(docs, embedding, {vector}, 10)"),
        format!("SELECT id, _score FROM hybrid_search(docs, '{text}', {vector}, 10)"),
    ]
}

fn load(cluster: &Cluster, collection: &Path) {
    let file = collection.join("docs.parquet").display().to_string();
    let url = cluster.nodes[0].flight();
    let options = ["--table", "docs", "--create", "--primary-key", "id", "--shards", "3", "--url", &url];
    let loaded = run(&[&["load", &file], &options[..]].concat());
    assert!(loaded.status.success(), "{}", String::from_utf8_lossy(&loaded.stderr));
}

/// Loads a collection and compares the mean nDCG@10 with reference values: `text` of tantivy's own BM25,
/// `dense` of exact vector search. Hybrid search has to be better than either.
async fn check_relevance(name: &str, text: f64, dense: f64) {
    let Some(path) = collection(name) else {
        return;
    };
    let cluster = Cluster::start(1).await;
    load(&cluster, &path);
    let mut client = cluster.nodes[0].client().await;
    let index = "CREATE INDEX docs_text ON docs USING text (title, text) WITH (tokenizer = 'en_stem')";
    client.execute(index).await.unwrap();
    let judgements = read_judgements(&path);
    let mut sums = [0.0; 3];
    let mut judged = 0;
    for query in &read_queries(&path) {
        let Some(grades) = judgements.get(&query.id) else {
            continue;
        };
        judged += 1;
        for (sum, sql) in sums.iter_mut().zip(searches(query)) {
            *sum += ndcg(&hits(&mut client, &sql).await, grades);
        }
    }
    let [found_text, found_dense, hybrid] = sums.map(|sum| sum / f64::from(judged));
    println!("{name}: nDCG@10 text {found_text:.4}, vectors {found_dense:.4}, hybrid {hybrid:.4}");
    assert!((found_text - text).abs() <= 0.01, "full text {found_text}, reference {text}");
    assert!((found_dense - dense).abs() <= 0.001, "vectors {found_dense}, reference {dense}");
    assert!(hybrid > found_text && hybrid > found_dense, "hybrid {hybrid}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ndcg_on_cranfield_matches_the_references() {
    check_relevance("cranfield", 0.3616, 0.3684).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ndcg_on_cacm_matches_the_references() {
    check_relevance("cacm", 0.4223, 0.4163).await;
}
