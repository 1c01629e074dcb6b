//! Segments on a node's disk.
//!
//! The order of writes, and why:
//!
//! 1. the bytes are checked against the checksum that their sender named: a damaged transfer never
//!    reaches the disk;
//! 2. they are written to a name under `tmp/`, so that a crash leaves no half segment where one is
//!    looked for, and the file is synced: the rename must not become durable before the bytes;
//! 3. the file is renamed to its final name and the directory synced: from here on it survives power
//!    loss, and only now may it be acknowledged;
//! 4. the inventory is told. It is a cache: after a crash it is rebuilt from the directory.
//!
//! A sync that fails ends the process. The kernel may have dropped the pages, so a retry could succeed
//! without the bytes being on disk.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use plexus_model::{Error, ErrorKind, Result, SegmentId, failpoint};

use crate::inventory::Inventory;

/// Segments on disk, by id. All methods block on the disk: call them off the async threads.
pub struct SegmentStore {
    directory: PathBuf,
    temporary: PathBuf,
    quarantine: PathBuf,
    inventory: Inventory,
    opened: Mutex<Opened>,
    lost_files: AtomicU64,
}

/// Segments that were opened. The bytes of a file never change, so a handle stays good.
#[derive(Default)]
struct Opened {
    files: HashMap<SegmentId, (Arc<SegmentFile>, u64)>,
    /// Those whose bytes were checked since the start, also after their file was closed.
    verified: HashSet<SegmentId>,
    /// Counts uses, to tell which file was not used for longest.
    clock: u64,
}

/// Files that are kept open. Each is a descriptor, of which a process has some tens of thousands at best.
const OPEN_FILES_MAX: usize = 4_096;

impl Opened {
    fn get(&mut self, id: SegmentId) -> Option<Arc<SegmentFile>> {
        self.clock += 1;
        let (file, used) = self.files.get_mut(&id)?;
        *used = self.clock;
        Some(file.clone())
    }

    fn insert(&mut self, id: SegmentId, file: Arc<SegmentFile>) {
        if self.files.len() >= OPEN_FILES_MAX {
            // A quarter at once, so that the search for the oldest is rare.
            let mut uses: Vec<u64> = self.files.values().map(|(_, used)| *used).collect();
            let (_, oldest, _) = uses.select_nth_unstable(OPEN_FILES_MAX / 4);
            let oldest = *oldest;
            self.files.retain(|_, (_, used)| *used > oldest);
        }
        self.clock += 1;
        self.verified.insert(id);
        self.files.insert(id, (file, self.clock));
    }

    fn forget(&mut self, id: SegmentId) {
        self.files.remove(&id);
        self.verified.remove(&id);
    }
}

/// Who says what a segment's length and checksum are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reference {
    /// This node's manifest: a file that differs is damaged, and set aside.
    Manifest,
    /// Someone else: a file that differs is left where it is.
    Untrusted,
}

/// How a segment was found to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Condition {
    Intact,
    /// Its bytes are not those that were written; they were set aside.
    Damaged,
    Missing,
}

/// An open segment whose checksum was verified when it was opened.
pub struct SegmentFile {
    file: File,
    path: PathBuf,
    length: u64,
    mapped: OnceLock<Bytes>,
}

impl SegmentFile {
    pub fn len(&self) -> u64 {
        self.length
    }

    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// All its bytes, which are read from the disk where they are looked at, and leave memory when it is short.
    ///
    /// # Errors
    /// `Io` when the system maps no more files.
    pub fn map(&self) -> Result<Bytes> {
        if let Some(bytes) = self.mapped.get() {
            return Ok(bytes.clone());
        }
        // SAFETY: a file under its final name never changes: it is written under another, and at most moved or removed,
        // which leaves what is mapped as it is. A sector that cannot be read ends the process when it is looked at; what
        // is mapped was read whole when it was opened.
        #[allow(unsafe_code)]
        let map = unsafe { memmap2::Mmap::map(&self.file) };
        let map = map.map_err(|e| Error::io(format!("{}: mapping it", self.path.display()), e))?;
        Ok(self.mapped.get_or_init(|| Bytes::from_owner(map)).clone())
    }

    /// Reads `buffer.len()` bytes from `offset` on.
    pub fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.file.read_exact_at(buffer, offset).map_err(|e| {
            Error::io(format!("{}: reading {} bytes at {offset}", self.path.display(), buffer.len()), e)
        })
    }
}

impl SegmentStore {
    /// Opens or creates the store, removes what interrupted writes left, and rebuilds the inventory.
    pub fn open(root: &Path) -> Result<Self> {
        let directory = root.join("segments");
        let temporary = directory.join("tmp");
        let quarantine = root.join("quarantine");
        for path in [&directory, &temporary, &quarantine] {
            fs::create_dir_all(path).map_err(|e| Error::io(path.display(), e))?;
        }
        sync_directory(root);
        sync_directory(&directory);
        for entry in read_directory(&temporary)? {
            fs::remove_file(entry.path()).map_err(|e| Error::io(entry.path().display(), e))?;
        }
        let inventory = Inventory::open(&root.join("inventory"))?;
        let mut present = HashMap::new();
        for entry in read_directory(&directory)? {
            let name = entry.file_name();
            let Some(id) = name.to_str().and_then(segment_of_file_name) else {
                continue;
            };
            let length = entry.metadata().map_err(|e| Error::io(entry.path().display(), e))?.len();
            present.insert(id, length);
        }
        inventory.reconcile(&present)?;
        Ok(Self {
            directory,
            temporary,
            quarantine,
            inventory,
            opened: Mutex::default(),
            lost_files: AtomicU64::new(0),
        })
    }

    fn path(&self, id: SegmentId) -> PathBuf {
        self.directory.join(format!("{id}.{FILE_EXTENSION}"))
    }

    /// Whether the segment is here. Does not read it.
    pub fn contains(&self, id: SegmentId) -> bool {
        self.inventory.contains(id)
    }

    pub fn ids(&self) -> Vec<SegmentId> {
        self.inventory.ids()
    }

    /// How many segments were found to be damaged or gone since the start: when it has grown, there is
    /// something to pull.
    pub fn lost_files(&self) -> u64 {
        self.lost_files.load(Ordering::Relaxed)
    }

    /// Makes a segment durable. When this returns, it survives power loss.
    ///
    /// # Errors
    /// `Corrupt` when the bytes do not have the checksum; `ResourceExhausted` when the disk is full.
    /// Either way nothing is left behind.
    pub fn put(&self, id: SegmentId, bytes: &[u8], checksum: &[u8; 32]) -> Result<()> {
        if self.contains(id) {
            return Ok(());
        }
        verify(id, bytes, checksum)?;
        let temporary = self.temporary.join(format!("{id}.{}", uuid::Uuid::new_v4().simple()));
        let written = write_file(&temporary, bytes);
        if let Err(e) = written {
            // Best effort: what stays is removed at the next start.
            let _ = fs::remove_file(&temporary);
            return Err(Error::io(format!("writing segment {id}"), e));
        }
        failpoint::pass("segment.written");
        let path = self.path(id);
        fs::rename(&temporary, &path).map_err(|e| Error::io(path.display(), e))?;
        sync_directory(&self.directory);
        failpoint::pass("segment.named");
        self.inventory.insert(id, bytes.len() as u64)
    }

    /// Opens a segment, checking its bytes the first time.
    ///
    /// # Errors
    /// `NotFound` when it is not here; `Corrupt` when its bytes are not those that `checksum` names. By
    /// [`Reference::Manifest`] the file is then moved to quarantine, and can be pulled again.
    pub fn segment(
        &self,
        id: SegmentId,
        length: u64,
        checksum: &[u8; 32],
        reference: Reference,
    ) -> Result<Arc<SegmentFile>> {
        if let Some(file) = self.lock_opened().get(id) {
            return Ok(file);
        }
        let path = self.path(id);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                // Someone removed it. Known to be missing, it is pulled again.
                if self.contains(id) {
                    self.inventory.remove(id)?;
                    self.lost_files.fetch_add(1, Ordering::Relaxed);
                }
                return Err(Error::not_found(format!("segment {id} is not on this node")));
            }
            Err(e) => return Err(Error::io(path.display(), e)),
        };
        let verified = self.lock_opened().verified.contains(&id);
        if !verified {
            let mut hasher = blake3::Hasher::new();
            // A sector that cannot be read is as lost as one that reads wrong.
            let read = hasher.update_reader(&file).map(|hasher| hasher.count());
            let whole =
                matches!(read, Ok(read) if read == length) && hasher.finalize().as_bytes() == checksum;
            if !whole {
                if let Err(error) = &read {
                    tracing::error!(segment = %id, %error, "a segment cannot be read");
                }
                if reference == Reference::Manifest {
                    self.quarantine_segment(id)?;
                }
                return Err(Error::corrupt(format!("segment {id}: the file does not match its checksum")));
            }
        }
        let file = Arc::new(SegmentFile { file, path, length, mapped: OnceLock::new() });
        self.lock_opened().insert(id, file.clone());
        Ok(file)
    }

    /// The bytes of a segment that is open and mapped.
    pub fn mapped(&self, id: SegmentId) -> Option<Bytes> {
        self.lock_opened().get(id)?.mapped.get().cloned()
    }

    /// Reads a segment again and compares it with its checksum, whatever was found before. One that differs is
    /// moved to quarantine, and can be pulled again.
    pub fn check(&self, id: SegmentId, length: u64, checksum: &[u8; 32]) -> Result<Condition> {
        self.lock_opened().forget(id);
        match self.segment(id, length, checksum, Reference::Manifest) {
            Ok(_) => Ok(Condition::Intact),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(Condition::Missing),
            Err(e) if e.kind() == ErrorKind::Corrupt => Ok(Condition::Damaged),
            Err(e) => Err(e),
        }
    }

    /// Removes a segment that nothing refers to any more.
    pub fn remove(&self, id: SegmentId) -> Result<()> {
        self.lock_opened().forget(id);
        self.inventory.remove(id)?;
        let path = self.path(id);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path.display(), e)),
            _ => Ok(()),
        }
    }

    /// Removes segments that `is_needed` does not name and that are older than `age_min`: an upload whose
    /// commit is still on its way is younger. Returns how many went.
    pub fn collect_garbage(&self, age_min: Duration, is_needed: impl Fn(SegmentId) -> bool) -> Result<usize> {
        let now = SystemTime::now();
        let mut removed = 0;
        for id in self.ids().into_iter().filter(|&id| !is_needed(id)) {
            let age = fs::metadata(self.path(id))
                .and_then(|m| m.modified())
                .ok()
                .and_then(|t| now.duration_since(t).ok());
            if age.is_some_and(|age| age >= age_min) {
                self.remove(id)?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    fn quarantine_segment(&self, id: SegmentId) -> Result<()> {
        self.inventory.remove(id)?;
        self.lost_files.fetch_add(1, Ordering::Relaxed);
        let path = self.path(id);
        match fs::rename(&path, self.quarantine.join(format!("{id}.{FILE_EXTENSION}"))) {
            // Somebody else has found it at the same time.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            moved => moved.map_err(|e| Error::io(path.display(), e))?,
        }
        tracing::error!(segment = %id, "segment does not match its checksum; moved to quarantine");
        Ok(())
    }

    fn lock_opened(&self) -> MutexGuard<'_, Opened> {
        self.opened.lock().expect("no code panics while it holds this lock")
    }
}

const FILE_EXTENSION: &str = "vortex";

fn segment_of_file_name(name: &str) -> Option<SegmentId> {
    name.strip_suffix(FILE_EXTENSION)?.strip_suffix('.')?.parse().ok()
}

/// Checks bytes against the checksum that names them.
pub fn verify(id: SegmentId, bytes: &[u8], checksum: &[u8; 32]) -> Result<()> {
    if blake3::hash(bytes).as_bytes() != checksum {
        return Err(Error::corrupt(format!(
            "segment {id}: {} bytes do not match their checksum",
            bytes.len()
        )));
    }
    Ok(())
}

fn read_directory(path: &Path) -> Result<Vec<fs::DirEntry>> {
    fs::read_dir(path)
        .and_then(|entries| entries.filter(|e| !e.as_ref().is_ok_and(|e| e.path().is_dir())).collect())
        .map_err(|e| Error::io(path.display(), e))
}

fn write_file(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if failpoint::is_armed("disk.full") {
        return Err(std::io::ErrorKind::StorageFull.into());
    }
    let mut file = File::create_new(path)?;
    file.write_all(bytes)?;
    if let Err(e) = file.sync_all() {
        // A full disk may show only here, where it is an answer and not a lost page.
        if matches!(e.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded) {
            return Err(e);
        }
        stop_after_failed_sync(path, &e);
    }
    Ok(())
}

/// Makes the names in a directory durable.
pub fn sync_directory(path: &Path) {
    if let Err(e) = File::open(path).and_then(|d| d.sync_all()) {
        stop_after_failed_sync(path, &e);
    }
}

fn stop_after_failed_sync(path: &Path, error: &std::io::Error) -> ! {
    tracing::error!(path = %path.display(), %error, "sync failed; stopping, since what is on disk is unknown");
    eprintln!("sync of {} failed: {error}; stopping, since what is on disk is unknown", path.display());
    std::process::abort()
}
