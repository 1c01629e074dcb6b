//! How `openraft` reaches other members: through the [`Transport`] that the node provides.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use openraft::error::{InstallSnapshotError, NetworkError, RPCError, RaftError, Unreachable};
use openraft::network::{Backoff, RPCOption};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use openraft::{AnyError, RaftNetwork, RaftNetworkFactory};
use plexus_model::Result;

use crate::limits::UNREACHABLE_BACKOFF;
use crate::types::{Address, TypeConfig};
use crate::wire::{RaftRequest, Request, Response, snapshot_request, vote_request};

/// Carries requests to other nodes. Requests and responses are opaque bytes.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Sends one request to the node at peer address `address` (`host:port`), whose
    /// [`Meta::handle`](crate::Meta::handle) produces the response.
    ///
    /// # Errors
    /// When no response arrives within `timeout`. The other node may have handled the request nevertheless.
    async fn call(&self, address: &str, request: Vec<u8>, timeout: Duration) -> Result<Vec<u8>>;
}

/// Sends a request and decodes the response.
pub(crate) async fn call(
    transport: &dyn Transport,
    address: &str,
    request: &Request,
    timeout: Duration,
) -> Result<Response> {
    let bytes = transport.call(address, plexus_model::encode(request), timeout).await?;
    plexus_model::decode("metadata response", &bytes)
}

/// Creates a client for each other member.
#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) transport: Arc<dyn Transport>,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Member;

    async fn new_client(&mut self, target: u64, node: &Address) -> Member {
        Member { transport: self.transport.clone(), id: target, address: node.0.clone() }
    }
}

/// A client of one other member.
pub(crate) struct Member {
    transport: Arc<dyn Transport>,
    id: u64,
    address: String,
}

type RpcError<E> = RPCError<u64, Address, E>;

impl Member {
    async fn send<E: std::error::Error>(
        &self,
        request: RaftRequest,
        option: RPCOption,
    ) -> Result<Response, RpcError<E>> {
        let request = Request::Raft { to: self.id, request };
        let response = call(&*self.transport, &self.address, &request, option.hard_ttl())
            .await
            .map_err(|e| RPCError::Unreachable(Unreachable::new(&e)))?;
        match response {
            // For Raft, a member that has stopped is the same as one that cannot be reached.
            Response::Failed { message, .. } => {
                Err(RPCError::Unreachable(Unreachable::from(AnyError::error(message))))
            }
            response => Ok(response),
        }
    }

    fn unexpected<E: std::error::Error>(&self, response: &Response) -> RpcError<E> {
        let message = format!("{} sent a response of another kind: {response:?}", self.address);
        RPCError::Network(NetworkError::from(AnyError::error(message)))
    }
}

impl RaftNetwork<TypeConfig> for Member {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, RpcError<RaftError<u64>>> {
        match self.send(rpc.into(), option).await? {
            Response::Append(reply) => Ok(reply.into()),
            other => Err(self.unexpected(&other)),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, RpcError<RaftError<u64>>> {
        match self.send(vote_request(rpc), option).await? {
            Response::Vote { vote, granted, last } => Ok(VoteResponse {
                vote: vote.into(),
                vote_granted: granted,
                last_log_id: last.map(Into::into),
            }),
            other => Err(self.unexpected(&other)),
        }
    }

    async fn install_snapshot(
        &mut self,
        rpc: InstallSnapshotRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, RpcError<RaftError<u64, InstallSnapshotError>>> {
        match self.send(snapshot_request(rpc), option).await? {
            Response::Snapshot { vote } => Ok(InstallSnapshotResponse { vote: vote.into() }),
            other => Err(self.unexpected(&other)),
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(UNREACHABLE_BACKOFF))
    }
}
