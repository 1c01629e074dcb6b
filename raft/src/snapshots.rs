//! The snapshot file: the newest snapshot of the manifest, on disk and in memory.
//!
//! The file holds the archived snapshot, followed by its BLAKE3 checksum. Saving replaces the file in a
//! crash-safe way (see [`crate::durable`]).

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use plexus_model::{Error, Result};
use rkyv::{Archive, Deserialize, Serialize};
use tokio::sync::watch;

use crate::types::{LogId, SnapshotMeta};
use crate::wire::WireSnapshotMeta;

const SNAPSHOT_FILE: &str = "manifest.snapshot";
const CHECKSUM_BYTES: usize = blake3::OUT_LEN;

/// A snapshot's metadata, and the manifest as bytes.
type StoredSnapshot = (SnapshotMeta, Arc<[u8]>);

/// What the snapshot file holds before the checksum.
#[derive(Archive, Serialize, Deserialize)]
struct SnapshotFile {
    meta: WireSnapshotMeta,
    manifest: Vec<u8>,
}

/// The newest snapshot of this member.
pub(crate) struct SnapshotStore {
    directory: PathBuf,
    current: Mutex<Option<StoredSnapshot>>,
    durable: watch::Sender<Option<LogId>>,
}

impl SnapshotStore {
    /// Loads the snapshot in `directory`, if there is one, and creates the directory if there is none.
    pub(crate) fn open(directory: &Path) -> Result<Self> {
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

    pub(crate) fn current(&self) -> Option<StoredSnapshot> {
        self.current.lock().expect("no code panics while it holds this lock").clone()
    }

    /// A channel with the id of the last entry that a durable snapshot covers.
    pub(crate) fn durable(&self) -> watch::Receiver<Option<LogId>> {
        self.durable.subscribe()
    }

    /// Saves a snapshot, unless the current one is newer: the leader may have installed one while this one
    /// was built.
    pub(crate) fn save(&self, meta: &SnapshotMeta, manifest: Vec<u8>) -> Result<()> {
        let mut current = self.current.lock().expect("no code panics while it holds this lock");
        if current.as_ref().is_some_and(|(newer, _)| newer.last_log_id > meta.last_log_id) {
            return Ok(());
        }
        let in_memory: Arc<[u8]> = manifest.as_slice().into();
        let mut bytes = plexus_model::encode(&SnapshotFile { meta: meta.into(), manifest });
        let checksum = blake3::hash(&bytes);
        bytes.extend_from_slice(checksum.as_bytes());
        crate::durable::replace_file(&self.directory, SNAPSHOT_FILE, &bytes)?;
        *current = Some((meta.clone(), in_memory));
        drop(current);
        self.durable.send_replace(meta.last_log_id);
        Ok(())
    }
}

fn parse(path: &Path, bytes: &[u8]) -> Result<StoredSnapshot> {
    let damaged = || Error::corrupt(format!("{}: the snapshot does not match its checksum", path.display()));
    let (body, checksum) =
        bytes.split_at_checked(bytes.len().saturating_sub(CHECKSUM_BYTES)).ok_or_else(damaged)?;
    if blake3::hash(body).as_bytes() != checksum {
        return Err(damaged());
    }
    let file: SnapshotFile = plexus_model::decode("snapshot file", body)?;
    Ok((file.meta.into(), file.manifest.into()))
}
