//! For fuzzing: what clients and other nodes send, as this crate reads it.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use async_trait::async_trait;
use bytes::Bytes;
use plexus_model::{ClusterId, Error, NodeId, Result, Secret};
use plexus_query::search::SearchTransport;
use plexus_query::{Engine, EngineOptions};
use plexus_storage::{RemoteSegments, SegmentReader, SegmentRef};
use url::Url;

use crate::peer::WorkerChannels;
use crate::peer::wire::{FileToCheck, Request, Response};
use crate::sql::seal::Seal;
use crate::sql::tickets::StatementHandle;
use crate::tls::Authority;

/// Decodes a message between nodes.
///
/// # Errors
/// `Corrupt` when it is neither a request nor a response.
pub fn frame(bytes: &[u8]) -> Result<()> {
    let request = plexus_model::decode::<Request>("request", bytes).map(|_| ());
    request.or_else(|_| plexus_model::decode::<Response>("response", bytes).map(|_| ()))
}

/// Messages between nodes.
pub fn frames() -> Vec<Vec<u8>> {
    let (id, checksum, length) = (7, [9; 32], 1_000);
    let requests = [
        Request::Meta(vec![1; 40]),
        Request::PutSegment { id, checksum, length },
        Request::ReadSegment { id, checksum, length, offset: 10, count: 100 },
        Request::CheckFiles(vec![FileToCheck { id, length, checksum }]),
        Request::Kill("query".into()),
    ];
    let responses = [
        Response::Body { length },
        Response::Report { applied: 1, checked: 2, segments_missing: 3, missing: vec![4], segments: 5 },
        Response::failed(&Error::unavailable("reason")),
    ];
    let requests = requests.iter().map(plexus_model::encode);
    requests.chain(responses.iter().map(plexus_model::encode)).collect()
}

/// Opens a statement handle or ticket whose seal is right, as if the secret of the cluster were known. What
/// is inside was checked when it was made.
///
/// # Errors
/// When the handle is damaged.
pub fn handle(bytes: &[u8]) -> Result<()> {
    let seal = Seal::of(&Secret::from_bytes([1; 32]));
    let sealed = seal.close(bytes.to_vec());
    let handle = StatementHandle::decode(&sealed, &seal);
    handle.map(|_| ()).map_err(|status| Error::invalid(status.message()))
}

/// Contents of handles.
pub fn handles() -> Vec<Vec<u8>> {
    let rows = RecordBatch::try_from_iter([("a", Arc::new(Int64Array::from(vec![7])) as ArrayRef)]);
    let plain = StatementHandle::prepared("SELECT a FROM t WHERE a = $1");
    let bound = rows.ok().and_then(|rows| plain.clone().bind(&rows).ok());
    [Some(plain), bound].iter().flatten().map(plexus_model::encode).collect()
}

/// Nobody else.
struct Nowhere;

#[async_trait]
impl RemoteSegments for Nowhere {
    async fn read(&self, node: NodeId, _: &SegmentRef, _: u64, _: usize) -> Result<Bytes> {
        Err(Error::unavailable(format!("there is no node {node}")))
    }

    fn order(&self, _: &SegmentRef) -> Vec<NodeId> {
        vec![]
    }
}

#[async_trait]
impl SearchTransport for Nowhere {
    async fn send(&self, node: NodeId, _: Vec<u8>) -> Result<Vec<u8>> {
        Err(Error::unavailable(format!("there is no node {node}")))
    }
}

/// An engine of a node alone, without files. Needs a runtime.
///
/// # Errors
/// When the engine cannot be built.
pub fn engine() -> Result<Engine> {
    let identity = Authority::create(ClusterId(1))?.issue(NodeId(1))?;
    let self_url = Url::parse("https://127.0.0.1:1/").map_err(|e| Error::internal(e.to_string()))?;
    let engine = Engine::new(EngineOptions {
        reader: SegmentReader::new(None, Arc::new(Nowhere)),
        transport: Arc::new(Nowhere),
        channels: WorkerChannels::new(&identity),
        self_url,
        memory_bytes: 64 * 1024 * 1024,
        spill_dir: None,
        partitions: 2,
        long: tokio::runtime::Handle::current(),
        parsers: plexus_coordinator::EXPRESSION_PARSERS,
    });
    engine.map_err(|e| Error::internal(e.to_string()))
}
