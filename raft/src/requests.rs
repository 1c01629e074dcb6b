//! Requests of other members to this one: Raft messages, forwarded proposals and reads, membership changes.

use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, VoteRequest};
use plexus_model::{Error, ErrorKind, NodeId, Result};

use crate::batcher::ProposeError;
use crate::limits::TERM_JUMP_MAX;
use crate::meta::{Meta, check_weight};
use crate::wire::{MemberChange, RaftRequest, Request, Response, snapshot_response, vote_response};

impl Meta {
    /// Handles one encoded request of node `from` and returns the encoded response. Failures are responses,
    /// too.
    pub async fn handle(&self, from: NodeId, request: &[u8]) -> Vec<u8> {
        let request = plexus_model::decode::<Request>("metadata request", request);
        let response = match request.and_then(|request| self.check(from, &request).map(|()| request)) {
            Ok(request) => self.respond(request).await,
            Err(e) => Response::from(&e),
        };
        plexus_model::encode(&response)
    }

    /// Checks that a node speaks for itself, and does not make up terms.
    fn check(&self, from: NodeId, request: &Request) -> Result<()> {
        let (speaker, term) = match request {
            Request::Raft { request, .. } => {
                let vote = match request {
                    RaftRequest::Append(append) => &append.vote,
                    RaftRequest::Vote { vote, .. } | RaftRequest::Snapshot { vote, .. } => vote,
                };
                (vote.node, vote.term)
            }
            Request::Heartbeat { node } => (*node, 0),
            // A member may pass on the request of another one.
            Request::Change {
                change: MemberChange::Join(record) | MemberChange::Rejoin(record),
                forwarded,
            } => {
                if *forwarded {
                    (from.0, 0)
                } else {
                    (record.id.0, 0)
                }
            }
            Request::Change { .. } | Request::Propose(_) | Request::ReadIndex | Request::HasLeader => {
                return Ok(());
            }
        };
        if speaker != from.0 {
            return Err(Error::invalid(format!("node {from} sent a message of node {speaker}")));
        }
        let current = self.raft.metrics().borrow().current_term;
        if term > current.saturating_add(TERM_JUMP_MAX) {
            return Err(Error::invalid(format!("node {from} is in term {term}, this node in {current}")));
        }
        Ok(())
    }

    async fn respond(&self, request: Request) -> Response {
        match request {
            Request::Raft { to, request } if to == self.node.0 => self.respond_raft(request).await,
            Request::Raft { to, .. } => {
                Response::from(&Error::unavailable(format!("this is node {}, not node {to}", self.node)))
            }
            Request::Propose(proposal) => {
                match check_weight(&proposal).and_then(|()| self.check_room(&proposal)) {
                    Ok(()) => match self.proposals.submit(proposal).await {
                        Ok(outcome) => Response::Outcome(outcome),
                        Err(error) => Response::from(error),
                    },
                    Err(error) => Response::from(&error),
                }
            }
            Request::HasLeader => Response::HasLeader(self.has_leader()),
            Request::ReadIndex => match self.reads.submit(()).await {
                Ok(index) => Response::ReadIndex(index),
                Err(error) => Response::from(error),
            },
            Request::Heartbeat { node } => match self.accept_heartbeat(NodeId(node)).await {
                Ok(()) => Response::Done,
                Err(e) => Response::from(&e),
            },
            Request::Change { change, forwarded } => match self.change_member(change, forwarded).await {
                Ok(()) => Response::Done,
                Err(e) => Response::from(&e),
            },
        }
    }

    async fn respond_raft(&self, request: RaftRequest) -> Response {
        match request {
            RaftRequest::Append(append) => {
                let committed = append.committed.map_or(0, |id| id.index);
                match self.raft.append_entries(AppendEntriesRequest::from(append)).await {
                    Ok(reply) => {
                        // Not a leader that was deposed.
                        if !matches!(reply, AppendEntriesResponse::HigherVote(_)) {
                            self.heard_leader(committed);
                        }
                        Response::Append(reply.into())
                    }
                    Err(e) => raft_stopped(&e),
                }
            }
            RaftRequest::Vote { .. } if self.lacks_entries() => Response::from(&Error::unavailable(format!(
                "node {} lacks entries of the metadata log, and does not vote until it has them again",
                self.node
            ))),
            RaftRequest::Vote { vote, last } => {
                let request = VoteRequest { vote: vote.into(), last_log_id: last.map(Into::into) };
                match self.raft.vote(request).await {
                    Ok(reply) => vote_response(reply),
                    Err(e) => raft_stopped(&e),
                }
            }
            RaftRequest::Snapshot { vote, meta, offset, data, done } => {
                let committed = meta.last.map_or(0, |id| id.index);
                self.heard_leader(committed);
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
