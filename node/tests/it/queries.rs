//! Queries that many tests repeat, and waiting for work in the background.

use std::time::{Duration, Instant};

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, UInt64Type};
use plexus_model::Result;
use plexus_node::client::{Client, IngestOptions};

use crate::harness::PATIENCE;

const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Names of background operations in `plexus.commits`.
pub(crate) const FLUSH: &str = "flush";
pub(crate) const COMPACTION: &str = "compaction";

/// Executes statements in one session. Panics with the first that fails.
pub(crate) async fn execute_all(client: &mut Client, statements: &[&str]) {
    for sql in statements {
        client.execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    }
}

/// The value of a query's first row and column, as a whole number.
pub(crate) async fn number(client: &mut Client, sql: &str) -> Result<i64> {
    let (_, batches) = client.query(sql).await?;
    let batch = batches.iter().find(|b| b.num_rows() > 0).expect("a row");
    let column = cast(batch.column(0), &DataType::Int64).expect("a number");
    Ok(column.as_primitive::<Int64Type>().value(0))
}

/// The first column of some rows, as whole numbers.
pub(crate) fn numbers(batches: &[RecordBatch]) -> Vec<i64> {
    let of_batch = |batch: &RecordBatch| {
        let column = cast(batch.column(0), &DataType::Int64).expect("numbers");
        column.as_primitive::<Int64Type>().values().to_vec()
    };
    batches.iter().flat_map(of_batch).collect()
}

/// The first column of a query's rows, as whole numbers. Panics when the query fails.
pub(crate) async fn column(client: &mut Client, sql: &str) -> Vec<i64> {
    let (_, batches) = client.query(sql).await.unwrap_or_else(|e| panic!("{sql:.300}: {e}"));
    numbers(&batches)
}

/// The sum over the rows of a column that a maintenance statement reports.
pub(crate) async fn reported(client: &mut Client, sql: &str, column: &str) -> u64 {
    let (_, batches) = client.query(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    let values = batches.iter().map(|b| b.column_by_name(column).expect("the column"));
    values.flat_map(|c| c.as_primitive::<UInt64Type>().values().to_vec()).sum()
}

/// The latest version that has a commit of rows.
pub(crate) async fn latest_version(client: &mut Client) -> Result<i64> {
    number(client, "SELECT CAST(max(version) AS BIGINT) FROM plexus.commits").await
}

/// How many commits an operation made, alone or together with others.
pub(crate) async fn commits_of(client: &mut Client, operation: &str) -> i64 {
    let sql = format!("SELECT count(*) FROM plexus.commits WHERE operation LIKE '%{operation}%'");
    number(client, &sql).await.expect("a number")
}

/// Visible segments that are files.
pub(crate) async fn segment_files(client: &mut Client) -> i64 {
    number(client, "SELECT count(*) FROM plexus.segments WHERE NOT inline").await.expect("a number")
}

/// All plans that `EXPLAIN` shows for a statement.
pub(crate) async fn explain(client: &mut Client, sql: &str) -> String {
    let (_, batches) =
        client.query(&format!("EXPLAIN {sql}")).await.unwrap_or_else(|e| panic!("EXPLAIN {sql}: {e}"));
    let mut text = String::new();
    for batch in &batches {
        let plans = cast(batch.column(1), &DataType::Utf8).expect("texts");
        plans.as_string::<i32>().iter().flatten().for_each(|plan| {
            text.push_str(plan.trim_end());
            text.push('\n');
        });
    }
    text
}

/// Waits until a condition holds. Panics after [`PATIENCE`].
pub(crate) async fn wait_until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !condition().await {
        assert!(started.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain: {what}");
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Waits until every segment of a table has every index of the table.
pub(crate) async fn wait_indexed(client: &mut Client, table: &str) {
    let missing = format!(
        "SELECT CAST(sum(segments - segments_indexed) AS BIGINT) FROM plexus.indexes \
         WHERE table_name = '{table}'"
    );
    let what = format!("every segment of {table} is indexed");
    wait_until(&what, async || number(client, &missing).await.unwrap() == 0).await;
}

/// Waits until all rows are in files. Inline segments are flushed when they are half a minute old.
pub(crate) async fn wait_flushed(client: &mut Client) {
    let inline = "SELECT count(*) FROM plexus.segments WHERE inline";
    wait_until("all inline segments are flushed", async || number(client, inline).await.unwrap() == 0).await;
}

/// Options of an ingest that appends to an existing table.
pub(crate) fn append_to(table: &str) -> IngestOptions {
    IngestOptions {
        schema: None,
        table: table.into(),
        create: false,
        replace: false,
        upsert: false,
        shards: None,
        replicas: None,
        primary_key: vec![],
    }
}
