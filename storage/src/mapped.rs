//! Memory-mapped files whose unreadable pages are an error, and not the end of the process.
//!
//! The system raises `SIGBUS` when a page of a mapped file cannot be read. The handler puts a page of zeros
//! in its place, so that the work which touched it goes on, and marks the file. [`on_mapped`] then fails that
//! work, whatever it made of the zeros, and the store takes the file for damaged when it is opened next.

use std::ffi::{c_int, c_void};
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use memmap2::Mmap;
use plexus_model::{Error, Result};

/// Files that may be mapped at the same time. In those beyond, an unreadable page ends the process.
const REGIONS_MAX: usize = 32 * 1024;

/// A place for a mapped file. It is free while `end` is zero.
struct Region {
    start: AtomicUsize,
    end: AtomicUsize,
    is_lost: AtomicBool,
}

static REGIONS: [Region; REGIONS_MAX] = [const {
    Region { start: AtomicUsize::new(0), end: AtomicUsize::new(0), is_lost: AtomicBool::new(false) }
}; REGIONS_MAX];

/// Places that have been used so far, which come first.
static USED: AtomicUsize = AtomicUsize::new(0);

/// Free places among them.
static FREE: Mutex<Vec<usize>> = Mutex::new(Vec::new());

static LOST_PAGES: AtomicU64 = AtomicU64::new(0);

/// Pages of mapped files that could not be read since the start of the process.
pub(crate) fn lost_pages() -> u64 {
    LOST_PAGES.load(Ordering::Acquire)
}

/// Does work that reads mapped files.
///
/// # Errors
/// Those of `work`. `Unavailable` when a page of any mapped file could not be read meanwhile.
pub fn on_mapped<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    let before = lost_pages();
    let result = work();
    match lost_pages() == before {
        true => result,
        false => Err(Error::unavailable("a page of a file could not be read from the disk")),
    }
}

/// A file in memory.
#[derive(Debug)]
pub(crate) struct MappedFile {
    map: Mmap,
    region: Option<usize>,
}

impl MappedFile {
    /// Maps a file, which nothing must modify or truncate while it is mapped.
    ///
    /// # Errors
    /// Those of the system.
    pub(crate) fn map(file: &File) -> io::Result<Self> {
        install_handler();
        // SAFETY: the caller promises that nothing changes the file. Pages that cannot be read are replaced.
        #[expect(unsafe_code, reason = "memory-mapping a file is unsafe, because others could truncate it")]
        let map = unsafe { Mmap::map(file) }?;
        let start = map.as_ptr() as usize;
        Ok(Self { region: register(start, start + map.len()), map })
    }

    /// The place of the file, by which [`is_lost`] finds it.
    pub(crate) fn region(&self) -> Option<usize> {
        self.region
    }
}

/// Whether a page of the file at a place could not be read.
pub(crate) fn is_lost(region: usize) -> bool {
    REGIONS[region].is_lost.load(Ordering::Acquire)
}

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

impl Drop for MappedFile {
    fn drop(&mut self) {
        // Before the file is unmapped, and others get its addresses.
        if let Some(region) = self.region {
            REGIONS[region].end.store(0, Ordering::Release);
            FREE.lock().unwrap_or_else(PoisonError::into_inner).push(region);
        }
    }
}

fn register(start: usize, end: usize) -> Option<usize> {
    let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
    let index = match free.pop() {
        Some(index) => index,
        None => {
            let used = USED.load(Ordering::Relaxed);
            if used == REGIONS_MAX {
                return None;
            }
            USED.store(used + 1, Ordering::Release);
            used
        }
    };
    let region = &REGIONS[index];
    region.is_lost.store(false, Ordering::Relaxed);
    region.start.store(start, Ordering::Relaxed);
    region.end.store(end, Ordering::Release);
    Some(index)
}

/// What handled `SIGBUS` before.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

fn install_handler() {
    static INSTALLED: OnceLock<()> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        // SAFETY: both structures are valid, zeros are a valid value of them, and the handler does only what
        // a handler may: it reads and writes atomics, and calls `mmap`.
        #[expect(unsafe_code, reason = "there is no safe way to handle SIGBUS")]
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_bus_error as *const () as usize;
            // On the stack that threads have for signals.
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            let mut previous: libc::sigaction = std::mem::zeroed();
            match libc::sigaction(libc::SIGBUS, &action, &mut previous) {
                0 => drop(PREVIOUS.set(previous)),
                _ => tracing::warn!(
                    error = %io::Error::last_os_error(),
                    "an unreadable page of a mapped file will end the process"
                ),
            }
        }
    });
}

/// Handles `SIGBUS`.
extern "C" fn on_bus_error(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the system passes a valid structure.
    #[expect(unsafe_code, reason = "a signal handler gets pointers")]
    let address = unsafe { (*info).si_addr() } as usize;
    let used = USED.load(Ordering::Acquire);
    let holds = |region: &&Region| {
        address < region.end.load(Ordering::Acquire) && address >= region.start.load(Ordering::Relaxed)
    };
    if let Some(region) = REGIONS[..used].iter().find(holds)
        && replace_page(address)
    {
        region.is_lost.store(true, Ordering::Release);
        LOST_PAGES.fetch_add(1, Ordering::AcqRel);
        return;
    }
    // Not ours: as without this handler. SAFETY: the previous handler is called with what this one got.
    // Without one, the default ends the process when the access is repeated.
    #[expect(unsafe_code, reason = "handlers are chained by hand")]
    unsafe {
        match PREVIOUS.get() {
            Some(previous) if previous.sa_flags & libc::SA_SIGINFO != 0 => {
                let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) =
                    std::mem::transmute(previous.sa_sigaction);
                handler(signal, info, context);
            }
            _ => drop(libc::signal(signal, libc::SIG_DFL)),
        }
    }
}

/// Puts a page of zeros where an address is.
fn replace_page(address: usize) -> bool {
    // SAFETY: the page is one of a mapping of ours, which is read-only and stays mapped while it is read.
    #[expect(unsafe_code, reason = "mmap is unsafe")]
    unsafe {
        let bytes = libc::sysconf(libc::_SC_PAGESIZE) as usize;
        let page = (address & !(bytes - 1)) as *mut c_void;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        let mapped = libc::mmap(page, bytes, libc::PROT_READ, flags, -1, 0);
        mapped != libc::MAP_FAILED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_cannot_be_read_fails_the_work_and_not_the_process() {
        let file = tempfile::tempfile().unwrap();
        let write = |bytes: &[u8]| std::os::unix::fs::FileExt::write_all_at(&file, bytes, 0).unwrap();
        write(&[7; 64 * 1024]);
        let other = MappedFile::map(&file).unwrap();
        let mapped = MappedFile::map(&file).unwrap();
        let sum = || on_mapped(|| Ok(mapped.as_ref().iter().map(|byte| u64::from(*byte)).sum::<u64>()));
        assert_eq!(sum().unwrap(), 7 * 64 * 1024);
        // As if the disk had lost the second half.
        file.set_len(32 * 1024).unwrap();
        let error = sum().unwrap_err();
        assert!(error.message().contains("could not be read"), "{error}");
        assert!(is_lost(mapped.region().unwrap()) && !is_lost(other.region().unwrap()));
        assert_eq!(sum().unwrap(), 7 * 32 * 1024, "the pages are zeros now");
        assert_eq!(lost_pages(), 8);

        // Its place goes to the next file, which is not lost.
        let place = mapped.region();
        drop(mapped);
        write(&[7; 64 * 1024]);
        let next = MappedFile::map(&file).unwrap();
        assert_eq!(next.region(), place);
        assert!(!is_lost(place.unwrap()));
    }
}
