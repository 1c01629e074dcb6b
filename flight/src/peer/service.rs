//! Answering peers, and asking them: the traits that the other crates need, over QUIC.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use plexus_coordinator::{Checked, Missing, NodeReport, Peers, SegmentUpload, Suspects};
use plexus_model::{Error, ErrorKind, NodeId, Result, SegmentData, SegmentId, Version};
use plexus_query::Engine;
use plexus_query::search::RemoteSearches;
use plexus_raft::{Meta, Transport};
use plexus_storage::{Condition, Reference, RemoteSegments, SegmentRef, SegmentStore};
use quinn::{Connection, Incoming, RecvStream, SendStream, VarInt};
use tokio::sync::Semaphore;

use crate::peer::endpoint::{Class, PeerClient, PeerEndpoint};
use crate::peer::wire::{self, FileToCheck, Request, Response};

/// Segments being received at once; more wait, so that their bytes stay bounded.
const RECEIVING_MAX: usize = 16;
/// Bytes that one range read may ask for.
const READ_BYTES_MAX: u64 = 256 * 1024 * 1024;
const READ_TIMEOUT: Duration = Duration::from_secs(10);
const REPORT_TIMEOUT: Duration = Duration::from_secs(2);
const CHECK_TIMEOUT: Duration = Duration::from_secs(60);
/// A connection that is lost is noticed sooner. What has no index is indexed on the spot, which takes a while.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(60);

/// What a node needs to answer its peers. The metadata group is set once it has started, since it is
/// itself reached through here.
pub struct PeerHandler {
    pub meta: OnceLock<Arc<Meta>>,
    pub store: Option<Arc<SegmentStore>>,
    pub missing: Arc<Missing>,
    /// What answers searches, once it is there.
    pub engine: OnceLock<Arc<Engine>>,
}

/// Accepts connections until the endpoint is closed.
pub struct PeerService {
    handler: Arc<PeerHandler>,
    receiving: Arc<Semaphore>,
}

impl PeerService {
    pub fn new(handler: Arc<PeerHandler>) -> Self {
        Self { handler, receiving: Arc::new(Semaphore::new(RECEIVING_MAX)) }
    }

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
        while let Ok((send, receive)) = connection.accept_bi().await {
            tokio::spawn(self.clone().answer(send, receive));
        }
    }

    async fn answer(self: Arc<Self>, mut send: SendStream, mut receive: RecvStream) {
        let answer = async {
            let request = read_request(&mut receive).await?;
            match request {
                // A search that nobody waits for any more ends. What changes something goes on.
                Request::Search(task) => tokio::select! {
                    answer = self.search(task) => answer,
                    _ = send.stopped() => Err(Error::unavailable("nobody waits for the answer")),
                },
                request => self.handle(request, &mut receive).await,
            }
        };
        let (response, body) = answer.await.unwrap_or_else(|error| (Response::failed(&error), Bytes::new()));
        let write = async {
            wire::write_frame(&mut send, plexus_model::encode(&response)).await?;
            if !body.is_empty() {
                wire::write_body(&mut send, body).await?;
            }
            Ok::<_, Error>(())
        };
        match write.await {
            Ok(()) => drop(send.finish()),
            // The peer must not take a cut answer for a whole one.
            Err(_) => drop(send.reset(VarInt::from_u32(1))),
        }
    }

    async fn search(&self, task: Vec<u8>) -> Result<(Response, Bytes)> {
        let engine = self.handler.engine.get().ok_or_else(|| Error::unavailable("the node is starting"))?;
        let answer = engine.answer_search(task, self.meta()?.manifest()).await?;
        Ok((Response::Body { length: answer.len() as u64 }, answer.into()))
    }

    async fn handle(&self, request: Request, receive: &mut RecvStream) -> Result<(Response, Bytes)> {
        match request {
            Request::Meta(bytes) => Ok((Response::Meta(self.meta()?.handle(&bytes).await), Bytes::new())),
            Request::PutSegment { id, checksum, length } => {
                let _permit =
                    self.receiving.acquire().await.map_err(|_| Error::unavailable("the node is stopping"))?;
                let body = wire::read_body(receive, length).await?;
                let store = self.store()?;
                blocking(move || store.put(SegmentId(id), &body, &checksum)).await?;
                Ok((Response::Done, Bytes::new()))
            }
            Request::ReadSegment { id, checksum, length, offset, count } => {
                if count > READ_BYTES_MAX || offset.checked_add(count).is_none_or(|end| end > length) {
                    return Err(Error::invalid(format!(
                        "{count} bytes at {offset} of a segment of {length}"
                    )));
                }
                let store = self.store()?;
                let (length, checksum, reference) = match self.meta()?.manifest().segment(SegmentId(id)) {
                    Some(known) => match known.data {
                        SegmentData::File(file) => (file.bytes, file.checksum, Reference::Manifest),
                        SegmentData::Inline(_) => {
                            return Err(Error::not_found(format!("no file has segment {id}")));
                        }
                    },
                    // The peer has seen a commit that this node has not applied yet.
                    None => (length, checksum, Reference::Untrusted),
                };
                let body = blocking(move || {
                    let file = store.segment(SegmentId(id), length, &checksum, reference)?;
                    let mut buffer = vec![0; count as usize];
                    file.read_exact_at(&mut buffer, offset)?;
                    Ok(Bytes::from(buffer))
                })
                .await?;
                Ok((Response::Body { length: body.len() as u64 }, body))
            }
            Request::Report => {
                let report = self.handler.report()?;
                let NodeReport { applied, checked, segments_missing, missing, segments } = report;
                let missing = missing.into_iter().map(|id| id.0).collect();
                let report =
                    Response::Report { applied, checked: checked.0, segments_missing, missing, segments };
                Ok((report, Bytes::new()))
            }
            Request::Search(task) => self.search(task).await,
            Request::CheckFiles(files) => {
                let Checked { damaged, missing } = check(self.store()?, files).await?;
                let ids = |ids: Vec<SegmentId>| ids.into_iter().map(|id| id.0).collect();
                Ok((Response::Checked { damaged: ids(damaged), missing: ids(missing) }, Bytes::new()))
            }
        }
    }

    fn meta(&self) -> Result<&Arc<Meta>> {
        self.handler.meta.get().ok_or_else(|| Error::unavailable("the node is starting"))
    }

    fn store(&self) -> Result<Arc<SegmentStore>> {
        self.handler.store.clone().ok_or_else(|| Error::not_found("this node does not have the data role"))
    }
}

async fn read_request(receive: &mut RecvStream) -> Result<Request> {
    let frame = wire::read_frame(receive).await?;
    plexus_model::decode("peer request", &frame)
}

impl PeerHandler {
    pub fn report(&self) -> Result<NodeReport> {
        let meta = self.meta.get().ok_or_else(|| Error::unavailable("the node is starting"))?;
        let (checked, segments_missing, missing) = self.missing.last();
        Ok(NodeReport {
            applied: meta.status().applied,
            checked,
            segments_missing,
            missing,
            segments: self.store.as_ref().map_or(0, |s| s.ids().len() as u64),
        })
    }
}

async fn check(store: Arc<SegmentStore>, files: Vec<FileToCheck>) -> Result<Checked> {
    blocking(move || {
        let mut checked = Checked::default();
        for FileToCheck { id, length, checksum } in files {
            match store.check(SegmentId(id), length, &checksum)? {
                Condition::Intact => {}
                Condition::Damaged => checked.damaged.push(SegmentId(id)),
                Condition::Missing => checked.missing.push(SegmentId(id)),
            }
        }
        Ok(checked)
    })
    .await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::internal(format!("segment store: {e}")))?
}

/// Other nodes, found by id in the manifest.
#[derive(Clone)]
pub struct PeerNodes {
    client: PeerClient,
    handler: Arc<PeerHandler>,
    /// Who did not answer a search a moment ago.
    failed: Arc<Suspects>,
}

impl PeerNodes {
    pub fn new(client: PeerClient, handler: Arc<PeerHandler>) -> Self {
        Self { client, handler, failed: Arc::default() }
    }

    fn address(&self, node: NodeId) -> Result<String> {
        let meta = self.handler.meta.get().ok_or_else(|| Error::unavailable("the node is starting"))?;
        let manifest = meta.manifest();
        let record = manifest
            .nodes
            .get(&node)
            .ok_or_else(|| Error::unavailable(format!("node {node} is not known")))?;
        Ok(record.peer.clone())
    }

    async fn ask(
        &self,
        node: NodeId,
        request: Request,
        body: Option<Bytes>,
        limit: Duration,
    ) -> Result<(Response, Bytes)> {
        let address = self.address(node)?;
        match self.client.call(&address, Class::Bulk, &request, body, limit).await? {
            (Response::Failed { kind, message }, _) => {
                Err(Error::new(kind, message).context(format!("node {node}")))
            }
            answer => Ok(answer),
        }
    }
}

#[async_trait]
impl Peers for PeerNodes {
    async fn put_segment(&self, node: NodeId, upload: SegmentUpload, limit: Duration) -> Result<()> {
        let SegmentUpload { id, checksum, bytes } = upload;
        let request = Request::PutSegment { id: id.0, checksum, length: bytes.len() as u64 };
        match self.ask(node, request, Some(bytes), limit).await? {
            (Response::Done, _) => Ok(()),
            (other, _) => Err(unexpected(node, &other)),
        }
    }

    async fn report(&self, node: NodeId) -> Result<NodeReport> {
        if self.handler.meta.get().is_some_and(|meta| meta.node() == node) {
            return self.handler.report();
        }
        match self.ask(node, Request::Report, None, REPORT_TIMEOUT).await? {
            (Response::Report { applied, checked, segments_missing, missing, segments }, _) => {
                let missing = missing.into_iter().map(SegmentId).collect();
                Ok(NodeReport { applied, checked: Version(checked), segments_missing, missing, segments })
            }
            (other, _) => Err(unexpected(node, &other)),
        }
    }

    async fn check(&self, node: NodeId, files: &[SegmentRef]) -> Result<Checked> {
        let named =
            |f: &SegmentRef| FileToCheck { id: f.id.0, length: f.data.bytes, checksum: f.data.checksum };
        let named: Vec<FileToCheck> = files.iter().map(named).collect();
        if self.handler.meta.get().is_some_and(|meta| meta.node() == node) {
            let store = self.handler.store.clone();
            return check(store.ok_or_else(|| Error::not_found("this node keeps no data"))?, named).await;
        }
        match self.ask(node, Request::CheckFiles(named), None, CHECK_TIMEOUT).await? {
            (Response::Checked { damaged, missing }, _) => {
                let ids = |ids: Vec<u128>| ids.into_iter().map(SegmentId).collect();
                Ok(Checked { damaged: ids(damaged), missing: ids(missing) })
            }
            (other, _) => Err(unexpected(node, &other)),
        }
    }
}

#[async_trait]
impl RemoteSegments for PeerNodes {
    async fn read(&self, node: NodeId, segment: &SegmentRef, offset: u64, length: usize) -> Result<Bytes> {
        let request = Request::ReadSegment {
            id: segment.id.0,
            checksum: segment.data.checksum,
            length: segment.data.bytes,
            offset,
            count: length as u64,
        };
        match self.ask(node, request, None, READ_TIMEOUT).await? {
            (Response::Body { .. }, body) => Ok(body),
            (other, _) => Err(unexpected(node, &other)),
        }
    }

    fn order(&self, segment: &SegmentRef) -> Vec<NodeId> {
        let Some(meta) = self.handler.meta.get() else {
            return segment.replicas.clone();
        };
        let manifest = meta.manifest();
        let is_live = |node: &NodeId| manifest.nodes.get(node).is_some_and(|n| n.live);
        let mut others: Vec<NodeId> =
            segment.replicas.iter().copied().filter(|n| *n != meta.node()).collect();
        // Segments take turns, and each is always asked for of the same node, which then has it in memory.
        let turn = segment.id.0 as usize % others.len().max(1);
        others.rotate_left(turn);
        others.sort_by_key(|node| !is_live(node) || self.failed.contains(*node));
        others
    }
}

#[async_trait]
impl RemoteSearches for PeerNodes {
    async fn ask(&self, node: NodeId, task: Vec<u8>) -> Result<Vec<u8>> {
        match self.ask(node, Request::Search(task), None, SEARCH_TIMEOUT).await {
            Ok((Response::Body { .. }, body)) => Ok(body.into()),
            Ok((other, _)) => Err(unexpected(node, &other)),
            Err(error) => {
                if error.kind() == ErrorKind::Unavailable {
                    self.failed.add(node);
                }
                Err(error)
            }
        }
    }
}

#[async_trait]
impl Transport for PeerNodes {
    async fn call(&self, address: &str, request: Vec<u8>, limit: Duration) -> Result<Vec<u8>> {
        match self.client.call(address, Class::Meta, &Request::Meta(request), None, limit).await? {
            (Response::Meta(bytes), _) => Ok(bytes),
            (Response::Failed { kind, message }, _) => Err(Error::new(kind, message).context(address)),
            (other, _) => Err(Error::unavailable(format!("{address} answered {other:?}"))),
        }
    }
}

fn unexpected(node: NodeId, response: &Response) -> Error {
    Error::unavailable(format!("node {node} answered {response:?}"))
}
