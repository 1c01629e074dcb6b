//! Encodes segment scans for other nodes.
//!
//! DataFusion encodes file groups, projection and statistics of a file scan. Added here are the filter that
//! the source applies and the segment behind each file.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::catalog::memory::DataSourceExec;
use datafusion::common::{DataFusionError, Result, internal_err, not_impl_err};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::FileSource;
use datafusion::execution::TaskContext;
use datafusion::physical_expr::split_conjunction;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::filter_pushdown::PushedDown;
use datafusion_proto::physical_plan::from_proto::{
    parse_protobuf_file_scan_config, parse_table_schema_from_proto,
};
use datafusion_proto::physical_plan::to_proto::serialize_file_scan_config;
use datafusion_proto::physical_plan::{
    PhysicalExtensionCodec, PhysicalPlanDecodeContext, PhysicalProtoConverterExtension,
};
use datafusion_proto::protobuf;
use plexus_model::{FileData, NodeId, RowSet, SegmentId, decode_row_set, encode_row_set};
use plexus_storage::SegmentRef;
use prost::Message;

use crate::logical_rules::fence::FenceExec;
use crate::scan::files::{InvisibleRows, exclude_rows, segment_of};
use crate::scan::leaf::{ScanContext, segment_scan};
use crate::scan::schema_adapter::{Initials, StoredAdapterFactory};

/// Encodes and decodes segment scans. Decoded scans read through the node that `context` belongs to.
#[derive(Debug)]
pub(crate) struct ScanCodec {
    /// The node that runs decoded scans.
    pub context: ScanContext,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireScan {
    #[prost(message, optional, tag = "1")]
    config: Option<protobuf::FileScanExecConf>,
    #[prost(message, optional, tag = "2")]
    predicate: Option<protobuf::PhysicalExprNode>,
    #[prost(message, repeated, tag = "3")]
    segments: Vec<WireSegment>,
    /// Initial values of columns for rows that are older than the column.
    #[prost(map = "string, bytes", tag = "4")]
    initials: HashMap<String, Vec<u8>>,
}

/// Stands for a fence, whose input is run alone: no scan is encoded as a single byte.
const FENCE: &[u8] = &[0];

#[derive(Clone, PartialEq, prost::Message)]
struct WireSegment {
    #[prost(string, tag = "1")]
    path: String,
    #[prost(bytes = "vec", tag = "2")]
    id: Vec<u8>,
    #[prost(uint64, tag = "3")]
    length: u64,
    #[prost(bytes = "vec", tag = "4")]
    checksum: Vec<u8>,
    #[prost(uint64, repeated, tag = "5")]
    replicas: Vec<u64>,
    #[prost(uint64, tag = "6")]
    column_bytes: u64,
    /// The invisible rows, encoded by [`plexus_model::encode_row_set`]. Empty if there are none.
    #[prost(bytes = "vec", tag = "7")]
    invisible: Vec<u8>,
}

impl WireSegment {
    fn new(file: &PartitionedFile) -> Result<Self> {
        let segment = segment_of(file)?;
        Ok(Self {
            path: file.path().to_string(),
            id: segment.id.0.to_be_bytes().to_vec(),
            length: segment.data.bytes,
            checksum: segment.data.checksum.to_vec(),
            replicas: segment.replicas.iter().map(|n| n.0).collect(),
            column_bytes: segment.data.column_bytes,
            invisible: file.extension::<InvisibleRows>().map(|h| encode_row_set(&h.0)).unwrap_or_default(),
        })
    }

    /// The path of the file, its segment, and its invisible rows.
    fn into_parts(self) -> Result<(String, (SegmentRef, RowSet))> {
        let (Ok(id), Ok(checksum)) = (self.id.try_into(), self.checksum.try_into()) else {
            return internal_err!("segment of a plan without id or checksum: {}", self.path);
        };
        let segment = SegmentRef {
            id: SegmentId(u128::from_be_bytes(id)),
            data: FileData { bytes: self.length, checksum, column_bytes: self.column_bytes },
            replicas: self.replicas.into_iter().map(NodeId).collect(),
        };
        let invisible = match self.invisible.is_empty() {
            true => RowSet::new(),
            false => decode_row_set(&self.invisible).map_err(|e| DataFusionError::External(Box::new(e)))?,
        };
        Ok((self.path, (segment, invisible)))
    }
}

impl PhysicalExtensionCodec for ScanCodec {
    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        buf: &mut Vec<u8>,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        if node.is::<FenceExec>() {
            buf.extend_from_slice(FENCE);
            return Ok(());
        }
        let Some((config, source)) = segment_scan(&node) else {
            return not_impl_err!("{} cannot be sent to another node", node.name());
        };
        let segments = config
            .file_groups
            .iter()
            .flat_map(|group| group.files())
            .map(WireSegment::new)
            .collect::<Result<Vec<_>>>()?;
        let mut files = config.file_groups.iter().flat_map(|group| group.files());
        let initials = files.find_map(|file| file.extension::<Initials>());
        let scan = WireScan {
            config: Some(serialize_file_scan_config(config, self, converter)?),
            predicate: source.predicate().map(|p| converter.physical_expr_to_proto(p, self)).transpose()?,
            segments,
            initials: initials.map(|i| i.values().clone()).unwrap_or_default(),
        };
        scan.encode(buf).map_err(|e| DataFusionError::External(Box::new(e)))
    }

    fn try_decode(
        &self,
        buf: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        task: &TaskContext,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if let (FENCE, [input]) = (buf, inputs) {
            return Ok(input.clone());
        }
        let scan = WireScan::decode(buf).map_err(|e| DataFusionError::External(Box::new(e)))?;
        let Some(config) = scan.config else {
            return internal_err!("segment scan without configuration");
        };
        let decode = PhysicalPlanDecodeContext::new(task, self);
        let schema = parse_table_schema_from_proto(&config)?;
        let mut source: Arc<dyn FileSource> = Arc::new(self.context.source(schema.clone()));
        if let Some(predicate) = &scan.predicate {
            let predicate = converter.proto_to_physical_expr(predicate, schema.table_schema(), &decode)?;
            // The source accepted the conjuncts one by one. It would refuse a conjunction one side of which
            // can fail on rows that the other side excludes.
            let conjuncts = split_conjunction(&predicate).into_iter().cloned().collect();
            let pushed = source.try_pushdown_filters(conjuncts, task.session_config().options())?;
            // The plan has no filter above the scan, so the source must accept each of them.
            let accepted = pushed.filters.iter().all(|f| matches!(f, PushedDown::Yes));
            match pushed.updated_node.filter(|_| accepted) {
                Some(updated) => source = updated,
                None => return internal_err!("segment scan does not accept its filter"),
            }
        }
        let mut config = parse_protobuf_file_scan_config(&config, &decode, converter, source)?;
        let segments =
            scan.segments.into_iter().map(WireSegment::into_parts).collect::<Result<HashMap<_, _>>>()?;
        config.file_groups = std::mem::take(&mut config.file_groups)
            .into_iter()
            .map(|group| {
                let files = group.into_inner().into_iter().map(|file| {
                    let Some((segment, invisible)) = segments.get(file.path().as_ref()) else {
                        return internal_err!("file {} of a segment scan names no segment", file.path());
                    };
                    let file = file.with_extension(segment.clone());
                    Ok(if invisible.is_empty() {
                        file
                    } else {
                        exclude_rows(file, Arc::new(invisible.clone()))
                    })
                });
                files.collect::<Result<Vec<_>>>().map(Into::into)
            })
            .collect::<Result<Vec<_>>>()?;
        config.expr_adapter_factory = Some(Arc::new(StoredAdapterFactory { initials: scan.initials.into() }));
        Ok(DataSourceExec::from_data_source(config))
    }
}
