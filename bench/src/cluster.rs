//! Local clusters and the queries that several measurements repeat.

use std::path::Path;
use std::time::Instant;

use arrow::array::AsArray;
use arrow::datatypes::{DataType, Int64Type};
use plexus_model::{Error, Result};
use plexus_node::client::{Client, IngestOptions};
use plexus_node::local::LocalCluster;

/// Runs `work` on a cluster of its own, whose data is in the folder `name` of `dir`, and stops the cluster
/// whether the work succeeds or not.
pub(crate) async fn with_cluster<T>(
    program: &Path,
    dir: &Path,
    name: &str,
    nodes: u16,
    work: impl AsyncFnOnce(&LocalCluster) -> Result<T>,
) -> Result<T> {
    let data = dir.join(name);
    std::fs::create_dir_all(&data).map_err(|e| Error::io(data.display(), e))?;
    let mut cluster = LocalCluster::start(program, &data, nodes).await?;
    let result = work(&cluster).await;
    cluster.stop().await;
    result
}

/// The address of the node that a client uses when clients are distributed over the nodes in turn.
pub(crate) fn url_of_client(cluster: &LocalCluster, client: usize) -> String {
    format!("grpc://{}", cluster.nodes[client % cluster.nodes.len()].flight)
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

/// The value of a query's first row and column, as a whole number. Negative values count as zero.
pub(crate) async fn number(client: &mut Client, sql: &str) -> Result<u64> {
    let (_, batches) = client.query(sql).await?;
    let batch = batches.iter().find(|batch| batch.num_rows() > 0);
    let batch = batch.ok_or_else(|| Error::internal(format!("{sql}: no row")))?;
    let column = arrow::compute::cast(batch.column(0), &DataType::Int64)
        .map_err(|e| Error::internal(format!("{sql}: {e}")).with_source(e))?;
    Ok(column.as_primitive::<Int64Type>().value(0).max(0) as u64)
}

/// Seconds that a statement without rows takes.
pub(crate) async fn statement_seconds(client: &mut Client, sql: &str) -> Result<f64> {
    let started = Instant::now();
    client.execute(sql).await?;
    Ok(started.elapsed().as_secs_f64())
}

/// Seconds that a query takes, including the transfer of its rows.
pub(crate) async fn query_seconds(client: &mut Client, sql: &str) -> Result<f64> {
    let started = Instant::now();
    client.query(sql).await?;
    Ok(started.elapsed().as_secs_f64())
}

/// Seconds of the fastest of several runs of a query.
pub(crate) async fn fastest_seconds(client: &mut Client, sql: &str, runs: usize) -> Result<f64> {
    let mut fastest = f64::MAX;
    for _ in 0..runs {
        fastest = fastest.min(query_seconds(client, sql).await?);
    }
    Ok(fastest)
}

/// Waits for the clients of a measurement and returns what each of them measured.
pub(crate) async fn join_clients<T>(tasks: Vec<tokio::task::JoinHandle<Result<T>>>) -> Result<Vec<T>> {
    let mut results = Vec::with_capacity(tasks.len());
    for task in tasks {
        results.push(task.await.map_err(|e| Error::internal(format!("a client stopped: {e}")))??);
    }
    Ok(results)
}
