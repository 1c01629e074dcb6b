//! Which segments are on this disk: a cache of the directory, in `sled`.
//!
//! `sled` does not sync what it writes, so nothing here may decide anything after a crash: at every start
//! the directory wins. Questions are answered from memory: they are asked on the async threads.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use plexus_model::{Error, Result, SegmentId};

pub struct Inventory {
    // The handle keeps the tree's database open.
    _database: sled::Db,
    segments: sled::Tree,
    present: RwLock<BTreeSet<SegmentId>>,
}

impl Inventory {
    /// Opens the inventory; one that cannot be read is thrown away and begun anew.
    pub fn open(path: &Path) -> Result<Self> {
        let open =
            || sled::Config::new().path(path).cache_capacity(CACHE_BYTES).flush_every_ms(Some(5_000)).open();
        let database = match open() {
            Ok(database) => database,
            Err(e) => {
                tracing::warn!(path = %path.display(), error = %e, "inventory cannot be read; rebuilding it");
                std::fs::remove_dir_all(path).map_err(|e| Error::io(path.display(), e))?;
                open().map_err(|e| fail("open", e))?
            }
        };
        let segments = database.open_tree("segments").map_err(|e| fail("open", e))?;
        let this = Self { _database: database, segments, present: RwLock::default() };
        let known: BTreeSet<SegmentId> = this.stored_ids().collect();
        *this.write() = known;
        Ok(this)
    }

    /// Makes the inventory say what the directory says.
    pub fn reconcile(&self, present: &HashMap<SegmentId, u64>) -> Result<()> {
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

    pub fn insert(&self, id: SegmentId, length: u64) -> Result<()> {
        self.segments.insert(id.0.to_be_bytes(), &length.to_be_bytes()).map_err(|e| fail("insert", e))?;
        self.write().insert(id);
        Ok(())
    }

    pub fn remove(&self, id: SegmentId) -> Result<()> {
        self.write().remove(&id);
        self.segments.remove(id.0.to_be_bytes()).map_err(|e| fail("remove", e)).map(|_| ())
    }

    pub fn contains(&self, id: SegmentId) -> bool {
        self.read().contains(&id)
    }

    pub fn ids(&self) -> Vec<SegmentId> {
        self.read().iter().copied().collect()
    }

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

/// The inventory is small; the default of a gigabyte is not.
const CACHE_BYTES: u64 = 4 * 1024 * 1024;

fn fail(what: &str, error: sled::Error) -> Error {
    Error::unavailable(format!("segment inventory: {what}: {error}")).with_source(error)
}
