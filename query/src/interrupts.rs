//! Ends queries from outside, also while an operator computes for long without a pause.
//!
//! A task ends when it is dropped, which takes place where it waits. A join that finds no row compares for
//! minutes without waiting for anything. The conditions of joins are therefore wrapped in
//! [`Interruptible`], which fails once its query has been interrupted, and the rules of the optimizer look as
//! well. It is a function, so that it travels with a plan to other nodes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use arrow_schema::{DataType, FieldRef};
use datafusion::common::{Result, exec_err};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};

use crate::context::{QueryContext, external};

/// How long an interrupt is remembered. The work of its query meets it within a fraction of that.
const REMEMBERED: Duration = Duration::from_secs(300);

/// Interrupts that are remembered at most. Beyond that, the oldest is forgotten.
const INTERRUPTS_MAX: usize = 10_000;

/// The queries that were interrupted on this node a short time ago.
#[derive(Debug, Default)]
pub struct Interrupts {
    /// Whether there are any, which is looked at far more often than they change.
    any: AtomicBool,
    since: Mutex<HashMap<String, Instant>>,
}

impl Interrupts {
    /// Ends the work of a query on this node.
    pub fn interrupt(&self, query_id: &str) {
        let mut since = self.lock();
        since.retain(|_, at| at.elapsed() < REMEMBERED);
        if since.len() >= INTERRUPTS_MAX
            && let Some(oldest) = since.iter().min_by_key(|(_, at)| **at).map(|(id, _)| id.clone())
        {
            since.remove(&oldest);
        }
        since.insert(query_id.to_owned(), Instant::now());
        self.any.store(true, Ordering::Release);
    }

    /// Fails when the query of a session has been interrupted.
    ///
    /// # Errors
    /// `Cancelled`.
    pub(crate) fn check(&self, options: &ConfigOptions) -> Result<()> {
        if !self.any.load(Ordering::Acquire) {
            return Ok(());
        }
        let Some(context) = options.extensions.get::<QueryContext>() else {
            return Ok(());
        };
        match self.lock().contains_key(&context.query_id) {
            true => Err(external(plexus_model::Error::cancelled("the query was cancelled"))),
            false => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.since.lock().expect("no code panics while it holds this lock")
    }
}

/// `interruptible(condition)`: the condition, or an error once the query has been interrupted.
#[derive(Debug)]
pub(crate) struct Interruptible {
    interrupts: Arc<Interrupts>,
    signature: Signature,
}

impl Interruptible {
    pub(crate) const NAME: &str = "interruptible";

    pub(crate) fn new(interrupts: Arc<Interrupts>) -> Self {
        // Volatile, so that no rule takes it for a constant.
        Self { interrupts, signature: Signature::any(1, Volatility::Volatile) }
    }
}

impl PartialEq for Interruptible {
    fn eq(&self, other: &Self) -> bool {
        self.signature == other.signature
    }
}

impl Eq for Interruptible {}

impl std::hash::Hash for Interruptible {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        Self::NAME.hash(state);
    }
}

impl ScalarUDFImpl for Interruptible {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types {
            [data_type] => Ok(data_type.clone()),
            _ => exec_err!("{} takes one value", Self::NAME),
        }
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        match args.arg_fields {
            [field] => Ok(field.clone()),
            _ => exec_err!("{} takes one value", Self::NAME),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        self.interrupts.check(&args.config_options)?;
        match args.args.into_iter().next() {
            Some(value) => Ok(value),
            None => exec_err!("{} takes one value", Self::NAME),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(query_id: &str) -> ConfigOptions {
        let mut options = ConfigOptions::default();
        options.extensions.insert(QueryContext { query_id: query_id.into(), ..QueryContext::default() });
        options
    }

    #[test]
    fn interrupted_queries_fail_and_others_go_on() {
        let interrupts = Interrupts::default();
        interrupts.check(&options("a")).unwrap();
        interrupts.interrupt("a");
        let error = interrupts.check(&options("a")).unwrap_err();
        assert!(error.to_string().contains("cancelled"), "{error}");
        interrupts.check(&options("b")).unwrap();
        (0..INTERRUPTS_MAX).for_each(|n| interrupts.interrupt(&n.to_string()));
        assert_eq!(interrupts.lock().len(), INTERRUPTS_MAX);
        interrupts.check(&options("a")).unwrap();
    }
}
