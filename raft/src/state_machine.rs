//! The state machine of `openraft`: the manifest in memory.
//!
//! Entries are applied by the pure [`apply`](crate::apply::apply), and every new manifest is published to the
//! readers of this node. After a restart the state machine starts from its snapshot, and `openraft` applies
//! the committed entries that follow it.

use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

use openraft::storage::RaftStateMachine;
use openraft::{AnyError, EntryPayload, OptionalSend, RaftSnapshotBuilder, StorageIOError};
use plexus_model::{Error, Manifest, Result, Token, Version, failpoint};
use tokio::sync::watch;

use crate::apply::apply;
use crate::snapshots::SnapshotStore;
use crate::types::{
    Batch, Entry, LogId, Outcomes, Snapshot, SnapshotMeta, StorageError, StoredMembership, TypeConfig,
};

/// What readers of this node see.
#[derive(Clone, Debug, Default)]
pub struct Published {
    /// Index of the last applied entry. It may be above the manifest's version, since blank and membership
    /// entries leave the manifest as it is.
    pub applied: u64,
    /// The manifest after that entry.
    pub manifest: Arc<Manifest>,
}

/// The manifest of this node, and its snapshots.
pub struct StateMachine {
    manifest: Manifest,
    applied: Option<LogId>,
    membership: StoredMembership,
    snapshots: Arc<SnapshotStore>,
    published: watch::Sender<Published>,
}

impl StateMachine {
    /// Loads the snapshot in `directory`, if there is one, and creates the directory if there is none.
    ///
    /// # Errors
    /// `Corrupt` when the snapshot is damaged, or the I/O error.
    pub fn open(directory: &Path) -> Result<Self> {
        let snapshots = SnapshotStore::open(directory)?;
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

    /// A channel that always holds the latest manifest.
    pub fn subscribe(&self) -> watch::Receiver<Published> {
        self.published.subscribe()
    }

    /// A channel with the id of the last entry that a durable snapshot covers.
    pub fn durable(&self) -> watch::Receiver<Option<LogId>> {
        self.snapshots.durable()
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
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Outcomes>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut outcomes = Vec::new();
        for entry in entries {
            self.applied = Some(entry.log_id);
            outcomes.push(match entry.payload {
                EntryPayload::Blank => Outcomes::default(),
                EntryPayload::Normal(batch) => {
                    failpoint::crash_if_armed("apply.begin");
                    // Skipping an entry that does not decode would lose acknowledged commits, so the member
                    // fails.
                    let Batch { time_us, proposals } =
                        batch.decode().map_err(|e| StorageIOError::apply(entry.log_id, AnyError::new(&e)))?;
                    Outcomes(apply(&mut self.manifest, Version(entry.log_id.index), time_us, proposals))
                }
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(entry.log_id), membership);
                    Outcomes::default()
                }
            });
        }
        self.publish();
        failpoint::crash_if_armed("apply.published");
        Ok(outcomes)
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder {
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
        // Decode before saving: a damaged snapshot must not replace a good one.
        Manifest::from_bytes(&bytes).map_err(fail)?;
        let snapshots = self.snapshots.clone();
        let (saved_meta, saved_bytes) = (meta.clone(), bytes.clone());
        blocking(move || snapshots.save(&saved_meta, saved_bytes)).await.map_err(fail)?;
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

/// A copy of the state from which a snapshot is built while further entries are applied. The copy is cheap,
/// since the maps of a manifest are persistent.
pub struct SnapshotBuilder {
    manifest: Manifest,
    applied: Option<LogId>,
    membership: StoredMembership,
    snapshots: Arc<SnapshotStore>,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    async fn build_snapshot(&mut self) -> Result<Snapshot, StorageError> {
        let id = self.applied.map_or_else(
            || "0-0-0".to_owned(),
            |id| format!("{}-{}-{}", id.leader_id.term, id.leader_id.node_id, id.index),
        );
        let meta = SnapshotMeta {
            last_log_id: self.applied,
            last_membership: self.membership.clone(),
            // The random part tells two snapshots of the same state apart while they are sent in chunks.
            snapshot_id: format!("{id}-{:x}", Token::generate().0),
        };
        let (manifest, snapshots, saved_meta) = (self.manifest.clone(), self.snapshots.clone(), meta.clone());
        let bytes = blocking(move || {
            let bytes = manifest.to_bytes();
            snapshots.save(&saved_meta, bytes.clone())?;
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
