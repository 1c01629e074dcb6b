//! From batches to the bytes of a file segment.

use arrow::array::RecordBatch;
use bytes::Bytes;
use plexus_model::{ColumnStatistics, Error, Result, TableSchema};
use vortex::VortexSessionDefault;
use vortex::array::IntoArray;
use vortex::array::arrays::ChunkedArray;
use vortex::arrow::ArrowSessionExt;
use vortex::error::VortexError;
use vortex::file::WriteOptionsSessionExt;
use vortex::io::runtime::BlockingRuntime;
use vortex::io::runtime::current::CurrentThreadRuntime;
use vortex::io::session::RuntimeSessionExt;
use vortex::session::VortexSession;

use crate::statistics::StatisticsBuilder;
use crate::types;

/// A segment that is ready to be sent to its replicas.
pub struct EncodedSegment {
    pub bytes: Bytes,
    /// BLAKE3 of the bytes.
    pub checksum: [u8; 32],
    pub rows: u64,
    pub columns: Vec<ColumnStatistics>,
}

/// Writes Vortex files.
#[derive(Clone, Copy, Default)]
pub struct SegmentEncoder;

impl SegmentEncoder {
    /// Encodes batches that have the columns of `schema` in order. Uses the calling thread alone and
    /// takes a while: call it off the async threads.
    pub fn encode(&self, schema: &TableSchema, batches: Vec<RecordBatch>) -> Result<EncodedSegment> {
        let arrow_schema = types::to_arrow(schema);
        let mut statistics = StatisticsBuilder::new(schema);
        let mut rows = 0;
        for batch in &batches {
            assert_eq!(
                batch.schema().fields(),
                arrow_schema.fields(),
                "rows do not have the schema of their table"
            );
            statistics.add(batch);
            rows += batch.num_rows() as u64;
        }
        let runtime = CurrentThreadRuntime::new();
        let session = VortexSession::default().with_handle(runtime.handle());
        let fail = |e: VortexError| {
            Error::internal(format!("encoding a segment of {rows} rows: {e}")).with_source(e)
        };
        let dtype = session.arrow().from_arrow_schema(&arrow_schema).map_err(fail)?;
        let chunks = batches
            .into_iter()
            .map(|batch| session.arrow().from_arrow_record_batch(batch, &arrow_schema))
            .collect::<Result<Vec<_>, _>>()
            .map_err(fail)?;
        let array = ChunkedArray::try_new(chunks, dtype).map_err(fail)?.into_array();
        let mut bytes = Vec::new();
        session
            .write_options()
            // Bounds that prune whole segments are in the manifest; zones inside keep their own.
            .with_file_statistics(vec![])
            .blocking(&runtime)
            .write(&mut bytes, array.to_array_iterator())
            .map_err(fail)?;
        let checksum = *blake3::hash(&bytes).as_bytes();
        Ok(EncodedSegment { bytes: bytes.into(), checksum, rows, columns: statistics.finish() })
    }
}
