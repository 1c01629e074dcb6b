//! `plexus start`: runs a node until it receives SIGTERM or SIGINT.

use std::path::Path;

use plexus_memory::MemoryGuard;
use plexus_model::{Error, Result};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::config::{Config, Settings};
use crate::logging;
use crate::memory::memory_limit;
use crate::node::{Lanes, Node};

/// Threads for consensus and peer traffic. Two are enough to saturate a network link.
const CONTROL_THREADS: usize = 2;

/// Requested limit of open files. Segment files stay open, and every client connection is a socket.
const OPEN_FILES_LIMIT: u64 = 65_536;

/// Runs a node with the given settings, completed by those of the configuration file.
pub(crate) fn run(config_file: Option<&Path>, settings: Settings) -> Result<()> {
    let settings = match config_file {
        Some(path) => settings.or(Settings::from_file(path)?),
        None => settings,
    };
    let config = settings.resolve()?;
    logging::init(config.log_format, &config.log)?;
    if let Err(error) = rlimit::increase_nofile_limit(OPEN_FILES_LIMIT) {
        tracing::warn!(%error, "could not raise the limit of open files");
    }
    let _guard = MemoryGuard::start(memory_limit()).map_err(|e| Error::io("the memory guard", e))?;
    let control = runtime("plexus-control", Some(CONTROL_THREADS), || ())?;
    let main = runtime("plexus", None, || ())?;
    let long = runtime("plexus-long", None, yield_to_others)?;
    let lanes = Lanes { control: control.handle().clone(), long: long.handle().clone() };
    // Signals and time-outs must not depend on the threads that run statements.
    let result = control.block_on(serve(config, lanes, main.handle().clone()));
    long.shutdown_background();
    main.shutdown_background();
    control.shutdown_background();
    result
}

/// What the system adds to the nice value of threads of long queries: the others have nine times their weight
/// when both want the processors.
const LONG_NICE: i32 = 10;

fn yield_to_others() {
    if let Err(error) = rustix::process::nice(LONG_NICE) {
        tracing::warn!(%error, "long queries have the priority of all others");
    }
}

/// Stack of a thread. Plans are trees, and the engine walks them by recursion: a union of a thousand queries
/// nests as deep. The system provides the pages that are used.
const STACK_BYTES: usize = 64 * 1024 * 1024;

/// A runtime. `on_start` runs on each of its threads.
fn runtime(
    name: &str,
    threads: Option<usize>,
    on_start: impl Fn() + Send + Sync + 'static,
) -> Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    if let Some(threads) = threads {
        builder.worker_threads(threads);
    }
    builder.thread_stack_size(STACK_BYTES).on_thread_start(on_start);
    builder.thread_name(name).enable_all().build().map_err(|e| Error::io("starting the runtime", e))
}

async fn serve(config: Config, lanes: Lanes, main: Handle) -> Result<()> {
    let signal_error = |e| Error::io("signal handler", e);
    let mut terminate = signal(SignalKind::terminate()).map_err(signal_error)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(signal_error)?;
    let panicked = |e| Error::internal(format!("starting the node: {e}"));
    let mut stdin_closed = wait_stdin_closed(config.stop_with_stdin);
    let mut node = tokio::select! {
        node = main.spawn(Node::start(config, lanes)) => node.map_err(panicked)??,
        _ = &mut stdin_closed => return Ok(()),
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    tokio::select! {
        error = node.failed() => return Err(error),
        _ = &mut stdin_closed => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    node.drain().await;
    Ok(())
}

/// Resolves when standard input is closed; never, unless `enabled`.
fn wait_stdin_closed(enabled: bool) -> oneshot::Receiver<()> {
    let (sender, receiver) = oneshot::channel();
    if !enabled {
        // Leaked, because dropping the sender would resolve the receiver.
        std::mem::forget(sender);
        return receiver;
    }
    // Not a thread of the runtime, whose shutdown would wait for the blocking read.
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        let _ = sender.send(());
    });
    receiver
}
