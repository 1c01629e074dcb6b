//! Batching: requests that wait at the same time share one log entry, or one read index.
//!
//! While one batch is in flight, the next one fills. A batch of proposals costs one consensus round and one
//! sync, however many proposals it holds (group commit).

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use openraft::Raft;
use openraft::error::{CheckIsLeaderError, ClientWriteError, RaftError};
use plexus_model::{Error, ErrorKind, Outcome, Proposal, Result};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::limits::{BATCH_BYTES_MAX, BATCH_REQUESTS_MAX, QUEUE_REQUESTS_MAX, QUORUM_TIMEOUT};
use crate::types::{Batch, EncodedBatch, TypeConfig};

/// Why the leader's part of a request failed.
#[derive(Clone, Debug)]
pub(crate) enum ProposeError {
    /// This member is not the leader. Holds the leader that it knows of, if any.
    NotLeader(Option<u64>),
    /// No quorum answered, or Raft failed.
    Failed(ErrorKind, String),
}

impl ProposeError {
    pub(crate) fn into_error(self) -> Error {
        match self {
            Self::NotLeader(Some(leader)) => {
                Error::unavailable(format!("this node is not the metadata leader, node {leader} may be"))
            }
            Self::NotLeader(None) => {
                Error::unavailable("this node is not the metadata leader, and knows of none")
            }
            Self::Failed(kind, message) => Error::new(kind, message),
        }
    }
}

pub(crate) type BatchResult<T> = Result<T, ProposeError>;

/// A request in the queue, and where its response goes.
struct Pending<Req, Resp> {
    request: Req,
    reply: oneshot::Sender<BatchResult<Resp>>,
}

/// A queue in front of a task that handles requests in batches. The task handles one batch at a time.
pub(crate) struct Batcher<Req, Resp> {
    queue: mpsc::Sender<Pending<Req, Resp>>,
}

impl<Req: Send + 'static, Resp: Send + 'static> Batcher<Req, Resp> {
    /// Queues a request and waits until its batch was handled.
    pub(crate) async fn submit(&self, request: Req) -> BatchResult<Resp> {
        let stopping = || ProposeError::Failed(ErrorKind::Unavailable, "the node is stopping".into());
        let (reply, response) = oneshot::channel();
        self.queue.send(Pending { request, reply }).await.map_err(|_| stopping())?;
        response.await.map_err(|_| stopping())?
    }

    /// Starts the task. It ends when `stop` is cancelled or the batcher is dropped.
    pub(crate) fn start(stop: CancellationToken, mut handler: impl BatchHandler<Req, Resp>) -> Self {
        let (queue, mut pending) = mpsc::channel::<Pending<Req, Resp>>(QUEUE_REQUESTS_MAX);
        tokio::spawn(async move {
            loop {
                let first = tokio::select! {
                    first = pending.recv() => first,
                    () = stop.cancelled() => return,
                };
                let Some(first) = first else {
                    return;
                };
                let mut weight = handler.weight(&first.request);
                let mut batch = vec![first];
                while weight < BATCH_BYTES_MAX
                    && batch.len() < BATCH_REQUESTS_MAX
                    && let Ok(next) = pending.try_recv()
                {
                    weight += handler.weight(&next.request);
                    batch.push(next);
                }
                let (requests, replies): (Vec<_>, Vec<_>) =
                    batch.into_iter().map(|p| (p.request, p.reply)).unzip();
                for (reply, response) in replies.into_iter().zip(handler.handle(requests).await) {
                    // The receiver is gone when the caller gave up.
                    let _ = reply.send(response);
                }
            }
        });
        Self { queue }
    }
}

/// Handles the requests of a batch at once.
pub(crate) trait BatchHandler<Req, Resp>: Send + 'static {
    /// How much of a batch the request takes up, in bytes.
    fn weight(&self, request: &Req) -> usize;

    /// Returns one response for each request, in their order.
    fn handle(&mut self, batch: Vec<Req>) -> impl Future<Output = Vec<BatchResult<Resp>>> + Send;
}

/// Writes all proposals of a batch as one log entry.
pub(crate) struct ProposalHandler(pub(crate) Raft<TypeConfig>);

impl BatchHandler<Proposal, Outcome> for ProposalHandler {
    fn weight(&self, proposal: &Proposal) -> usize {
        proposal.weight()
    }

    async fn handle(&mut self, proposals: Vec<Proposal>) -> Vec<BatchResult<Outcome>> {
        let count = proposals.len();
        let batch = EncodedBatch::new(&Batch { time_us: now_us(), proposals });
        match timeout(QUORUM_TIMEOUT, self.0.client_write(batch)).await {
            Ok(Ok(written)) if written.data.0.len() == count => written.data.0.into_iter().map(Ok).collect(),
            Ok(Ok(written)) => {
                let message = format!("{} outcomes for {count} proposals", written.data.0.len());
                fail_all(count, ProposeError::Failed(ErrorKind::Internal, message))
            }
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to)))) => {
                fail_all(count, ProposeError::NotLeader(to.leader_id))
            }
            Ok(Err(error)) => fail_all(count, unknown_outcome(error.to_string())),
            Err(_) => {
                fail_all(count, unknown_outcome(format!("no answer from the quorum in {QUORUM_TIMEOUT:?}")))
            }
        }
    }
}

/// Determines one read index for all reads of a batch, which costs one round of heartbeats to a quorum
/// (Ongaro, "Consensus: Bridging Theory and Practice", section 6.4).
pub(crate) struct ReadIndexHandler(pub(crate) Raft<TypeConfig>);

impl BatchHandler<(), u64> for ReadIndexHandler {
    fn weight(&self, (): &()) -> usize {
        0
    }

    async fn handle(&mut self, reads: Vec<()>) -> Vec<BatchResult<u64>> {
        let start = Instant::now();
        let response = match timeout(QUORUM_TIMEOUT, self.0.get_read_log_id()).await {
            Ok(Ok((read, _applied))) => Ok(read.map_or(0, |id| id.index)),
            Ok(Err(RaftError::APIError(CheckIsLeaderError::ForwardToLeader(to)))) => {
                Err(ProposeError::NotLeader(to.leader_id))
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "a read was not confirmed");
                let message = "no quorum confirmed that this node still leads".to_owned();
                Err(ProposeError::Failed(ErrorKind::Unavailable, message))
            }
            Err(_) => {
                let message = format!("no quorum confirmed the read in {:?}", start.elapsed());
                Err(ProposeError::Failed(ErrorKind::Unavailable, message))
            }
        };
        vec![response; reads.len()]
    }
}

fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as u64)
}

fn fail_all<Resp: Clone>(count: usize, error: ProposeError) -> Vec<BatchResult<Resp>> {
    vec![Err(error); count]
}

fn unknown_outcome(message: String) -> ProposeError {
    ProposeError::Failed(ErrorKind::Unknown, message)
}
