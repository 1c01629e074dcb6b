//! A group of three members in one process, over a network that loses answers.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use plexus_model::{ClusterId, Command, Error, ErrorKind, NodeId, NodeRecord, Result, Roles};
use plexus_raft::{Meta, MetaOptions, Transport};

/// So few that a test makes several snapshots.
const SNAPSHOT_ENTRIES: u64 = 50;
const PATIENCE: Duration = Duration::from_secs(20);

/// Delivers every request, but not every answer.
#[derive(Default)]
struct Network {
    /// The largest request so far, in bytes.
    largest: AtomicUsize,
    members: RwLock<HashMap<String, Arc<Meta>>>,
    lossy: AtomicBool,
    calls: AtomicU64,
}

#[async_trait]
impl Transport for Network {
    async fn call(&self, address: &str, request: Vec<u8>, _timeout: Duration) -> Result<Vec<u8>> {
        let member =
            self.members.read().expect("no code panics while it holds this lock").get(address).cloned();
        let member = member.ok_or_else(|| Error::unavailable(format!("nobody at {address}")))?;
        self.largest.fetch_max(request.len(), Ordering::Relaxed);
        let answer = member.handle(&request).await;
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        if self.lossy.load(Ordering::Relaxed) && call.is_multiple_of(3) {
            return Err(Error::unavailable("the answer was lost"));
        }
        Ok(answer)
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
async fn a_join_whose_answer_is_lost_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let network = Arc::new(Network::default());
    network.lossy.store(true, Ordering::Relaxed);
    let members = group(&network, dir.path()).await;
    assert_eq!(members[0].manifest().nodes.len(), 3);
}

async fn group(network: &Arc<Network>, dir: &std::path::Path) -> Vec<Arc<Meta>> {
    let first = start(network, 1, dir).await;
    first.bootstrap(ClusterId(7), record(1)).await.unwrap();
    let mut members = vec![first];
    for id in [2, 3] {
        let member = start(network, id, dir).await;
        member.join(&record(1).peer, record(id), PATIENCE).await.unwrap();
        members.push(member);
    }
    for _ in 0..200 {
        // As the leader's background work does.
        let _ = members[0].reconcile_voters().await;
        if members[0].status().voters.len() == 3 {
            return members;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the members did not become voters: {:?}", members[0].status());
}

fn create(name: String) -> Command {
    Command::CreateSchema { name, if_not_exists: false }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_whose_answer_is_lost_is_applied_once() {
    let dir = tempfile::tempdir().unwrap();
    let network = Arc::new(Network::default());
    let members = group(&network, dir.path()).await;
    network.lossy.store(true, Ordering::Relaxed);
    for n in 0..30 {
        // A second application would find the schema there and be an error.
        let proposer = &members[n % 3];
        proposer.propose(create(format!("s{n}")), PATIENCE).await.unwrap_or_else(|e| panic!("s{n}: {e}"));
    }
    network.lossy.store(false, Ordering::Relaxed);
    for member in &members {
        let manifest = member.read(PATIENCE).await.unwrap();
        assert_eq!(manifest.schemas.len(), 31, "node {}", member.node());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_far_behind_in_large_entries_catches_up() {
    let dir = tempfile::tempdir().unwrap();
    let network = Arc::new(Network::default());
    let members = group(&network, dir.path()).await;
    let away = network.members.write().unwrap().remove(&record(3).peer).unwrap();
    // Each entry is near the bound of a message, all together far above.
    for n in 0..40 {
        let name = format!("s{n}{}", "x".repeat(200));
        let batch = (0..2_000).map(|i| members[0].propose(create(format!("{name}{i}")), PATIENCE));
        for created in futures::future::join_all(batch).await {
            created.unwrap();
        }
    }
    let version = members[0].manifest().version;
    assert!(away.manifest().version < version);
    network.members.write().unwrap().insert(record(3).peer, away.clone());
    let manifest = away.wait_version(version, PATIENCE).await.unwrap();
    assert_eq!(manifest.schemas.len(), 80_001);
    // No message carries more than about a megabyte, so that each arrives within a heartbeat.
    let largest = network.largest.load(Ordering::Relaxed);
    assert!((300_000..2_500_000).contains(&largest), "the largest message has {largest} bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_behind_the_log_gets_a_snapshot_and_keeps_it() {
    let dir = tempfile::tempdir().unwrap();
    let network = Arc::new(Network::default());
    let members = group(&network, dir.path()).await;
    let away = network.members.write().unwrap().remove(&record(3).peer).unwrap();
    let applied = away.manifest().version.0;
    for n in 0..SNAPSHOT_ENTRIES * 5 {
        members[0].propose(create(format!("s{n}")), PATIENCE).await.unwrap();
    }
    let version = members[0].manifest().version;
    assert!(version.0 > applied + SNAPSHOT_ENTRIES * 4, "the entries were grouped");
    network.members.write().unwrap().insert(record(3).peer, away.clone());
    let manifest = away.wait_version(version, PATIENCE).await.unwrap();
    assert_eq!(manifest.to_bytes(), members[0].manifest().to_bytes());
    // It came as a snapshot: the leader has the entries no longer.
    assert!(members[0].status().purged > applied, "the log was not purged");
    // And it is on disk: alone, the member starts from it.
    network.members.write().unwrap().remove(&record(3).peer);
    away.shutdown().await;
    drop(away);
    let alone = start(&Arc::default(), 3, dir.path()).await;
    assert!(alone.manifest().version.0 > applied + SNAPSHOT_ENTRIES * 3, "{}", alone.manifest().version);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proposals_that_wait_share_entries() {
    let dir = tempfile::tempdir().unwrap();
    let network = Arc::new(Network::default());
    let members = group(&network, dir.path()).await;
    let before = members[0].manifest().version.0;
    let proposals = (0..1_000).map(|n| members[n % 3].propose(create(format!("s{n}")), PATIENCE));
    for proposed in futures::future::join_all(proposals).await {
        proposed.unwrap();
    }
    let entries = members[0].manifest().version.0 - before;
    assert!(entries < 200, "1000 proposals took {entries} entries");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_that_is_too_large_is_refused_before_it_is_written() {
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
    let error = member.propose(Command::Commit(commit), PATIENCE).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    assert_eq!(member.read(PATIENCE).await.unwrap().version, before);
}
