//! Scans of one segment at a version of its table, outside of query plans: for DML, compaction and key
//! checks.
//!
//! A scan returns rows in the schema of the reader, each with its position in the segment. This module also
//! computes the invisible rows of a segment: those that are deleted at a version, or newer than it.

use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::UInt64Type;
use arrow_schema::{DataType, Field};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use plexus_index::KeyIndex;
use plexus_model::{
    DeletionVectorData, Error, Result, RowSelection, RowSet, Segment, SegmentData, Table, TableSchema,
    VERSION_COLUMN, Version, decode_row_set,
};
use roaring::RoaringTreemap;
use vortex::array::VortexSessionExecute;
use vortex::array::dtype::Nullability;
use vortex::array::expr::{get_item, pack, root};
use vortex::arrow::ArrowSessionExt;
use vortex::error::VortexError;
use vortex::file::{OpenOptionsSessionExt, VortexFile};
use vortex::layout::layouts::row_idx::row_idx;
use vortex::scan::selection::Selection;
use vortex::session::VortexSession;

use crate::deletion_vectors::prefix_fingerprints;
use crate::read::{SegmentReader, SegmentRef};
use crate::schema_evolution::{decode_inline, evolve};
use crate::types;

/// Rows of a segment with their positions.
#[derive(Clone, Debug)]
pub struct PositionedRows {
    /// Positions in the segment, one per row, ascending.
    pub positions: Vec<u64>,
    /// The rows.
    pub rows: RecordBatch,
}

/// Converts a selection to that of a Vortex scan.
fn to_vortex(selection: &RowSelection) -> Selection {
    match selection {
        RowSelection::AllExcept(rows) if rows.is_empty() => Selection::All,
        RowSelection::AllExcept(rows) => Selection::ExcludeRoaring(to_roaring_treemap(rows)),
        RowSelection::Only(rows) => Selection::IncludeRoaring(to_roaring_treemap(rows)),
    }
}

/// Converts row positions to the 64-bit Roaring bitmap that a Vortex selection takes.
pub fn to_roaring_treemap(rows: &RowSet) -> RoaringTreemap {
    RoaringTreemap::from_bitmaps([(0, rows.clone())])
}

/// Name of the column with row positions. Table columns are named by their ids, so it cannot collide.
const POSITION: &str = "position";

impl SegmentReader {
    /// The rows of a segment that a read at `version` does not see: deleted rows and rows that are newer.
    ///
    /// # Errors
    /// `Unavailable` when no replica can be read. `Corrupt` when a deletion vector is damaged.
    pub async fn invisible_rows(
        &self,
        table: &Table,
        segment: &Segment,
        version: Version,
    ) -> Result<Arc<RowSet>> {
        let deleted = self.deleted_rows(table, segment, version).await?;
        if !segment.has_versions() || version >= segment.newest {
            return Ok(deleted);
        }
        let mut invisible = Arc::unwrap_or_clone(deleted);
        let written = self.rows_written_by(table, segment, version).await?;
        invisible.insert_range(written as u32..segment.rows as u32);
        Ok(Arc::new(invisible))
    }

    /// A cache key for the invisible rows of a segment at `version`. Two reads of the segment with equal keys
    /// have the same invisible rows. The key covers deletions of transactions that are not committed.
    pub fn visibility_fingerprint(segment: &Segment, version: Version) -> (u64, Version) {
        let deleted = prefix_fingerprints(segment.deletions_at(version)).last().copied().unwrap_or_default();
        let until = if segment.has_versions() { version.min(segment.newest) } else { Version(0) };
        (deleted, until)
    }

    /// The rows of a segment that are deleted at `version`.
    async fn deleted_rows(&self, table: &Table, segment: &Segment, version: Version) -> Result<Arc<RowSet>> {
        let fingerprints = prefix_fingerprints(segment.deletions_at(version));
        let Some(last) = fingerprints.last() else {
            return Ok(Arc::default());
        };
        if let Some(rows) = self.deletion_vectors.get(segment.id, *last) {
            return Ok(rows);
        }
        let (length, mut rows) = match self.deletion_vectors.longest_prefix(segment.id, &fingerprints) {
            Some((length, rows)) => (length, (*rows).clone()),
            None => (0, RowSet::new()),
        };
        for deletion in segment.deletions_at(version).skip(length) {
            rows |= match &deletion.rows {
                DeletionVectorData::Inline(bytes) => decode_row_set(bytes)?,
                DeletionVectorData::File { id, data, .. } => {
                    let file = SegmentRef::all_files(table, segment)
                        .find(|file| file.id == *id)
                        .ok_or_else(|| Error::internal(format!("deletion vector {id} has no file")))?;
                    decode_row_set(&self.read_range(&file, 0, data.bytes).await?)?
                }
            };
        }
        let rows = Arc::new(rows);
        self.deletion_vectors.insert(segment.id, &fingerprints, rows.clone());
        Ok(rows)
    }

    /// Number of rows of a segment that were written at or before `version`. They come first in the segment.
    async fn rows_written_by(&self, table: &Table, segment: &Segment, version: Version) -> Result<u64> {
        let Some(file) = SegmentRef::data_file(table, segment) else {
            return Ok(segment.rows);
        };
        let field = Field::new(VERSION_COLUMN, DataType::UInt64, false);
        let mut batches = self.scan_file(&file, vec![field], &RowSelection::all()).await?;
        let mut count = 0;
        while let Some(batch) = batches.try_next().await? {
            let versions = primitive_column::<UInt64Type>(&batch, VERSION_COLUMN)?;
            count += versions.values().iter().filter(|v| **v <= version.0).count() as u64;
        }
        Ok(count)
    }

    /// Scans the selected rows of a segment, with the columns of `schema`.
    ///
    /// # Errors
    /// `Unavailable` when no replica can be read. `Corrupt` when the inline rows are damaged.
    pub async fn scan(
        &self,
        table: &Table,
        segment: &Segment,
        schema: &TableSchema,
        selection: RowSelection,
    ) -> Result<BoxStream<'static, Result<PositionedRows>>> {
        let arrow_schema = types::to_arrow(schema);
        let Some(file) = SegmentRef::data_file(table, segment) else {
            let SegmentData::Inline(bytes) = &segment.data else {
                return Ok(stream::empty().boxed());
            };
            let batches = scan_inline(bytes, segment, schema, &selection)?;
            return Ok(stream::iter(batches.into_iter().map(Ok)).boxed());
        };
        let stored = types::to_stored(schema);
        let fields = stored.fields().iter().map(|f| f.as_ref().clone()).collect();
        let batches = self.scan_file(&file, fields, &selection).await?;
        let schema = schema.clone();
        Ok(batches
            .map(move |batch| {
                let batch = batch?;
                let positions = primitive_column::<UInt64Type>(&batch, POSITION)?.values().to_vec();
                Ok(PositionedRows { positions, rows: evolve(&batch, &schema, &arrow_schema)? })
            })
            .boxed())
    }

    /// Scans stored columns of a file and the positions of the rows. Columns that the file does not have are
    /// left out.
    async fn scan_file(
        &self,
        file: &SegmentRef,
        fields: Vec<Field>,
        selection: &RowSelection,
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let id = file.id;
        let scan_error = move |e: VortexError| read_error(id, e);
        let session = self.session.clone();
        let opened = self.open_file(file).await?;
        let stored: Result<Vec<_>> = fields.iter().map(|field| self.stored_field(&opened, field)).collect();
        let mut stored: Vec<Field> = stored?.into_iter().flatten().collect();
        let mut columns: Vec<_> =
            stored.iter().map(|f| (f.name().clone(), get_item(f.name().as_str(), root()))).collect();
        columns.push((POSITION.to_owned(), row_idx()));
        stored.push(Field::new(POSITION, DataType::UInt64, false));
        let target = Field::new_struct("", stored, false);
        let projection = pack(columns, Nullability::NonNullable).bind(opened.dtype()).map_err(scan_error)?;
        let arrow_session = session.clone();
        let batches = opened
            .scan()
            .map_err(scan_error)?
            .with_projection(projection)
            .with_selection(to_vortex(selection))
            .with_ordered(true)
            .map(move |chunk| {
                let mut ctx = arrow_session.create_execution_ctx();
                let array = arrow_session.arrow().execute_arrow(chunk, Some(&target), &mut ctx)?;
                Ok(RecordBatch::from(array.as_struct().clone()))
            })
            .into_stream()
            .map_err(scan_error)?;
        Ok(batches.map_err(scan_error).boxed())
    }

    /// Opens a file. Its footer is read once and then cached.
    pub(crate) async fn open_file(&self, file: &SegmentRef) -> Result<VortexFile> {
        let footer = self.footers.get(&file.id);
        let is_cached = footer.is_some();
        let options = self.session.open_options().with_file_size(file.data.column_bytes);
        let options = footer.into_iter().fold(options, |options, footer| options.with_footer(footer));
        let opened = options.open_read(self.open(file.clone())).await.map_err(|e| read_error(file.id, e))?;
        if !is_cached {
            self.footers.insert(file.id, opened.footer().clone());
        }
        Ok(opened)
    }

    /// The field of a column in a file, with the type that the column had when the file was written; `None`
    /// when the file does not have the column. [`evolve`] casts it to the current type.
    pub(crate) fn stored_field(&self, opened: &VortexFile, wanted: &Field) -> Result<Option<Field>> {
        let dtype = opened.dtype().as_struct_fields_opt().and_then(|fields| fields.field(wanted.name()));
        let Some(dtype) = dtype else {
            return Ok(None);
        };
        let stored = self
            .session
            .arrow()
            .to_arrow_field(wanted.name(), &dtype)
            .map_err(|e| Error::corrupt(format!("column {}: {e}", wanted.name())).with_source(e))?;
        // Several Arrow types have the same Vortex type. The wanted one saves a conversion.
        let is_same = is_same_vortex_type(&self.session, &stored, wanted);
        Ok(Some(if is_same { wanted.clone().with_nullable(stored.is_nullable()) } else { stored }))
    }

    /// The index of the primary keys of a file segment. It is kept in memory.
    ///
    /// # Errors
    /// `Unavailable` when no replica can be read. `Corrupt` when the index is damaged.
    pub async fn key_index(&self, file: &SegmentRef) -> Result<KeyIndex> {
        let read = async {
            let length = file.data.bytes - file.data.column_bytes;
            let bytes = self.read_range(file, file.data.column_bytes, length).await?;
            KeyIndex::open(bytes).map_err(|e| e.context(format!("segment {}", file.id)))
        };
        self.key_indexes.get(file.id, read).await
    }
}

/// Whether two fields have the same Vortex type apart from nullability. They differ when the type of the
/// column was widened after the file was written.
fn is_same_vortex_type(session: &VortexSession, stored: &Field, wanted: &Field) -> bool {
    let arrow = session.arrow();
    let vortex_type = |f: &Field| arrow.from_arrow_field(&f.clone().with_nullable(true)).ok();
    vortex_type(stored) == vortex_type(wanted)
}

/// Scans the selected rows of an inline segment.
fn scan_inline(
    bytes: &[u8],
    segment: &Segment,
    schema: &TableSchema,
    selection: &RowSelection,
) -> Result<Vec<PositionedRows>> {
    let (selected, excluded): (Vec<u32>, Vec<u32>) =
        (0..segment.rows as u32).partition(|row| selection.contains(*row));
    let mut positions = selected.into_iter().map(u64::from);
    let batches = decode_inline(bytes, schema, &excluded.into_iter().collect())?;
    let with_positions = batches.into_iter().map(|rows| {
        let positions = positions.by_ref().take(rows.num_rows()).collect();
        PositionedRows { positions, rows }
    });
    Ok(with_positions.collect())
}

/// A column of primitive values, by name.
fn primitive_column<'a, T: arrow::array::ArrowPrimitiveType>(
    batch: &'a RecordBatch,
    name: &str,
) -> Result<&'a arrow::array::PrimitiveArray<T>> {
    batch
        .column_by_name(name)
        .and_then(|array| array.as_primitive_opt::<T>())
        .ok_or_else(|| Error::corrupt(format!("a batch of a segment has no column {name:?}")))
}

/// An error of Vortex as one of this crate.
pub(crate) fn read_error(id: plexus_model::SegmentId, error: VortexError) -> Error {
    Error::unavailable(format!("reading segment {id}: {error}")).with_source(error)
}
