//! Log and vote on disk, with `raft-log`.
//!
//! `raft-log` appends to a write-ahead log, syncs it in a thread of its own and calls back. A sync that
//! fails ends the process: the kernel may have dropped the pages, and a retry could report success.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader, StorageIOError};
use plexus_model::{Error, Result, failpoint};
use raft_log::api::raft_log_writer::RaftLogWriter;
use raft_log::codeq::{Decode, Encode};
use raft_log::{Config, RaftLog};
use tokio::sync::{oneshot, watch};

use crate::types::{Entry, LogId, StorageError, TypeConfig, Vote};
use crate::wire::{WireLogId, WirePayload, WireVote};

/// Entries kept in memory for followers that are a little behind.
const CACHE_BYTES: usize = 32 * 1024 * 1024;
/// A chunk is removed whole once all of it is in a snapshot.
const CHUNK_BYTES: usize = 64 * 1024 * 1024;
/// Replay reads a chunk through a buffer of this size at every start.
const REPLAY_BUFFER_BYTES: usize = 1024 * 1024;
/// One entry must not make a decoder allocate more than this before it has seen the bytes.
const PAYLOAD_BYTES_MAX: u32 = 256 * 1024 * 1024;

/// The durable log. Clones share it.
#[derive(Clone)]
pub struct LogStore {
    log: Arc<Mutex<RaftLog<LogTypes>>>,
    /// Last entry that a durable snapshot covers. Absent in the conformance suite, which purges without.
    snapshot: Option<watch::Receiver<Option<LogId>>>,
}

impl LogStore {
    /// Opens or creates the log in `directory`, which it locks. `snapshot` tells up to where a durable
    /// snapshot covers the log.
    pub fn open(directory: &Path, snapshot: Option<watch::Receiver<Option<LogId>>>) -> Result<Self> {
        std::fs::create_dir_all(directory).map_err(|e| Error::io(directory.display(), e))?;
        let config = Config {
            wal: raft_log::chunked_wal::Config {
                dir: directory.display().to_string(),
                read_buffer_size: Some(REPLAY_BUFFER_BYTES),
                chunk_max_size: Some(CHUNK_BYTES),
                // Proposals are grouped before they get here; waiting for more only adds latency.
                flush_batch_wait: Some(Duration::ZERO),
                ..Default::default()
            },
            log_cache_max_items: Some(100_000),
            log_cache_capacity: Some(CACHE_BYTES),
        };
        let log = RaftLog::open(Arc::new(config))
            .map_err(|e| Error::io(format!("metadata log in {}", directory.display()), e))?;
        Ok(Self { log: Arc::new(Mutex::new(log)), snapshot })
    }

    fn lock(&self) -> MutexGuard<'_, RaftLog<LogTypes>> {
        self.log.lock().expect("no code panics while it holds the log")
    }

    /// Whether this log has never been part of a group.
    pub fn is_pristine(&self) -> bool {
        let log = self.lock();
        let state = log.log_state();
        state.last().is_none() && state.vote().is_none() && state.purged().is_none()
    }

    /// Last entry that was removed since a snapshot covers it.
    pub fn purged(&self) -> Option<LogId> {
        self.lock().log_state().purged().map(|id| (*id).into())
    }
}

/// How `raft-log` stores our records.
#[derive(Debug, Default, PartialEq, Eq, Clone)]
pub struct LogTypes;

impl raft_log::Types for LogTypes {
    type LogId = WireLogId;
    type LogPayload = Payload;
    type Vote = WireVote;
    type Callback = Flushed;
    type UserData = String;

    fn log_index(id: &WireLogId) -> u64 {
        id.index
    }

    fn payload_size(payload: &Payload) -> u64 {
        payload.0.len() as u64
    }
}

/// An archived [`WirePayload`].
#[derive(Clone, Debug)]
pub struct Payload(Bytes);

impl Encode for Payload {
    fn encode<W: io::Write>(&self, mut w: W) -> io::Result<usize> {
        let n = (self.0.len() as u32).encode(&mut w)?;
        w.write_all(&self.0)?;
        Ok(n + self.0.len())
    }
}

impl Decode for Payload {
    fn decode<R: io::Read>(mut r: R) -> io::Result<Self> {
        let length = u32::decode(&mut r)?;
        if length > PAYLOAD_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("an entry of {length} bytes")));
        }
        let mut bytes = vec![0; length as usize];
        r.read_exact(&mut bytes)?;
        Ok(Self(bytes.into()))
    }
}

impl Encode for WireLogId {
    fn encode<W: io::Write>(&self, mut w: W) -> io::Result<usize> {
        Ok(self.term.encode(&mut w)? + self.leader.encode(&mut w)? + self.index.encode(&mut w)?)
    }
}

impl Decode for WireLogId {
    fn decode<R: io::Read>(mut r: R) -> io::Result<Self> {
        Ok(Self { term: u64::decode(&mut r)?, leader: u64::decode(&mut r)?, index: u64::decode(&mut r)? })
    }
}

impl Encode for WireVote {
    fn encode<W: io::Write>(&self, mut w: W) -> io::Result<usize> {
        let committed = u64::from(self.committed);
        Ok(self.term.encode(&mut w)? + self.node.encode(&mut w)? + committed.encode(&mut w)?)
    }
}

impl Decode for WireVote {
    fn decode<R: io::Read>(mut r: R) -> io::Result<Self> {
        Ok(Self {
            term: u64::decode(&mut r)?,
            node: u64::decode(&mut r)?,
            committed: u64::decode(&mut r)? == 1,
        })
    }
}

/// Who waits for a sync.
pub enum Flushed {
    Log(LogFlushed<TypeConfig>),
    Caller(oneshot::Sender<()>),
}

impl raft_log::Callback for Flushed {
    fn send(self, result: io::Result<()>) {
        if let Err(error) = result {
            tracing::error!(%error, "sync of the metadata log failed; stopping");
            eprintln!("sync of the metadata log failed: {error}; stopping, since what is on disk is unknown");
            std::process::abort();
        }
        match self {
            Self::Log(callback) => callback.log_io_completed(Ok(())),
            // A caller that gave up does not need to know.
            Self::Caller(sender) => drop(sender.send(())),
        }
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

/// Bytes of the entries that go to a follower in one message, which must arrive within a heartbeat. The
/// first entry goes whatever its size.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

impl RaftLogReader<TypeConfig> for LogStore {
    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, StorageError> {
        let mut bytes = 0;
        let log = self.lock();
        let end = end.min(log.log_state().last().map_or(0, |id| id.index + 1));
        let mut entries = Vec::new();
        for record in log.read(start, end.max(start)) {
            let (id, payload) = record.map_err(|e| read_error(&e))?;
            bytes += payload.0.len();
            if bytes > MESSAGE_BYTES_MAX && !entries.is_empty() {
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
        // A purge beyond a conflicting tail may leave records above the last one.
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
            log.flush(true, Some(Flushed::Caller(done))).map_err(|e| StorageIOError::write_vote(&e))?;
        }
        wait.await.map_err(|e| StorageIOError::write_vote(&e).into())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(self.lock().log_state().vote().map(|vote| (*vote).into()))
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        // Only shortens the replay after a restart, so it is not synced.
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
        failpoint::pass("log.append");
        let mut log = self.lock();
        // After a snapshot was installed the leader may send again what it covers.
        let first = log.log_state().purged().map_or(0, |id| id.index + 1);
        log.append(records.filter(|(id, _)| id.index >= first)).map_err(|e| write_error(&e))?;
        log.flush(true, Some(Flushed::Log(callback))).map_err(|e| write_error(&e))?;
        failpoint::pass("log.appended");
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
        // openraft does not wait for an installed snapshot to be durable before it purges what the
        // snapshot covers. A crash in between would lose both, so the log waits here.
        if let Some(mut durable) = self.snapshot.clone()
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
