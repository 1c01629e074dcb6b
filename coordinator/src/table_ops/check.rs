//! `CHECK TABLE`: every copy of every file is read and compared with its checksum.

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

#[derive(Default)]
struct Found {
    files: u64,
    bytes: u64,
    damaged: u64,
    missing: u64,
    error: Option<String>,
}

impl ProcedureExecutor {
    /// Checks the copies on all nodes, a row a node. Damaged ones are set aside there, and fetched again from
    /// another replica like missing ones.
    pub(super) async fn check(&self, table: &Arc<Table>) -> Result<Executed> {
        let mut copies: BTreeMap<NodeId, Vec<SegmentRef>> = BTreeMap::new();
        for file in table.segments.values().flat_map(|s| SegmentRef::all_files(table, s)) {
            for node in &file.replicas {
                copies.entry(*node).or_default().push(file.clone());
            }
        }
        let nodes = copies.len().max(1);
        let checks: Vec<_> = copies
            .into_iter()
            .map(|(node, files)| async move { (node, self.check_node(node, &files).await) })
            .collect();
        let found: BTreeMap<NodeId, Found> = stream::iter(checks).buffer_unordered(nodes).collect().await;
        let numbers = |of: fn(&Found) -> u64| Arc::new(found.values().map(of).collect::<UInt64Array>());
        report(vec![
            ("node_id", Arc::new(found.keys().map(|node| Some(node.to_string())).collect::<StringArray>())),
            ("files", numbers(|f| f.files)),
            ("bytes", numbers(|f| f.bytes)),
            ("damaged", numbers(|f| f.damaged)),
            ("missing", numbers(|f| f.missing)),
            ("error", Arc::new(found.values().map(|f| f.error.clone()).collect::<StringArray>())),
        ])
    }

    async fn check_node(&self, node: NodeId, files: &[SegmentRef]) -> Found {
        let mut found = Found::default();
        let mut rest = files;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = |file: &&SegmentRef| {
                bytes += file.data.bytes;
                bytes <= CHECK_BYTES_MAX
            };
            let count = rest.iter().take(CHECK_FILES_MAX).take_while(fits).count().max(1);
            let (part, others) = rest.split_at(count);
            rest = others;
            match self.peers.check(node, part).await {
                Ok(checked) => {
                    found.files += part.len() as u64;
                    found.bytes += part.iter().map(|f| f.data.bytes).sum::<u64>();
                    found.damaged += checked.damaged.len() as u64;
                    found.missing += checked.missing.len() as u64;
                }
                Err(error) => {
                    found.error = Some(error.to_string());
                    break;
                }
            }
        }
        found
    }
}
