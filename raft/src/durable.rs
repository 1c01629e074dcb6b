//! Replacing a small file so that after a crash either the old or the new one is there, whole.
//!
//! A sync that fails ends the process: the kernel may have dropped the pages, and a retry could report
//! success for bytes that are not on disk.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use plexus_model::{Error, Result};

/// Writes `name` in `directory` by way of a temporary file: write, sync, rename, sync the directory.
pub fn replace_file(directory: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let temporary = directory.join(format!("{name}.tmp"));
    let path = directory.join(name);
    let write = || {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        match file.sync_all() {
            // A full disk may show only here, where it is an answer and not a lost page.
            Err(e) if !matches!(e.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
                stop_after_failed_sync(&temporary, &e)
            }
            synced => synced?,
        }
        fs::rename(&temporary, &path)?;
        let directory = File::open(directory)?;
        if let Err(e) = directory.sync_all() {
            stop_after_failed_sync(&path, &e);
        }
        Ok(())
    };
    write().map_err(|e: io::Error| Error::io(path.display(), e))
}

fn stop_after_failed_sync(path: &Path, error: &io::Error) -> ! {
    tracing::error!(path = %path.display(), %error, "sync failed; stopping, since what is on disk is unknown");
    eprintln!("sync of {} failed: {error}; stopping, since what is on disk is unknown", path.display());
    std::process::abort()
}
