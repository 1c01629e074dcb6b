//! Requests of other members to this one: Raft messages, forwarded proposals and reads, membership changes.

use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, VoteRequest};
use plexus_model::{Error, ErrorKind, NodeId, Result};

use crate::batcher::ProposeError;
use crate::limits::TERM_JUMP_MAX;
use crate::meta::{Meta, SpaceUse, check_weight};
use crate::types::Batch;
use crate::wire::{
    MemberChange, RaftRequest, Request, Response, WirePayload, snapshot_response, vote_response,
};

impl Meta {
    /// Handles one encoded request of node `from` and returns the encoded response. Failures are responses,
    /// too.
    pub async fn handle(&self, from: NodeId, request: &[u8]) -> Vec<u8> {
        let request = plexus_model::decode::<Request>("metadata request", request);
        let response = match request.and_then(|request| self.check(from, &request).map(|()| request)) {
            Ok(Request::Stand) => match self.stand(from).await {
                Ok(()) => Response::Done,
                Err(e) => Response::from(&e),
            },
            Ok(request) => self.respond(request).await,
            Err(e) => Response::from(&e),
        };
        plexus_model::encode(&response)
    }

    /// Checks that a node speaks for itself, and does not make up terms.
    fn check(&self, from: NodeId, request: &Request) -> Result<()> {
        if let Request::Raft { request, .. } = request {
            self.check_member(from, request)?;
            self.check_entries(request)?;
        }
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
            Request::Change { .. }
            | Request::Propose(_)
            | Request::ReadIndex
            | Request::HasLeader
            | Request::IsMember { .. }
            | Request::Stand => {
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

    /// Checks that a node which wants to lead, or to go on leading, is a member.
    fn check_member(&self, from: NodeId, request: &RaftRequest) -> Result<()> {
        let (knows_members, is_member) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow();
            let membership = metrics.membership_config.membership();
            (membership.nodes().next().is_some(), membership.get_node(&from.0).is_some())
        };
        let needs_member = match request {
            RaftRequest::Vote { .. } => knows_members,
            // A node that was away for long may not know the leader of the others.
            RaftRequest::Append(_) | RaftRequest::Snapshot { .. } => self.has_leader(),
        };
        match is_member || !needs_member {
            true => Ok(()),
            false => Err(Error::invalid(format!("node {from} is no member of the metadata group"))),
        }
    }

    /// Checks that entries can be written and applied, before they are in the log. A member that cannot write
    /// one stops, and one that cannot apply one stops at each start.
    fn check_entries(&self, request: &RaftRequest) -> Result<()> {
        let RaftRequest::Append(append) = request else {
            return Ok(());
        };
        let mut bytes = 0;
        for entry in &append.entries {
            if let WirePayload::Batch(batch) = &entry.payload {
                plexus_model::validate::<Batch>("log entry", batch)?;
                bytes += batch.len() as u64;
            }
        }
        match bytes {
            0 => Ok(()),
            bytes => (self.check_space)(SpaceUse::Log, bytes),
        }
    }

    async fn respond(&self, request: Request) -> Response {
        match request {
            Request::Raft { to, request } if to == self.node.0 => self.respond_raft(request).await,
            Request::Raft { to, .. } => {
                Response::from(&Error::unavailable(format!("this is node {}, not node {to}", self.node)))
            }
            Request::Propose(proposal) => {
                let checked = check_weight(&proposal).and_then(|()| self.check_leads_on());
                match checked.and_then(|()| self.check_room(&proposal)) {
                    Ok(()) => match self.proposals.submit(proposal).await {
                        Ok(outcome) => Response::Outcome(outcome),
                        Err(error) => Response::from(error),
                    },
                    Err(error) => Response::from(&error),
                }
            }
            Request::HasLeader => Response::HasLeader(self.has_leader()),
            Request::IsMember { node } if node == self.node.0 => Response::Done,
            Request::IsMember { node } => Response::from(&Error::not_found(format!(
                "node {} is at this address, not node {node}",
                self.node
            ))),
            // It depends on who asks.
            Request::Stand => Response::from(&Error::internal("a request of the leader without its sender")),
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use async_trait::async_trait;
    use plexus_model::{ClusterId, NodeRecord, Roles};

    use super::*;
    use crate::network::Transport;
    use crate::wire::{Append, WireEntry, WireLogId, WireVote};
    use crate::{MetaOptions, SNAPSHOT_ENTRIES};

    struct Nowhere;

    #[async_trait]
    impl Transport for Nowhere {
        async fn call(&self, _: &str, _: Vec<u8>, _: Duration) -> Result<Vec<u8>> {
            Err(Error::unavailable("there is nobody else"))
        }
    }

    async fn answer(meta: &Meta, from: u64, request: RaftRequest) -> Response {
        let request = plexus_model::encode(&Request::Raft { to: 1, request });
        plexus_model::decode("a response", &meta.handle(NodeId(from), &request).await).unwrap()
    }

    fn is_refused(response: &Response, reason: &str) -> bool {
        matches!(response, Response::Failed { message, .. } if message.contains(reason))
    }

    #[tokio::test]
    async fn strangers_and_entries_that_cannot_be_applied_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let options = MetaOptions {
            node: NodeId(1),
            directory: dir.path().to_owned(),
            transport: Arc::new(Nowhere),
            snapshot_entries: SNAPSHOT_ENTRIES,
            check_space: Box::new(|_, _| Ok(())),
        };
        let meta = Meta::start(options).await.unwrap();
        let address = || "127.0.0.1:1".to_owned();
        let (flight, peer, http) = (address(), address(), address());
        let record = NodeRecord { id: NodeId(1), roles: Roles::ALL, flight, peer, http, live: true };
        meta.bootstrap(ClusterId(7), record).await.unwrap();
        let before = meta.status();

        let vote = |node, term| WireVote { term, node, committed: false };
        let stands = |node, term| RaftRequest::Vote {
            vote: vote(node, term),
            last: Some(WireLogId { term, leader: node, index: 1 << 40 }),
        };
        let leads = |node, payload| {
            let id = WireLogId { term: 9, leader: node, index: before.last_log + 1 };
            RaftRequest::Append(Append {
                vote: WireVote { committed: true, ..vote(node, 9) },
                previous: None,
                entries: vec![WireEntry { id, payload }],
                committed: Some(id),
            })
        };
        for (from, request, reason) in [
            (1, stands(99, 9), "sent a message of node 99"),
            (99, stands(99, 9), "no member"),
            (99, leads(99, WirePayload::Blank), "no member"),
            (1, stands(1, u64::MAX), "is in term"),
            (1, leads(1, WirePayload::Batch(b"garbage ".repeat(8))), "cannot decode"),
        ] {
            let response = answer(&meta, from, request).await;
            assert!(is_refused(&response, reason), "{reason}: {response:?}");
        }
        let stand = meta.handle(NodeId(99), &plexus_model::encode(&Request::Stand)).await;
        let stand = plexus_model::decode("a response", &stand).unwrap();
        assert!(is_refused(&stand, "does not lead"), "{stand:?}");
        let ask = async |node| {
            let asked = meta.handle(NodeId(99), &plexus_model::encode(&Request::IsMember { node })).await;
            plexus_model::decode::<Response>("a response", &asked).unwrap()
        };
        assert!(matches!(ask(1).await, Response::Done));
        assert!(is_refused(&ask(2).await, "node 1 is at this address, not node 2"));
        let after = meta.status();
        assert_eq!((after.term, after.last_log), (before.term, before.last_log));
        meta.propose(
            plexus_model::Command::DropSchema { name: "none".into(), if_exists: true },
            Duration::from_secs(5),
        )
        .await
        .unwrap();
    }
}
