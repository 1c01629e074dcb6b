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
        let Ok(disk) = rustix::fs::statvfs(&self.0) else {
            // What is wrong with the disk shows when it is written to.
            return Ok(());
        };
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        let reserve = (disk.f_blocks.saturating_mul(disk.f_frsize) / RESERVE_PART).min(RESERVE_BYTES_MAX);
        match bytes.saturating_add(reserve) <= free {
            true => Ok(()),
            false => Err(self.full(bytes, free, reserve)),
        }
    }

    fn full(&self, bytes: u64, free: u64, reserve: u64) -> Error {
        Error::exhausted(format!(
            "the disk of {} is full: {free} bytes are free, of which {reserve} are kept back, and {bytes} \
             are needed. Reads go on; delete something, or enlarge the disk",
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
