//! Answers to statements: they are registered while they run, their panics are errors, and errors show their
//! places.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use arrow::array::RecordBatch;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, Stream, StreamExt};
use plexus_model::{Error, Result};
use plexus_storage::rows_bytes;
use tokio_util::task::AbortOnDropHandle;

use crate::errors::point_at;
use crate::exec::context::Executed;
use crate::exec::row_stream::RowStream;
use crate::exec::session::Session;
use crate::limits::UNREAD_MAX;
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

/// The rows of a statement that is registered until they end. A client that does not read them cannot keep
/// them: when the statement is to end, they are dropped, with all that they hold.
struct AnsweredRows {
    shared: Arc<Mutex<Answer>>,
    /// Ends the statement. Aborted with the rows.
    _watch: AbortOnDropHandle<()>,
}

/// What the reader of rows and the end of their statement share.
struct Answer {
    /// `None` once they have ended.
    rows: Option<(BoxStream<'static, Result<RecordBatch>>, Started)>,
    /// Why they ended early, for the reader.
    ended: Option<Error>,
    /// When the client asked for rows last.
    read: Instant,
    reader: Option<Waker>,
}

impl AnsweredRows {
    fn stream(RowStream { schema, stream }: RowStream, mut statement: Started) -> RowStream {
        statement.set_done(false);
        let ended = statement.ended();
        let answer =
            Answer { rows: Some((stream, statement)), ended: None, read: Instant::now(), reader: None };
        let shared = Arc::new(Mutex::new(answer));
        let watched = shared.clone();
        let watch = tokio::spawn(async move {
            let error = tokio::select! {
                error = ended => error,
                error = unread(&watched) => error,
            };
            let mut answer = lock(&watched);
            let rows = answer.rows.take();
            answer.ended = rows.is_some().then_some(error);
            if let Some(reader) = answer.reader.take() {
                reader.wake();
            }
            drop(answer);
            drop(rows);
        });
        let rows = Self { shared, _watch: AbortOnDropHandle::new(watch) };
        RowStream { schema, stream: rows.boxed() }
    }
}

/// Waits until a client has not read for too long.
async fn unread(answer: &Mutex<Answer>) -> Error {
    loop {
        let idle = lock(answer).read.elapsed();
        match UNREAD_MAX.checked_sub(idle).filter(|left| !left.is_zero()) {
            Some(left) => tokio::time::sleep(left).await,
            None => {
                return Error::cancelled(format!("the client has not read the result for {UNREAD_MAX:?}"));
            }
        }
    }
}

fn lock(answer: &Mutex<Answer>) -> MutexGuard<'_, Answer> {
    answer.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stream for AnsweredRows {
    type Item = Result<RecordBatch>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut answer = lock(&self.shared);
        answer.read = Instant::now();
        answer.reader = Some(context.waker().clone());
        if let Some(error) = answer.ended.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let Some((rows, statement)) = &mut answer.rows else {
            return Poll::Ready(None);
        };
        let account = statement.account().clone();
        let next = account.enter(|| rows.poll_next_unpin(context));
        if let Poll::Ready(Some(Ok(batch))) = &next {
            // The client gets them, and whoever sends them frees them.
            account.release(rows_bytes(batch));
        }
        if let Poll::Ready(None | Some(Err(_))) = &next {
            statement.set_done(matches!(next, Poll::Ready(None)));
            answer.rows = None;
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use arrow_schema::Schema;
    use plexus_model::NodeId;

    use super::*;
    use crate::peers::tests::NoPeers;

    /// Tells when it is dropped, as rows that hold memory.
    struct Held(Arc<()>);

    #[tokio::test]
    async fn rows_that_nobody_reads_end_by_the_time_of_their_statement() {
        let peers = Arc::new(NoPeers);
        let all = Arc::new(RunningStatements::new(NodeId(1), Arc::default(), peers, usize::MAX));
        let statement = all.start("SELECT much", Some(Duration::from_millis(50)), 0).unwrap();
        let (schema, held) = (Arc::new(Schema::empty()), Arc::new(()));
        let (batch, hold) = (RecordBatch::new_empty(schema.clone()), Held(held.clone()));
        let endless = futures::stream::repeat_with(move || {
            let _ = &hold.0;
            Ok(batch.clone())
        });
        let rows = RowStream { schema, stream: endless.boxed() };
        let mut rows = AnsweredRows::stream(rows, statement).stream;
        rows.next().await.unwrap().unwrap();
        assert_eq!((all.count(), Arc::strong_count(&held)), (1, 2));
        // The client reads no more.
        while all.count() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(Arc::strong_count(&held), 1, "the rows are still held");
        let error = rows.next().await.unwrap().unwrap_err();
        assert!(error.message().contains("statement_timeout"), "{error}");
        assert!(rows.next().await.is_none());
    }
}
