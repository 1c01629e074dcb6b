//! The segment store: segment files on the local disk.
//!
//! The order of writes, and why:
//!
//! 1. The bytes are checked against the checksum from their sender, so that a damaged transfer never reaches
//!    the disk.
//! 2. The bytes are written to a file under `tmp/`, so that a crash leaves no incomplete file under a final
//!    name. The file is synced, because the rename must not become durable before the bytes.
//! 3. The file is renamed to its final name and the directory is synced. From here on the segment survives
//!    power loss. Only now may the node acknowledge it.
//! 4. The inventory is updated. It is a cache; after a crash it is rebuilt from the directory.
//!
//! A failed sync aborts the process. The kernel may have dropped the dirty pages, so that a second sync could
//! succeed without the bytes being on disk (Rebello et al.: "Can applications recover from fsync failures?",
//! 2020).

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use plexus_model::{Error, ErrorKind, Result, SegmentId, failpoint};

use crate::blocks::Blocks;
use crate::disk_space::DiskSpace;
use crate::inventory::Inventory;
use crate::mapped::{MappedFile, is_lost, lost_pages};

/// The segment files on the local disk, by id. The methods block on disk I/O unless stated otherwise: do not
/// call them on an async thread.
pub struct SegmentStore {
    space: DiskSpace,
    directory: PathBuf,
    temporary: PathBuf,
    quarantine: PathBuf,
    inventory: Inventory,
    open_files: Mutex<OpenFiles>,
    lost_file_count: AtomicU64,
}

/// A cache of open files with approximate LRU eviction. The bytes of a file never change, so a handle stays
/// valid.
#[derive(Default)]
struct OpenFiles {
    /// Files with the time of their last use, in ticks of `clock`.
    files: HashMap<SegmentId, (Arc<SegmentFile>, u64)>,
    /// What was read of segments that were verified since the start, also of those whose file was evicted.
    verified: HashMap<SegmentId, Arc<Blocks>>,
    /// Logical clock: the number of uses.
    clock: u64,
}

/// Open files. Each takes a file descriptor, of which a process typically may have some tens of thousands.
const OPEN_FILES_MAX: usize = 4_096;

impl OpenFiles {
    fn get(&mut self, id: SegmentId) -> Option<Arc<SegmentFile>> {
        self.clock += 1;
        let (file, last_use) = self.files.get_mut(&id)?;
        *last_use = self.clock;
        Some(file.clone())
    }

    fn insert(&mut self, id: SegmentId, file: Arc<SegmentFile>) {
        if self.files.len() >= OPEN_FILES_MAX {
            // Evicts a quarter at once, so that the linear search is rare.
            let mut uses: Vec<u64> = self.files.values().map(|(_, last_use)| *last_use).collect();
            let (_, threshold, _) = uses.select_nth_unstable(OPEN_FILES_MAX / 4);
            let threshold = *threshold;
            self.files.retain(|_, (_, last_use)| *last_use > threshold);
        }
        self.clock += 1;
        self.verified.insert(id, file.blocks.clone());
        self.files.insert(id, (file, self.clock));
    }

    fn remove(&mut self, id: SegmentId) {
        self.files.remove(&id);
        self.verified.remove(&id);
    }
}

/// Where an expected length and checksum come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReferenceSource {
    /// The manifest of this node. A file that differs is damaged and goes to quarantine.
    Manifest,
    /// A request from another node, which may be wrong. A file that differs stays in place.
    Untrusted,
}

/// The result of checking a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SegmentCondition {
    /// The file matches its checksum.
    Intact,
    /// The file did not match its checksum and was moved to quarantine.
    Damaged,
    /// There is no such file.
    Missing,
}

/// An open segment file whose checksum was verified when it was first opened.
pub struct SegmentFile {
    file: File,
    path: PathBuf,
    blocks: Arc<Blocks>,
    /// The content, once it is memory-mapped.
    mapped: OnceLock<Bytes>,
    /// Where the mapping is registered.
    region: OnceLock<usize>,
}

impl SegmentFile {
    /// The memory-mapped content of the file. The kernel loads pages on access, and evicts them when memory
    /// is short.
    ///
    /// # Errors
    /// `Unavailable` when the operating system cannot map the file.
    pub(crate) fn map(&self) -> Result<Bytes> {
        if let Some(bytes) = self.mapped.get() {
            return Ok(bytes.clone());
        }
        // Nothing modifies or truncates a file under its final name. It is written under another name, and
        // afterwards only renamed or removed, which does not affect existing mappings.
        let map = MappedFile::map(&self.file)
            .map_err(|e| Error::io(format!("memory-mapping {}", self.path.display()), e))?;
        let mut region = None;
        let bytes = self.mapped.get_or_init(|| {
            region = map.region();
            Bytes::from_owner(map)
        });
        if let Some(region) = region {
            let _ = self.region.set(region);
        }
        Ok(bytes.clone())
    }

    /// Whether a page of the memory-mapped content could not be read.
    fn is_lost(&self) -> bool {
        self.region.get().is_some_and(|region| is_lost(*region))
    }

    /// Fills `buffer` with the bytes from `offset` on.
    ///
    /// # Errors
    /// `Corrupt` when the file ends before, or has changed since it was opened. `Unavailable` when the disk
    /// cannot be read.
    pub fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let length = buffer.len();
        self.blocks.read(&self.file, buffer, offset).map_err(|e| {
            let what = format!("{}: reading {length} bytes at {offset}", self.path.display());
            match e.kind() {
                io::ErrorKind::InvalidData => Error::corrupt(format!("{what}: {e}")).with_source(e),
                _ => Error::io(what, e),
            }
        })
    }
}

impl SegmentStore {
    /// Opens or creates a store in the directory `root`. Removes temporary files of interrupted writes and
    /// reconciles the inventory.
    ///
    /// # Errors
    /// Those of [`Error::io`] when a directory cannot be read or written.
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
            let Some(id) = name.to_str().and_then(segment_id_of_file_name) else {
                continue;
            };
            let length = entry.metadata().map_err(|e| Error::io(entry.path().display(), e))?.len();
            present.insert(id, length);
        }
        inventory.reconcile(&present)?;
        Ok(Self {
            space: DiskSpace::of(root),
            directory,
            temporary,
            quarantine,
            inventory,
            open_files: Mutex::default(),
            lost_file_count: AtomicU64::new(0),
        })
    }

    fn path(&self, id: SegmentId) -> PathBuf {
        self.directory.join(format!("{id}.{FILE_EXTENSION}"))
    }

    /// Whether the segment is on the local disk. Answers from memory without blocking.
    pub fn contains(&self, id: SegmentId) -> bool {
        self.inventory.contains(id)
    }

    /// The ids of all segments, in ascending order. Answers from memory without blocking.
    pub fn ids(&self) -> Vec<SegmentId> {
        self.inventory.ids()
    }

    /// Grows when segments were found damaged or missing, or a page of a mapped file could not be read. There
    /// is something to repair then, and mapped bytes from before may be wrong.
    pub fn lost_file_count(&self) -> u64 {
        self.lost_file_count.load(Ordering::Relaxed) + lost_pages()
    }

    /// Makes a segment durable: when this returns, the segment survives power loss. Has no effect when the
    /// segment is on the local disk already.
    ///
    /// # Errors
    /// `Corrupt` when the bytes do not match the checksum, or the file on the local disk differs from them.
    /// `ResourceExhausted` when the disk is full. In all cases the disk is left as it was.
    pub fn put(&self, id: SegmentId, bytes: &[u8], checksum: &[u8; 32]) -> Result<()> {
        verify(id, bytes, checksum)?;
        if self.contains(id) {
            match self.segment(id, bytes.len() as u64, checksum, ReferenceSource::Untrusted) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                known => return known.map(|_| ()),
            }
        }
        self.space.check(bytes.len() as u64).map_err(|e| e.context(format!("segment {id}")))?;
        let temporary = self.temporary.join(format!("{id}.{}", uuid::Uuid::new_v4().simple()));
        let written = write_file(&temporary, bytes);
        if let Err(e) = written {
            // Best effort: the next start removes remaining temporary files.
            let _ = fs::remove_file(&temporary);
            return Err(Error::io(format!("writing segment {id}"), e));
        }
        failpoint::crash_if_armed("segment.written");
        let path = self.path(id);
        fs::rename(&temporary, &path).map_err(|e| Error::io(path.display(), e))?;
        sync_directory(&self.directory);
        failpoint::crash_if_armed("segment.named");
        self.inventory.insert(id, bytes.len() as u64)
    }

    /// Opens a segment. Verifies its length and checksum the first time.
    ///
    /// # Errors
    /// `NotFound` when the segment is not on the local disk. `Corrupt` when the file does not match its
    /// checksum; with [`ReferenceSource::Manifest`] it is then moved to quarantine, so that repair fetches it
    /// again.
    pub fn segment(
        &self,
        id: SegmentId,
        length: u64,
        checksum: &[u8; 32],
        reference: ReferenceSource,
    ) -> Result<Arc<SegmentFile>> {
        let differs = || Error::corrupt(format!("segment {id}: the file does not match its checksum"));
        let open = self.lock_open_files().get(id);
        if let Some(file) = open {
            if file.is_lost() {
                if reference == ReferenceSource::Manifest {
                    self.lock_open_files().remove(id);
                    self.quarantine_segment(id)?;
                }
                return Err(Error::corrupt(format!("segment {id}: a part of the file cannot be read")));
            }
            // It matched another checksum, which came from the manifest or from its sender.
            return if file.blocks.matches(length, checksum) { Ok(file) } else { Err(differs()) };
        }
        let path = self.path(id);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                // Somebody deleted the file. Without its entry in the inventory, repair fetches it again.
                if self.contains(id) {
                    self.inventory.remove(id)?;
                    self.lost_file_count.fetch_add(1, Ordering::Relaxed);
                }
                return Err(Error::not_found(format!("segment {id} is not on this node")));
            }
            Err(e) => return Err(Error::io(path.display(), e)),
        };
        let verified = self.lock_open_files().verified.get(&id).cloned();
        let blocks = verified.or_else(|| read_blocks(id, &file));
        let Some(blocks) = blocks.filter(|blocks| blocks.matches(length, checksum)) else {
            if reference == ReferenceSource::Manifest {
                self.quarantine_segment(id)?;
            }
            return Err(differs());
        };
        let file =
            Arc::new(SegmentFile { file, path, blocks, mapped: OnceLock::new(), region: OnceLock::new() });
        self.lock_open_files().insert(id, file.clone());
        Ok(file)
    }

    /// Fills `buffer` with the bytes of a segment from `offset` on, as [`Self::segment`] and a read would.
    ///
    /// # Errors
    /// Those of [`Self::segment`] and [`SegmentFile::read_exact_at`]. A file that has changed on disk goes to
    /// quarantine, too.
    pub fn read_exact_at(
        &self,
        id: SegmentId,
        length: u64,
        checksum: &[u8; 32],
        reference: ReferenceSource,
        buffer: &mut [u8],
        offset: u64,
    ) -> Result<()> {
        let file = self.segment(id, length, checksum, reference)?;
        let read = file.read_exact_at(buffer, offset);
        if read.as_ref().is_err_and(|e| e.kind() == ErrorKind::Corrupt)
            && offset.checked_add(buffer.len() as u64).is_some_and(|end| end <= length)
        {
            // The file matched this checksum, wherever that comes from.
            self.check(id, length, checksum, ReferenceSource::Manifest)?;
        }
        read
    }

    /// The memory-mapped content of a segment; `None` when it is not open or not mapped. Does not block on
    /// the disk.
    pub(crate) fn mapped(&self, id: SegmentId) -> Option<Bytes> {
        self.lock_open_files().get(id)?.mapped.get().cloned()
    }

    /// Reads a segment again and verifies its length and checksum, even when it was verified before. A
    /// damaged file is moved to quarantine if the reference is the manifest.
    ///
    /// # Errors
    /// Those of [`Error::io`] when the disk cannot be used. A damaged or missing file is not an error.
    pub fn check(
        &self,
        id: SegmentId,
        length: u64,
        checksum: &[u8; 32],
        reference: ReferenceSource,
    ) -> Result<SegmentCondition> {
        self.lock_open_files().remove(id);
        match self.segment(id, length, checksum, reference) {
            Ok(_) => Ok(SegmentCondition::Intact),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(SegmentCondition::Missing),
            Err(e) if e.kind() == ErrorKind::Corrupt => Ok(SegmentCondition::Damaged),
            Err(e) => Err(e),
        }
    }

    /// Deletes a segment that nothing refers to any more. Has no effect when it is missing.
    ///
    /// # Errors
    /// Those of [`Error::io`] when the file cannot be deleted.
    pub fn remove(&self, id: SegmentId) -> Result<()> {
        self.lock_open_files().remove(id);
        self.inventory.remove(id)?;
        let path = self.path(id);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path.display(), e)),
            _ => Ok(()),
        }
    }

    /// Deletes the segments that are at least `age_min` old and for which `is_needed` is false, and returns
    /// their number. The age protects uploads whose commit is still in progress.
    ///
    /// # Errors
    /// Those of [`Error::io`] when a file cannot be deleted.
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

    /// Moves a damaged segment to quarantine, where an operator can examine it.
    fn quarantine_segment(&self, id: SegmentId) -> Result<()> {
        self.inventory.remove(id)?;
        self.lost_file_count.fetch_add(1, Ordering::Relaxed);
        let path = self.path(id);
        match fs::rename(&path, self.quarantine.join(format!("{id}.{FILE_EXTENSION}"))) {
            // Another thread moved it at the same time.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            renamed => renamed.map_err(|e| Error::io(path.display(), e))?,
        }
        tracing::error!(segment = %id, "the segment does not match its checksum; moved to quarantine");
        Ok(())
    }

    fn lock_open_files(&self) -> MutexGuard<'_, OpenFiles> {
        self.open_files.lock().expect("no code panics while it holds this lock")
    }
}

/// Extension of segment files.
const FILE_EXTENSION: &str = "vortex";

fn segment_id_of_file_name(name: &str) -> Option<SegmentId> {
    name.strip_suffix(FILE_EXTENSION)?.strip_suffix('.')?.parse().ok()
}

/// Reads an open file. `None` if that fails.
fn read_blocks(id: SegmentId, file: &File) -> Option<Arc<Blocks>> {
    Blocks::of(file)
        .map(Arc::new)
        .inspect_err(|error| tracing::error!(segment = %id, %error, "the segment cannot be read"))
        .ok()
}

/// Checks received bytes against their checksum.
fn verify(id: SegmentId, bytes: &[u8], checksum: &[u8; 32]) -> Result<()> {
    if blake3::hash(bytes).as_bytes() != checksum {
        return Err(Error::corrupt(format!(
            "segment {id}: {} bytes do not match their checksum",
            bytes.len()
        )));
    }
    Ok(())
}

/// The entries of a directory that are not directories.
fn read_directory(path: &Path) -> Result<Vec<fs::DirEntry>> {
    fs::read_dir(path)
        .and_then(|entries| entries.filter(|e| !e.as_ref().is_ok_and(|e| e.path().is_dir())).collect())
        .map_err(|e| Error::io(path.display(), e))
}

/// Writes a new file and syncs it. Aborts the process when the sync fails for another reason than lack of
/// space.
fn write_file(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if failpoint::is_armed("disk.full") {
        return Err(std::io::ErrorKind::StorageFull.into());
    }
    let mut file = File::create_new(path)?;
    file.write_all(bytes)?;
    if let Err(e) = file.sync_all() {
        // With delayed allocation, a full disk may be reported only here. It is an ordinary failure: the file
        // is discarded, so it does not matter which of its pages are lost.
        if matches!(e.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded) {
            return Err(e);
        }
        abort_after_failed_sync(path, &e);
    }
    Ok(())
}

/// Syncs a directory, which makes the creation, renaming and removal of its files durable. Aborts the process
/// when the sync fails.
pub fn sync_directory(path: &Path) {
    if let Err(e) = File::open(path).and_then(|d| d.sync_all()) {
        abort_after_failed_sync(path, &e);
    }
}

/// Aborts the process, see the module documentation.
fn abort_after_failed_sync(path: &Path, error: &std::io::Error) -> ! {
    const CONSEQUENCE: &str = "aborting, because the state of the disk is unknown";
    tracing::error!(path = %path.display(), %error, "sync failed; {CONSEQUENCE}");
    eprintln!("sync of {} failed: {error}; {CONSEQUENCE}", path.display());
    std::process::abort()
}
