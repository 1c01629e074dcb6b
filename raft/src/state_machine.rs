//! The manifest in memory, and its snapshots on disk.
//!
//! Entries are applied by the pure [`apply`](crate::apply::apply); every result is published to the
//! readers of this node. A snapshot is one file: written under a temporary name, synced, renamed, the
//! directory synced. A restart loads it and `openraft` applies the committed entries that follow.

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use openraft::storage::RaftStateMachine;
use openraft::{AnyError, EntryPayload, OptionalSend, RaftSnapshotBuilder, StorageIOError};
use plexus_model::{Error, Manifest, Result, Version, failpoint};
use rkyv::{Archive, Deserialize, Serialize};
use tokio::sync::watch;

use crate::apply::apply;
use crate::types::{
    Answers, Entry, LogId, Round, Snapshot, SnapshotMeta, StorageError, StoredMembership, TypeConfig,
};
use crate::wire::WireSnapshotMeta;

/// What readers of this node see: the manifest, and how far the log was applied to get there. The index
/// runs ahead of the manifest's version by entries of Raft itself.
#[derive(Clone, Debug, Default)]
pub struct Published {
    pub applied: u64,
    pub manifest: Arc<Manifest>,
}

pub struct StateMachine {
    manifest: Manifest,
    applied: Option<LogId>,
    membership: StoredMembership,
    snapshots: Arc<Snapshots>,
    published: watch::Sender<Published>,
}

impl StateMachine {
    /// Loads the snapshot in `directory`, if there is one.
    pub fn open(directory: &Path) -> Result<Self> {
        let snapshots = Snapshots::open(directory)?;
        let mut this = Self {
            manifest: Manifest::default(),
            applied: None,
            membership: StoredMembership::default(),
            snapshots: Arc::new(snapshots),
            published: watch::Sender::new(Published::default()),
        };
        if let Some((meta, bytes)) = this.snapshots.current() {
            this.restore(&meta, &bytes)?;
        }
        Ok(this)
    }

    pub fn subscribe(&self) -> watch::Receiver<Published> {
        self.published.subscribe()
    }

    /// Last entry that a durable snapshot covers.
    pub fn durable(&self) -> watch::Receiver<Option<LogId>> {
        self.snapshots.durable.subscribe()
    }

    fn restore(&mut self, meta: &SnapshotMeta, bytes: &[u8]) -> Result<()> {
        self.manifest = Manifest::from_bytes(bytes)?;
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.publish();
        Ok(())
    }

    fn publish(&self) {
        let applied = self.applied.map_or(0, |id| id.index);
        self.published.send_replace(Published { applied, manifest: Arc::new(self.manifest.clone()) });
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Answers>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut answers = Vec::new();
        for entry in entries {
            self.applied = Some(entry.log_id);
            answers.push(match entry.payload {
                EntryPayload::Blank => Answers::default(),
                EntryPayload::Normal(batch) => {
                    failpoint::pass("apply.begin");
                    // An entry that does not decode is the same on every node: going on without it would
                    // make the manifest differ from what was acknowledged.
                    let Round { time_us, proposals } =
                        batch.round().map_err(|e| StorageIOError::apply(entry.log_id, AnyError::new(&e)))?;
                    Answers(apply(&mut self.manifest, Version(entry.log_id.index), time_us, proposals))
                }
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(entry.log_id), membership);
                    Answers::default()
                }
            });
        }
        self.publish();
        failpoint::pass("apply.published");
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            manifest: self.manifest.clone(),
            applied: self.applied,
            membership: self.membership.clone(),
            snapshots: self.snapshots.clone(),
        }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let bytes = snapshot.into_inner();
        let fail = |e: Error| StorageIOError::write_snapshot(Some(meta.signature()), AnyError::new(&e));
        // Decoded first: what cannot be read must not replace what can.
        Manifest::from_bytes(&bytes).map_err(fail)?;
        let snapshots = self.snapshots.clone();
        let (to_save, saved) = (meta.clone(), bytes.clone());
        blocking(move || snapshots.save(&to_save, saved)).await.map_err(fail)?;
        self.restore(meta, &bytes).map_err(fail)?;
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, StorageError> {
        Ok(self
            .snapshots
            .current()
            .map(|(meta, bytes)| Snapshot { meta, snapshot: Box::new(Cursor::new(bytes.to_vec())) }))
    }
}

/// A frozen view from which a snapshot is built while entries go on being applied.
pub struct Builder {
    manifest: Manifest,
    applied: Option<LogId>,
    membership: StoredMembership,
    snapshots: Arc<Snapshots>,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot, StorageError> {
        let id = self.applied.map_or_else(
            || "0-0-0".to_owned(),
            |id| format!("{}-{}-{}", id.leader_id.term, id.leader_id.node_id, id.index),
        );
        let meta = SnapshotMeta {
            last_log_id: self.applied,
            last_membership: self.membership.clone(),
            snapshot_id: format!("{id}-{:x}", plexus_model::Token::generate().0),
        };
        let (manifest, snapshots, to_save) = (self.manifest.clone(), self.snapshots.clone(), meta.clone());
        let bytes = blocking(move || {
            let bytes = manifest.to_bytes();
            snapshots.save(&to_save, bytes.clone())?;
            Ok(bytes)
        })
        .await
        .map_err(|e| StorageIOError::write_snapshot(Some(meta.signature()), AnyError::new(&e)))?;
        Ok(Snapshot { meta, snapshot: Box::new(Cursor::new(bytes)) })
    }
}

async fn blocking<T: Send + 'static>(f: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(f).await.map_err(|e| Error::internal(format!("snapshot: {e}")))?
}

/// The newest snapshot, on disk and in memory.
struct Snapshots {
    directory: PathBuf,
    current: Mutex<Option<(SnapshotMeta, Arc<[u8]>)>>,
    durable: watch::Sender<Option<LogId>>,
}

#[derive(Archive, Serialize, Deserialize)]
struct SnapshotFile {
    meta: WireSnapshotMeta,
    manifest: Vec<u8>,
}

const SNAPSHOT_FILE: &str = "manifest.snapshot";
const CHECKSUM_BYTES: usize = blake3::OUT_LEN;

impl Snapshots {
    fn open(directory: &Path) -> Result<Self> {
        std::fs::create_dir_all(directory).map_err(|e| Error::io(directory.display(), e))?;
        let path = directory.join(SNAPSHOT_FILE);
        let current = match std::fs::read(&path) {
            Ok(bytes) => Some(parse(&path, &bytes)?),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => return Err(Error::io(path.display(), e)),
        };
        let durable = watch::Sender::new(current.as_ref().and_then(|(meta, _)| meta.last_log_id));
        Ok(Self { directory: directory.to_owned(), current: Mutex::new(current), durable })
    }

    fn current(&self) -> Option<(SnapshotMeta, Arc<[u8]>)> {
        self.current.lock().expect("no code panics while it holds this lock").clone()
    }

    /// Saves a snapshot unless a newer one is there already: one may have been installed while this one
    /// was being built.
    fn save(&self, meta: &SnapshotMeta, manifest: Vec<u8>) -> Result<()> {
        let mut current = self.current.lock().expect("no code panics while it holds this lock");
        if current.as_ref().is_some_and(|(newer, _)| newer.last_log_id > meta.last_log_id) {
            return Ok(());
        }
        let kept: Arc<[u8]> = manifest.as_slice().into();
        let mut bytes = plexus_model::encode(&SnapshotFile { meta: meta.into(), manifest });
        let checksum = blake3::hash(&bytes);
        bytes.extend_from_slice(checksum.as_bytes());
        crate::durable::replace_file(&self.directory, SNAPSHOT_FILE, &bytes)?;
        *current = Some((meta.clone(), kept));
        drop(current);
        self.durable.send_replace(meta.last_log_id);
        Ok(())
    }
}

fn parse(path: &Path, bytes: &[u8]) -> Result<(SnapshotMeta, Arc<[u8]>)> {
    let damaged = || Error::corrupt(format!("{}: the snapshot does not match its checksum", path.display()));
    let (body, checksum) =
        bytes.split_at_checked(bytes.len().saturating_sub(CHECKSUM_BYTES)).ok_or_else(damaged)?;
    if blake3::hash(body).as_bytes() != checksum {
        return Err(damaged());
    }
    let file: SnapshotFile = plexus_model::decode("snapshot file", body)?;
    Ok((file.meta.into(), file.manifest.into()))
}
