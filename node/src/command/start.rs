//! `plexus start`: one node, until it is told to stop.

use std::path::Path;

use plexus_model::{Error, Result};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::config::{Config, Settings};
use crate::logging;
use crate::node::Node;

/// Consensus and peer traffic: enough to keep a busy network link going.
const CONTROL_THREADS: usize = 2;

/// Segments are kept open, and every client is a socket.
const OPEN_FILES_WANTED: u64 = 65_536;

pub fn run(config_file: Option<&Path>, settings: Settings) -> Result<()> {
    let settings = match config_file {
        Some(path) => settings.or(Settings::from_file(path)?),
        None => settings,
    };
    let config = settings.resolve()?;
    logging::init(config.log_format, &config.log)?;
    if let Err(error) = rlimit::increase_nofile_limit(OPEN_FILES_WANTED) {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
    let control = runtime("plexus-control", Some(CONTROL_THREADS))?;
    let main = runtime("plexus", None)?;
    let result = main.block_on(serve(config, control.handle()));
    main.shutdown_background();
    control.shutdown_background();
    result
}

fn runtime(name: &str, threads: Option<usize>) -> Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    if let Some(threads) = threads {
        builder.worker_threads(threads);
    }
    builder.thread_name(name).enable_all().build().map_err(|e| Error::io("starting the runtime", e))
}

async fn serve(config: Config, control: &tokio::runtime::Handle) -> Result<()> {
    let fail = |e| Error::io("signal handler", e);
    let mut terminate = signal(SignalKind::terminate()).map_err(fail)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(fail)?;
    let mut orphaned = stdin_end(config.stop_with_stdin);
    let mut node = tokio::select! {
        node = Node::start(config, control) => node?,
        _ = &mut orphaned => return Ok(()),
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    tokio::select! {
        error = node.failed() => return Err(error),
        _ = &mut orphaned => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    node.drain().await;
    Ok(())
}

/// Resolves when standard input ends, if that is wanted.
fn stdin_end(wanted: bool) -> oneshot::Receiver<()> {
    let (sender, receiver) = oneshot::channel();
    if !wanted {
        // Kept for ever, so that the receiver stays pending.
        std::mem::forget(sender);
        return receiver;
    }
    // A thread of its own: a blocking read cannot be cancelled, and must not hold up the end.
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        let _ = sender.send(());
    });
    receiver
}
