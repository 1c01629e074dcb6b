//! System tables: the schema `plexus` shows the cluster and the manifest.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, ListBuilder, RecordBatch, StringArray, StringBuilder,
    TimestampMicrosecondArray, UInt32Array, UInt64Array,
};
use arrow_schema::{Field, Schema, SchemaRef};
use datafusion::catalog::{MemTable, TableProvider};
use datafusion::common::Result;
use plexus_model::{DeletionVector, IndexDefinition, IndexKind, Manifest, NodeId, Segment, Table};

use crate::tables::queries::{QUERIES, QueriesTable, RunningQueries};

/// The schema of the system tables.
pub const SYSTEM_SCHEMA: &str = "plexus";

/// Names of the system tables.
pub(crate) const TABLES: [&str; 8] =
    ["commits", "indexes", "nodes", QUERIES, "segments", "shards", "storage", "tables"];

/// What a node knows of the cluster beside the manifest.
#[derive(Clone, Debug, Default)]
pub struct ClusterView {
    /// The leader of the Raft group, if there is one.
    pub leader: Option<NodeId>,
    /// The voters of the Raft group.
    pub voters: Vec<NodeId>,
    /// The statements that run on all nodes.
    pub queries: Option<Arc<dyn RunningQueries>>,
}

/// A system table, with the rows of the pinned manifest unless it is about this moment; `None` if there is no
/// table of this name.
///
/// # Errors
/// Never in practice: the columns have equal lengths.
pub(crate) fn table(
    name: &str,
    manifest: &Manifest,
    view: &ClusterView,
) -> Result<Option<Arc<dyn TableProvider>>> {
    let batch = match name {
        "nodes" => nodes(manifest, view)?,
        "tables" => tables(manifest)?,
        "shards" => shards(manifest)?,
        "segments" => segments(manifest)?,
        "commits" => commits(manifest)?,
        "storage" => storage(manifest)?,
        "indexes" => indexes(manifest)?,
        QUERIES => return Ok(Some(Arc::new(QueriesTable::new(view.queries.clone())))),
        _ => return Ok(None),
    };
    Ok(Some(Arc::new(MemTable::try_new(batch.schema(), vec![vec![batch]])?)))
}

/// The names and schemas of all system tables.
///
/// # Errors
/// Never in practice: the columns have equal lengths.
pub fn system_tables(manifest: &Manifest) -> Result<Vec<(&'static str, SchemaRef)>> {
    let view = ClusterView::default();
    TABLES
        .iter()
        .filter_map(|name| Some(table(name, manifest, &view).transpose()?.map(|t| (*name, t.schema()))))
        .collect()
}

/// A batch of named columns. A column is nullable if it has nulls or is one of [`OPTIONAL`].
fn batch(columns: Vec<(&str, ArrayRef)>) -> Result<RecordBatch> {
    let fields: Vec<Field> = columns
        .iter()
        .map(|(name, array)| {
            Field::new(*name, array.data_type().clone(), array.null_count() > 0 || OPTIONAL.contains(name))
        })
        .collect();
    Ok(RecordBatch::try_new(
        Arc::new(Schema::new(fields)),
        columns.into_iter().map(|(_, array)| array).collect(),
    )?)
}

/// Columns that are nullable even if they have no nulls, since the schema must not depend on the rows.
const OPTIONAL: [&str; 1] = ["checksum"];

fn text(values: impl Iterator<Item = String>) -> ArrayRef {
    Arc::new(values.collect::<Vec<_>>().into_iter().map(Some).collect::<StringArray>())
}

fn numbers(values: impl Iterator<Item = u64>) -> ArrayRef {
    Arc::new(values.collect::<Vec<_>>().into_iter().map(Some).collect::<UInt64Array>())
}

fn milliseconds(micros: impl Iterator<Item = u64>) -> ArrayRef {
    Arc::new(micros.map(|us| Some(us as f64 / 1_000.0)).collect::<Float64Array>())
}

fn small_numbers(values: impl Iterator<Item = u32>) -> ArrayRef {
    Arc::new(values.collect::<Vec<_>>().into_iter().map(Some).collect::<UInt32Array>())
}

fn flags(values: impl Iterator<Item = bool>) -> ArrayRef {
    Arc::new(values.map(Some).collect::<BooleanArray>())
}

fn nodes(manifest: &Manifest, view: &ClusterView) -> Result<RecordBatch> {
    let each = || manifest.nodes.values();
    batch(vec![
        ("node_id", numbers(each().map(|n| n.id.0))),
        ("roles", text(each().map(|n| n.roles.to_string()))),
        ("live", flags(each().map(|n| n.live))),
        ("leader", flags(each().map(|n| view.leader == Some(n.id)))),
        ("voter", flags(each().map(|n| view.voters.contains(&n.id)))),
        ("flight", text(each().map(|n| n.flight.clone()))),
        ("peer", text(each().map(|n| n.peer.clone()))),
        ("http", text(each().map(|n| n.http.clone()))),
    ])
}

fn live_tables(manifest: &Manifest) -> impl Iterator<Item = &Arc<Table>> {
    let named = manifest.names.iter().filter(|(name, _)| !name.is_staging());
    named.filter_map(|(_, id)| manifest.tables.get(id))
}

fn tables(manifest: &Manifest) -> Result<RecordBatch> {
    let each = || live_tables(manifest);
    let version = manifest.version;
    batch(vec![
        ("table_schema", text(each().map(|t| t.name.schema.clone()))),
        ("table_name", text(each().map(|t| t.name.table.clone()))),
        ("table_id", numbers(each().map(|t| t.id.0))),
        ("shards", small_numbers(each().map(|t| t.shards.len() as u32))),
        ("replicas", small_numbers(each().map(|t| t.replicas))),
        ("rows", numbers(each().map(|t| t.rows(version)))),
        ("bytes", numbers(each().map(|t| t.visible(version).map(|s| s.bytes()).sum()))),
        ("segments", numbers(each().map(|t| t.visible(version).count() as u64))),
        ("inline_bytes", numbers(each().map(|t| t.inline_bytes))),
        ("created_version", numbers(each().map(|t| t.created.0))),
    ])
}

fn shards(manifest: &Manifest) -> Result<RecordBatch> {
    let rows: Vec<(&Arc<Table>, u32)> =
        live_tables(manifest).flat_map(|t| (0..t.shards.len() as u32).map(move |s| (t, s))).collect();
    let of = |t: &Arc<Table>, shard: u32, sum: fn(&Segment) -> u64| -> u64 {
        t.visible(manifest.version).filter(|s| s.shard == shard).map(|s| sum(s)).sum()
    };
    let mut replicas = ListBuilder::new(StringBuilder::new());
    for (t, shard) in &rows {
        for node in &t.shards[*shard as usize].replicas {
            replicas.values().append_value(node.to_string());
        }
        replicas.append(true);
    }
    batch(vec![
        ("table_schema", text(rows.iter().map(|(t, _)| t.name.schema.clone()))),
        ("table_name", text(rows.iter().map(|(t, _)| t.name.table.clone()))),
        ("shard", small_numbers(rows.iter().map(|(_, s)| *s))),
        ("replicas", Arc::new(replicas.finish())),
        ("rows", numbers(rows.iter().map(|(t, s)| of(t, *s, |s| s.rows)))),
        ("bytes", numbers(rows.iter().map(|(t, s)| of(t, *s, Segment::bytes)))),
        ("segments", numbers(rows.iter().map(|(t, s)| of(t, *s, |_| 1)))),
    ])
}

fn segments(manifest: &Manifest) -> Result<RecordBatch> {
    let rows: Vec<(&Arc<Table>, &Arc<Segment>)> =
        live_tables(manifest).flat_map(|t| t.visible(manifest.version).map(move |s| (t, s))).collect();
    let checksum = |s: &Segment| match &s.data {
        plexus_model::SegmentData::Inline(_) => None,
        plexus_model::SegmentData::File(file) => {
            Some(file.checksum.iter().map(|b| format!("{b:02x}")).collect::<String>())
        }
    };
    batch(vec![
        ("table_schema", text(rows.iter().map(|(t, _)| t.name.schema.clone()))),
        ("table_name", text(rows.iter().map(|(t, _)| t.name.table.clone()))),
        ("shard", small_numbers(rows.iter().map(|(_, s)| s.shard))),
        ("segment_id", text(rows.iter().map(|(_, s)| s.id.to_string()))),
        ("rows", numbers(rows.iter().map(|(_, s)| s.rows))),
        ("rows_deleted", numbers(rows.iter().map(|(_, s)| s.rows - s.live_rows(manifest.version)))),
        ("bytes", numbers(rows.iter().map(|(_, s)| s.bytes()))),
        ("inline", flags(rows.iter().map(|(_, s)| s.is_inline()))),
        ("level", small_numbers(rows.iter().map(|(_, s)| u32::from(s.level)))),
        ("added_version", numbers(rows.iter().map(|(_, s)| s.added.0))),
        ("checksum", Arc::new(rows.iter().map(|(_, s)| checksum(s)).collect::<StringArray>())),
    ])
}

fn commits(manifest: &Manifest) -> Result<RecordBatch> {
    let each = || manifest.commits.values();
    let names = |c: &plexus_model::CommitRecord| -> String {
        let name = |id| {
            manifest.tables.get(id).map_or_else(|| format!("dropped table {id}"), |t| t.name.to_string())
        };
        c.tables.iter().map(name).collect::<Vec<_>>().join(", ")
    };
    let times =
        each().map(|c| Some(c.time_us as i64)).collect::<TimestampMicrosecondArray>().with_timezone("UTC");
    batch(vec![
        ("version", numbers(each().map(|c| c.version.0))),
        ("time", Arc::new(times)),
        ("operation", text(each().map(|c| c.operation.clone()))),
        ("tables", text(each().map(|c| names(c)))),
        ("rows_added", numbers(each().map(|c| c.rows_added))),
        ("rows_deleted", numbers(each().map(|c| c.rows_deleted))),
        ("segments_added", small_numbers(each().map(|c| c.segments_added))),
        ("segments_removed", small_numbers(each().map(|c| c.segments_removed))),
        ("duration_ms", milliseconds(each().map(|c| c.duration_us))),
    ])
}

/// Indexes and their progress. It counts the visible file segments that are large enough to be indexed.
fn indexes(manifest: &Manifest) -> Result<RecordBatch> {
    let rows: Vec<(&Arc<Table>, &IndexDefinition)> =
        live_tables(manifest).flat_map(|t| t.schema.indexes.iter().map(move |index| (t, index))).collect();
    let files = |t: &Arc<Table>, index: &IndexDefinition| -> Vec<Arc<Segment>> {
        let indexable = |s: &&Arc<Segment>| !s.is_inline() && index.kind.applies_to(s.rows);
        t.visible(manifest.version).filter(indexable).cloned().collect()
    };
    let built = |t: &Arc<Table>, index: &IndexDefinition| -> Vec<(u64, u64)> {
        let of =
            |s: &Arc<Segment>| s.indexes.iter().find(|i| i.index == index.id).map(|i| (s.rows, i.data.bytes));
        files(t, index).iter().filter_map(of).collect()
    };
    let columns = |t: &Arc<Table>, index: &IndexDefinition| -> String {
        let name = |id: &u32| t.schema.columns.iter().find(|c| c.id == *id).map(|c| c.name.clone());
        index.kind.columns().iter().filter_map(name).collect::<Vec<_>>().join(", ")
    };
    let option = |index: &IndexDefinition| match &index.kind {
        IndexKind::Text { tokenizer, .. } => format!("tokenizer = {tokenizer}"),
        IndexKind::Vector { metric, .. } => format!("metric = {}", metric.name()),
    };
    batch(vec![
        ("table_schema", text(rows.iter().map(|(t, _)| t.name.schema.clone()))),
        ("table_name", text(rows.iter().map(|(t, _)| t.name.table.clone()))),
        ("index_name", text(rows.iter().map(|(_, i)| i.name.clone()))),
        ("kind", text(rows.iter().map(|(_, i)| i.kind.name().to_owned()))),
        ("columns", text(rows.iter().map(|(t, i)| columns(t, i)))),
        ("options", text(rows.iter().map(|(_, i)| option(i)))),
        ("segments", numbers(rows.iter().map(|(t, i)| files(t, i).len() as u64))),
        ("segments_indexed", numbers(rows.iter().map(|(t, i)| built(t, i).len() as u64))),
        ("rows_indexed", numbers(rows.iter().map(|(t, i)| built(t, i).iter().map(|m| m.0).sum()))),
        ("bytes", numbers(rows.iter().map(|(t, i)| built(t, i).iter().map(|m| m.1).sum()))),
    ])
}

/// The space that tables take, for one copy: visible segments, segments of older versions, and inline
/// segments. Dropped tables are included as long as the manifest has them.
fn storage(manifest: &Manifest) -> Result<RecordBatch> {
    let rows: Vec<&Arc<Table>> = manifest.tables.values().collect();
    let visible =
        |t: &Table, of: fn(&Segment) -> u64| t.visible(manifest.version).map(|s| of(s)).sum::<u64>();
    let old = |t: &Table, of: fn(&Segment) -> u64| {
        let invisible =
            t.segments.values().filter(|s| t.dropped.is_some() || !s.is_visible_at(manifest.version));
        invisible.map(|s| of(s)).sum::<u64>()
    };
    let live = |t: &Table| t.dropped.is_none();
    let deletions =
        |t: &Table| t.segments.values().flat_map(|s| &s.deletions).map(DeletionVector::bytes).sum::<u64>();
    batch(vec![
        ("table_schema", text(rows.iter().map(|t| t.name.schema.clone()))),
        ("table_name", text(rows.iter().map(|t| t.name.table.clone()))),
        ("dropped", flags(rows.iter().map(|t| !live(t)))),
        ("replicas", small_numbers(rows.iter().map(|t| t.replicas))),
        ("segments", numbers(rows.iter().map(|t| if live(t) { visible(t, |_| 1) } else { 0 }))),
        ("bytes", numbers(rows.iter().map(|t| if live(t) { visible(t, Segment::bytes) } else { 0 }))),
        ("old_segments", numbers(rows.iter().map(|t| old(t, |_| 1)))),
        ("old_bytes", numbers(rows.iter().map(|t| old(t, Segment::bytes)))),
        ("deletion_bytes", numbers(rows.iter().map(|t| deletions(t)))),
        ("inline_bytes", numbers(rows.iter().map(|t| t.inline_bytes))),
        ("oldest_version", numbers(rows.iter().map(|t| t.oldest.0))),
    ])
}
