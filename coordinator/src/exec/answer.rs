//! Answers to statements: their panics and the places of their errors.

use std::panic::AssertUnwindSafe;

use futures::FutureExt;
use futures::future::BoxFuture;
use plexus_model::{Error, Result};

use crate::errors::point_at;

/// Runs what answers a statement. A panic is an error of this statement alone: the connection of the client,
/// and the other statements on it, go on.
pub(crate) fn answer<'a, T: Send + 'a>(
    sql: &'a str,
    run: impl Future<Output = Result<T>> + Send + 'a,
) -> BoxFuture<'a, Result<T>> {
    Box::pin(async move {
        let outcome = AssertUnwindSafe(run).catch_unwind().await;
        let outcome = outcome.unwrap_or_else(|_| Err(Error::internal("the statement failed unexpectedly")));
        outcome.map_err(|e| point_at(sql, e))
    })
}
