//! Reads columns of found rows, on this node or where the segments are.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool};
use plexus_model::{Error, Result, RowSet, TableSchema, encode_row_set};
use plexus_storage::{project, rows_bytes, types};

use crate::search::hit::Hit;
use crate::search::remote::protocol::{ShardRequest, ShardResponse};
use crate::search::remote::scatter_gather::scatter_gather;
use crate::search::snapshot::SearchSnapshot;

/// Reads the columns of `schema` for rows of several segments, which `rows` names by the index of their view.
/// Each batch has its rows in ascending order of position.
pub(crate) async fn rows_of(
    snapshot: &SearchSnapshot,
    schema: &TableSchema,
    rows: BTreeMap<u32, RowSet>,
) -> Result<Vec<(u32, RowSet, RecordBatch)>> {
    let request = |views: &[u32]| {
        let rows = views.iter().map(|view| encode_row_set(&rows[view])).collect();
        Some(ShardRequest::Rows { schema: schema.clone(), rows })
    };
    let local = |views: Vec<u32>| {
        let rows = &rows;
        async move {
            let reads = views.into_iter().map(|view| async move {
                let segment = &snapshot.views[view as usize].segment;
                let selections = rows[&view].clone();
                let found =
                    snapshot.reads().lookup_rows(&snapshot.table, segment, schema, selections).await?;
                Ok::<_, Error>((view, found))
            });
            futures::future::try_join_all(reads).await
        }
    };
    let decode = |response: ShardResponse, views: &[u32]| {
        let found = response.into_batches(schema, views)?;
        match found.iter().all(|(view, batch)| batch.num_rows() as u64 == rows[view].len()) {
            true => Ok(found),
            false => Err(Error::corrupt("a node returned another number of rows than requested")),
        }
    };
    let batches = scatter_gather(snapshot, rows.keys().copied(), request, local, decode).await?;
    Ok(batches.into_iter().flatten().map(|(view, found)| (view, rows[&view].clone(), found)).collect())
}

/// Reads columns, given by their positions in the table, in the order of `hits`. Rows that several queries
/// found are read once, and are several times in the result, whose memory is taken from `pool` meanwhile.
///
/// # Errors
/// When a segment cannot be read, and `ResourceExhausted` when the result is too large.
pub(crate) async fn fetch(
    snapshot: &SearchSnapshot,
    pool: &Arc<dyn MemoryPool>,
    hits: &[Hit],
    columns: &[usize],
) -> Result<RecordBatch> {
    let failed = |e: arrow::error::ArrowError| Error::internal(format!("fetching rows: {e}")).with_source(e);
    let schema = project(&snapshot.table.schema, columns);
    let arrow = types::to_arrow(&schema);
    let mut rows_by_view: BTreeMap<u32, RowSet> = BTreeMap::new();
    for hit in hits {
        rows_by_view.entry(hit.view).or_default().insert(hit.row);
    }
    if columns.is_empty() {
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(hits.len()));
        return RecordBatch::try_new_with_options(arrow, vec![], &options).map_err(failed);
    }
    let mut batches = Vec::new();
    let mut positions: BTreeMap<Hit, (usize, usize)> = BTreeMap::new();
    for (view, rows, found) in rows_of(snapshot, &schema, rows_by_view).await? {
        let batch = batches.len();
        positions.extend(rows.into_iter().enumerate().map(|(at, row)| (Hit { view, row }, (batch, at))));
        batches.push(found);
    }
    let order = hits.iter().map(|hit| positions.get(hit).copied());
    let order = order
        .collect::<Option<Vec<(usize, usize)>>>()
        .ok_or_else(|| Error::internal("a found row was not read"))?;
    if order.is_empty() {
        return Ok(RecordBatch::new_empty(arrow));
    }
    let bytes = result_bytes(&batches, &order);
    let reservation = MemoryConsumer::new("search").register(pool);
    if reservation.try_grow(bytes).is_err() {
        return Err(Error::exhausted(format!(
            "the {} rows of a search take {bytes} bytes, more memory than queries have left: ask for fewer \
             rows or columns at once, or raise --query-memory of the node",
            hits.len()
        )));
    }
    let batches: Vec<&RecordBatch> = batches.iter().collect();
    compute::interleave_record_batch(&batches, &order).map_err(failed)
}

/// Bytes of a result that has rows of batches, each as large as all of its batch are on average.
fn result_bytes(batches: &[RecordBatch], order: &[(usize, usize)]) -> usize {
    let row_bytes: Vec<usize> =
        batches.iter().map(|batch| rows_bytes(batch) / batch.num_rows().max(1)).collect();
    order.iter().map(|(batch, _)| row_bytes[*batch]).fold(0, usize::saturating_add)
}
