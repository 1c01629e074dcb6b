//! Search as clients see it, through Flight SQL: one node, words and vectors in one table, prepared statements; other
//! libraries in this machine's Python beside it, in process.

use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{
    ArrayRef, AsArray, FixedSizeListArray, Float32Array, Float64Array, Int32Array, Int64Array, ListArray,
    RecordBatch, StringArray,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use futures::StreamExt;
use hdrhistogram::Histogram;
use plexus_index::squared_l2;
use plexus_model::{Error, Result};
use plexus_node::client::{Client, IngestOptions};
use plexus_node::local::LocalCluster;

use crate::Figure;
use crate::vectors::{LENGTH, Random, generate, rate_in_process, write};
use crate::workload::{histogram, percentiles};

/// Rows of the table that is searched.
pub const ROWS: usize = 100_000;
const QUERIES: usize = 300;
/// Queries whose nearest rows are known.
const JUDGED: usize = 100;
const K: usize = 10;
const WORDS: u64 = 20_000;
const WORDS_OF_A_ROW: Range<u64> = 5..56;
/// Values of the column by which is filtered.
const KINDS: i32 = 1_000;
/// Vectors that are searched for in one statement.
const BATCH: usize = 200;
const CLIENTS: usize = 4;
const CLIENT_TIME: Duration = Duration::from_secs(5);
const INDEX_TIME_MAX: Duration = Duration::from_secs(1_800);
const PEERS: &str = include_str!("../search.py");

/// What is searched.
struct Data {
    texts: Vec<String>,
    vectors: Vec<f32>,
    questions: Vec<String>,
    queries: Vec<f32>,
}

/// Texts of many lengths with words about as often as they are in texts: the n-th in proportion to 1/n.
pub fn texts(rows: usize) -> Vec<String> {
    let mut random = Random(0xbe_ef);
    let text = |_| {
        let length = WORDS_OF_A_ROW.start + random.next() % (WORDS_OF_A_ROW.end - WORDS_OF_A_ROW.start);
        let mut word = || ((WORDS as f64).powf((random.next() >> 11) as f64 / (1u64 << 53) as f64)) as u64;
        (0..length).map(|_| format!("w{}", word())).collect::<Vec<_>>().join(" ")
    };
    (0..rows).map(text).collect()
}

/// Questions by their kinds.
pub fn questions() -> Vec<(&'static str, Vec<String>)> {
    let of = |make: fn(usize) -> String| (0..QUERIES).map(make).collect();
    vec![
        ("two words", of(|i| format!("w{} w{}", 20 + i % 50, 300 + i * 7))),
        ("two frequent words", of(|i| format!("w{} w{}", 1 + i % 7, 9 + i % 31))),
        (
            "five words",
            of(|i| format!("w{} w{} w{} w{} w{}", 1 + i % 5, 10 + i % 20, 50 + i, 400 + i, 2_000 + i)),
        ),
        ("both of two words", of(|i| format!("+w{} +w{}", 2 + i % 10, 20 + i % 50))),
        ("a phrase", of(|i| format!("\"w{} w{}\"", 1 + i % 5, 2 + i % 11))),
    ]
}

impl Data {
    fn new(rows: usize) -> Self {
        let texts = texts(rows);
        let questions = (0..QUERIES).map(|i| format!("w{} w{}", 20 + i % 50, 300 + i * 7)).collect();
        Self { texts, vectors: generate(rows, 1), questions, queries: generate(QUERIES, 2) }
    }

    fn vector(&self, row: usize) -> &[f32] {
        &self.vectors[row * LENGTH..(row + 1) * LENGTH]
    }

    fn query(&self, query: usize) -> &[f32] {
        &self.queries[query * LENGTH..(query + 1) * LENGTH]
    }

    fn batch(&self, rows: Range<usize>) -> Result<RecordBatch> {
        let ids = || rows.clone().map(|row| row as i64);
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("id", Arc::new(Int64Array::from_iter_values(ids()))),
            ("body", Arc::new(StringArray::from_iter_values(&self.texts[rows.clone()]))),
            ("kind", Arc::new(Int32Array::from_iter_values(ids().map(|id| kind(id as usize))))),
            ("weight", Arc::new(Float64Array::from_iter_values(ids().map(|id| id as f64 / 2.0)))),
            ("name", Arc::new(StringArray::from_iter_values(ids().map(|id| format!("row {id}"))))),
            ("v", vectors(&self.vectors[rows.start * LENGTH..rows.end * LENGTH])),
        ];
        let fields: Vec<Field> =
            columns.iter().map(|(name, array)| Field::new(*name, array.data_type().clone(), true)).collect();
        let arrays = columns.into_iter().map(|(_, array)| array).collect();
        RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).map_err(failed)
    }

    /// The nearest rows to a query, of those whose kind is below a bound.
    fn nearest(&self, query: usize, below: i32) -> Vec<i64> {
        let rows = (0..self.texts.len()).filter(|row| kind(*row) < below);
        let mut all: Vec<(f32, i64)> =
            rows.map(|row| (squared_l2(self.query(query), self.vector(row)), row as i64)).collect();
        all.sort_by(|a, b| a.0.total_cmp(&b.0));
        all.into_iter().take(K).map(|(_, row)| row).collect()
    }
}

fn kind(row: usize) -> i32 {
    (row as i64 * 7_919 % i64::from(KINDS)) as i32
}

fn failed(e: arrow::error::ArrowError) -> Error {
    Error::internal(format!("making rows: {e}")).with_source(e)
}

fn vectors(values: &[f32]) -> ArrayRef {
    let item = Arc::new(Field::new("item", DataType::Float32, false));
    let values = Arc::new(Float32Array::from(values.to_vec()));
    Arc::new(FixedSizeListArray::new(item, LENGTH as i32, values, None))
}

/// A row of parameters.
fn parameters(columns: Vec<ArrayRef>) -> Result<RecordBatch> {
    let fields: Vec<Field> = (1..)
        .zip(&columns)
        .map(|(at, array): (usize, _)| Field::new(format!("${at}"), array.data_type().clone(), true))
        .collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(failed)
}

pub async fn measure(program: &Path, dir: &Path, rows: usize) -> Result<Vec<Figure>> {
    let data = Arc::new(Data::new(rows));
    let folder = dir.join("search");
    std::fs::create_dir_all(&folder).map_err(|e| Error::io(folder.display(), e))?;
    let mut cluster = LocalCluster::start(program, &folder, 1).await?;
    let result = served(&cluster.url(), &data).await;
    cluster.stop().await;
    let mut figures = result?;
    figures.extend(peers(dir, &data)?);
    Ok(figures)
}

async fn served(url: &str, data: &Arc<Data>) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let mut client = Client::connect(url).await?;
    fill(&mut client, data).await?;
    let started = Instant::now();
    client.execute("CREATE INDEX near ON t USING vector (v) WITH (metric = 'l2')").await?;
    client.execute("CREATE INDEX words ON t USING text (body)").await?;
    client.execute("OPTIMIZE t").await?;
    let (bytes, segments) = indexed(&mut client).await?;
    let rows = data.texts.len();
    let took = started.elapsed().as_secs_f64();
    figures.push(Figure::new(
        format!("{rows} rows merged and indexed by words and vectors"),
        format!("{took:.1} s, {segments} segments"),
        "",
    ));
    let files = number(&mut client, "SELECT sum(bytes) FROM plexus.segments WHERE NOT inline").await?;
    let ratio = (files + bytes) as f64 / (rows * LENGTH * 4) as f64;
    figures.push(Figure::new(
        "files of all columns and the graph",
        format!("{ratio:.2} x raw vectors"),
        "<= 1.3 x",
    ));

    let vector = "SELECT id FROM vector_search(t, v, $1, 10, metric => 'l2'";
    let mut unfiltered = 0.0;
    for below in [KINDS, KINDS / 2, KINDS / 10, KINDS / 100, KINDS / 1_000] {
        let filter = if below == KINDS { String::new() } else { format!(", filter => 'kind < {below}'") };
        let mut statement = client.prepare(&format!("{vector}{filter})")).await?;
        let mut found = 0;
        let mut times = histogram();
        for query in 0..QUERIES {
            let asked = parameters(vec![vectors(data.query(query))])?;
            let started = Instant::now();
            let batches = statement.query(asked).await?;
            times.saturating_record(started.elapsed().as_micros() as u64);
            if query < JUDGED {
                let truth = data.nearest(query, below);
                found += ids(&batches).filter(|id| truth.contains(id)).count();
            }
        }
        let recall = found as f64 / (JUDGED * K) as f64;
        let share = f64::from(below) * 100.0 / f64::from(KINDS);
        let p50 = times.value_at_quantile(0.5) as f64;
        if below == KINDS {
            unfiltered = p50;
        }
        let (name, ratio) = (format!("nearest 10 of {share} %"), unfiltered / p50);
        let value = format!("recall {recall:.3}, {}; {ratio:.2} x the rate of all", percentiles(&times));
        figures.push(Figure::new(name, value, "recall >= 0.95, >= 0.5 x"));
    }
    figures.extend(hybrid(&mut client, data).await?);
    figures.extend(clients(url, data).await?);
    Ok(figures)
}

/// Words, vectors and both, by the same filter, with five columns.
async fn hybrid(client: &mut Client, data: &Data) -> Result<Vec<Figure>> {
    let columns = "id, body, kind, weight, name";
    let filter = "filter => 'kind < 500'";
    let mut figures = Vec::new();
    let mut slower = 0.0f64;
    for (name, call) in [
        ("words, filtered", format!("text_search(t, $1, 10, {filter})")),
        ("vectors, filtered", format!("vector_search(t, v, $1, 10, metric => 'l2', {filter})")),
        ("hybrid, filtered", format!("hybrid_search(t, $1, $2, 10, metric => 'l2', {filter})")),
    ] {
        let mut statement = client.prepare(&format!("SELECT {columns} FROM {call}")).await?;
        let mut times: Histogram<u64> = histogram();
        for query in 0..QUERIES {
            let text: ArrayRef = Arc::new(StringArray::from(vec![data.questions[query].clone()]));
            let asked = match name.split(',').next() {
                Some("words") => vec![text],
                Some("vectors") => vec![vectors(data.query(query))],
                _ => vec![text, vectors(data.query(query))],
            };
            let asked = parameters(asked)?;
            let started = Instant::now();
            statement.query(asked).await?;
            times.saturating_record(started.elapsed().as_micros() as u64);
        }
        let (p50, p99) = (times.value_at_quantile(0.5) as f64, times.value_at_quantile(0.99) as f64);
        let (ratio, tail) = (p50 / slower, p99 / p50);
        let (value, target) = match name.starts_with("hybrid") {
            true => (format!("; {ratio:.2} x the slower leg, p99 {tail:.1} x p50"), "<= 1.3 x, <= 4 x"),
            false => (String::new(), ""),
        };
        slower = slower.max(p50);
        figures.push(Figure::new(name, format!("{}{value}", percentiles(&times)), target));
    }
    Ok(figures)
}

/// Clients at once, with a vector in each statement and with many.
async fn clients(url: &str, data: &Arc<Data>) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let in_process = {
        let data = data.clone();
        let measured =
            tokio::task::spawn_blocking(move || rate_in_process(&data.vectors, &data.queries, CLIENT_TIME));
        measured.await.map_err(|e| Error::internal(format!("measuring in process: {e}")))??
    };
    figures.push(Figure::new("in process, all processors", format!("{in_process:.0} vectors/s"), ""));
    for many in [1, BATCH] {
        let started = Instant::now();
        let tasks: Vec<_> = (0..CLIENTS)
            .map(|task| {
                let (url, data) = (url.to_owned(), data.clone());
                tokio::spawn(async move {
                    let mut client = Client::connect(&url).await?;
                    let call = if many == 1 { "$1, 10" } else { "k => 10, queries => $1" };
                    let sql = format!("SELECT id FROM vector_search(t, v, {call}, metric => 'l2')");
                    let mut statement = client.prepare(&sql).await?;
                    let mut done = 0;
                    while started.elapsed() < CLIENT_TIME {
                        let first = (task * 31 + done) % (QUERIES - many + 1);
                        let asked = vectors(&data.queries[first * LENGTH..(first + many) * LENGTH]);
                        let asked = if many == 1 { asked } else { one_list(asked)? };
                        statement.query(parameters(vec![asked])?).await?;
                        done += many;
                    }
                    Ok::<_, Error>(done)
                })
            })
            .collect();
        let mut done = 0;
        for task in tasks {
            done += task.await.map_err(|e| Error::internal(format!("a client stopped: {e}")))??;
        }
        let rate = done as f64 / started.elapsed().as_secs_f64();
        let name = format!("{CLIENTS} clients, {many} vectors a statement");
        let ratio = rate / in_process;
        let target = if many == 1 { "" } else { ">= 0.7 x" };
        figures.push(Figure::new(name, format!("{rate:.0} vectors/s, {ratio:.2} x in process"), target));
    }
    Ok(figures)
}

/// A list whose only value is a list of all rows.
fn one_list(rows: ArrayRef) -> Result<ArrayRef> {
    let item = Arc::new(Field::new("item", rows.data_type().clone(), true));
    let offsets = OffsetBuffer::from_lengths([rows.len()]);
    Ok(Arc::new(ListArray::try_new(item, offsets, rows, None).map_err(failed)?))
}

async fn fill(client: &mut Client, data: &Arc<Data>) -> Result<()> {
    const STEP: usize = 4_096;
    client
        .execute(&format!(
            "CREATE TABLE t (id BIGINT PRIMARY KEY, body VARCHAR, kind INT, weight DOUBLE, name VARCHAR, v VECTOR({LENGTH})) \
             WITH (shards = 1, replicas = 1)"
        ))
        .await?;
    let rows = data.texts.len();
    let schema = data.batch(0..0)?.schema();
    let data = data.clone();
    let batches = futures::stream::iter((0..rows).step_by(STEP))
        .map(move |first| data.batch(first..(first + STEP).min(rows)))
        .boxed();
    let options = IngestOptions {
        schema: None,
        table: "t".into(),
        create: false,
        replace: false,
        upsert: false,
        shards: None,
        replicas: None,
        primary_key: vec![],
    };
    client.ingest(options, schema, batches).await?;
    Ok(())
}

/// Waits until all is indexed: bytes of graphs, and their number.
async fn indexed(client: &mut Client) -> Result<(u64, u64)> {
    let started = Instant::now();
    let lacking = "SELECT CAST(sum(segments - segments_indexed) AS BIGINT) FROM plexus.indexes";
    while number(client, lacking).await? > 0 {
        if started.elapsed() > INDEX_TIME_MAX {
            return Err(Error::unavailable("the table was not indexed"));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let graphs = "FROM plexus.indexes WHERE kind = 'vector'";
    let bytes = number(client, &format!("SELECT sum(bytes) {graphs}")).await?;
    Ok((bytes, number(client, &format!("SELECT sum(segments) {graphs}")).await?))
}

async fn number(client: &mut Client, sql: &str) -> Result<u64> {
    let (_, batches) = client.query(sql).await?;
    let number = batches.first().filter(|batch| batch.num_rows() > 0).map(|batch| {
        let column = arrow::compute::cast(batch.column(0), &DataType::Int64).map_err(failed)?;
        Ok(column.as_primitive::<Int64Type>().value(0).max(0) as u64)
    });
    number.unwrap_or_else(|| Err(Error::internal(format!("{sql} gave nothing"))))
}

fn ids(batches: &[RecordBatch]) -> impl Iterator<Item = i64> + '_ {
    batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().iter().copied())
}

/// The same in other libraries, as far as they are there.
fn peers(dir: &Path, data: &Data) -> Result<Vec<Figure>> {
    let lines = |name: &str, lines: &[String]| {
        let path = dir.join(name);
        let fail = |e| Error::io(path.display(), e);
        let mut file = std::io::BufWriter::new(std::fs::File::create(&path).map_err(fail)?);
        lines.iter().try_for_each(|line| writeln!(file, "{line}")).map_err(fail)?;
        file.flush().map_err(fail)?;
        Ok::<_, Error>(path)
    };
    let (base, asked) = (dir.join("vectors.f32"), dir.join("queries.f32"));
    write(&base, &data.vectors)?;
    write(&asked, &data.queries)?;
    let (texts, questions) = (lines("texts.txt", &data.texts)?, lines("questions.txt", &data.questions)?);
    let python = std::env::var("PLEXUS_BENCH_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let run = std::process::Command::new(python)
        .args(["-c", PEERS])
        .args([&base, &asked, &texts, &questions, &dir.join("lance")])
        .args([LENGTH.to_string(), K.to_string(), KINDS.to_string()])
        .output();
    let output = match run {
        Ok(output) => output,
        Err(e) => {
            eprintln!("other libraries: {e}");
            return Ok(vec![]);
        }
    };
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .map(|(name, value)| Figure::new(name, value, ""))
        .collect())
}
