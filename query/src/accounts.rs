//! Tasks that operators start work for the memory account of their query.

use std::any::Any;

use datafusion::common::runtime::{JoinSetTracer, set_join_set_tracer};
use futures::FutureExt;
use futures::future::BoxFuture;
use plexus_memory::{inherit, inherit_in};

type Outcome = Box<dyn Any + Send>;

struct Inherit;

impl JoinSetTracer for Inherit {
    fn trace_future(&self, task: BoxFuture<'static, Outcome>) -> BoxFuture<'static, Outcome> {
        inherit(task).boxed()
    }

    fn trace_block(&self, work: Box<dyn FnOnce() -> Outcome + Send>) -> Box<dyn FnOnce() -> Outcome + Send> {
        Box::new(inherit_in(work))
    }
}

/// Lets tasks of the engine inherit accounts, in the whole process.
pub(crate) fn inherit_accounts() {
    // An error says that a former engine has done so.
    let _ = set_join_set_tracer(&Inherit);
}
