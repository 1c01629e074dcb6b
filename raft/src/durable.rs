//! Crash-safe replacement of small files: after a crash either the old or the new content is there, complete.
//!
//! A failed sync ends the process. The kernel may have dropped the dirty pages, and a second sync could then
//! report success for bytes that are not on disk (Rebello et al., "Can Applications Recover from fsync
//! Failures?", USENIX ATC 2020).

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use plexus_model::{Error, Result};

/// Replaces the file `name` in `directory`: writes a temporary file, syncs it, renames it, and syncs the
/// directory.
///
/// # Errors
/// The I/O error, with the path. A full disk or an exhausted quota is an error; any other failed sync aborts
/// the process.
pub fn replace_file(directory: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let temporary = directory.join(format!("{name}.tmp"));
    let path = directory.join(name);
    let write = || {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        match file.sync_all() {
            // File systems with delayed allocation report a full disk only here. That is an ordinary error.
            Err(e) if !matches!(e.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
                abort_after_failed_sync(&temporary, &e)
            }
            synced => synced?,
        }
        fs::rename(&temporary, &path)?;
        let directory = File::open(directory)?;
        if let Err(e) = directory.sync_all() {
            abort_after_failed_sync(&path, &e);
        }
        Ok(())
    };
    write().map_err(|e: io::Error| Error::io(path.display(), e))
}

fn abort_after_failed_sync(path: &Path, error: &io::Error) -> ! {
    let path = path.display();
    tracing::error!(%path, %error, "sync failed; stopping, since the content on disk is unknown");
    eprintln!("sync of {path} failed: {error}; stopping, since the content on disk is unknown");
    std::process::abort()
}
