//! Point lookups: a few rows of a segment by their positions.
//!
//! A scan opens the file, plans its reads and decodes whole blocks. For ten rows that costs far more than the
//! rows themselves. A lookup therefore keeps the columns that it reads open, as encoded arrays over the
//! memory-mapped file, and decodes only the requested rows.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, new_empty_array};
use arrow::compute;
use arrow_schema::{DataType, Field, Schema};
use futures::TryStreamExt;
use moka::sync::Cache;
use plexus_memory::inherit_in;
use plexus_model::{Error, ErrorKind, Result, RowSelection, RowSet, Segment, SegmentId, Table, TableSchema};
use vortex::array::arrays::PrimitiveArray;
use vortex::array::expr::{get_item, root};
use vortex::array::{IntoArray, VortexSessionExecute};
use vortex::arrow::ArrowSessionExt;
use vortex::error::{VortexError, VortexResult};
use vortex::session::VortexSession;

use crate::mapped::on_mapped;
use crate::read::{SegmentReader, SegmentRef};
use crate::scan::read_error;
use crate::schema_evolution::evolve;
use crate::types;

/// Total memory of open columns in bytes. Memory-mapped buffers do not count, only their descriptions.
const OPEN_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Memory of one open column in bytes. A column that would take more is scanned instead.
const COLUMN_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Time after which an unused column is closed. It keeps its file open, even when the file was removed.
const IDLE_MAX: Duration = Duration::from_secs(10 * 60);
/// Estimated memory of an encoded array without its buffers, in bytes.
const ARRAY_BYTES: usize = 512;

/// Segment, stored name of the column, type that it is read as, and the number of lost files. The last part
/// makes columns that were opened before a file was found damaged open again.
type ColumnKey = (SegmentId, String, DataType, u64);

/// A cache of open columns.
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
    /// Closes columns that were not used for [`IDLE_MAX`]. The cache expires them lazily, so without lookups
    /// nothing would close them.
    pub(crate) fn close_idle(&self) {
        self.0.run_pending_tasks();
    }
}

/// An open column of a segment.
struct OpenColumn {
    /// The field in the file; `None` when the file is older than the column.
    field: Option<Field>,
    /// Encoded arrays, each with the position of its first row.
    chunks: Vec<(u64, vortex::array::ArrayRef)>,
    rows: u64,
    /// Memory that it takes.
    bytes: usize,
    /// Whether it would take more than [`COLUMN_BYTES_MAX`]. Possible when its buffers cannot be
    /// memory-mapped. Such a column has no chunks.
    too_large: bool,
}

impl SegmentReader {
    /// Looks up rows of a segment by position, with the columns of `schema`, in ascending order of position.
    ///
    /// # Errors
    /// `Unavailable` when no replica can be read. `Internal` when a position is out of bounds.
    pub async fn lookup_rows(
        &self,
        table: &Table,
        segment: &Segment,
        schema: &TableSchema,
        rows: RowSet,
    ) -> Result<RecordBatch> {
        let arrow_schema = types::to_arrow(schema);
        let expected = rows.len();
        let local = SegmentRef::data_file(table, segment).filter(|file| self.has(file));
        let taken = match local {
            Some(file) => self.take_rows(&file, schema, &rows).await,
            // Inline segments and files on other nodes are scanned.
            None => Ok(None),
        };
        let found = match taken {
            Ok(Some(stored)) => evolve(&stored, schema, &arrow_schema)?,
            Ok(None) => self.scan_rows(table, segment, schema, rows).await?,
            // The local file is damaged. A scan reads another replica.
            Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Unavailable) => {
                tracing::warn!(segment = %segment.id, error = %e, "point lookup failed; scanning instead");
                self.scan_rows(table, segment, schema, rows).await?
            }
            Err(e) => return Err(e),
        };
        match found.num_rows() as u64 == expected {
            true => Ok(found),
            false => Err(Error::internal(format!(
                "segment {}: found {} of {expected} rows",
                segment.id,
                found.num_rows()
            ))),
        }
    }

    /// Stored columns of some rows of a local file; `None` when a column is too large to be kept open.
    async fn take_rows(
        &self,
        file: &SegmentRef,
        schema: &TableSchema,
        rows: &RowSet,
    ) -> Result<Option<RecordBatch>> {
        let Some(columns) = self.get_or_open_columns(file, schema).await? else {
            return Ok(None);
        };
        let (session, id, rows) = (self.session.clone(), file.id, rows.clone());
        // Access to memory-mapped bytes can block on the disk.
        let take = move || on_mapped(|| take_from(&session, &columns, &rows).map_err(|e| read_error(id, e)));
        let taken = tokio::task::spawn_blocking(inherit_in(take)).await;
        taken.map_err(|e| Error::internal(format!("point lookup in segment {id}: {e}")))?.map(Some)
    }

    /// The slow path of a lookup.
    async fn scan_rows(
        &self,
        table: &Table,
        segment: &Segment,
        schema: &TableSchema,
        rows: RowSet,
    ) -> Result<RecordBatch> {
        let batches: Vec<_> = self
            .scan(table, segment, schema, RowSelection::Only(Arc::new(rows)))
            .await?
            .try_collect()
            .await?;
        let arrow_schema = types::to_arrow(schema);
        compute::concat_batches(&arrow_schema, batches.iter().map(|batch| &batch.rows))
            .map_err(|e| Error::internal(format!("rows of segment {}: {e}", segment.id)).with_source(e))
    }

    /// The open columns of a schema. `None` when a column is too large to be kept open, or when the schema
    /// has no columns: then the number of rows is unknown here.
    async fn get_or_open_columns(
        &self,
        file: &SegmentRef,
        schema: &TableSchema,
    ) -> Result<Option<Vec<Arc<OpenColumn>>>> {
        let lost_file_count = self.lost_file_count();
        let stored = types::to_stored(schema);
        let mut columns = Vec::with_capacity(stored.fields().len());
        for field in stored.fields() {
            let key = (file.id, field.name().clone(), field.data_type().clone(), lost_file_count);
            let column = match self.open_columns.0.get(&key) {
                Some(column) => column,
                None => {
                    let column = Arc::new(self.open_column(file, field).await?);
                    self.open_columns.0.insert(key, column.clone());
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

    /// Reads the encoded arrays of a column without decoding them.
    async fn open_column(&self, file: &SegmentRef, wanted: &Field) -> Result<OpenColumn> {
        let open_error = |e: VortexError| read_error(file.id, e);
        let reads = self.memory_mapped();
        let opened = reads.open_file(file).await?;
        let field = reads.stored_field(&opened, wanted)?;
        let mut column = OpenColumn { field, chunks: vec![], rows: 0, bytes: 0, too_large: false };
        if column.field.is_none() {
            column.rows = opened.row_count();
            return Ok(column);
        }
        let projection = get_item(wanted.name().as_str(), root()).bind(opened.dtype()).map_err(open_error)?;
        let scan = opened.scan().map_err(open_error)?.with_projection(projection).with_ordered(true);
        let mut chunks = Box::pin(scan.into_array_stream().map_err(open_error)?);
        while let Some(chunk) = chunks.try_next().await.map_err(open_error)? {
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
    /// The values of some rows, in ascending order.
    fn take(&self, session: &VortexSession, field: &Field, rows: &RowSet) -> VortexResult<ArrayRef> {
        let mut parts = Vec::new();
        let mut rows = rows.iter().peekable();
        let mut ctx = session.create_execution_ctx();
        for (first, chunk) in &self.chunks {
            let end = first + chunk.len() as u64;
            let mut offsets: Vec<u64> = Vec::new();
            while let Some(row) = rows.next_if(|row| u64::from(*row) < end) {
                offsets.push(u64::from(row) - first);
            }
            if !offsets.is_empty() {
                let taken = chunk.take(PrimitiveArray::from_iter(offsets).into_array())?;
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

/// Some rows of stored columns, in ascending order. Columns that the file does not have are left out.
fn take_from(
    session: &VortexSession,
    columns: &[Arc<OpenColumn>],
    rows: &RowSet,
) -> VortexResult<RecordBatch> {
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
