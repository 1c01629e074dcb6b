//! The commands of the binary.

pub mod demo;
pub mod load;
pub mod sql;
pub mod start;
pub mod status;

use plexus_model::{Error, Result};

/// Runs a client command on a small runtime.
fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| Error::io("starting the runtime", e))?;
    let result = runtime.block_on(work);
    // A thread may be left at a prompt or in a file.
    runtime.shutdown_background();
    result
}
