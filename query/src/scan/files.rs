//! File segments as files of DataFusion.

use std::sync::Arc;

use datafusion::common::{DataFusionError, Result, Statistics};
use datafusion::datasource::listing::PartitionedFile;
use object_store::ObjectMeta;
use object_store::path::Path;
use plexus_model::{RowSet, Segment, Table};
use plexus_storage::{SegmentReader, SegmentRef, to_roaring_treemap};
use vortex::io::VortexReadAt;
use vortex::scan::selection::Selection;
use vortex::session::VortexSession;
use vortex_datafusion::VortexAccessPlan;
use vortex_datafusion::reader::VortexReaderFactory;

/// The URL under which segments appear to DataFusion. It is never read: the reader factory below opens
/// segments.
pub(crate) const STORE_URL: &str = "plexus://segments";

/// The file of a segment without its invisible rows; `None` for an inline segment. The file carries the
/// [`SegmentRef`] by which it is opened.
pub(crate) fn to_file(
    table: &Table,
    segment: &Segment,
    invisible: Arc<RowSet>,
    statistics: Arc<Statistics>,
) -> Option<PartitionedFile> {
    let reference = SegmentRef::data_file(table, segment)?;
    let meta = ObjectMeta {
        location: Path::from(format!("shard-{}/{}", segment.shard, segment.id)),
        // Footers are cached by this time, among others. Segments never change, so it is constant.
        last_modified: Default::default(),
        size: reference.data.column_bytes,
        e_tag: None,
        version: None,
    };
    let file = PartitionedFile::new_from_meta(meta).with_statistics(statistics).with_extension(reference);
    Some(if invisible.is_empty() { file } else { exclude_rows(file, invisible) })
}

/// The rows of a file that a scan leaves out.
pub(crate) struct InvisibleRows(pub Arc<RowSet>);

/// The file without some of its rows.
pub(crate) fn exclude_rows(file: PartitionedFile, rows: Arc<RowSet>) -> PartitionedFile {
    let selection = Selection::ExcludeRoaring(to_roaring_treemap(&rows));
    file.with_extension(VortexAccessPlan::default().with_selection(selection))
        .with_extension(InvisibleRows(rows))
}

/// The segment of a file.
///
/// # Errors
/// `Internal` when the file does not carry one.
pub(crate) fn segment_of(file: &PartitionedFile) -> Result<&SegmentRef> {
    file.extension::<SegmentRef>()
        .ok_or_else(|| DataFusionError::Internal(format!("file {} does not name a segment", file.path())))
}

/// Opens segments for scans.
#[derive(Debug)]
pub(crate) struct SegmentReaderFactory {
    /// Reads segments, from the local disk or from a replica.
    pub reader: SegmentReader,
}

impl VortexReaderFactory for SegmentReaderFactory {
    fn create_reader(
        &self,
        file: &PartitionedFile,
        _session: &VortexSession,
    ) -> Result<Arc<dyn VortexReadAt>> {
        Ok(self.reader.open(segment_of(file)?.clone()))
    }
}
