//! One index as one run of bytes, and read from it without copying.
//!
//! Layout, little-endian: magic, count of parts, and for each its name (sixteen bytes, filled with zeros), where it
//! begins and its length; then the parts. They are the files of a tantivy index of one segment, by their extensions.
//! What it stores of documents is left out: rows are read elsewhere.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, BufWriter, Write};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use bytes::Bytes;
use plexus_model::{Error, Result};
use stable_deref_trait::StableDeref;
use tantivy::directory::error::{DeleteError, LockError, OpenReadError, OpenWriteError};
use tantivy::directory::{
    AntiCallToken, Directory, DirectoryLock, FileHandle, Lock, OwnedBytes, TerminatingWrite, WatchCallback,
    WatchHandle, WritePtr,
};
use tantivy::schema::{Schema, TEXT};
use tantivy::store::Compressor;
use tantivy::{Index, IndexSettings, SingleSegmentIndexWriter, TantivyDocument};

const MAGIC: &[u8; 8] = b"PLXTEXT1";
const NAME_BYTES: usize = 16;
const ENTRY_BYTES: usize = NAME_BYTES + 2 * size_of::<u64>();
const HEADER_BYTES: usize = 16;
const META: &str = "meta.json";
/// What the library stores of documents, which is nothing.
const STORE: &str = "store";

pub fn settings() -> IndexSettings {
    IndexSettings {
        docstore_compression: Compressor::None,
        docstore_compress_dedicated_thread: false,
        ..Default::default()
    }
}

fn missing(path: &Path) -> OpenReadError {
    OpenReadError::FileDoesNotExist(path.to_path_buf())
}

/// The name of a part: the extension of its file.
fn name_of(path: &Path) -> &str {
    match path.file_name().and_then(|n| n.to_str()) {
        Some(META) => "meta",
        _ => path.extension().and_then(|e| e.to_str()).unwrap_or_default(),
    }
}

/// Files in memory, for writing.
#[derive(Clone, Default)]
pub struct Workspace {
    files: Arc<Mutex<BTreeMap<PathBuf, OwnedBytes>>>,
    keep_store: bool,
}

impl Workspace {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<PathBuf, OwnedBytes>> {
        self.files.lock().expect("no code panics while it holds this lock")
    }

    /// All files as one run of bytes, which are the same whenever the same is indexed.
    pub fn pack(&self) -> Vec<u8> {
        let mut files = self.lock();
        let id = files.keys().find(|path| name_of(path) == "idx");
        let id = id.and_then(|path| path.file_stem()).and_then(|stem| stem.to_str()).map(str::to_owned);
        if let (Some(id), Some(meta)) = (id, files.get_mut(Path::new(META))) {
            *meta = OwnedBytes::new(anonymous(meta, &id));
        }
        let files = files;
        let hidden = |path: &Path| path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"."));
        let parts: BTreeMap<&str, &OwnedBytes> = files
            .iter()
            .filter(|(path, _)| !hidden(path))
            .map(|(path, bytes)| (name_of(path), bytes))
            .filter(|(name, _)| *name != STORE)
            .collect();
        let mut bytes = MAGIC.to_vec();
        bytes.extend((parts.len() as u64).to_le_bytes());
        let mut start = (HEADER_BYTES + parts.len() * ENTRY_BYTES) as u64;
        for (name, part) in &parts {
            let mut padded = [0; NAME_BYTES];
            let length = name.len().min(NAME_BYTES);
            padded[..length].copy_from_slice(&name.as_bytes()[..length]);
            bytes.extend(padded);
            bytes.extend(start.to_le_bytes());
            bytes.extend((part.len() as u64).to_le_bytes());
            start += part.len() as u64;
        }
        parts.values().for_each(|part| bytes.extend_from_slice(part));
        bytes
    }
}

/// What is known of an index without its name, which is drawn by lot. Readers find its files by their extensions.
fn anonymous(meta: &[u8], id: &str) -> Vec<u8> {
    let text = String::from_utf8_lossy(meta);
    let nobody = |c: char| if c == '-' { '-' } else { '0' };
    let mut found = text.replace(id, &id.chars().map(nobody).collect::<String>());
    if let Ok(uuid) = uuid::Uuid::parse_str(id) {
        found = found.replace(&uuid.hyphenated().to_string(), &uuid::Uuid::nil().hyphenated().to_string());
    }
    found.into_bytes()
}

impl fmt::Debug for Workspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Workspace")
    }
}

struct NewFile {
    path: PathBuf,
    bytes: Vec<u8>,
    kept: bool,
    workspace: Workspace,
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.kept {
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
        self.workspace.lock().insert(self.path.clone(), bytes);
        Ok(())
    }
}

impl Directory for Workspace {
    fn get_file_handle(&self, path: &Path) -> Result<Arc<dyn FileHandle>, OpenReadError> {
        let bytes = self.lock().get(path).cloned().ok_or_else(|| missing(path))?;
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
            kept: self.keep_store || name_of(path) != STORE,
            workspace: self.clone(),
        };
        Ok(BufWriter::new(Box::new(file)))
    }

    fn atomic_read(&self, path: &Path) -> Result<Vec<u8>, OpenReadError> {
        self.lock().get(path).map(|bytes| bytes.to_vec()).ok_or_else(|| missing(path))
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

/// Bytes whose address stays the same when their handle moves.
struct Fixed(Bytes);

impl Deref for Fixed {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

// SAFETY: the bytes that a `Bytes` refers to are on the heap, in a mapping, or static; moving or cloning the handle does
// not move them, and nothing writes to them as long as a handle is there.
#[allow(unsafe_code)]
unsafe impl StableDeref for Fixed {}

/// The parts of packed bytes, for reading.
#[derive(Clone)]
pub struct Archive {
    parts: Arc<BTreeMap<String, OwnedBytes>>,
}

impl Archive {
    /// # Errors
    /// `Corrupt` when the bytes are not a text index, or not all of one.
    pub fn open(bytes: Bytes) -> Result<Self> {
        let length = bytes.len();
        let wrong = |what: &str| Error::corrupt(format!("text index of {length} bytes: {what}"));
        if length < HEADER_BYTES || &bytes[..MAGIC.len()] != MAGIC {
            return Err(wrong("it does not begin as one"));
        }
        let count = number(&bytes, MAGIC.len()).ok_or_else(|| wrong("it is cut"))?;
        if count > 64 {
            return Err(wrong("it has too many parts"));
        }
        let all = OwnedBytes::new(Fixed(bytes));
        let mut parts = BTreeMap::new();
        for entry in 0..count as usize {
            let at = HEADER_BYTES + entry * ENTRY_BYTES;
            let name = all.get(at..at + NAME_BYTES).ok_or_else(|| wrong("it is cut"))?;
            let name: String = name.iter().take_while(|b| **b != 0).map(|b| char::from(*b)).collect();
            let start = number(&all, at + NAME_BYTES).ok_or_else(|| wrong("it is cut"))? as usize;
            let size = number(&all, at + NAME_BYTES + 8).ok_or_else(|| wrong("it is cut"))? as usize;
            let end = start.checked_add(size).filter(|end| *end <= length);
            let end = end.ok_or_else(|| wrong("a part lies outside of it"))?;
            parts.insert(name, all.slice(start..end));
        }
        parts.insert(STORE.to_owned(), empty_store()?);
        Ok(Self { parts: Arc::new(parts) })
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
}

/// What an index without documents stores of them, which readers want to see.
fn empty_store() -> Result<OwnedBytes> {
    static STORED: OnceLock<OwnedBytes> = OnceLock::new();
    if let Some(stored) = STORED.get() {
        return Ok(stored.clone());
    }
    let failed = |e: tantivy::TantivyError| Error::internal(format!("an empty text index: {e}"));
    let workspace = Workspace { keep_store: true, ..Workspace::default() };
    let mut schema = Schema::builder();
    schema.add_text_field("0", TEXT);
    let writer: SingleSegmentIndexWriter<TantivyDocument> = Index::builder()
        .schema(schema.build())
        .settings(settings())
        .single_segment_index_writer(workspace.clone(), 1 << 20)
        .map_err(failed)?;
    writer.finalize().map_err(failed)?;
    let files = workspace.lock();
    let stored = files.iter().find(|(path, _)| name_of(path) == STORE).map(|(_, bytes)| bytes.clone());
    let stored = stored.ok_or_else(|| Error::internal("an empty text index stores nothing"))?;
    Ok(STORED.get_or_init(|| stored).clone())
}

impl fmt::Debug for Archive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.parts.keys()).finish()
    }
}

fn read_only() -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, "packed indexes are read-only")
}

impl Directory for Archive {
    fn get_file_handle(&self, path: &Path) -> Result<Arc<dyn FileHandle>, OpenReadError> {
        let bytes = self.parts.get(name_of(path)).cloned().ok_or_else(|| missing(path))?;
        Ok(Arc::new(bytes))
    }

    fn atomic_read(&self, path: &Path) -> Result<Vec<u8>, OpenReadError> {
        match path == Path::new(META) {
            true => self.parts.get(name_of(path)).map(|b| b.to_vec()).ok_or_else(|| missing(path)),
            false => Err(missing(path)),
        }
    }

    fn exists(&self, path: &Path) -> Result<bool, OpenReadError> {
        Ok(self.parts.contains_key(name_of(path)))
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
