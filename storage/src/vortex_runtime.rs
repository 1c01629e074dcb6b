//! Runs the tasks of the segment format on the runtime of whoever reads, and for the memory account of the
//! statement that reads: decoded columns are most of what a query holds.

use std::sync::{Arc, LazyLock};

use futures::FutureExt;
use futures::future::BoxFuture;
use plexus_memory::{inherit, inherit_in};
use tokio::runtime::Handle;
use vortex::VortexSessionDefault;
use vortex::io::runtime::{AbortHandleRef, Executor, Handle as VortexHandle};
use vortex::io::session::RuntimeSessionExt;
use vortex::session::VortexSession;

/// A session of the segment format. What it reads is read in the runtime of the caller.
pub fn vortex_session() -> VortexSession {
    static RUNTIME: LazyLock<Arc<dyn Executor>> = LazyLock::new(|| Arc::new(PresentRuntime));
    VortexSession::default().with_handle(VortexHandle::new(Arc::downgrade(&RUNTIME)))
}

struct PresentRuntime;

impl Executor for PresentRuntime {
    fn spawn(&self, future: BoxFuture<'static, ()>) -> AbortHandleRef {
        Executor::spawn(&Handle::current(), inherit(future).boxed())
    }

    fn spawn_cpu(&self, work: Box<dyn FnOnce() + Send>) -> AbortHandleRef {
        Executor::spawn_cpu(&Handle::current(), Box::new(inherit_in(work)))
    }

    fn spawn_blocking_io(&self, work: Box<dyn FnOnce() + Send>) -> AbortHandleRef {
        Executor::spawn_blocking_io(&Handle::current(), Box::new(inherit_in(work)))
    }
}
