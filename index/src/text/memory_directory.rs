//! A tantivy directory in memory, in which an index is written before it becomes an archive.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use plexus_model::{Error, Result};
use tantivy::directory::error::{DeleteError, OpenReadError, OpenWriteError};
use tantivy::directory::{
    AntiCallToken, Directory, FileHandle, OwnedBytes, TerminatingWrite, WatchCallback, WatchHandle, WritePtr,
};
use tantivy::schema::{Schema, TEXT};
use tantivy::store::Compressor;
use tantivy::{Index, IndexSettings, SingleSegmentIndexWriter, TantivyDocument};

use super::archive::{META_FILE, STORE_ENTRY, archive, entry_name};
use super::row_lengths::LENGTHS_ENTRY;

/// Memory budget of the writer of an empty index, in bytes.
const EMPTY_INDEX_BUDGET_BYTES: usize = 1 << 20;

/// The settings of every index: the document store is not used, so it is not compressed.
pub(crate) fn index_settings() -> IndexSettings {
    IndexSettings {
        docstore_compression: Compressor::None,
        docstore_compress_dedicated_thread: false,
        ..Default::default()
    }
}

/// Files of an index that is written. Clones share the files.
#[derive(Clone, Default)]
pub(crate) struct MemoryDirectory {
    files: Arc<Mutex<BTreeMap<PathBuf, OwnedBytes>>>,
    /// Whether the document store keeps its content. It is empty otherwise, because rows are read from the
    /// segment.
    keep_store: bool,
}

impl MemoryDirectory {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<PathBuf, OwnedBytes>> {
        self.files.lock().expect("no code panics while it holds this lock")
    }

    /// All files as one archive, with the lengths of rows. Equal rows give equal bytes: the random id of the
    /// tantivy segment is replaced.
    pub(crate) fn to_archive(&self, lengths: Vec<u8>) -> Vec<u8> {
        let mut files = self.lock();
        let id = files.keys().find(|path| entry_name(path) == "idx");
        let id = id.and_then(|path| path.file_stem()).and_then(|stem| stem.to_str()).map(str::to_owned);
        if let (Some(id), Some(meta)) = (id, files.get_mut(Path::new(META_FILE))) {
            *meta = OwnedBytes::new(with_nil_segment_id(meta, &id));
        }
        let files = files;
        // Locks and the list of managed files, which readers do not need.
        let is_internal =
            |path: &Path| path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"."));
        let lengths = OwnedBytes::new(lengths);
        let entries: BTreeMap<&str, &OwnedBytes> = files
            .iter()
            .filter(|(path, _)| !is_internal(path))
            .map(|(path, bytes)| (entry_name(path), bytes))
            .filter(|(name, _)| *name != STORE_ENTRY)
            .chain([(LENGTHS_ENTRY, &lengths)])
            .collect();
        archive(&entries)
    }
}

/// The metadata of an index with its segment id zeroed. Readers find the files by their extensions.
fn with_nil_segment_id(meta: &[u8], id: &str) -> Vec<u8> {
    let text = String::from_utf8_lossy(meta);
    let zero = |c: char| if c == '-' { '-' } else { '0' };
    let mut replaced = text.replace(id, &id.chars().map(zero).collect::<String>());
    if let Ok(uuid) = uuid::Uuid::parse_str(id) {
        let nil = uuid::Uuid::nil().hyphenated().to_string();
        replaced = replaced.replace(&uuid.hyphenated().to_string(), &nil);
    }
    replaced.into_bytes()
}

/// The document store of an empty index. Archives leave the store out, but tantivy needs one to open an
/// index.
///
/// # Errors
/// `Internal` when tantivy cannot write an empty index.
pub(crate) fn empty_store() -> Result<OwnedBytes> {
    static STORE: OnceLock<OwnedBytes> = OnceLock::new();
    if let Some(store) = STORE.get() {
        return Ok(store.clone());
    }
    let failed = |e: tantivy::TantivyError| Error::internal(format!("writing an empty text index: {e}"));
    let directory = MemoryDirectory { keep_store: true, ..MemoryDirectory::default() };
    let mut schema = Schema::builder();
    schema.add_text_field("0", TEXT);
    let writer: SingleSegmentIndexWriter<TantivyDocument> = Index::builder()
        .schema(schema.build())
        .settings(index_settings())
        .single_segment_index_writer(directory.clone(), EMPTY_INDEX_BUDGET_BYTES)
        .map_err(failed)?;
    writer.finalize().map_err(failed)?;
    let files = directory.lock();
    let store =
        files.iter().find(|(path, _)| entry_name(path) == STORE_ENTRY).map(|(_, bytes)| bytes.clone());
    let store = store.ok_or_else(|| Error::internal("an empty text index has no document store"))?;
    Ok(STORE.get_or_init(|| store).clone())
}

pub(crate) fn file_missing(path: &Path) -> OpenReadError {
    OpenReadError::FileDoesNotExist(path.to_path_buf())
}

impl fmt::Debug for MemoryDirectory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MemoryDirectory")
    }
}

/// A file that is written. It becomes visible in the directory when it is complete.
struct NewFile {
    path: PathBuf,
    bytes: Vec<u8>,
    /// Whether the content is kept; the file is empty otherwise.
    is_kept: bool,
    directory: MemoryDirectory,
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_kept {
            self.bytes.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl TerminatingWrite for NewFile {
    fn terminate_ref(&mut self, _: AntiCallToken) -> io::Result<()> {
        let bytes = OwnedBytes::new(std::mem::take(&mut self.bytes));
        self.directory.lock().insert(self.path.clone(), bytes);
        Ok(())
    }
}

impl Directory for MemoryDirectory {
    fn get_file_handle(&self, path: &Path) -> Result<Arc<dyn FileHandle>, OpenReadError> {
        let bytes = self.lock().get(path).cloned().ok_or_else(|| file_missing(path))?;
        Ok(Arc::new(bytes))
    }

    fn delete(&self, path: &Path) -> Result<(), DeleteError> {
        let removed = self.lock().remove(path);
        removed.map(|_| ()).ok_or_else(|| DeleteError::FileDoesNotExist(path.to_path_buf()))
    }

    fn exists(&self, path: &Path) -> Result<bool, OpenReadError> {
        Ok(self.lock().contains_key(path))
    }

    fn open_write(&self, path: &Path) -> Result<WritePtr, OpenWriteError> {
        let file = NewFile {
            path: path.to_path_buf(),
            bytes: Vec::new(),
            is_kept: self.keep_store || entry_name(path) != STORE_ENTRY,
            directory: self.clone(),
        };
        Ok(BufWriter::new(Box::new(file)))
    }

    fn atomic_read(&self, path: &Path) -> Result<Vec<u8>, OpenReadError> {
        self.lock().get(path).map(|bytes| bytes.to_vec()).ok_or_else(|| file_missing(path))
    }

    fn atomic_write(&self, path: &Path, data: &[u8]) -> io::Result<()> {
        self.lock().insert(path.to_path_buf(), OwnedBytes::new(data.to_vec()));
        Ok(())
    }

    fn sync_directory(&self) -> io::Result<()> {
        Ok(())
    }

    fn watch(&self, _: WatchCallback) -> tantivy::Result<WatchHandle> {
        Ok(WatchHandle::empty())
    }
}
