//! Members of a group in one process, over a network that loses responses.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use plexus_model::{ClusterId, Command, Error, NodeId, NodeRecord, Result, Roles};
use plexus_raft::{Meta, MetaOptions, Transport};

/// Few, so that a test takes several snapshots.
pub(crate) const SNAPSHOT_ENTRIES: u64 = 50;
/// Time for each step of a test.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(20);

/// A network that delivers every request, but loses every third response while it is `lossy`.
#[derive(Default)]
pub(crate) struct Network {
    /// Members that can be reached, by peer address.
    pub(crate) members: RwLock<HashMap<String, Arc<Meta>>>,
    /// The largest request so far.
    pub(crate) request_bytes_max: AtomicUsize,
    pub(crate) lossy: AtomicBool,
    /// Members that neither send nor receive.
    pub(crate) isolated: RwLock<Vec<u64>>,
    calls: AtomicU64,
}

/// The network as one member uses it.
struct Link {
    network: Arc<Network>,
    from: NodeId,
}

#[async_trait]
impl Transport for Link {
    async fn call(&self, address: &str, request: Vec<u8>, _timeout: Duration) -> Result<Vec<u8>> {
        let network = &self.network;
        let is_cut_off = |id: u64| self.from.0 == id || record(id).peer == address;
        if network.isolated.read().unwrap().iter().any(|id| is_cut_off(*id)) {
            return Err(Error::unavailable("no route"));
        }
        let member = network.members.read().unwrap().get(address).cloned();
        let member = member.ok_or_else(|| Error::unavailable(format!("no member at {address}")))?;
        network.request_bytes_max.fetch_max(request.len(), Ordering::Relaxed);
        let response = member.handle(self.from, &request).await;
        let call = network.calls.fetch_add(1, Ordering::Relaxed);
        if network.lossy.load(Ordering::Relaxed) && call.is_multiple_of(3) {
            return Err(Error::unavailable("the response was lost"));
        }
        Ok(response)
    }
}

/// The record of a node.
pub(crate) fn record(id: u64) -> NodeRecord {
    let address = |port: &str| format!("node{id}:{port}");
    NodeRecord {
        id: NodeId(id),
        roles: Roles::ALL,
        flight: address("flight"),
        peer: address("peer"),
        http: address("http"),
        live: true,
    }
}

/// Starts a member.
pub(crate) async fn start(network: &Arc<Network>, id: u64, dir: &Path) -> Arc<Meta> {
    let meta = Meta::start(options(network, id, dir)).await.unwrap();
    network.members.write().unwrap().insert(record(id).peer, meta.clone());
    meta
}

/// How a member is started.
pub(crate) fn options(network: &Arc<Network>, id: u64, dir: &Path) -> MetaOptions {
    MetaOptions {
        node: NodeId(id),
        directory: dir.join(format!("node{id}")),
        transport: Arc::new(Link { network: network.clone(), from: NodeId(id) }),
        snapshot_entries: SNAPSHOT_ENTRIES,
        check_space: Box::new(|_, _| Ok(())),
    }
}

/// A group of nodes 1, 2 and 3, all of which vote. Node 1 leads.
pub(crate) async fn group(network: &Arc<Network>, dir: &Path) -> Vec<Arc<Meta>> {
    let first = start(network, 1, dir).await;
    first.bootstrap(ClusterId(7), record(1)).await.unwrap();
    let mut members = vec![first];
    for id in [2, 3] {
        let member = start(network, id, dir).await;
        member.join(&record(1).peer, record(id), TIMEOUT).await.unwrap();
        members.push(member);
    }
    for _ in 0..200 {
        // On a node, background work calls this periodically.
        let _ = members[0].reconcile_voters().await;
        if members[0].status().voters.len() == 3 {
            return members;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the members did not become voters: {:?}", members[0].status());
}

/// A command that can be applied once.
pub(crate) fn create_schema(name: String) -> Command {
    Command::CreateSchema { name, if_not_exists: false }
}
