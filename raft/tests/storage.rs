//! The durable log and the state machine, by openraft's own conformance suite and across restarts.

use std::path::Path;

use openraft::StorageError;
use openraft::storage::{RaftLogStorage, RaftStateMachine};
use openraft::testing::{StoreBuilder, Suite};
use openraft::{CommittedLeaderId, LogId, RaftSnapshotBuilder, Vote};
use plexus_raft::{LogStore, StateMachine, TypeConfig};
use tempfile::TempDir;

struct Builder;

fn open(dir: &Path) -> (LogStore, StateMachine) {
    let machine = StateMachine::open(&dir.join("snapshot")).unwrap();
    // The suite purges without snapshots, so the log must not wait for them.
    (LogStore::open(&dir.join("log"), None).unwrap(), machine)
}

impl StoreBuilder<TypeConfig, LogStore, StateMachine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError<u64>> {
        let dir = tempfile::tempdir().unwrap();
        let (log, machine) = open(dir.path());
        Ok((dir, log, machine))
    }
}

#[test]
fn openrafts_conformance_suite() {
    Suite::test_all(Builder).unwrap();
}

fn id(term: u64, index: u64) -> LogId<u64> {
    LogId::new(CommittedLeaderId::new(term, 1), index)
}

#[tokio::test]
async fn the_vote_survives_a_restart() {
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
async fn a_snapshot_survives_a_restart_and_a_damaged_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    {
        let (_log, mut machine) = open(dir.path());
        let entry = openraft::Entry { log_id: id(1, 1), payload: openraft::EntryPayload::Blank };
        machine.apply([entry]).await.unwrap();
        machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
    }
    {
        let (_log, mut machine) = open(dir.path());
        assert_eq!(machine.applied_state().await.unwrap().0, Some(id(1, 1)));
        assert_eq!(*machine.durable().borrow(), Some(id(1, 1)));
    }
    let path = dir.path().join("snapshot/manifest.snapshot");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[10] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let error = StateMachine::open(&dir.path().join("snapshot")).err().expect("damage is noticed");
    assert_eq!(error.kind(), plexus_model::ErrorKind::Corrupt);
}

#[test]
fn a_log_is_held_by_one_process() {
    let dir = tempfile::tempdir().unwrap();
    let _held = open(dir.path());
    assert!(LogStore::open(&dir.path().join("log"), None).is_err());
}
