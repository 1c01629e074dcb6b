//! `CHECK TABLE`: reads every replica of every file of a table and verifies its checksum.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{StringArray, UInt64Array};
use futures::{StreamExt, stream};
use plexus_model::{NodeId, Result, Table};
use plexus_storage::SegmentRef;

use super::report;
use crate::exec::context::Executed;
use crate::limits::{CHECK_BYTES_MAX, CHECK_FILES_MAX};
use crate::table_ops::ProcedureExecutor;

/// Result of the check on one node.
#[derive(Default)]
struct NodeCheck {
    files: u64,
    bytes: u64,
    damaged: u64,
    missing: u64,
    /// Why not all files were checked.
    error: Option<String>,
}

impl ProcedureExecutor {
    /// Checks the replicas on all nodes and returns one row per node. A node quarantines damaged files, and
    /// fetches damaged and missing files from another replica.
    pub(super) async fn check(&self, table: &Arc<Table>) -> Result<Executed> {
        let mut replicas: BTreeMap<NodeId, Vec<SegmentRef>> = BTreeMap::new();
        for file in table.segments.values().flat_map(|s| SegmentRef::all_files(table, s)) {
            for node in &file.replicas {
                replicas.entry(*node).or_default().push(file.clone());
            }
        }
        let nodes = replicas.len().max(1);
        let checks: Vec<_> = replicas
            .into_iter()
            .map(|(node, files)| async move { (node, self.check_node(node, &files).await) })
            .collect();
        let results: BTreeMap<NodeId, NodeCheck> =
            stream::iter(checks).buffer_unordered(nodes).collect().await;
        let counts =
            |field: fn(&NodeCheck) -> u64| Arc::new(results.values().map(field).collect::<UInt64Array>());
        report(vec![
            ("node_id", Arc::new(results.keys().map(|node| Some(node.to_string())).collect::<StringArray>())),
            ("files", counts(|f| f.files)),
            ("bytes", counts(|f| f.bytes)),
            ("damaged", counts(|f| f.damaged)),
            ("missing", counts(|f| f.missing)),
            ("error", Arc::new(results.values().map(|f| f.error.clone()).collect::<StringArray>())),
        ])
    }

    /// Checks files on one node, in requests of bounded size.
    async fn check_node(&self, node: NodeId, files: &[SegmentRef]) -> NodeCheck {
        let mut result = NodeCheck::default();
        let mut remaining = files;
        while !remaining.is_empty() {
            let mut bytes = 0;
            let fits = |file: &&SegmentRef| {
                bytes += file.data.bytes;
                bytes <= CHECK_BYTES_MAX
            };
            let count = remaining.iter().take(CHECK_FILES_MAX).take_while(fits).count().max(1);
            let (chunk, rest) = remaining.split_at(count);
            remaining = rest;
            match self.peers.check(node, chunk).await {
                Ok(checked) => {
                    result.files += chunk.len() as u64;
                    result.bytes += chunk.iter().map(|f| f.data.bytes).sum::<u64>();
                    result.damaged += checked.damaged.len() as u64;
                    result.missing += checked.missing.len() as u64;
                }
                Err(error) => {
                    result.error = Some(error.to_string());
                    break;
                }
            }
        }
        result
    }
}
