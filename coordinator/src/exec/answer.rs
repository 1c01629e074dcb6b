//! Answers to statements: they are registered while they run, their panics are errors, and errors show their
//! places.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow::array::RecordBatch;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, Stream, StreamExt};
use plexus_model::{Error, Result};

use crate::errors::point_at;
use crate::exec::context::Executed;
use crate::exec::retry::RowStream;
use crate::exec::session::Session;
use crate::running::{RunningStatements, Started};

/// Runs what answers a statement. A panic is an error of this statement alone: the connection of the client,
/// and the other statements on it, go on.
pub(crate) fn answer<'a, T: Send + 'a>(
    statements: &'a Arc<RunningStatements>,
    session: &'a Session,
    sql: &'a str,
    run: impl Future<Output = Result<T>> + Send + 'a,
) -> BoxFuture<'a, Result<T>> {
    Box::pin(async move {
        let mut started = statements.start(sql, session.statement_timeout(), 0)?;
        started.run(guarded(run)).await.map_err(|e| point_at(sql, e))
    })
}

/// The same for statements that may return rows. They run until the client has them all. `ticket` is the one
/// that is redeemed, or zero.
pub(crate) fn answer_rows<'a>(
    statements: &'a Arc<RunningStatements>,
    session: &'a Session,
    sql: &'a str,
    ticket: u128,
    run: impl Future<Output = Result<Executed>> + Send + 'a,
) -> BoxFuture<'a, Result<Executed>> {
    Box::pin(async move {
        let mut started = statements.start(sql, session.statement_timeout(), ticket)?;
        match started.run(guarded(run)).await.map_err(|e| point_at(sql, e))? {
            Executed::Rows(rows) => Ok(Executed::Rows(AnsweredRows::stream(rows, started))),
            executed => Ok(executed),
        }
    })
}

fn guarded<'a, T: 'a>(run: impl Future<Output = Result<T>> + Send + 'a) -> BoxFuture<'a, Result<T>> {
    let unexpected = || Err(Error::internal("the statement failed unexpectedly"));
    Box::pin(AssertUnwindSafe(run).catch_unwind().map(move |run| run.unwrap_or_else(|_| unexpected())))
}

/// The rows of a statement that is registered until they end.
struct AnsweredRows {
    /// `None` once they have ended.
    rows: Option<BoxStream<'static, Result<RecordBatch>>>,
    /// Resolves when they shall end early.
    ended: BoxFuture<'static, Error>,
    statement: Started,
}

impl AnsweredRows {
    fn stream(RowStream { schema, stream }: RowStream, mut statement: Started) -> RowStream {
        statement.set_done(false);
        let ended = statement.ended().boxed();
        RowStream { schema, stream: Self { rows: Some(stream), ended, statement }.boxed() }
    }
}

impl Stream for AnsweredRows {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let Some(rows) = &mut this.rows else {
            return Poll::Ready(None);
        };
        if let Poll::Ready(error) = this.ended.poll_unpin(context) {
            this.rows = None;
            return Poll::Ready(Some(Err(error)));
        }
        let next = rows.poll_next_unpin(context);
        if let Poll::Ready(None | Some(Err(_))) = &next {
            this.statement.set_done(matches!(next, Poll::Ready(None)));
            this.rows = None;
        }
        next
    }
}
