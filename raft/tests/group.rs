//! A group of three members in one process, over a network that loses responses.

mod members;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use plexus_model::{ClusterId, Command, ErrorKind};

use members::{Network, SNAPSHOT_ENTRIES, TIMEOUT, create_schema, group, record, start};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn join_is_retried_when_its_response_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let network = Arc::new(Network::default());
    network.lossy.store(true, Ordering::Relaxed);
    let members = group(&network, dir.path()).await;
    assert_eq!(members[0].manifest().nodes.len(), 3);
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_was_cut_off_does_not_depose_the_leader() {
    let dir = tempfile::tempdir().unwrap();
    let network = Arc::new(Network::default());
    let members = group(&network, dir.path()).await;
    let term = members[0].status().term;
    network.isolated.write().unwrap().push(3);
    tokio::time::sleep(Duration::from_secs(5)).await;
    members[0].propose(create_schema("meanwhile".into()), TIMEOUT).await.unwrap();
    network.isolated.write().unwrap().clear();
    let version = members[0].manifest().version;
    members[2].wait_version(version, TIMEOUT).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    for member in &members {
        let status = member.status();
        assert_eq!((status.term, status.leader.map(|n| n.0)), (term, Some(1)), "node {}", member.node());
    }

    // A leader that is cut off is replaced, and follows when it is back.
    network.isolated.write().unwrap().push(1);
    let created = members[1].propose(create_schema("without the first".into()), TIMEOUT).await;
    created.unwrap();
    network.isolated.write().unwrap().clear();
    let version = members[1].manifest().version;
    members[0].wait_version(version, TIMEOUT).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_hands_over_and_no_proposal_fails() {
    let dir = tempfile::tempdir().unwrap();
    let network = Arc::new(Network::default());
    let members = group(&network, dir.path()).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = members
        .iter()
        .map(|member| {
            let (member, stop) = (member.clone(), stop.clone());
            tokio::spawn(async move {
                let mut slowest = Duration::ZERO;
                for n in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return (n, slowest);
                    }
                    let began = Instant::now();
                    let name = format!("node {} schema {n}", member.node());
                    member.propose(create_schema(name), TIMEOUT).await.unwrap();
                    slowest = slowest.max(began.elapsed());
                }
                unreachable!("the loop has no end")
            })
        })
        .collect();
    // From each to another, also to nodes of lower ids.
    let mut leaders = vec![];
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let leader = members.iter().find(|member| member.is_leader()).unwrap().clone();
        leader.hand_over().await;
        assert!(!leader.is_leader(), "node {} still leads", leader.node());
        leaders.push(leader.node().0);
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        let (proposals, slowest) = writer.await.unwrap();
        println!("{proposals} proposals, the slowest took {slowest:?}");
        assert!(proposals > 10);
    }
    assert!(leaders.windows(2).all(|pair| pair[0] != pair[1]), "{leaders:?}");
    // A member that does not lead hands nothing over, and one that is no leader cannot ask for it.
    let follower = members.iter().find(|member| !member.is_leader()).unwrap();
    let term = follower.status().term;
    follower.hand_over().await;
    assert_eq!(follower.status().term, term);
}
