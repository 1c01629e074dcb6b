//! Replacing a small file so that after a crash either the old or the new one is there, whole.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use plexus_model::{Error, Result};

/// Writes `name` in `directory` by way of a temporary file: write, sync, rename, sync the directory.
pub fn replace_file(directory: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let temporary = directory.join(format!("{name}.tmp"));
    let path = directory.join(name);
    let write = || {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        File::open(directory)?.sync_all()
    };
    write().map_err(|e| Error::io(path.display(), e))
}
