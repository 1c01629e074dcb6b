//! Sends requests to other nodes: implements the network traits of the coordinator, the storage layer, the
//! query engine and the metadata group.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use plexus_coordinator::{CheckResult, NodeReport, Peers, SegmentUpload, Suspects};
use plexus_model::{Error, ErrorKind, NodeId, Result, SegmentId, Version};
use plexus_query::RunningQuery;
use plexus_query::search::SearchTransport;
use plexus_raft::Transport;
use plexus_storage::{RemoteSegments, SegmentRef};

use crate::peer::endpoint::{PeerClient, TrafficClass};
use crate::peer::service::{NodeState, check_files};
use crate::peer::wire::{FileToCheck, Request, Response};

const READ_TIMEOUT: Duration = Duration::from_secs(10);
const REPORT_TIMEOUT: Duration = Duration::from_secs(2);
const CHECK_TIMEOUT: Duration = Duration::from_secs(60);
/// For requests about running queries, which a node answers from memory.
const QUERIES_TIMEOUT: Duration = Duration::from_secs(2);
/// Long, because a node builds a missing index of a small segment during the search. A lost connection is
/// detected sooner than this.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(60);

/// Access to other nodes by id. Addresses come from the manifest.
#[derive(Clone)]
pub struct PeerNetwork {
    client: PeerClient,
    state: Arc<NodeState>,
    /// Nodes that recently failed to answer a search.
    suspects: Arc<Suspects>,
}

impl PeerNetwork {
    /// Creates the network. `state` is that of the own node.
    pub fn new(client: PeerClient, state: Arc<NodeState>) -> Self {
        Self { client, state, suspects: Arc::default() }
    }

    fn address(&self, node: NodeId) -> Result<String> {
        let manifest = self.state.meta()?.manifest();
        let record = manifest
            .nodes
            .get(&node)
            .ok_or_else(|| Error::unavailable(format!("node {node} is not in the cluster")))?;
        Ok(record.peer.clone())
    }

    /// The address that the cluster records for this node, if it is not `own` and this node answers there as
    /// well: another process runs with a copy of its data directory.
    pub async fn answers_elsewhere(&self, own: &str) -> Option<String> {
        let node = self.state.meta.get()?.node();
        let recorded = self.address(node).ok().filter(|recorded| recorded != own)?;
        let (class, limit) = (TrafficClass::Bulk, QUERIES_TIMEOUT);
        let answer = self.client.call(&recorded, Some(node), class, &Request::Running, None, limit).await;
        answer.is_ok().then_some(recorded)
    }

    fn is_self(&self, node: NodeId) -> bool {
        self.state.meta.get().is_some_and(|meta| meta.node() == node)
    }

    async fn request(
        &self,
        node: NodeId,
        request: Request,
        body: Option<Bytes>,
        limit: Duration,
    ) -> Result<(Response, Bytes)> {
        let address = self.address(node)?;
        match self.client.call(&address, Some(node), TrafficClass::Bulk, &request, body, limit).await? {
            (Response::Failed { kind, message }, _) => {
                Err(Error::new(kind, message).context(format!("node {node}")))
            }
            response => Ok(response),
        }
    }
}

#[async_trait]
impl Peers for PeerNetwork {
    async fn put_segment(&self, node: NodeId, upload: SegmentUpload, limit: Duration) -> Result<()> {
        let SegmentUpload { id, checksum, bytes } = upload;
        let request = Request::PutSegment { id: id.0, checksum, length: bytes.len() as u64 };
        match self.request(node, request, Some(bytes), limit).await? {
            (Response::Done, _) => Ok(()),
            (other, _) => Err(unexpected(node, &other)),
        }
    }

    async fn report(&self, node: NodeId) -> Result<NodeReport> {
        if self.is_self(node) {
            return self.state.report();
        }
        match self.request(node, Request::Report, None, REPORT_TIMEOUT).await? {
            (Response::Report { applied, checked, segments_missing, missing, segments }, _) => {
                let missing = missing.into_iter().map(SegmentId).collect();
                Ok(NodeReport { applied, checked: Version(checked), segments_missing, missing, segments })
            }
            (other, _) => Err(unexpected(node, &other)),
        }
    }

    async fn check(&self, node: NodeId, files: &[SegmentRef]) -> Result<CheckResult> {
        let to_check =
            |f: &SegmentRef| FileToCheck { id: f.id.0, length: f.data.bytes, checksum: f.data.checksum };
        let files: Vec<FileToCheck> = files.iter().map(to_check).collect();
        if self.is_self(node) {
            return check_files(&self.state, files).await;
        }
        match self.request(node, Request::CheckFiles(files), None, CHECK_TIMEOUT).await? {
            (Response::Checked { damaged, missing }, _) => {
                let ids = |ids: Vec<u128>| ids.into_iter().map(SegmentId).collect();
                Ok(CheckResult { damaged: ids(damaged), missing: ids(missing) })
            }
            (other, _) => Err(unexpected(node, &other)),
        }
    }

    async fn running(&self, node: NodeId) -> Result<Vec<RunningQuery>> {
        match self.request(node, Request::Running, None, QUERIES_TIMEOUT).await? {
            (Response::Running(running), _) => Ok(running),
            (other, _) => Err(unexpected(node, &other)),
        }
    }

    async fn kill(&self, node: NodeId, query: &str) -> Result<bool> {
        match self.request(node, Request::Kill(query.to_owned()), None, QUERIES_TIMEOUT).await? {
            (Response::Killed(killed), _) => Ok(killed),
            (other, _) => Err(unexpected(node, &other)),
        }
    }

    async fn interrupt(&self, node: NodeId, query_id: &str) -> Result<()> {
        match self.request(node, Request::Interrupt(query_id.to_owned()), None, QUERIES_TIMEOUT).await? {
            (Response::Done, _) => Ok(()),
            (other, _) => Err(unexpected(node, &other)),
        }
    }
}

#[async_trait]
impl RemoteSegments for PeerNetwork {
    async fn read(&self, node: NodeId, segment: &SegmentRef, offset: u64, length: usize) -> Result<Bytes> {
        let request = Request::ReadSegment {
            id: segment.id.0,
            checksum: segment.data.checksum,
            length: segment.data.bytes,
            offset,
            count: length as u64,
        };
        match self.request(node, request, None, READ_TIMEOUT).await? {
            (Response::Body { .. }, body) => Ok(body),
            (other, _) => Err(unexpected(node, &other)),
        }
    }

    fn order(&self, segment: &SegmentRef) -> Vec<NodeId> {
        let Some(meta) = self.state.meta.get() else {
            return segment.replicas.clone();
        };
        let manifest = meta.manifest();
        let is_live = |node: &NodeId| manifest.nodes.get(node).is_some_and(|n| n.live);
        let mut others: Vec<NodeId> =
            segment.replicas.iter().copied().filter(|n| *n != meta.node()).collect();
        // The first choice depends on the segment id: this spreads segments over the replicas, and always
        // reads the same segment from the same node, whose caches then hold it.
        let turn = segment.id.0 as usize % others.len().max(1);
        others.rotate_left(turn);
        others.sort_by_key(|node| !is_live(node) || self.suspects.contains(*node));
        others
    }
}

#[async_trait]
impl SearchTransport for PeerNetwork {
    async fn send(&self, node: NodeId, request: Vec<u8>) -> Result<Vec<u8>> {
        match self.request(node, Request::Search(request), None, SEARCH_TIMEOUT).await {
            Ok((Response::Body { .. }, body)) => Ok(body.into()),
            Ok((other, _)) => Err(unexpected(node, &other)),
            Err(error) => {
                if error.kind() == ErrorKind::Unavailable {
                    self.suspects.add(node);
                }
                Err(error)
            }
        }
    }
}

#[async_trait]
impl Transport for PeerNetwork {
    async fn call(&self, address: &str, request: Vec<u8>, limit: Duration) -> Result<Vec<u8>> {
        match self
            .client
            .call(address, None, TrafficClass::Meta, &Request::Meta(request), None, limit)
            .await?
        {
            (Response::Meta(bytes), _) => Ok(bytes),
            (Response::Failed { kind, message }, _) => Err(Error::new(kind, message).context(address)),
            (other, _) => Err(Error::unavailable(format!("unexpected response from {address}: {other:?}"))),
        }
    }
}

fn unexpected(node: NodeId, response: &Response) -> Error {
    Error::unavailable(format!("unexpected response from node {node}: {response:?}"))
}
