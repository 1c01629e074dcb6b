//! File segments as the planner's files.

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

/// Where segments pretend to be: the readers below never ask an object store.
pub const STORE_URL: &str = "plexus://segments";

/// The segment as a file whose reader is found through the [`SegmentRef`] that it carries. Rows in `hidden`
/// are not read.
pub fn to_file(
    table: &Table,
    segment: &Segment,
    hidden: Arc<RowSet>,
    statistics: Arc<Statistics>,
) -> Option<PartitionedFile> {
    let reference = SegmentRef::data_file(table, segment)?;
    let meta = ObjectMeta {
        location: Path::from(format!("shard-{}/{}", segment.shard, segment.id)),
        // SegmentView of the key under which footers are cached; segments never change.
        last_modified: Default::default(),
        size: reference.data.column_bytes,
        e_tag: None,
        version: None,
    };
    let file = PartitionedFile::new_from_meta(meta).with_statistics(statistics).with_extension(reference);
    Some(if hidden.is_empty() { file } else { hide(file, hidden) })
}

/// The rows of a file that a scan leaves out.
pub struct HiddenRows(pub Arc<RowSet>);

/// The file without some of its rows.
pub fn hide(file: PartitionedFile, rows: Arc<RowSet>) -> PartitionedFile {
    let selection = Selection::ExcludeRoaring(to_roaring_treemap(&rows));
    file.with_extension(VortexAccessPlan::default().with_selection(selection))
        .with_extension(HiddenRows(rows))
}

/// The segment that a file stands for.
pub fn segment_of(file: &PartitionedFile) -> Result<&SegmentRef> {
    file.extension::<SegmentRef>()
        .ok_or_else(|| DataFusionError::Internal(format!("file {} does not name a segment", file.path())))
}

/// Opens segments for scans.
#[derive(Debug)]
pub struct SegmentReaderFactory {
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
