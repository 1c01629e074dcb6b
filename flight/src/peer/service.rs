//! Answers the requests of other nodes.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use plexus_coordinator::{CheckResult, MissingSegments, NodeReport, RunningStatements};
use plexus_model::{Error, FileData, NodeId, Result, SegmentData, SegmentId};
use plexus_query::Engine;
use plexus_raft::Meta;
use plexus_storage::{ReferenceSource, SegmentCondition, SegmentRef, SegmentStore};
use quinn::{Connection, Incoming, RecvStream, SendStream, VarInt};
use tokio::sync::Semaphore;

use crate::peer::endpoint::{PeerEndpoint, peer_node};
use crate::peer::wire::{self, FileToCheck, Request, Response};

/// Segments received at once. Further ones wait, which bounds the memory of their bytes.
const RECEIVING_MAX: usize = 16;
/// Ranges of segments read at once, likewise.
const READING_MAX: usize = 16;
/// Largest range of a segment that one request may read.
const READ_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// The parts of this node that serve its peers.
///
/// The metadata group and the query engine are set later than the rest: both reach other nodes through the
/// peer network, which needs this struct. Requests that arrive before fail with `Unavailable`.
pub struct NodeState {
    /// The metadata group, once it has started.
    pub meta: OnceLock<Arc<Meta>>,
    /// The segments of this node. `None` without the data role.
    pub store: Option<Arc<SegmentStore>>,
    /// The segments that this node should hold and does not.
    pub missing: Arc<MissingSegments>,
    /// The query engine, once it has started.
    pub engine: OnceLock<Arc<Engine>>,
    /// The statements of this node, once it serves clients.
    pub statements: OnceLock<Arc<RunningStatements>>,
}

impl NodeState {
    /// The report of this node for its peers and for the cluster status.
    ///
    /// # Errors
    /// `Unavailable` before the metadata group has started.
    pub fn report(&self) -> Result<NodeReport> {
        let (checked, segments_missing, missing) = self.missing.last();
        Ok(NodeReport {
            applied: self.meta()?.status().applied,
            checked,
            segments_missing,
            missing,
            segments: self.store.as_ref().map_or(0, |s| s.ids().len() as u64),
        })
    }

    pub(crate) fn meta(&self) -> Result<&Arc<Meta>> {
        self.meta.get().ok_or_else(|| Error::unavailable("the node is starting"))
    }

    pub(crate) fn store(&self) -> Result<Arc<SegmentStore>> {
        self.store.clone().ok_or_else(|| Error::not_found("this node does not have the data role"))
    }
}

/// The server of the peer port.
pub struct PeerService {
    state: Arc<NodeState>,
    receiving: Arc<Semaphore>,
    /// Bounds the ranges of files that are read for other nodes at the same time.
    reading: Arc<Semaphore>,
}

impl PeerService {
    /// Creates the server. [`Self::run`] starts it.
    pub fn new(state: Arc<NodeState>) -> Self {
        let [receiving, reading] = [RECEIVING_MAX, READING_MAX].map(|max| Arc::new(Semaphore::new(max)));
        Self { state, receiving, reading }
    }

    /// Accepts connections until the endpoint is closed.
    pub async fn run(self, endpoint: PeerEndpoint) {
        let this = Arc::new(self);
        while let Some(incoming) = endpoint.endpoint().accept().await {
            tokio::spawn(this.clone().serve(incoming));
        }
    }

    async fn serve(self: Arc<Self>, incoming: Incoming) {
        let from = incoming.remote_address();
        let connection: Connection = match incoming.await {
            Ok(connection) => connection,
            Err(error) => {
                tracing::warn!(%from, %error, "refused a connection on the peer port");
                return;
            }
        };
        let Some(peer) = peer_node(&connection) else {
            tracing::warn!(%from, "refused a connection on the peer port: the certificate names no node");
            return;
        };
        while let Ok((send, receive)) = connection.accept_bi().await {
            tokio::spawn(self.clone().respond(peer, send, receive));
        }
    }

    async fn respond(self: Arc<Self>, peer: NodeId, mut send: SendStream, mut receive: RecvStream) {
        let result = async {
            let request = read_request(&mut receive).await?;
            match request {
                // A search ends when its caller gives up. Requests that change something run to their end.
                Request::Search(request) => tokio::select! {
                    response = self.search(request) => response,
                    _ = send.stopped() => Err(Error::unavailable("the caller has given up")),
                },
                request => self.handle(peer, request, &mut receive).await,
            }
        };
        let (response, body) = result.await.unwrap_or_else(|error| (Response::failed(&error), Bytes::new()));
        let write = async {
            wire::write_frame(&mut send, plexus_model::encode(&response)).await?;
            if !body.is_empty() {
                wire::write_body(&mut send, body).await?;
            }
            Ok::<_, Error>(())
        };
        match write.await {
            Ok(()) => drop(send.finish()),
            // A reset, so that the peer does not take a truncated response for a complete one.
            Err(_) => drop(send.reset(VarInt::from_u32(1))),
        }
    }

    async fn search(&self, request: Vec<u8>) -> Result<(Response, Bytes)> {
        let engine = self.state.engine.get().ok_or_else(|| Error::unavailable("the node is starting"))?;
        let response = engine.handle_search(request, self.state.meta()?.manifest()).await?;
        Ok((Response::Body { length: response.len() as u64 }, response.into()))
    }

    async fn handle(
        &self,
        peer: NodeId,
        request: Request,
        receive: &mut RecvStream,
    ) -> Result<(Response, Bytes)> {
        match request {
            Request::Meta(bytes) => {
                Ok((Response::Meta(self.state.meta()?.handle(peer, &bytes).await), Bytes::new()))
            }
            Request::PutSegment { id, checksum, length } => {
                let _permit =
                    self.receiving.acquire().await.map_err(|_| Error::unavailable("the node is stopping"))?;
                let body = wire::read_body(receive, length).await?;
                let store = self.state.store()?;
                blocking(move || store.put(SegmentId(id), &body, &checksum)).await?;
                Ok((Response::Done, Bytes::new()))
            }
            Request::ReadSegment { id, checksum, length, offset, count } => {
                let body = self.read_segment(SegmentId(id), checksum, length, offset, count).await?;
                Ok((Response::Body { length: body.len() as u64 }, body))
            }
            Request::Report => {
                let report = self.state.report()?;
                let NodeReport { applied, checked, segments_missing, missing, segments } = report;
                let missing = missing.into_iter().map(|id| id.0).collect();
                let report =
                    Response::Report { applied, checked: checked.0, segments_missing, missing, segments };
                Ok((report, Bytes::new()))
            }
            Request::Search(request) => self.search(request).await,
            Request::Running => {
                let running = self.state.statements.get().map(|all| all.list()).unwrap_or_default();
                Ok((Response::Running(running), Bytes::new()))
            }
            Request::Kill(query) => {
                let killed = self.state.statements.get().is_some_and(|all| all.kill(&query));
                Ok((Response::Killed(killed), Bytes::new()))
            }
            Request::Interrupt(query_id) => {
                if let Some(engine) = self.state.engine.get() {
                    engine.interrupts().interrupt(&query_id);
                }
                Ok((Response::Done, Bytes::new()))
            }
            Request::CheckFiles(files) => {
                let CheckResult { damaged, missing } = check_files(&self.state, files).await?;
                let ids = |ids: Vec<SegmentId>| ids.into_iter().map(|id| id.0).collect();
                Ok((Response::Checked { damaged: ids(damaged), missing: ids(missing) }, Bytes::new()))
            }
        }
    }

    async fn read_segment(
        &self,
        id: SegmentId,
        checksum: [u8; 32],
        length: u64,
        offset: u64,
        count: u64,
    ) -> Result<Bytes> {
        if count > READ_BYTES_MAX || offset.checked_add(count).is_none_or(|end| end > length) {
            return Err(Error::invalid(format!(
                "cannot read {count} bytes at offset {offset} of a segment of {length} bytes"
            )));
        }
        let store = self.state.store()?;
        let (length, checksum, reference) = match self.state.meta()?.manifest().segment(id) {
            Some(segment) => match segment.data {
                SegmentData::File(file) => (file.bytes, file.checksum, ReferenceSource::Manifest),
                SegmentData::Inline(_) => {
                    return Err(Error::not_found(format!("segment {id} is inline and has no file")));
                }
            },
            // The peer has seen a commit that this node has not applied yet.
            None => (length, checksum, ReferenceSource::Untrusted),
        };
        let _permit = self.reading.acquire().await.map_err(|_| Error::unavailable("the node is stopping"))?;
        blocking(move || {
            // Before the bytes are allocated: the file must be there, and as long as the peer says.
            store.segment(id, length, &checksum, reference)?;
            let mut buffer = vec![0; count as usize];
            store.read_exact_at(id, length, &checksum, reference, &mut buffer, offset)?;
            Ok(Bytes::from(buffer))
        })
        .await
    }
}

async fn read_request(receive: &mut RecvStream) -> Result<Request> {
    let frame = wire::read_frame(receive).await?;
    plexus_model::decode("peer request", &frame)
}

/// Compares segment files with their checksums: those of the manifest where it knows the file. What a peer
/// says of a file never sets it aside.
pub(crate) async fn check_files(state: &NodeState, files: Vec<FileToCheck>) -> Result<CheckResult> {
    let (store, manifest) = (state.store()?, state.meta()?.manifest());
    blocking(move || {
        let known: HashMap<SegmentId, FileData> = manifest
            .tables
            .values()
            .flat_map(|table| {
                table.segments.values().flat_map(|segment| SegmentRef::all_files(table, segment))
            })
            .map(|file| (file.id, file.data))
            .collect();
        let mut checked = CheckResult::default();
        for FileToCheck { id, length, checksum } in files {
            let id = SegmentId(id);
            let condition = match known.get(&id) {
                Some(data) => store.check(id, data.bytes, &data.checksum, ReferenceSource::Manifest),
                None => store.check(id, length, &checksum, ReferenceSource::Untrusted),
            };
            match condition? {
                SegmentCondition::Intact => {}
                SegmentCondition::Damaged => checked.damaged.push(id),
                SegmentCondition::Missing => checked.missing.push(id),
            }
        }
        Ok(checked)
    })
    .await
}

/// Runs disk I/O on a thread that may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::internal(format!("segment store: {e}")))?
}
