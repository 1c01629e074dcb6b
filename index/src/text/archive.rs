//! The files of a tantivy index in one archive, which is read in place.
//!
//! Layout, little-endian: magic (8 bytes), number of entries (8), and for each entry its name (16, padded
//! with zeros), its offset (8) and its size (8); then the content of the entries. An entry is a file of an
//! index with one segment, named by the extension of the file, or the lengths of rows. The document store is
//! left out: rows are read from the table's segment.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use plexus_model::{Error, Result};
use stable_deref_trait::StableDeref;
use tantivy::directory::error::{DeleteError, LockError, OpenReadError, OpenWriteError};
use tantivy::directory::{
    Directory, DirectoryLock, FileHandle, Lock, OwnedBytes, WatchCallback, WatchHandle, WritePtr,
};

use super::memory_directory::{empty_store, file_missing};

const MAGIC: &[u8; 8] = b"PLXTEXT2";
const NAME_BYTES: usize = 16;
/// Size of a name with offset and size.
const ENTRY_BYTES: usize = NAME_BYTES + 2 * size_of::<u64>();
const HEADER_BYTES: usize = 16;
/// Entries of an archive at most. An index has far fewer files; more means damaged bytes.
const ENTRIES_MAX: u64 = 64;
/// The metadata file of a tantivy index.
pub(crate) const META_FILE: &str = "meta.json";
/// The entry name of the document store.
pub(crate) const STORE_ENTRY: &str = "store";

/// The entry name of a file of an index.
pub(crate) fn entry_name(path: &Path) -> &str {
    match path.file_name().and_then(|n| n.to_str()) {
        Some(META_FILE) => "meta",
        _ => path.extension().and_then(|e| e.to_str()).unwrap_or_default(),
    }
}

/// Writes an archive of entries.
pub(crate) fn archive(entries: &BTreeMap<&str, &OwnedBytes>) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend((entries.len() as u64).to_le_bytes());
    let mut start = (HEADER_BYTES + entries.len() * ENTRY_BYTES) as u64;
    for (name, content) in entries {
        let mut padded = [0; NAME_BYTES];
        let size = name.len().min(NAME_BYTES);
        padded[..size].copy_from_slice(&name.as_bytes()[..size]);
        bytes.extend(padded);
        bytes.extend(start.to_le_bytes());
        bytes.extend((content.len() as u64).to_le_bytes());
        start += content.len() as u64;
    }
    entries.values().for_each(|content| bytes.extend_from_slice(content));
    bytes
}

/// A `Bytes` that guarantees a stable address, which `OwnedBytes` requires.
struct StableBytes(Bytes);

impl Deref for StableBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

// SAFETY: the content of a `Bytes` is on the heap, in a mapping, or static. Moving or cloning the handle
// does not move the content, and nothing writes to it while a handle exists.
#[allow(unsafe_code, reason = "StableDeref is an unsafe trait")]
unsafe impl StableDeref for StableBytes {}

/// A read-only tantivy directory over the bytes of an archive. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Archive {
    entries: Arc<BTreeMap<String, OwnedBytes>>,
}

impl Archive {
    /// Opens an archive without copying it.
    ///
    /// # Errors
    /// `Corrupt` when the bytes are not a complete text index.
    pub(crate) fn open(bytes: Bytes) -> Result<Self> {
        let size = bytes.len();
        let corrupt = |what: &str| Error::corrupt(format!("text index of {size} bytes: {what}"));
        if size < HEADER_BYTES || &bytes[..MAGIC.len()] != MAGIC {
            return Err(corrupt("the magic number is missing"));
        }
        let truncated = || corrupt("the header is truncated");
        let count = u64_at(&bytes, MAGIC.len()).ok_or_else(truncated)?;
        if count > ENTRIES_MAX {
            return Err(corrupt("it has too many entries"));
        }
        let all = OwnedBytes::new(StableBytes(bytes));
        let mut entries = BTreeMap::new();
        for entry in 0..count as usize {
            let at = HEADER_BYTES + entry * ENTRY_BYTES;
            let name = all.get(at..at + NAME_BYTES).ok_or_else(truncated)?;
            let name: String = name.iter().take_while(|b| **b != 0).map(|b| char::from(*b)).collect();
            let start = u64_at(&all, at + NAME_BYTES).ok_or_else(truncated)? as usize;
            let entry_size = u64_at(&all, at + NAME_BYTES + 8).ok_or_else(truncated)? as usize;
            let end = start.checked_add(entry_size).filter(|end| *end <= size);
            let end = end.ok_or_else(|| corrupt("an entry is out of range"))?;
            entries.insert(name, all.slice(start..end));
        }
        entries.insert(STORE_ENTRY.to_owned(), empty_store()?);
        Ok(Self { entries: Arc::new(entries) })
    }

    /// The content of an entry.
    pub(crate) fn entry(&self, name: &str) -> Option<&OwnedBytes> {
        self.entries.get(name)
    }
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
}

impl fmt::Debug for Archive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.entries.keys()).finish()
    }
}

fn read_only() -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, "text indexes are read-only")
}

impl Directory for Archive {
    fn get_file_handle(&self, path: &Path) -> Result<Arc<dyn FileHandle>, OpenReadError> {
        let bytes = self.entries.get(entry_name(path)).cloned().ok_or_else(|| file_missing(path))?;
        Ok(Arc::new(bytes))
    }

    fn atomic_read(&self, path: &Path) -> Result<Vec<u8>, OpenReadError> {
        match path == Path::new(META_FILE) {
            true => {
                let meta = self.entries.get(entry_name(path));
                meta.map(|bytes| bytes.to_vec()).ok_or_else(|| file_missing(path))
            }
            false => Err(file_missing(path)),
        }
    }

    fn exists(&self, path: &Path) -> Result<bool, OpenReadError> {
        Ok(self.entries.contains_key(entry_name(path)))
    }

    fn delete(&self, path: &Path) -> Result<(), DeleteError> {
        Err(DeleteError::IoError { io_error: Arc::new(read_only()), filepath: path.to_path_buf() })
    }

    fn open_write(&self, path: &Path) -> Result<WritePtr, OpenWriteError> {
        Err(OpenWriteError::IoError { io_error: Arc::new(read_only()), filepath: path.to_path_buf() })
    }

    fn atomic_write(&self, _: &Path, _: &[u8]) -> io::Result<()> {
        Err(read_only())
    }

    fn sync_directory(&self) -> io::Result<()> {
        Ok(())
    }

    fn acquire_lock(&self, _: &Lock) -> Result<DirectoryLock, LockError> {
        Ok(DirectoryLock::from(Box::new(())))
    }

    fn watch(&self, _: WatchCallback) -> tantivy::Result<WatchHandle> {
        Ok(WatchHandle::empty())
    }
}
