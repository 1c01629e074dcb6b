//! Search as clients see it, through Flight SQL: one node, full text and vectors in one table, prepared
//! statements; other libraries beside it, in process.

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
use plexus_model::{Error, Result};
use plexus_node::client::Client;

use crate::cluster::{append_to, join_clients, number, with_cluster};
use crate::corpus::{QUERIES, texts, two_term_queries};
use crate::embeddings::{DIMENSIONS, Vectors, generate};
use crate::latency::Latencies;
use crate::vectors::rate_in_process;
use crate::{Figure, corpus, embeddings, peers};

/// Rows of the table, unless the command line says otherwise.
pub(crate) const ROWS: usize = 100_000;
/// Queries whose true nearest rows are computed for the recall.
const JUDGED: usize = 100;
const K: usize = 10;
/// Distinct values of the column that filters use.
const KINDS: i32 = 1_000;
/// Vectors per statement where a statement searches for many.
const BATCH: usize = 200;
const CLIENTS: usize = 4;
const CLIENT_TIME: Duration = Duration::from_secs(5);
const INDEX_TIME_MAX: Duration = Duration::from_secs(1_800);
/// Rows per batch of the load.
const LOAD_ROWS: usize = 4_096;

/// The table and the queries.
struct Data {
    texts: Vec<String>,
    vectors: Vec<f32>,
    query_texts: Vec<String>,
    query_vectors: Vec<f32>,
}

impl Data {
    fn new(rows: usize) -> Self {
        Self {
            texts: texts(rows),
            vectors: generate(rows, 1),
            query_texts: two_term_queries(),
            query_vectors: generate(QUERIES, 2),
        }
    }

    fn base(&self) -> Vectors<'_> {
        Vectors(&self.vectors)
    }

    fn queries(&self) -> Vectors<'_> {
        Vectors(&self.query_vectors)
    }

    /// The query vector of a number, as a parameter.
    fn query_vector(&self, query: usize) -> ArrayRef {
        vector_array(self.queries().get(query))
    }

    fn query_text(&self, query: usize) -> ArrayRef {
        Arc::new(StringArray::from(vec![self.query_texts[query].clone()]))
    }

    fn batch(&self, rows: std::ops::Range<usize>) -> Result<RecordBatch> {
        let ids = || rows.clone().map(|row| row as i64);
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("id", Arc::new(Int64Array::from_iter_values(ids()))),
            ("body", Arc::new(StringArray::from_iter_values(&self.texts[rows.clone()]))),
            ("kind", Arc::new(Int32Array::from_iter_values(ids().map(|id| kind(id as usize))))),
            ("weight", Arc::new(Float64Array::from_iter_values(ids().map(|id| id as f64 / 2.0)))),
            ("name", Arc::new(StringArray::from_iter_values(ids().map(|id| format!("row {id}"))))),
            ("v", vector_array(&self.vectors[rows.start * DIMENSIONS..rows.end * DIMENSIONS])),
        ];
        let fields: Vec<Field> =
            columns.iter().map(|(name, array)| Field::new(*name, array.data_type().clone(), true)).collect();
        let arrays = columns.into_iter().map(|(_, array)| array).collect();
        RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).map_err(arrow_error)
    }

    /// The ids of the nearest rows to a query among those whose kind is below a bound.
    fn nearest(&self, query: usize, kind_below: i32) -> Vec<i64> {
        let rows = (0..self.texts.len() as u32).filter(|row| kind(*row as usize) < kind_below);
        self.base().nearest(self.queries().get(query), rows, K).into_iter().map(i64::from).collect()
    }
}

fn kind(row: usize) -> i32 {
    (row as i64 * 7_919 % i64::from(KINDS)) as i32
}

fn arrow_error(e: arrow::error::ArrowError) -> Error {
    Error::internal(format!("making rows: {e}")).with_source(e)
}

/// Vectors as a column, from their components one after the other.
fn vector_array(components: &[f32]) -> ArrayRef {
    let item = Arc::new(Field::new("item", DataType::Float32, false));
    let values = Arc::new(Float32Array::from(components.to_vec()));
    Arc::new(FixedSizeListArray::new(item, DIMENSIONS as i32, values, None))
}

/// A list whose only value is the list of all rows.
fn one_list(rows: ArrayRef) -> Result<ArrayRef> {
    let item = Arc::new(Field::new("item", rows.data_type().clone(), true));
    let offsets = OffsetBuffer::from_lengths([rows.len()]);
    Ok(Arc::new(ListArray::try_new(item, offsets, rows, None).map_err(arrow_error)?))
}

/// One row of parameters, `$1` first.
fn parameters(columns: Vec<ArrayRef>) -> Result<RecordBatch> {
    let fields: Vec<Field> = (1..)
        .zip(&columns)
        .map(|(at, array): (usize, _)| Field::new(format!("${at}"), array.data_type().clone(), true))
        .collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(arrow_error)
}

/// Measures one node with `rows` rows, then the peers.
pub(crate) async fn measure(program: &Path, dir: &Path, rows: usize) -> Result<Vec<Figure>> {
    let data = Arc::new(Data::new(rows));
    let mut figures = with_cluster(program, dir, "search", 1, async |cluster| {
        let url = cluster.url();
        let mut client = Client::connect(&url).await?;
        load(&mut client, &data).await?;
        let mut figures = index(&mut client, &data).await?;
        figures.extend(filtered(&mut client, &data).await?);
        figures.extend(hybrid(&mut client, &data).await?);
        figures.extend(concurrent(&url, &data).await?);
        Ok(figures)
    })
    .await?;
    figures.extend(measure_peers(dir, &data)?);
    Ok(figures)
}

async fn load(client: &mut Client, data: &Arc<Data>) -> Result<()> {
    let create = format!(
        "CREATE TABLE t (id BIGINT PRIMARY KEY, body VARCHAR, kind INT, weight DOUBLE, name VARCHAR, \
         v VECTOR({DIMENSIONS})) WITH (shards = 1, replicas = 1)"
    );
    client.execute(&create).await?;
    let rows = data.texts.len();
    let schema = data.batch(0..0)?.schema();
    let data = data.clone();
    let batches = futures::stream::iter((0..rows).step_by(LOAD_ROWS))
        .map(move |first| data.batch(first..(first + LOAD_ROWS).min(rows)))
        .boxed();
    client.ingest(append_to("t"), schema, batches).await?;
    Ok(())
}

/// Compacts the table and builds both indexes. Reports the time and the size of the files.
async fn index(client: &mut Client, data: &Data) -> Result<Vec<Figure>> {
    let started = Instant::now();
    client.execute("CREATE INDEX by_vector ON t USING vector (v) WITH (metric = 'l2')").await?;
    client.execute("CREATE INDEX by_text ON t USING text (body)").await?;
    client.execute("OPTIMIZE t").await?;
    wait_indexed(client).await?;
    let seconds = started.elapsed().as_secs_f64();
    let vector_indexes = "FROM plexus.indexes WHERE kind = 'vector'";
    let segments = number(client, &format!("SELECT sum(segments) {vector_indexes}")).await?;
    let graph_bytes = number(client, &format!("SELECT sum(bytes) {vector_indexes}")).await?;
    let file_bytes = number(client, "SELECT sum(bytes) FROM plexus.segments WHERE NOT inline").await?;
    let rows = data.texts.len();
    let ratio = (file_bytes + graph_bytes) as f64 / (rows * DIMENSIONS * 4) as f64;
    Ok(vec![
        Figure::new(
            format!("compact {rows} rows, build both indexes"),
            format!("{seconds:.1} s, {segments} segments"),
            "",
        ),
        Figure::new("files of all columns and the graph", format!("{ratio:.2} x raw vectors"), "<= 1.3 x"),
    ])
}

/// Waits until every segment has every index.
async fn wait_indexed(client: &mut Client) -> Result<()> {
    let started = Instant::now();
    let missing = "SELECT CAST(sum(segments - segments_indexed) AS BIGINT) FROM plexus.indexes";
    while number(client, missing).await? > 0 {
        if started.elapsed() > INDEX_TIME_MAX {
            return Err(Error::unavailable("the table was not indexed"));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

/// Vector search without a filter, and with filters of several selectivities.
async fn filtered(client: &mut Client, data: &Data) -> Result<Vec<Figure>> {
    let call = "SELECT id FROM vector_search(t, v, $1, 10, metric => 'l2'";
    let mut figures = Vec::new();
    let mut unfiltered_us = 0.0;
    for kind_below in [KINDS, KINDS / 2, KINDS / 10, KINDS / 100, KINDS / 1_000] {
        let unfiltered = kind_below == KINDS;
        let filter = if unfiltered { String::new() } else { format!(", filter => 'kind < {kind_below}'") };
        let mut statement = client.prepare(&format!("{call}{filter})")).await?;
        let mut hits = 0;
        let mut latencies = Latencies::new();
        for query in 0..QUERIES {
            let vector = parameters(vec![data.query_vector(query)])?;
            let started = Instant::now();
            let batches = statement.query(vector).await?;
            latencies.record_since(started);
            if query < JUDGED {
                let truth = data.nearest(query, kind_below);
                hits += ids(&batches).filter(|id| truth.contains(id)).count();
            }
        }
        let recall = hits as f64 / (JUDGED * K) as f64;
        let percent = f64::from(kind_below) * 100.0 / f64::from(KINDS);
        let p50 = latencies.quantile_us(0.5);
        if unfiltered {
            unfiltered_us = p50;
        }
        let ratio = unfiltered_us / p50;
        let value =
            format!("recall {recall:.3}, {}; {ratio:.2} x the unfiltered rate", latencies.percentiles());
        let name = format!("nearest 10, filter leaves {percent} %");
        figures.push(Figure::new(name, value, "recall >= 0.95, >= 0.5 x"));
    }
    Ok(figures)
}

/// Full-text, vector and hybrid search with the same filter and five columns.
async fn hybrid(client: &mut Client, data: &Data) -> Result<Vec<Figure>> {
    let filter = "filter => 'kind < 500'";
    let text = format!("text_search(t, $1, 10, {filter})");
    let text = latencies_of(client, &text, |query| vec![data.query_text(query)]).await?;
    let vector = format!("vector_search(t, v, $1, 10, metric => 'l2', {filter})");
    let vector = latencies_of(client, &vector, |query| vec![data.query_vector(query)]).await?;
    let both = format!("hybrid_search(t, $1, $2, 10, metric => 'l2', {filter})");
    let both =
        latencies_of(client, &both, |query| vec![data.query_text(query), data.query_vector(query)]).await?;
    let slower_us = text.quantile_us(0.5).max(vector.quantile_us(0.5));
    let (p50, p99) = (both.quantile_us(0.5), both.quantile_us(0.99));
    let (ratio, tail) = (p50 / slower_us, p99 / p50);
    let value = format!("{}; {ratio:.2} x the slower retriever, p99 {tail:.1} x p50", both.percentiles());
    Ok(vec![
        Figure::new("full text, filtered", text.percentiles(), ""),
        Figure::new("vectors, filtered", vector.percentiles(), ""),
        Figure::new("hybrid, filtered", value, "<= 1.3 x, <= 4 x"),
    ])
}

/// Runs a search once for each query, one at a time. `arguments` gives the parameters of a query.
async fn latencies_of(
    client: &mut Client,
    call: &str,
    arguments: impl Fn(usize) -> Vec<ArrayRef>,
) -> Result<Latencies> {
    let mut statement = client.prepare(&format!("SELECT id, body, kind, weight, name FROM {call}")).await?;
    let mut latencies = Latencies::new();
    for query in 0..QUERIES {
        let arguments = parameters(arguments(query))?;
        let started = Instant::now();
        statement.query(arguments).await?;
        latencies.record_since(started);
    }
    Ok(latencies)
}

/// Several clients at once, with one vector per statement and with many, beside the rate in process.
async fn concurrent(url: &str, data: &Arc<Data>) -> Result<Vec<Figure>> {
    let in_process = {
        let data = data.clone();
        let measure = move || rate_in_process(data.base(), data.queries(), CLIENT_TIME);
        let measured = tokio::task::spawn_blocking(measure).await;
        measured.map_err(|e| Error::internal(format!("measuring in process: {e}")))??
    };
    let mut figures =
        vec![Figure::new("in process, all processors", format!("{in_process:.0} vectors/s"), "")];
    for batch in [1, BATCH] {
        let started = Instant::now();
        let tasks = (0..CLIENTS).map(|client| {
            tokio::spawn(search_until_end(url.to_owned(), data.clone(), client, batch, started))
        });
        let searched: usize = join_clients(tasks.collect()).await?.into_iter().sum();
        let rate = searched as f64 / started.elapsed().as_secs_f64();
        let ratio = rate / in_process;
        let name = format!("{CLIENTS} clients, {batch} vectors per statement");
        let value = format!("{rate:.0} vectors/s, {ratio:.2} x in process");
        figures.push(Figure::new(name, value, if batch == 1 { "" } else { ">= 0.7 x" }));
    }
    Ok(figures)
}

/// One client that searches until [`CLIENT_TIME`] has passed. Returns the number of vectors searched for.
async fn search_until_end(
    url: String,
    data: Arc<Data>,
    client: usize,
    batch: usize,
    started: Instant,
) -> Result<usize> {
    let mut connection = Client::connect(&url).await?;
    let call = if batch == 1 { "$1, 10" } else { "k => 10, queries => $1" };
    let sql = format!("SELECT id FROM vector_search(t, v, {call}, metric => 'l2')");
    let mut statement = connection.prepare(&sql).await?;
    let mut searched = 0;
    while started.elapsed() < CLIENT_TIME {
        let first = (client * 31 + searched) % (QUERIES - batch + 1);
        let vectors = vector_array(&data.query_vectors[first * DIMENSIONS..(first + batch) * DIMENSIONS]);
        let vectors = if batch == 1 { vectors } else { one_list(vectors)? };
        statement.query(parameters(vec![vectors])?).await?;
        searched += batch;
    }
    Ok(searched)
}

fn ids(batches: &[RecordBatch]) -> impl Iterator<Item = i64> + '_ {
    batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().iter().copied())
}

/// The same rows and queries in other libraries.
fn measure_peers(dir: &Path, data: &Data) -> Result<Vec<Figure>> {
    let files = ["vectors.f32", "queries.f32", "texts.txt", "queries.txt"].map(|name| dir.join(name));
    embeddings::write(&files[0], &data.vectors)?;
    embeddings::write(&files[1], &data.query_vectors)?;
    corpus::write(&files[2], &data.texts)?;
    corpus::write(&files[3], &data.query_texts)?;
    let mut script = peers::python(dir, &peers::SEARCH)?;
    script.args(&files).arg(dir.join("lance"));
    script.args([DIMENSIONS.to_string(), K.to_string(), KINDS.to_string()]);
    let output = peers::run(&mut script).unwrap_or_default();
    let lines = output.lines().filter_map(|line| line.split_once('\t'));
    Ok(lines.map(|(name, value)| Figure::new(name, value, "")).collect())
}
