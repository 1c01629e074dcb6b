//! Space on the disk that is kept back. A node whose disk is full refuses writes, but it still votes, serves
//! reads and deletes, and takes writes again when there is room.

use std::path::{Path, PathBuf};

use plexus_model::{Error, Result, failpoint};

/// Most bytes that are kept back: room for the metadata log until its next snapshots, and for the sort files
/// of queries.
const RESERVE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Of a small disk, this part is kept back.
const RESERVE_PART: u64 = 20;

/// The disk of a data directory.
#[derive(Clone, Debug)]
pub struct DiskSpace(PathBuf);

impl DiskSpace {
    /// The disk that `directory` is on.
    pub fn of(directory: &Path) -> Self {
        Self(directory.to_owned())
    }

    /// Checks that `bytes` can be written without the reserve.
    ///
    /// # Errors
    /// `ResourceExhausted`, with the numbers.
    pub fn check(&self, bytes: u64) -> Result<()> {
        if failpoint::is_armed("disk.full") {
            return Err(self.full(bytes, 0, RESERVE_BYTES_MAX));
        }
        self.check_beside(bytes, 1)
    }

    /// Checks that `bytes` can be written to the log, which may use half of the reserve. The rest is for
    /// votes and snapshots, and for the next start.
    ///
    /// # Errors
    /// `ResourceExhausted`, with the numbers.
    pub fn check_log(&self, bytes: u64) -> Result<()> {
        self.check_beside(bytes, 2)
    }

    /// Bytes that are free, and those that are kept back. `None` when the system does not say.
    pub fn free_and_reserve(&self) -> Option<(u64, u64)> {
        // What is wrong with the disk shows when it is written to.
        let disk = rustix::fs::statvfs(&self.0).ok()?;
        let all = disk.f_blocks.saturating_mul(disk.f_frsize);
        Some((disk.f_bavail.saturating_mul(disk.f_frsize), (all / RESERVE_PART).min(RESERVE_BYTES_MAX)))
    }

    fn check_beside(&self, bytes: u64, parts: u64) -> Result<()> {
        match self.free_and_reserve() {
            Some((free, reserve)) if bytes.saturating_add(reserve / parts) > free => {
                Err(self.full(bytes, free, reserve / parts))
            }
            _ => Ok(()),
        }
    }

    fn full(&self, bytes: u64, free: u64, reserve: u64) -> Error {
        Error::exhausted(format!(
            "the disk of {} is full: {free} bytes are free, of which {reserve} are kept back, and {bytes} \
             are needed. Reads go on. Drop and vacuum tables, or enlarge the disk",
            self.0.display()
        ))
    }
}

#[cfg(test)]
mod tests {
    use plexus_model::ErrorKind;

    use super::*;

    #[test]
    fn more_than_the_disk_has_is_refused_with_the_numbers() {
        let directory = tempfile::tempdir().unwrap();
        let space = DiskSpace::of(directory.path());
        space.check(0).unwrap();
        let error = space.check(1 << 60).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
        assert!(error.message().contains(&format!("{} are needed", 1u64 << 60)), "{error}");
    }
}
