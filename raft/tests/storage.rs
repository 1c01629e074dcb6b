//! The durable log and the state machine: `openraft`'s conformance suite, and restarts.

use std::path::Path;

use openraft::StorageError;
use openraft::storage::{RaftLogStorage, RaftStateMachine};
use openraft::testing::{StoreBuilder, Suite};
use openraft::{CommittedLeaderId, LogId, RaftSnapshotBuilder, Vote};
use plexus_raft::{LogStore, StateMachine, TypeConfig};
use tempfile::TempDir;

/// Opens fresh storage for each test of the suite.
struct FreshStorage;

fn open(dir: &Path) -> (LogStore, StateMachine) {
    let machine = StateMachine::open(&dir.join("snapshot")).unwrap();
    // The suite purges without snapshots, so the log must not wait for them.
    let log = LogStore::open(&dir.join("log"), None).unwrap();
    (log, machine)
}

impl StoreBuilder<TypeConfig, LogStore, StateMachine, TempDir> for FreshStorage {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError<u64>> {
        let dir = tempfile::tempdir().unwrap();
        let (log, machine) = open(dir.path());
        Ok((dir, log, machine))
    }
}

#[test]
fn conformance_suite_of_openraft() {
    Suite::test_all(FreshStorage).unwrap();
}

fn log_id(term: u64, index: u64) -> LogId<u64> {
    LogId::new(CommittedLeaderId::new(term, 1), index)
}

#[tokio::test]
async fn vote_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    {
        let (mut log, _machine) = open(dir.path());
        log.save_vote(&Vote::new_committed(3, 7)).await.unwrap();
    }
    let (mut log, _machine) = open(dir.path());
    assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new_committed(3, 7)));
    assert!(!log.is_pristine());
}

#[tokio::test]
async fn snapshot_survives_a_restart_and_a_damaged_one_is_rejected() {
    let dir = tempfile::tempdir().unwrap();
    {
        let (_log, mut machine) = open(dir.path());
        let entry = openraft::Entry { log_id: log_id(1, 1), payload: openraft::EntryPayload::Blank };
        machine.apply([entry]).await.unwrap();
        machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
    }
    {
        let (_log, mut machine) = open(dir.path());
        assert_eq!(machine.applied_state().await.unwrap().0, Some(log_id(1, 1)));
        assert_eq!(*machine.durable().borrow(), Some(log_id(1, 1)));
    }
    let path = dir.path().join("snapshot/manifest.snapshot");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[10] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let error = StateMachine::open(&dir.path().join("snapshot")).err().expect("the damage is detected");
    assert_eq!(error.kind(), plexus_model::ErrorKind::Corrupt);
}

#[test]
fn log_is_locked() {
    let dir = tempfile::tempdir().unwrap();
    let _lock = open(dir.path());
    assert!(LogStore::open(&dir.path().join("log"), None).is_err());
}
