//! Grouping: callers that wait at the same time share one entry of the log, or one read index.
//!
//! While one round is in flight the next gathers. A round of proposals is one entry, one consensus round
//! and one sync, however many proposals are in it.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use openraft::Raft;
use openraft::error::{CheckIsLeaderError, ClientWriteError, RaftError};
use plexus_model::{Error, Outcome, Proposal, Result};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::types::{Batch, Round, TypeConfig};

/// Callers that may wait; more are held back.
const WAITING_MAX: usize = 8_192;
/// Proposals that share an entry.
const ENTRY_PROPOSALS_MAX: usize = 1_024;
/// Weight of the proposals that share an entry; one that is heavier goes alone. An entry must reach a
/// follower within a heartbeat.
const ENTRY_BYTES_MAX: usize = 1024 * 1024;
/// `client_write` may never answer when the leader is deposed. After this the outcome is unknown.
const ROUND_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a round gave no answer.
#[derive(Clone, Debug)]
pub enum ProposeError {
    /// This member is not the leader; that one may be.
    NotLeader(Option<u64>),
    Failed(plexus_model::ErrorKind, String),
}

impl ProposeError {
    pub fn into_error(self) -> Error {
        match self {
            Self::NotLeader(leader) => {
                Error::unavailable(format!("not the metadata leader, which is {leader:?}"))
            }
            Self::Failed(kind, message) => Error::new(kind, message),
        }
    }
}

pub type BatchResult<T> = Result<T, ProposeError>;

struct Waiting<Q, A> {
    question: Q,
    reply: oneshot::Sender<BatchResult<A>>,
}

/// A queue of callers in front of a task that serves them in rounds.
#[derive(Clone)]
pub struct Batcher<Q, A> {
    queue: mpsc::Sender<Waiting<Q, A>>,
}

impl<Q: Send + 'static, A: Send + 'static> Batcher<Q, A> {
    /// Waits for the round that the question is in.
    pub async fn submit(&self, question: Q) -> BatchResult<A> {
        let stopping =
            || ProposeError::Failed(plexus_model::ErrorKind::Unavailable, "the node is stopping".into());
        let (reply, answer) = oneshot::channel();
        self.queue.send(Waiting { question, reply }).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())?
    }

    /// Starts the task; it ends when `stop` is cancelled.
    pub fn start(stop: CancellationToken, mut server: impl ServeBatch<Q, A>) -> Self {
        let (queue, mut callers) = mpsc::channel::<Waiting<Q, A>>(WAITING_MAX);
        tokio::spawn(async move {
            loop {
                let first = tokio::select! {
                    first = callers.recv() => first,
                    () = stop.cancelled() => return,
                };
                let Some(first) = first else {
                    return;
                };
                let mut weight = server.weight(&first.question);
                let mut round = vec![first];
                while weight < ENTRY_BYTES_MAX
                    && round.len() < ENTRY_PROPOSALS_MAX
                    && let Ok(next) = callers.try_recv()
                {
                    weight += server.weight(&next.question);
                    round.push(next);
                }
                let (questions, replies): (Vec<_>, Vec<_>) =
                    round.into_iter().map(|w| (w.question, w.reply)).unzip();
                for (reply, answer) in replies.into_iter().zip(server.serve(questions).await) {
                    // A caller that gave up does not need its answer.
                    let _ = reply.send(answer);
                }
            }
        });
        Self { queue }
    }
}

/// Answers all questions of a round at once, in their order.
pub trait ServeBatch<Q, A>: Send + 'static {
    /// How much of a round the question takes up, in bytes.
    fn weight(&self, question: &Q) -> usize;

    fn serve(&mut self, round: Vec<Q>) -> impl Future<Output = Vec<BatchResult<A>>> + Send;
}

/// Writes all proposals of a round as one entry.
pub struct WriteEntry(pub Raft<TypeConfig>);

impl ServeBatch<Proposal, Outcome> for WriteEntry {
    fn weight(&self, proposal: &Proposal) -> usize {
        proposal.weight()
    }

    async fn serve(&mut self, round: Vec<Proposal>) -> Vec<BatchResult<Outcome>> {
        let proposals = round.len();
        let batch = Batch::new(&Round { time_us: now_us(), proposals: round });
        match timeout(ROUND_TIMEOUT, self.0.client_write(batch)).await {
            Ok(Ok(written)) if written.data.0.len() == proposals => {
                written.data.0.into_iter().map(Ok).collect()
            }
            Ok(Ok(written)) => {
                let message = format!("{} answers to {proposals} proposals", written.data.0.len());
                all(proposals, ProposeError::Failed(plexus_model::ErrorKind::Internal, message))
            }
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to)))) => {
                all(proposals, ProposeError::NotLeader(to.leader_id))
            }
            Ok(Err(error)) => all(proposals, unknown(error.to_string())),
            Err(_) => all(proposals, unknown(format!("no answer from the quorum in {ROUND_TIMEOUT:?}"))),
        }
    }
}

/// Asks a quorum once for all reads of a round.
pub struct ConfirmRead(pub Raft<TypeConfig>);

impl ServeBatch<(), u64> for ConfirmRead {
    fn weight(&self, (): &()) -> usize {
        0
    }

    async fn serve(&mut self, round: Vec<()>) -> Vec<BatchResult<u64>> {
        let asked = Instant::now();
        let answer = match timeout(ROUND_TIMEOUT, self.0.get_read_log_id()).await {
            Ok(Ok((read, _applied))) => Ok(read.map_or(0, |id| id.index)),
            Ok(Err(RaftError::APIError(CheckIsLeaderError::ForwardToLeader(to)))) => {
                Err(ProposeError::NotLeader(to.leader_id))
            }
            Ok(Err(error)) => {
                Err(ProposeError::Failed(plexus_model::ErrorKind::Unavailable, error.to_string()))
            }
            Err(_) => {
                let message = format!("no quorum confirmed the read in {:?}", asked.elapsed());
                Err(ProposeError::Failed(plexus_model::ErrorKind::Unavailable, message))
            }
        };
        vec![answer; round.len()]
    }
}

fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as u64)
}

fn all<A: Clone>(count: usize, refusal: ProposeError) -> Vec<BatchResult<A>> {
    vec![Err(refusal); count]
}

fn unknown(message: String) -> ProposeError {
    ProposeError::Failed(plexus_model::ErrorKind::Unknown, message)
}
