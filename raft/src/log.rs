//! The Raft log and the vote on disk, on top of `raft-log`.
//!
//! `raft-log` appends to a write-ahead log, syncs it in its own thread and calls back. A failed sync ends the
//! process: the kernel may have dropped the dirty pages, and a second sync could then report success for lost
//! entries.

mod end;
pub(crate) mod records;

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{EntryPayload, LogState, OptionalSend, RaftLogReader, StorageIOError};
use plexus_model::{Error, Result, failpoint};
use raft_log::api::raft_log_writer::RaftLogWriter;
use raft_log::{Config, RaftLog};
use tokio::sync::{oneshot, watch};

pub(crate) use self::end::{End, LogEnd};
use self::records::{FlushCallback, LogTypes, Payload};
use crate::limits::{
    APPEND_BYTES_MAX, LOG_CACHE_BYTES, LOG_CACHE_ENTRIES, LOG_CHUNK_BYTES, LOG_REPLAY_BUFFER_BYTES,
};
use crate::types::{Entry, LogId, StorageError, TypeConfig, Vote};
use crate::wire::{WireLogId, WirePayload, WireVote};

/// The durable log. Clones share it.
#[derive(Clone)]
pub struct LogStore {
    log: Arc<Mutex<RaftLog<LogTypes>>>,
    end: Arc<LogEnd>,
    directory: Arc<Path>,
    /// Whether entries are missing that were acknowledged.
    is_untrusted: bool,
    /// Last entry that a durable snapshot covers. `None` in the conformance suite, which purges without
    /// snapshots.
    durable_snapshot: Option<watch::Receiver<Option<LogId>>>,
}

impl LogStore {
    /// Opens or creates the log in `directory`, and locks the directory. Its end is kept in a file beside it.
    /// `durable_snapshot` holds the last entry that a durable snapshot covers; without it, entries are purged
    /// whether a snapshot covers them or not.
    ///
    /// # Errors
    /// `Corrupt` when the content is damaged, otherwise the I/O error, among others when another process
    /// holds the lock.
    pub fn open(directory: &Path, durable_snapshot: Option<watch::Receiver<Option<LogId>>>) -> Result<Self> {
        std::fs::create_dir_all(directory).map_err(|e| Error::io(directory.display(), e))?;
        check_files(directory)?;
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
        let log = RaftLog::open(Arc::new(config)).map_err(|e| match end::is_damage(&e) {
            true => damaged(directory, &e),
            false => Error::io(format!("metadata log in {}", directory.display()), e),
        })?;
        let this = Self {
            log: Arc::new(Mutex::new(log)),
            end: Arc::new(LogEnd::open(&end_path(directory))?),
            directory: directory.into(),
            is_untrusted: false,
            durable_snapshot,
        };
        let last = this.lock().log_state().last().copied();
        // A log from before this file was kept.
        if let Some(last) = last.filter(|_| this.end.get().last.is_none()) {
            this.end.appended(last, 0).map_err(|e| Error::io(end_path(directory).display(), e))?;
        }
        Ok(this)
    }

    /// What is known of the end of the log in `directory`, which cannot be opened.
    ///
    /// # Errors
    /// Those of the file that holds it.
    pub(crate) fn end_of(directory: &Path) -> Result<End> {
        LogEnd::open(&end_path(directory)).map(|end| end.get())
    }

    /// Cuts off what is behind the durable end of the log in `directory`: a record that a crash has torn, of
    /// which nobody was told. Returns whether there was something.
    ///
    /// # Errors
    /// The I/O error.
    pub(crate) fn cut_torn(directory: &Path) -> Result<bool> {
        let end = Self::end_of(directory)?.bytes;
        let cut = || -> io::Result<bool> {
            let mut newest: Option<(u64, PathBuf)> = None;
            for entry in std::fs::read_dir(directory)? {
                let path = entry?.path();
                if let Some(start) = start_of_file(&path) {
                    newest = newest.max(Some((start, path)));
                }
            }
            let Some((start, path)) = newest.filter(|(start, _)| *start < end) else {
                return Ok(false);
            };
            let file = std::fs::File::options().write(true).open(path)?;
            let is_longer = file.metadata()?.len() > end - start;
            if is_longer {
                file.set_len(end - start)?;
                file.sync_all()?;
            }
            Ok(is_longer)
        };
        cut().map_err(|e| Error::io(directory.display(), e))
    }

    /// What is known of the end of the log.
    pub(crate) fn end(&self) -> End {
        self.end.get()
    }

    /// The file that holds the end of the log.
    pub(crate) fn end_file(&self) -> Arc<LogEnd> {
        self.end.clone()
    }

    /// The same log, of a member that does not take up the office that it voted itself into.
    pub(crate) fn untrusted(self) -> Self {
        Self { is_untrusted: true, ..self }
    }

    /// Id of the last entry.
    pub(crate) fn last(&self) -> Option<LogId> {
        self.lock().log_state().last().map(|id| (*id).into())
    }

    /// Checks that no entry is missing within the log.
    ///
    /// # Errors
    /// `Corrupt`, with the first entry that is missing or cannot be read.
    pub(crate) fn check_complete(&self) -> Result<()> {
        let log = self.lock();
        let first = log.log_state().purged().map_or(0, |id| id.index + 1);
        let end = log.log_state().last().map_or(0, |id| id.index + 1);
        let mut expected = first;
        for record in log.read(first, end.max(first)) {
            match record {
                Ok((id, _)) if id.index == expected => expected += 1,
                Ok((id, _)) => {
                    let reason = format!("entry {expected} is missing before {}", id.index);
                    return Err(damaged(&self.directory, &reason));
                }
                Err(error) => return Err(damaged(&self.directory, &format!("entry {expected}: {error}"))),
            }
        }
        match expected >= end {
            true => Ok(()),
            false => Err(damaged(&self.directory, &format!("entry {expected} is missing"))),
        }
    }

    fn lock(&self) -> MutexGuard<'_, RaftLog<LogTypes>> {
        self.log.lock().expect("no code panics while it holds this lock")
    }

    /// Whether this log is new: it holds neither entries nor a vote, and none were purged.
    pub fn is_pristine(&self) -> bool {
        let log = self.lock();
        let state = log.log_state();
        let End { last, vote, .. } = self.end.get();
        let is_empty = state.last().is_none() && state.vote().is_none() && state.purged().is_none();
        is_empty && last.is_none() && vote.is_none()
    }

    /// Id of the last entry that was removed because a snapshot covers it.
    pub fn purged(&self) -> Option<LogId> {
        self.lock().log_state().purged().map(|id| (*id).into())
    }
}

fn end_path(directory: &Path) -> PathBuf {
    directory.with_extension("end")
}

/// Checks that no file of the log is empty before others, at which `raft-log` would panic.
fn check_files(directory: &Path) -> Result<()> {
    let files = || -> io::Result<Vec<_>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            if entry.path().extension().is_some_and(|extension| extension == "wal") {
                files.push((entry.file_name(), entry.metadata()?.len()));
            }
        }
        Ok(files)
    };
    let mut files = files().map_err(|e| Error::io(directory.display(), e))?;
    files.sort();
    files.pop();
    match files.iter().find(|(_, length)| *length == 0) {
        Some((name, _)) => Err(damaged(directory, &format!("{} is empty", name.display()))),
        None => Ok(()),
    }
}

/// Where a file of the log starts, counted from the first byte of the log, which is in its name. `None` for
/// other files.
fn start_of_file(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?.strip_prefix("r-")?.strip_suffix(".wal")?;
    name.replace('_', "").parse().ok()
}

fn damaged(directory: &Path, reason: &impl std::fmt::Display) -> Error {
    Error::corrupt(format!("metadata log in {}: {reason}", directory.display()))
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
        wait.await.map_err(|e| StorageIOError::write_vote(&e))?;
        let (end, vote) = (self.end.clone(), (*vote).into());
        let recorded = tokio::task::spawn_blocking(move || end.voted(vote)).await;
        recorded
            .map_err(|e| StorageIOError::write_vote(&e))?
            .map_err(|e| StorageIOError::write_vote(&e).into())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        let vote: Option<WireVote> = self.lock().log_state().vote().copied();
        let latest = match (vote, self.end.get().vote) {
            (Some(logged), Some(recorded)) if recorded > logged => Some(recorded),
            (logged, recorded) => logged.or(recorded),
        };
        Ok(latest.map(|vote| {
            // With it, openraft would lead again without an election.
            let committed = vote.committed && !self.is_untrusted;
            WireVote { committed, ..vote }.into()
        }))
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
        let mut is_alone = None;
        let records = entries.into_iter().map(|entry| {
            if let EntryPayload::Membership(membership) = &entry.payload {
                is_alone = Some(membership.voter_ids().count() == 1);
            }
            let payload = plexus_model::encode(&WirePayload::from(&entry.payload));
            (WireLogId::from(entry.log_id), Payload(payload.into()))
        });
        failpoint::crash_if_armed("log.append");
        let mut log = self.lock();
        // After a snapshot was installed, the leader may send entries again that the snapshot covers.
        let first = log.log_state().purged().map_or(0, |id| id.index + 1);
        let appended =
            log.append(records.filter(|(id, _)| id.index >= first)).map_err(|e| write_error(&e))?;
        if let Some(is_alone) = is_alone {
            self.end.set_alone(is_alone).map_err(|e| write_error(&e))?;
        }
        let (end, last) = (self.end.clone(), log.log_state().last().copied());
        let bytes = appended.offset + appended.size;
        log.flush(true, Some(FlushCallback::Append { callback, end, last, bytes }))
            .map_err(|e| write_error(&e))?;
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
