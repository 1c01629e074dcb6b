//! Reads columns of found rows, on this node or where the segments are.

use std::collections::BTreeMap;

use arrow::array::{RecordBatch, UInt64Array};
use arrow::compute;
use plexus_model::{Error, Result, RowSet, TableSchema, encode_row_set};
use plexus_storage::{project, types};

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

/// Reads columns, given by their positions in the table, in the order of `hits`.
pub(crate) async fn fetch(snapshot: &SearchSnapshot, hits: &[Hit], columns: &[usize]) -> Result<RecordBatch> {
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
    let mut positions: BTreeMap<Hit, u64> = BTreeMap::new();
    for (view, rows, found) in rows_of(snapshot, &schema, rows_by_view).await? {
        for row in rows {
            let position = positions.len() as u64;
            positions.insert(Hit { view, row }, position);
        }
        batches.push(found);
    }
    let all = compute::concat_batches(&arrow, &batches).map_err(failed)?;
    let order = hits.iter().map(|hit| positions.get(hit).copied());
    let order =
        order.collect::<Option<Vec<u64>>>().ok_or_else(|| Error::internal("a found row was not read"))?;
    compute::take_record_batch(&all, &UInt64Array::from(order)).map_err(failed)
}
