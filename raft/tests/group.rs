//! A group of three members in one process, over a network that loses responses.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use plexus_model::{ClusterId, Command, Error, ErrorKind, NodeId, NodeRecord, Result, Roles};
use plexus_raft::{Meta, MetaOptions, Transport};

/// Few, so that a test takes several snapshots.
const SNAPSHOT_ENTRIES: u64 = 50;
/// Time for each step of a test.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A network that delivers every request, but loses every third response while it is `lossy`.
#[derive(Default)]
struct Network {
    /// Members that can be reached, by peer address.
    members: RwLock<HashMap<String, Arc<Meta>>>,
    /// The largest request so far.
    request_bytes_max: AtomicUsize,
    lossy: AtomicBool,
    calls: AtomicU64,
}

#[async_trait]
impl Transport for Network {
    async fn call(&self, address: &str, request: Vec<u8>, _timeout: Duration) -> Result<Vec<u8>> {
        let member =
            self.members.read().expect("no code panics while it holds this lock").get(address).cloned();
        let member = member.ok_or_else(|| Error::unavailable(format!("no member at {address}")))?;
        self.request_bytes_max.fetch_max(request.len(), Ordering::Relaxed);
        let response = member.handle(&request).await;
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        if self.lossy.load(Ordering::Relaxed) && call.is_multiple_of(3) {
            return Err(Error::unavailable("the response was lost"));
        }
        Ok(response)
    }
}

fn record(id: u64) -> NodeRecord {
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

async fn start(network: &Arc<Network>, id: u64, dir: &std::path::Path) -> Arc<Meta> {
    let options = MetaOptions {
        node: NodeId(id),
        directory: dir.join(format!("node{id}")),
        transport: network.clone(),
        snapshot_entries: SNAPSHOT_ENTRIES,
    };
    let meta = Meta::start(options).await.unwrap();
    network.members.write().unwrap().insert(record(id).peer, meta.clone());
    meta
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn join_is_retried_when_its_response_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let network = Arc::new(Network::default());
    network.lossy.store(true, Ordering::Relaxed);
    let members = group(&network, dir.path()).await;
    assert_eq!(members[0].manifest().nodes.len(), 3);
}

/// A group of nodes 1, 2 and 3, all of which vote. Node 1 leads.
async fn group(network: &Arc<Network>, dir: &std::path::Path) -> Vec<Arc<Meta>> {
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

fn create_schema(name: String) -> Command {
    Command::CreateSchema { name, if_not_exists: false }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn command_is_applied_once_when_its_response_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let network = Arc::new(Network::default());
    let members = group(&network, dir.path()).await;
    network.lossy.store(true, Ordering::Relaxed);
    for n in 0..30 {
        // A second application would fail, since the schema exists.
        let proposer = &members[n % 3];
        proposer
            .propose(create_schema(format!("s{n}")), TIMEOUT)
            .await
            .unwrap_or_else(|e| panic!("s{n}: {e}"));
    }
    network.lossy.store(false, Ordering::Relaxed);
    for member in &members {
        let manifest = member.read(TIMEOUT).await.unwrap();
        assert_eq!(manifest.schemas.len(), 31, "node {}", member.node());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn follower_that_lags_by_many_large_entries_catches_up() {
    let dir = tempfile::tempdir().unwrap();
    let network = Arc::new(Network::default());
    let members = group(&network, dir.path()).await;
    let lagging = network.members.write().unwrap().remove(&record(3).peer).unwrap();
    // Each entry is about as large as a message may be, so all of them need many messages.
    for n in 0..40 {
        let name = format!("s{n}{}", "x".repeat(200));
        let batch = (0..2_000).map(|i| members[0].propose(create_schema(format!("{name}{i}")), TIMEOUT));
        for created in futures::future::join_all(batch).await {
            created.unwrap();
        }
    }
    let version = members[0].manifest().version;
    assert!(lagging.manifest().version < version);
    network.members.write().unwrap().insert(record(3).peer, lagging.clone());
    let manifest = lagging.wait_version(version, TIMEOUT).await.unwrap();
    assert_eq!(manifest.schemas.len(), 80_001);
    // A message carries about a megabyte at most, so that it arrives within a heartbeat interval.
    let largest = network.request_bytes_max.load(Ordering::Relaxed);
    assert!((300_000..2_500_000).contains(&largest), "the largest message has {largest} bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn follower_behind_the_purged_log_gets_a_snapshot_and_keeps_it() {
    let dir = tempfile::tempdir().unwrap();
    let network = Arc::new(Network::default());
    let members = group(&network, dir.path()).await;
    let lagging = network.members.write().unwrap().remove(&record(3).peer).unwrap();
    let applied = lagging.manifest().version.0;
    for n in 0..SNAPSHOT_ENTRIES * 5 {
        members[0].propose(create_schema(format!("s{n}")), TIMEOUT).await.unwrap();
    }
    let version = members[0].manifest().version;
    assert!(version.0 > applied + SNAPSHOT_ENTRIES * 4, "the proposals share entries");
    network.members.write().unwrap().insert(record(3).peer, lagging.clone());
    let manifest = lagging.wait_version(version, TIMEOUT).await.unwrap();
    assert_eq!(manifest.to_bytes(), members[0].manifest().to_bytes());
    // It received a snapshot, since the leader has purged the entries.
    assert!(members[0].status().purged > applied, "the log was not purged");
    // The snapshot is on disk: the member starts from it without the others.
    network.members.write().unwrap().remove(&record(3).peer);
    lagging.shutdown().await;
    drop(lagging);
    let alone = start(&Arc::default(), 3, dir.path()).await;
    assert!(alone.manifest().version.0 > applied + SNAPSHOT_ENTRIES * 3, "{}", alone.manifest().version);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_proposals_share_entries() {
    let dir = tempfile::tempdir().unwrap();
    let network = Arc::new(Network::default());
    let members = group(&network, dir.path()).await;
    let before = members[0].manifest().version.0;
    let proposals = (0..1_000).map(|n| members[n % 3].propose(create_schema(format!("s{n}")), TIMEOUT));
    for proposed in futures::future::join_all(proposals).await {
        proposed.unwrap();
    }
    let entries = members[0].manifest().version.0 - before;
    assert!(entries < 200, "1000 proposals took {entries} entries");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn command_that_is_too_large_is_rejected_before_it_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let network = Arc::new(Network::default());
    let member = start(&network, 1, dir.path()).await;
    member.bootstrap(ClusterId(7), record(1)).await.unwrap();
    let before = member.manifest().version;
    let change = plexus_model::TableChange {
        remove: (0..1_200_000).map(plexus_model::SegmentId).collect(),
        ..plexus_model::TableChange::new(plexus_model::TableId(1), 1, before, plexus_model::ChangeKind::Write)
    };
    let commit = plexus_model::Commit { changes: vec![change], ..Default::default() };
    let error = member.propose(Command::Commit(commit), TIMEOUT).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    assert_eq!(member.read(TIMEOUT).await.unwrap().version, before);
}
