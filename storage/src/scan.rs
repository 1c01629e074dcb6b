//! Reading the rows of one segment, as a version of its table sees them.
//!
//! For work that is not a query of DataFusion's: changes, merges, keys. Columns come through the schema that
//! the reader has, each row with its position in the segment.

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

use crate::deletion_vectors::prefixes;
use crate::read::{SegmentReads, SegmentRef};
use crate::schema_evolution::{decode_inline, evolve};
use crate::types;

/// Rows with their positions in the segment.
#[derive(Clone, Debug)]
pub struct PositionedRows {
    pub positions: Vec<u64>,
    pub rows: RecordBatch,
}

/// The selection as Vortex scans take it.
fn to_vortex(selection: &RowSelection) -> Selection {
    match selection {
        RowSelection::AllExcept(rows) if rows.is_empty() => Selection::All,
        RowSelection::AllExcept(rows) => Selection::ExcludeRoaring(to_tree(rows)),
        RowSelection::Only(rows) => Selection::IncludeRoaring(to_tree(rows)),
    }
}

/// Rows as a selection of a scan has them.
pub fn to_tree(rows: &RowSet) -> RoaringTreemap {
    RoaringTreemap::from_bitmaps([(0, rows.clone())])
}

const POSITION: &str = "position";

impl SegmentReads {
    /// Rows of a segment that a read at `version` does not see: deleted ones, and those written later.
    pub async fn hidden_rows(
        &self,
        table: &Table,
        segment: &Segment,
        version: Version,
    ) -> Result<Arc<RowSet>> {
        let deleted = self.deleted_rows(table, segment, version).await?;
        if !segment.has_versions() || version >= segment.newest {
            return Ok(deleted);
        }
        let mut hidden = Arc::unwrap_or_clone(deleted);
        let visible = self.rows_until(table, segment, version).await?;
        hidden.insert_range(visible as u32..segment.rows as u32);
        Ok(Arc::new(hidden))
    }

    /// What tells the rows of a segment that `version` does not see from those that other versions, or transactions that
    /// are not committed, do not.
    pub fn hidden_fingerprint(segment: &Segment, version: Version) -> (u64, Version) {
        let deleted = prefixes(segment.deletions_at(version)).last().copied().unwrap_or_default();
        let until = if segment.has_versions() { version.min(segment.newest) } else { Version(0) };
        (deleted, until)
    }

    async fn deleted_rows(&self, table: &Table, segment: &Segment, version: Version) -> Result<Arc<RowSet>> {
        let prefixes = prefixes(segment.deletions_at(version));
        let Some(last) = prefixes.last() else {
            return Ok(Arc::default());
        };
        if let Some(rows) = self.hidden.get(segment.id, *last) {
            return Ok(rows);
        }
        let known = self.hidden.longest(segment.id, &prefixes);
        let (known, mut rows) = known.map_or((0, RowSet::new()), |(length, rows)| (length, (*rows).clone()));
        for deletion in segment.deletions_at(version).skip(known) {
            rows |= match &deletion.rows {
                DeletionVectorData::Inline(bytes) => decode_row_set(bytes)?,
                DeletionVectorData::File { id, data, .. } => {
                    let replicas = SegmentRef::all_of(table, segment).find(|r| r.id == *id);
                    let file =
                        replicas.ok_or_else(|| Error::internal(format!("deletion {id} has no file")))?;
                    decode_row_set(&self.range(&file, 0, data.bytes).await?)?
                }
            };
        }
        let rows = Arc::new(rows);
        self.hidden.insert(segment.id, &prefixes, rows.clone());
        Ok(rows)
    }

    /// How many rows of a segment were written at or before `version`. They come first.
    async fn rows_until(&self, table: &Table, segment: &Segment, version: Version) -> Result<u64> {
        let Some(file) = SegmentRef::of(table, segment) else {
            return Ok(segment.rows);
        };
        let field = Field::new(VERSION_COLUMN, DataType::UInt64, false);
        let mut batches = self.scan_file(&file, vec![field], &RowSelection::all()).await?;
        let mut count = 0;
        while let Some(batch) = batches.try_next().await? {
            let versions = column::<UInt64Type>(&batch, VERSION_COLUMN)?;
            count += versions.values().iter().filter(|v| **v <= version.0).count() as u64;
        }
        Ok(count)
    }

    /// Reads columns of a segment, those of `schema`, for the rows that are picked.
    pub async fn scan(
        &self,
        table: &Table,
        segment: &Segment,
        schema: &TableSchema,
        selection: RowSelection,
    ) -> Result<BoxStream<'static, Result<PositionedRows>>> {
        let arrow = types::to_arrow(schema);
        let Some(file) = SegmentRef::of(table, segment) else {
            let SegmentData::Inline(bytes) = &segment.data else {
                return Ok(stream::empty().boxed());
            };
            let all = 0..segment.rows as u32;
            let positions: Vec<u64> =
                all.clone().filter(|row| selection.contains(*row)).map(u64::from).collect();
            let hidden: RowSet = all.filter(|row| !selection.contains(*row)).collect();
            let mut taken = positions.into_iter();
            let found = decode_inline(bytes, schema, &hidden)?.into_iter().map(|rows| {
                let positions = taken.by_ref().take(rows.num_rows()).collect();
                Ok(PositionedRows { positions, rows })
            });
            let found: Vec<_> = found.collect();
            return Ok(stream::iter(found).boxed());
        };
        let stored = types::to_stored(schema);
        let fields = stored.fields().iter().map(|f| f.as_ref().clone()).collect();
        let batches = self.scan_file(&file, fields, &selection).await?;
        let schema = schema.clone();
        Ok(batches
            .map(move |batch| {
                let batch = batch?;
                let positions = column::<UInt64Type>(&batch, POSITION)?.values().to_vec();
                Ok(PositionedRows { positions, rows: evolve(&batch, &schema, &arrow)? })
            })
            .boxed())
    }

    /// Reads stored columns of a file, as far as it has them, and the positions of the rows.
    async fn scan_file(
        &self,
        file: &SegmentRef,
        fields: Vec<Field>,
        selection: &RowSelection,
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let id = file.id;
        let fail = move |e: VortexError| reading(id, e);
        let session = self.session.clone();
        let opened = self.open_file(file).await?;
        let found: Result<Vec<_>> = fields.iter().map(|wanted| self.stored_field(&opened, wanted)).collect();
        let mut found: Vec<Field> = found?.into_iter().flatten().collect();
        let mut columns: Vec<_> =
            found.iter().map(|f| (f.name().clone(), get_item(f.name().as_str(), root()))).collect();
        columns.push((POSITION.to_owned(), row_idx()));
        found.push(Field::new(POSITION, DataType::UInt64, false));
        let target = Field::new_struct("", found, false);
        let projection = pack(columns, Nullability::NonNullable).bind(opened.dtype()).map_err(fail)?;
        let arrow_session = session.clone();
        let batches = opened
            .scan()
            .map_err(fail)?
            .with_projection(projection)
            .with_selection(to_vortex(selection))
            .with_ordered(true)
            .map(move |chunk| {
                let mut ctx = arrow_session.create_execution_ctx();
                let array = arrow_session.arrow().execute_arrow(chunk, Some(&target), &mut ctx)?;
                Ok(RecordBatch::from(array.as_struct().clone()))
            })
            .into_stream()
            .map_err(fail)?;
        Ok(batches.map_err(fail).boxed())
    }

    /// Opens a file, of which the footer is read once.
    pub(crate) async fn open_file(&self, file: &SegmentRef) -> Result<VortexFile> {
        let footer = self.footers.get(&file.id);
        let known = footer.is_some();
        let options = self.session.open_options().with_file_size(file.data.column_bytes);
        let options = footer.into_iter().fold(options, |options, footer| options.with_footer(footer));
        let opened = options.open_read(self.open(file.clone())).await.map_err(|e| reading(file.id, e))?;
        if !known {
            self.footers.insert(file.id, opened.footer().clone());
        }
        Ok(opened)
    }

    /// A column as a file has it, if it does: what the type was when the file was written. Those who read widen it.
    pub(crate) fn stored_field(&self, opened: &VortexFile, wanted: &Field) -> Result<Option<Field>> {
        let dtype = opened.dtype().as_struct_fields_opt().and_then(|fields| fields.field(wanted.name()));
        let Some(dtype) = dtype else {
            return Ok(None);
        };
        let natural = self.session.arrow().to_arrow_field(wanted.name(), &dtype);
        let natural =
            natural.map_err(|e| Error::corrupt(format!("column {}: {e}", wanted.name())).with_source(e))?;
        let same = opened_type_is(&self.session, &natural, wanted);
        Ok(Some(if same { wanted.clone().with_nullable(natural.is_nullable()) } else { natural }))
    }

    /// The index of the primary keys of a segment in a file.
    pub async fn key_index(&self, file: &SegmentRef) -> Result<KeyIndex> {
        let length = file.data.bytes - file.data.column_bytes;
        let bytes = self.range(file, file.data.column_bytes, length).await?;
        KeyIndex::open(bytes).map_err(|e| e.context(format!("segment {}", file.id)))
    }
}

/// Whether a stored field has the type that is wanted: they differ where it was widened since.
fn opened_type_is(session: &VortexSession, stored: &Field, wanted: &Field) -> bool {
    let arrow = session.arrow();
    let of = |f: &Field| arrow.from_arrow_field(&f.clone().with_nullable(true)).ok();
    of(stored) == of(wanted)
}

fn column<'a, T: arrow::array::ArrowPrimitiveType>(
    batch: &'a RecordBatch,
    name: &str,
) -> Result<&'a arrow::array::PrimitiveArray<T>> {
    batch
        .column_by_name(name)
        .and_then(|array| array.as_primitive_opt::<T>())
        .ok_or_else(|| Error::corrupt(format!("rows of a segment without the column {name:?}")))
}

pub(crate) fn reading(id: plexus_model::SegmentId, error: VortexError) -> Error {
    Error::unavailable(format!("reading segment {id}: {error}")).with_source(error)
}
