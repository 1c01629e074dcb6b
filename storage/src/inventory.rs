//! The inventory: which segments are on the local disk. It is a cache of the segment directory, in `sled`.
//!
//! The inventory is not synced with every write, so after a crash it may be out of date. At every start it is
//! therefore reconciled with the directory, which is authoritative. Lookups are served from memory, because
//! they happen on async threads.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use plexus_model::{Error, Result, SegmentId};

/// The segments on the local disk, with their lengths.
pub(crate) struct Inventory {
    // Dropping the handle would close the database of the tree.
    _database: sled::Db,
    segments: sled::Tree,
    present: RwLock<BTreeSet<SegmentId>>,
}

impl Inventory {
    /// Opens or creates the inventory. Deletes one that cannot be read, and starts with an empty one.
    ///
    /// # Errors
    /// `Unavailable` when a new inventory cannot be created either.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let open =
            || sled::Config::new().path(path).cache_capacity(CACHE_BYTES).flush_every_ms(Some(5_000)).open();
        let database = match open() {
            Ok(database) => database,
            Err(e) => {
                tracing::warn!(
                    path = %path.display(),
                    error = %e,
                    "cannot read the inventory; rebuilding it"
                );
                std::fs::remove_dir_all(path).map_err(|e| Error::io(path.display(), e))?;
                open().map_err(|e| inventory_error("open", e))?
            }
        };
        let segments = database.open_tree("segments").map_err(|e| inventory_error("open", e))?;
        let this = Self { _database: database, segments, present: RwLock::default() };
        let ids: BTreeSet<SegmentId> = this.stored_ids().collect();
        *this.write() = ids;
        Ok(this)
    }

    /// Makes the inventory equal to `present`, the segments in the directory with their lengths.
    pub(crate) fn reconcile(&self, present: &HashMap<SegmentId, u64>) -> Result<()> {
        for id in self.ids() {
            if !present.contains_key(&id) {
                self.remove(id)?;
            }
        }
        for (&id, &length) in present {
            self.insert(id, length)?;
        }
        Ok(())
    }

    /// Adds a segment of `length` bytes.
    pub(crate) fn insert(&self, id: SegmentId, length: u64) -> Result<()> {
        self.segments
            .insert(id.0.to_be_bytes(), &length.to_be_bytes())
            .map_err(|e| inventory_error("insert", e))?;
        self.write().insert(id);
        Ok(())
    }

    /// Removes a segment.
    pub(crate) fn remove(&self, id: SegmentId) -> Result<()> {
        self.write().remove(&id);
        self.segments.remove(id.0.to_be_bytes()).map_err(|e| inventory_error("remove", e)).map(|_| ())
    }

    /// Whether the segment is on the local disk.
    pub(crate) fn contains(&self, id: SegmentId) -> bool {
        self.read().contains(&id)
    }

    /// The ids of all segments, in ascending order.
    pub(crate) fn ids(&self) -> Vec<SegmentId> {
        self.read().iter().copied().collect()
    }

    /// The ids in the database.
    fn stored_ids(&self) -> impl Iterator<Item = SegmentId> + '_ {
        let keys = self.segments.iter().keys();
        keys.filter_map(|key| Some(SegmentId(u128::from_be_bytes(key.ok()?.as_ref().try_into().ok()?))))
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeSet<SegmentId>> {
        self.present.read().expect("no code panics while it holds this lock")
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeSet<SegmentId>> {
        self.present.write().expect("no code panics while it holds this lock")
    }
}

/// Bytes of the cache of `sled`. The inventory is small; the default would be a gigabyte.
const CACHE_BYTES: u64 = 4 * 1024 * 1024;

fn inventory_error(what: &str, error: sled::Error) -> Error {
    Error::unavailable(format!("segment inventory: {what}: {error}")).with_source(error)
}
