//! Rows of segments by their places, a few at a time and again and again.
//!
//! A scan opens a file, plans its reads and decodes what it comes by, which takes longer than all that is wanted of ten
//! rows. So the columns of which rows were taken stay open: arrays as they lie in the file, mapped and encoded. Rows are
//! taken from them, and nothing but those is decoded.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, new_empty_array};
use arrow::compute;
use arrow_schema::{DataType, Field, Schema};
use futures::TryStreamExt;
use moka::sync::Cache;
use plexus_model::{Error, ErrorKind, Result, RowSelection, RowSet, Segment, SegmentId, Table, TableSchema};
use vortex::array::arrays::PrimitiveArray;
use vortex::array::expr::{get_item, root};
use vortex::array::{IntoArray, VortexSessionExecute};
use vortex::arrow::ArrowSessionExt;
use vortex::error::{VortexError, VortexResult};
use vortex::session::VortexSession;

use crate::read::{SegmentReads, SegmentRef};
use crate::scan::reading;
use crate::schema_evolution::evolve;
use crate::types;

/// Bytes of open columns: of mapped ones what describes them.
const OPEN_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Of one column.
const COLUMN_BYTES_MAX: usize = 32 * 1024 * 1024;
/// After so long what nobody asked for is closed, and with it the file that it may be in.
const IDLE_MAX: Duration = Duration::from_secs(10 * 60);
/// What an encoded array takes beside its buffers.
const ARRAY_BYTES: usize = 512;

/// A segment, a column by its name in it, the type that it is read as, and how many files were found to be damaged: what was
/// opened before is opened again.
type ColumnKey = (SegmentId, String, DataType, u64);

/// Open columns of segments.
#[derive(Clone)]
pub(crate) struct OpenColumns(Cache<ColumnKey, Arc<OpenColumn>>);

impl Default for OpenColumns {
    fn default() -> Self {
        let weight = |key: &ColumnKey, column: &Arc<OpenColumn>| {
            u32::try_from(column.bytes + key.1.len() + 128).unwrap_or(u32::MAX)
        };
        Self(Cache::builder().max_capacity(OPEN_BYTES_MAX).weigher(weight).time_to_idle(IDLE_MAX).build())
    }
}

impl OpenColumns {
    /// Closes what was not asked for in a while, also when nobody asks for anything.
    pub fn close_idle(&self) {
        self.0.run_pending_tasks();
    }
}

/// A column of a segment.
struct OpenColumn {
    /// As the file has it; `None` when that is older than the column.
    field: Option<Field>,
    /// Each with its first row.
    chunks: Vec<(u64, vortex::array::ArrayRef)>,
    rows: u64,
    bytes: usize,
    /// Whether it takes so much memory that it is not kept. Columns that are not mapped may.
    too_large: bool,
}

impl SegmentReads {
    /// Columns of a segment, those of `schema`, of some rows of it in ascending order.
    pub async fn rows_at(
        &self,
        table: &Table,
        segment: &Segment,
        schema: &TableSchema,
        rows: RowSet,
    ) -> Result<RecordBatch> {
        let arrow = types::to_arrow(schema);
        let wanted = rows.len();
        let here = SegmentRef::of(table, segment).filter(|file| self.has(file));
        let taken = match here {
            Some(file) => self.take_rows(&file, schema, &rows).await,
            // What is in the log, or on another node, is scanned.
            None => Ok(None),
        };
        let found = match taken {
            Ok(Some(stored)) => evolve(&stored, schema, &arrow)?,
            Ok(None) => self.scan_rows(table, segment, schema, rows).await?,
            // A scan finds another copy.
            Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Unavailable) => {
                tracing::warn!(segment = %segment.id, error = %e, "rows cannot be taken; scanning");
                self.scan_rows(table, segment, schema, rows).await?
            }
            Err(e) => return Err(e),
        };
        match found.num_rows() as u64 == wanted {
            true => Ok(found),
            false => Err(Error::internal(format!(
                "segment {}: {} of {wanted} rows were found",
                segment.id,
                found.num_rows()
            ))),
        }
    }

    /// Stored columns of rows of a file on this node; `None` when they have to be scanned.
    async fn take_rows(
        &self,
        file: &SegmentRef,
        schema: &TableSchema,
        rows: &RowSet,
    ) -> Result<Option<RecordBatch>> {
        let Some(columns) = self.open_columns(file, schema).await? else {
            return Ok(None);
        };
        let (session, id, rows) = (self.session.clone(), file.id, rows.clone());
        // Reading what is mapped may wait for the disk.
        let take = move || take(&session, &columns, &rows).map_err(|e| reading(id, e));
        let taken = tokio::task::spawn_blocking(take).await;
        taken.map_err(|e| Error::internal(format!("taking rows of segment {id}: {e}")))?.map(Some)
    }

    async fn scan_rows(
        &self,
        table: &Table,
        segment: &Segment,
        schema: &TableSchema,
        rows: RowSet,
    ) -> Result<RecordBatch> {
        let found: Vec<_> = self
            .scan(table, segment, schema, RowSelection::Only(Arc::new(rows)))
            .await?
            .try_collect()
            .await?;
        let arrow = types::to_arrow(schema);
        compute::concat_batches(&arrow, found.iter().map(|found| &found.rows))
            .map_err(|e| Error::internal(format!("rows of segment {}: {e}", segment.id)).with_source(e))
    }

    /// The columns of a schema; `None` when there is none, since the number of rows is not told by nothing.
    async fn open_columns(
        &self,
        file: &SegmentRef,
        schema: &TableSchema,
    ) -> Result<Option<Vec<Arc<OpenColumn>>>> {
        let lost_files = self.lost_files();
        let stored = types::to_stored(schema);
        let mut columns = Vec::with_capacity(stored.fields().len());
        for field in stored.fields() {
            let key = (file.id, field.name().clone(), field.data_type().clone(), lost_files);
            let column = match self.open.0.get(&key) {
                Some(column) => column,
                None => {
                    let column = Arc::new(self.open_column(file, field).await?);
                    self.open.0.insert(key, column.clone());
                    column
                }
            };
            if column.too_large {
                return Ok(None);
            }
            columns.push(column);
        }
        Ok((!columns.is_empty()).then_some(columns))
    }

    async fn open_column(&self, file: &SegmentRef, wanted: &Field) -> Result<OpenColumn> {
        let fail = |e: VortexError| reading(file.id, e);
        let reads = self.mapped();
        let opened = reads.open_file(file).await?;
        let field = reads.stored_field(&opened, wanted)?;
        let mut column = OpenColumn { field, chunks: vec![], rows: 0, bytes: 0, too_large: false };
        if column.field.is_none() {
            column.rows = opened.row_count();
            return Ok(column);
        }
        let projection = get_item(wanted.name().as_str(), root()).bind(opened.dtype()).map_err(fail)?;
        let scan = opened.scan().map_err(fail)?.with_projection(projection).with_ordered(true);
        let mut chunks = Box::pin(scan.into_array_stream().map_err(fail)?);
        while let Some(chunk) = chunks.try_next().await.map_err(fail)? {
            for array in chunk.depth_first_traversal() {
                let in_memory = array.buffers().into_iter().filter(|b| !reads.is_mapped(file, b.as_slice()));
                column.bytes += ARRAY_BYTES + in_memory.map(|b| b.len()).sum::<usize>();
            }
            if column.bytes > COLUMN_BYTES_MAX {
                return Ok(OpenColumn { chunks: vec![], bytes: 0, too_large: true, ..column });
            }
            let rows = chunk.len() as u64;
            column.chunks.push((column.rows, chunk));
            column.rows += rows;
        }
        Ok(column)
    }
}

impl OpenColumn {
    /// Values of some rows, in ascending order.
    fn take(&self, session: &VortexSession, field: &Field, rows: &RowSet) -> VortexResult<ArrayRef> {
        let mut parts = Vec::new();
        let mut rows = rows.iter().peekable();
        let mut ctx = session.create_execution_ctx();
        for (first, chunk) in &self.chunks {
            let end = first + chunk.len() as u64;
            let mut places: Vec<u64> = Vec::new();
            while let Some(row) = rows.next_if(|row| u64::from(*row) < end) {
                places.push(u64::from(row) - first);
            }
            if !places.is_empty() {
                let taken = chunk.take(PrimitiveArray::from_iter(places).into_array())?;
                parts.push(session.arrow().execute_arrow(taken, Some(field), &mut ctx)?);
            }
        }
        match parts.as_slice() {
            [] => Ok(new_empty_array(field.data_type())),
            [part] => Ok(part.clone()),
            parts => {
                let parts: Vec<_> = parts.iter().map(AsRef::as_ref).collect();
                compute::concat(&parts).map_err(VortexError::from)
            }
        }
    }
}

/// Stored columns of some rows, as far as the file has them.
fn take(session: &VortexSession, columns: &[Arc<OpenColumn>], rows: &RowSet) -> VortexResult<RecordBatch> {
    let (mut fields, mut arrays) = (Vec::new(), Vec::new());
    for column in columns {
        if let Some(field) = &column.field {
            arrays.push(column.take(session, field, rows)?);
            fields.push(field.clone());
        }
    }
    let count = RecordBatchOptions::new().with_row_count(Some(rows.len() as usize));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &count)
        .map_err(VortexError::from)
}
