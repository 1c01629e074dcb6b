//! The commands of the binary, one module each.

pub mod demo;
pub mod load;
pub(crate) mod sql;
pub(crate) mod start;
pub mod status;
mod tpch;

use plexus_model::{Error, Result};

/// Runs a client command on a small runtime.
fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| Error::io("starting the runtime", e))?;
    let result = runtime.block_on(work);
    // Does not wait for threads that block in a prompt or a file read, which cannot be cancelled.
    runtime.shutdown_background();
    result
}
