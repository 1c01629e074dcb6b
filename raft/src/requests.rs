//! Requests of other members to this one: Raft messages, forwarded proposals and reads, membership changes.

use openraft::raft::{AppendEntriesRequest, InstallSnapshotRequest, VoteRequest};
use plexus_model::{Error, ErrorKind, NodeId};

use crate::batcher::ProposeError;
use crate::meta::Meta;
use crate::wire::{RaftRequest, Request, Response, snapshot_response, vote_response};

impl Meta {
    /// Handles one encoded request of another member and returns the encoded response. Failures are
    /// responses, too.
    pub async fn handle(&self, request: &[u8]) -> Vec<u8> {
        let response = match plexus_model::decode::<Request>("metadata request", request) {
            Ok(request) => self.respond(request).await,
            Err(e) => Response::from(&e),
        };
        plexus_model::encode(&response)
    }

    async fn respond(&self, request: Request) -> Response {
        match request {
            Request::Raft { to, request } if to == self.node.0 => self.respond_raft(request).await,
            Request::Raft { to, .. } => {
                Response::from(&Error::unavailable(format!("this is node {}, not node {to}", self.node)))
            }
            Request::Propose(proposal) => match self.proposals.submit(proposal).await {
                Ok(outcome) => Response::Outcome(outcome),
                Err(error) => Response::from(error),
            },
            Request::ReadIndex => match self.reads.submit(()).await {
                Ok(index) => Response::ReadIndex(index),
                Err(error) => Response::from(error),
            },
            Request::Heartbeat { node } => {
                self.record_heartbeat(NodeId(node));
                Response::Done
            }
            Request::Change { change, forwarded } => match self.change_member(change, forwarded).await {
                Ok(()) => Response::Done,
                Err(e) => Response::from(&e),
            },
        }
    }

    async fn respond_raft(&self, request: RaftRequest) -> Response {
        match request {
            RaftRequest::Append(append) => {
                match self.raft.append_entries(AppendEntriesRequest::from(append)).await {
                    Ok(reply) => Response::Append(reply.into()),
                    Err(e) => raft_stopped(&e),
                }
            }
            RaftRequest::Vote { vote, last } => {
                let request = VoteRequest { vote: vote.into(), last_log_id: last.map(Into::into) };
                match self.raft.vote(request).await {
                    Ok(reply) => vote_response(reply),
                    Err(e) => raft_stopped(&e),
                }
            }
            RaftRequest::Snapshot { vote, meta, offset, data, done } => {
                let request =
                    InstallSnapshotRequest { vote: vote.into(), meta: meta.into(), offset, data, done };
                match self.raft.install_snapshot(request).await {
                    Ok(reply) => snapshot_response(reply),
                    Err(e) => raft_stopped(&e),
                }
            }
        }
    }
}

impl From<&Error> for Response {
    fn from(error: &Error) -> Self {
        Self::Failed { kind: error.kind(), message: error.message().to_owned() }
    }
}

impl From<ProposeError> for Response {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::NotLeader(leader) => Self::NotLeader { leader },
            ProposeError::Failed(kind, message) => Self::Failed { kind, message },
        }
    }
}

impl Response {
    /// The error in a response of the member at `address` that was expected to be of another variant.
    pub(crate) fn into_error(self, address: &str) -> Error {
        match self {
            Self::Failed { kind, message } => Error::new(kind, message),
            other => Error::unavailable(format!("{address} answered {other:?}")),
        }
    }
}

fn raft_stopped(error: &impl std::fmt::Display) -> Response {
    Response::Failed { kind: ErrorKind::Unavailable, message: error.to_string() }
}
