//! The Raft log and the vote on disk, on top of `raft-log`.
//!
//! `raft-log` appends to a write-ahead log, syncs it in its own thread and calls back. A failed sync ends the
//! process: the kernel may have dropped the dirty pages, and a second sync could then report success for lost
//! entries.

mod records;

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader, StorageIOError};
use plexus_model::{Error, Result, failpoint};
use raft_log::api::raft_log_writer::RaftLogWriter;
use raft_log::{Config, RaftLog};
use tokio::sync::{oneshot, watch};

use self::records::{FlushCallback, LogTypes, Payload};
use crate::limits::{
    APPEND_BYTES_MAX, LOG_CACHE_BYTES, LOG_CACHE_ENTRIES, LOG_CHUNK_BYTES, LOG_REPLAY_BUFFER_BYTES,
};
use crate::types::{Entry, LogId, StorageError, TypeConfig, Vote};
use crate::wire::{WireLogId, WirePayload};

/// The durable log. Clones share it.
#[derive(Clone)]
pub struct LogStore {
    log: Arc<Mutex<RaftLog<LogTypes>>>,
    /// Last entry that a durable snapshot covers. `None` in the conformance suite, which purges without
    /// snapshots.
    durable_snapshot: Option<watch::Receiver<Option<LogId>>>,
}

impl LogStore {
    /// Opens or creates the log in `directory`, and locks the directory. `durable_snapshot` holds the last
    /// entry that a durable snapshot covers; without it, entries are purged whether a snapshot covers them or
    /// not.
    ///
    /// # Errors
    /// The I/O error, among others when another process holds the lock.
    pub fn open(directory: &Path, durable_snapshot: Option<watch::Receiver<Option<LogId>>>) -> Result<Self> {
        std::fs::create_dir_all(directory).map_err(|e| Error::io(directory.display(), e))?;
        let config = Config {
            wal: raft_log::chunked_wal::Config {
                dir: directory.display().to_string(),
                read_buffer_size: Some(LOG_REPLAY_BUFFER_BYTES),
                chunk_max_size: Some(LOG_CHUNK_BYTES),
                // Proposals are batched already. Waiting for more appends would only add latency.
                flush_batch_wait: Some(Duration::ZERO),
                ..Default::default()
            },
            log_cache_max_items: Some(LOG_CACHE_ENTRIES),
            log_cache_capacity: Some(LOG_CACHE_BYTES),
        };
        let log = RaftLog::open(Arc::new(config))
            .map_err(|e| Error::io(format!("metadata log in {}", directory.display()), e))?;
        Ok(Self { log: Arc::new(Mutex::new(log)), durable_snapshot })
    }

    fn lock(&self) -> MutexGuard<'_, RaftLog<LogTypes>> {
        self.log.lock().expect("no code panics while it holds this lock")
    }

    /// Whether this log is new: it holds neither entries nor a vote, and none were purged.
    pub fn is_pristine(&self) -> bool {
        let log = self.lock();
        let state = log.log_state();
        state.last().is_none() && state.vote().is_none() && state.purged().is_none()
    }

    /// Id of the last entry that was removed because a snapshot covers it.
    pub fn purged(&self) -> Option<LogId> {
        self.lock().log_state().purged().map(|id| (*id).into())
    }
}

fn write_error(error: &io::Error) -> StorageError {
    StorageIOError::write_logs(error).into()
}

fn read_error(error: &(impl std::error::Error + 'static)) -> StorageError {
    StorageIOError::read_logs(error).into()
}

fn to_entry(id: WireLogId, payload: &Payload) -> Result<Entry, StorageError> {
    let payload: WirePayload = plexus_model::decode("log entry", &payload.0).map_err(|e| read_error(&e))?;
    Ok(Entry { log_id: id.into(), payload: payload.into() })
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, StorageError> {
        let mut bytes = 0;
        let log = self.lock();
        let end = end.min(log.log_state().last().map_or(0, |id| id.index + 1));
        let mut entries = Vec::new();
        for record in log.read(start, end.max(start)) {
            let (id, payload) = record.map_err(|e| read_error(&e))?;
            bytes += payload.0.len();
            if bytes > APPEND_BYTES_MAX && !entries.is_empty() {
                break;
            }
            entries.push(to_entry(id, &payload)?);
        }
        Ok(entries)
    }

    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        let start = match range.start_bound() {
            Bound::Included(&i) => i,
            Bound::Excluded(&i) => i + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&i) => i + 1,
            Bound::Excluded(&i) => i,
            Bound::Unbounded => u64::MAX,
        };
        let log = self.lock();
        // A purge may reach beyond a tail that conflicts with the leader, and leave records above the last
        // entry.
        let end = end.min(log.log_state().last().map_or(0, |id| id.index + 1));
        if start >= end {
            return Ok(vec![]);
        }
        log.read(start, end)
            .map(|record| {
                let (id, payload) = record.map_err(|e| read_error(&e))?;
                to_entry(id, &payload)
            })
            .collect()
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        let log = self.lock();
        let state = log.log_state();
        let purged: Option<LogId> = state.purged().map(|id| (*id).into());
        let last: Option<LogId> = state.last().map(|id| (*id).into());
        Ok(LogState { last_purged_log_id: purged, last_log_id: last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let (done, wait) = oneshot::channel();
        {
            let mut log = self.lock();
            log.save_vote((*vote).into()).map_err(|e| StorageIOError::write_vote(&e))?;
            log.flush(true, Some(FlushCallback::Caller(done))).map_err(|e| StorageIOError::write_vote(&e))?;
        }
        wait.await.map_err(|e| StorageIOError::write_vote(&e).into())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(self.lock().log_state().vote().map(|vote| (*vote).into()))
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        // This only shortens the replay after a restart, so it need not be synced.
        if let Some(id) = committed {
            let mut log = self.lock();
            log.commit(id.into()).map_err(|e| write_error(&e))?;
            log.flush(false, None).map_err(|e| write_error(&e))?;
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(self.lock().log_state().committed().map(|id| (*id).into()))
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let records = entries.into_iter().map(|entry| {
            let payload = plexus_model::encode(&WirePayload::from(&entry.payload));
            (WireLogId::from(entry.log_id), Payload(payload.into()))
        });
        failpoint::crash_if_armed("log.append");
        let mut log = self.lock();
        // After a snapshot was installed, the leader may send entries again that the snapshot covers.
        let first = log.log_state().purged().map_or(0, |id| id.index + 1);
        log.append(records.filter(|(id, _)| id.index >= first)).map_err(|e| write_error(&e))?;
        log.flush(true, Some(FlushCallback::Append(callback))).map_err(|e| write_error(&e))?;
        failpoint::crash_if_armed("log.appended");
        Ok(())
    }

    async fn truncate(&mut self, from: LogId) -> Result<(), StorageError> {
        let mut log = self.lock();
        if log.log_state().last().is_none_or(|id| id.index < from.index) {
            return Ok(());
        }
        log.truncate(from.index).map_err(|e| write_error(&e))?;
        log.flush(true, None).map_err(|e| write_error(&e))
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), StorageError> {
        // openraft may purge entries before the snapshot that covers them is durable. A crash in between
        // would lose both, so the log waits for the snapshot here.
        if let Some(mut durable) = self.durable_snapshot.clone()
            && durable.wait_for(|snapshot| *snapshot >= Some(upto)).await.is_err()
        {
            return Err(write_error(&io::Error::other(
                "the state machine stopped before its snapshot was durable",
            )));
        }
        let mut log = self.lock();
        log.purge(upto.into()).map_err(|e| write_error(&e))?;
        log.flush(true, None).map_err(|e| write_error(&e))
    }
}
