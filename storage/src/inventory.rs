//! Which segments are on this disk: a cache of the directory, in `sled`.
//!
//! `sled` does not sync what it writes, so nothing here may decide anything after a crash: at every start
//! the directory wins.

use std::collections::HashMap;
use std::path::Path;

use plexus_model::{Error, Result, SegmentId};

pub struct Inventory {
    // The handle keeps the tree's database open.
    _database: sled::Db,
    segments: sled::Tree,
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
        Ok(Self { _database: database, segments })
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
        self.segments
            .insert(id.0.to_be_bytes(), &length.to_be_bytes())
            .map_err(|e| fail("insert", e))
            .map(|_| ())
    }

    pub fn remove(&self, id: SegmentId) -> Result<()> {
        self.segments.remove(id.0.to_be_bytes()).map_err(|e| fail("remove", e)).map(|_| ())
    }

    pub fn contains(&self, id: SegmentId) -> bool {
        self.segments.contains_key(id.0.to_be_bytes()).unwrap_or(false)
    }

    pub fn ids(&self) -> Vec<SegmentId> {
        self.segments
            .iter()
            .keys()
            .filter_map(|key| Some(SegmentId(u128::from_be_bytes(key.ok()?.as_ref().try_into().ok()?))))
            .collect()
    }
}

/// The inventory is small; the default of a gigabyte is not.
const CACHE_BYTES: u64 = 4 * 1024 * 1024;

fn fail(what: &str, error: sled::Error) -> Error {
    Error::unavailable(format!("segment inventory: {what}: {error}")).with_source(error)
}
