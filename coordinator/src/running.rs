//! The statements that run on this node: what `plexus.queries` shows, and how they end before they are done.
//!
//! A statement ends early when its time is over, when somebody kills it, or when its client leaves. A commit
//! that has begun is waited for, since nobody could say otherwise whether it took place.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::future::BoxFuture;
use plexus_memory::{Account, Overrun};
use plexus_model::{Error, NodeId, Result, cut};
use plexus_query::{Interrupts, RunningQuery};
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::limits::{
    LONG_QUERIES_MAX, LONG_QUERIES_WAITING_MAX, LONG_QUERY_BYTES, RUNNING_MAX, SHOWN_BYTES_MAX,
};
use crate::peers::Peers;

tokio::task_local! {
    /// The statement that the present task runs.
    static CURRENT: Arc<Running>;
}

/// The statements of this node.
pub struct RunningStatements {
    node: NodeId,
    interrupts: Arc<Interrupts>,
    peers: Arc<dyn Peers>,
    running: Mutex<HashMap<u64, Arc<Running>>>,
    next: AtomicU64,
    /// One permit for each long query that runs.
    long: Arc<Semaphore>,
    /// One permit for each that runs or waits.
    admitted: Arc<Semaphore>,
}

impl RunningStatements {
    /// The statements of node `node`, none so far. `interrupts` ends their work on this node, `peers` that on
    /// others. Queries have `memory_bytes` together.
    pub(crate) fn new(
        node: NodeId,
        interrupts: Arc<Interrupts>,
        peers: Arc<dyn Peers>,
        memory_bytes: usize,
    ) -> Self {
        let long_max = (memory_bytes / LONG_QUERY_BYTES).clamp(1, LONG_QUERIES_MAX);
        Self {
            node,
            interrupts,
            peers,
            running: Mutex::default(),
            next: AtomicU64::default(),
            long: Arc::new(Semaphore::new(long_max)),
            admitted: Arc::new(Semaphore::new(long_max + LONG_QUERIES_WAITING_MAX)),
        }
    }

    /// Registers a statement.
    ///
    /// # Errors
    /// `ResourceExhausted` when too many statements run on this node.
    pub(crate) fn start(
        self: &Arc<Self>,
        sql: &str,
        time_max: Option<Duration>,
        ticket: u128,
    ) -> Result<Started> {
        let mut running = self.lock();
        if running.len() >= RUNNING_MAX {
            return Err(Error::exhausted(format!(
                "{RUNNING_MAX} statements run on this node: wait, or use another node"
            )));
        }
        let statement = Arc::new_cyclic(|statement: &Weak<Running>| Running {
            account: account_of(statement.clone()),
            overrun: OnceLock::new(),
            id: uuid::Uuid::now_v7().simple().to_string(),
            ticket,
            text: cut(sql, SHOWN_BYTES_MAX).into(),
            started: SystemTime::now(),
            began: Instant::now(),
            time_max,
            ignores_time: AtomicBool::default(),
            phase: Mutex::new(Phase::Running { commits: 0 }),
            workers: Mutex::default(),
            killed: CancellationToken::new(),
            slots: OnceCell::new(),
            all: self.clone(),
        });
        let key = self.next.fetch_add(1, Ordering::Relaxed);
        running.insert(key, statement.clone());
        Ok(Started { statement, key, is_done: false })
    }

    /// What runs on this node.
    pub fn list(&self) -> Vec<RunningQuery> {
        let shown = |statement: &Arc<Running>| RunningQuery {
            query_id: statement.id.clone(),
            node: self.node,
            state: statement.state().to_owned(),
            started_us: statement.started.duration_since(UNIX_EPOCH).map_or(0, |t| t.as_micros() as u64),
            elapsed_us: statement.began.elapsed().as_micros() as u64,
            memory_bytes: statement.account.bytes(),
            statement: statement.text.to_string(),
        };
        let mut all: Vec<RunningQuery> = self.lock().values().map(shown).collect();
        all.sort_by_key(|query| query.started_us);
        all
    }

    /// How many statements run on this node.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// Ends the statements with this id, or of this ticket. Returns whether there was one.
    pub fn kill(&self, query: &str) -> bool {
        let ticket = u128::from_str_radix(query, 16).ok().filter(|ticket| *ticket != 0);
        let found: Vec<_> = self
            .lock()
            .values()
            .filter(|running| running.id == query || ticket == Some(running.ticket))
            .cloned()
            .collect();
        found.iter().for_each(|running| running.killed.cancel());
        !found.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Running>>> {
        self.running.lock().expect("no code panics while it holds this lock")
    }
}

/// A statement that runs.
pub(crate) struct Running {
    /// Its id in logs, in tasks on other nodes, and in `plexus.queries`.
    id: String,
    /// The ticket that is redeemed; zero without one.
    ticket: u128,
    /// The start of its text.
    text: Box<str>,
    started: SystemTime,
    began: Instant,
    /// How long it may run.
    time_max: Option<Duration>,
    /// Whether it runs to its end all the same.
    ignores_time: AtomicBool,
    phase: Mutex<Phase>,
    /// Other nodes that run parts of it.
    workers: Mutex<Vec<NodeId>>,
    killed: CancellationToken,
    /// What it holds of the memory of this node.
    account: Account,
    /// Why it ends, if it holds too much.
    overrun: OnceLock<Overrun>,
    /// Its permits as a long query.
    slots: OnceCell<[OwnedSemaphorePermit; 2]>,
    all: Arc<RunningStatements>,
}

/// How far a statement is.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Phase {
    /// It waits for its turn among the long queries.
    Queued,
    /// It runs, with this many commits in progress.
    Running { commits: usize },
    /// It has ended early, and must not commit anything from here on.
    Ended,
}

impl Running {
    fn state(&self) -> &'static str {
        match *self.lock_phase() {
            Phase::Queued => "queued",
            Phase::Running { commits: 0 } => "running",
            Phase::Running { .. } => "committing",
            Phase::Ended => "ending",
        }
    }

    /// Ends the statement, unless a commit is in progress.
    fn try_end(&self) -> bool {
        let mut phase = self.lock_phase();
        let ends = !matches!(*phase, Phase::Running { commits: 1.. });
        if ends {
            *phase = Phase::Ended;
        }
        ends
    }

    fn begin_commit(&self) -> Result<()> {
        match &mut *self.lock_phase() {
            Phase::Running { commits } => {
                *commits += 1;
                Ok(())
            }
            Phase::Queued => Err(Error::internal("a statement commits while it waits for its turn")),
            Phase::Ended => Err(Error::cancelled("the statement was cancelled")),
        }
    }

    fn end_commit(&self) {
        if let Phase::Running { commits } = &mut *self.lock_phase() {
            *commits = commits.saturating_sub(1);
        }
    }

    /// Waits until the statement shall end early. The error says why.
    async fn ended(&self) -> Error {
        let timeout = async {
            match self.time_max {
                Some(time_max) => tokio::time::sleep(time_max.saturating_sub(self.began.elapsed())).await,
                None => std::future::pending().await,
            }
            if self.ignores_time.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
        };
        let error = tokio::select! {
            () = self.killed.cancelled() => match self.overrun.get() {
                Some(overrun) => Error::exhausted(format!("the statement {overrun}")),
                None => Error::cancelled(format!("query {} was cancelled", self.id)),
            },
            () = timeout => Error::cancelled(format!(
                "the statement ran for longer than statement_timeout, {:?}: raise it with SET \
                 statement_timeout",
                self.time_max.unwrap_or_default()
            )),
        };
        while !self.try_end() {
            tokio::time::sleep(COMMIT_POLL).await;
        }
        error
    }

    /// Ends the work of the statement on all nodes.
    fn interrupt(&self) {
        self.all.interrupts.interrupt(&self.id);
        let workers = std::mem::take(&mut *self.workers.lock().unwrap_or_else(PoisonError::into_inner));
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        for worker in workers {
            let (peers, id) = (self.all.peers.clone(), self.id.clone());
            runtime.spawn(async move {
                if let Err(error) = peers.interrupt(worker, &id).await {
                    tracing::debug!(node = %worker, query_id = id, %error, "could not end a query on a node");
                }
            });
        }
    }

    fn lock_phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().expect("no code panics while it holds this lock")
    }
}

/// The memory account of a statement, which is ended when it holds too much. Once it commits, it is not.
fn account_of(statement: Weak<Running>) -> Account {
    Account::open(move |overrun| {
        let Some(statement) = statement.upgrade() else {
            return false;
        };
        let can_end = matches!(*statement.lock_phase(), Phase::Queued | Phase::Running { commits: 0 });
        // Once is enough.
        let ends = can_end && statement.overrun.set(*overrun).is_ok();
        if ends {
            statement.killed.cancel();
        }
        ends
    })
}

/// Time between two looks at a commit that delays the end of its statement.
const COMMIT_POLL: Duration = Duration::from_millis(10);

/// A registered statement. Dropped before it is done, it ends the work of the statement.
pub(crate) struct Started {
    statement: Arc<Running>,
    key: u64,
    is_done: bool,
}

impl Started {
    /// Runs the statement, or a part of it.
    ///
    /// # Errors
    /// Its own error, or `Cancelled`.
    pub(crate) async fn run<T>(&mut self, work: BoxFuture<'_, Result<T>>) -> Result<T> {
        let statement = self.statement.clone();
        let (outcome, ended_early) = CURRENT
            .scope(statement.clone(), async {
                tokio::select! {
                    biased;
                    outcome = statement.account.scope(work) => (outcome, false),
                    error = statement.ended() => (Err(error), true),
                }
            })
            .await;
        // Other parts of a long query that has failed may still compute.
        let may_compute = outcome.is_err() && statement.slots.initialized();
        self.is_done = !ended_early && !may_compute;
        outcome
    }

    /// Whether the work of the statement is done. Until then, it is interrupted when this is dropped.
    pub(crate) fn set_done(&mut self, is_done: bool) {
        self.is_done = is_done;
    }

    /// What the statement holds of the memory of this node.
    pub(crate) fn account(&self) -> &Account {
        &self.statement.account
    }

    /// Waits until the statement shall end early.
    pub(crate) fn ended(&self) -> impl Future<Output = Error> + Send + 'static {
        let statement = self.statement.clone();
        async move { statement.ended().await }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let statement = self.statement.all.lock().remove(&self.key);
        if let Some(statement) = statement.filter(|_| !self.is_done) {
            statement.interrupt();
        }
    }
}

/// The id of the statement that the present task runs; a new one outside of statements.
pub(crate) fn query_id() -> String {
    CURRENT
        .try_with(|statement| statement.id.clone())
        .unwrap_or_else(|_| uuid::Uuid::now_v7().simple().to_string())
}

/// Lets the present statement run to its end, however long that takes. It says so before it waits for
/// anything.
pub(crate) fn ignore_timeout() {
    let _ = CURRENT.try_with(|statement| statement.ignores_time.store(true, Ordering::Relaxed));
}

/// Runs a commit of the present statement, which does not end early before its outcome is known.
///
/// # Errors
/// `Cancelled` when the statement has ended already. Otherwise the error of the commit.
pub(crate) async fn committing<T>(commit: BoxFuture<'_, Result<T>>) -> Result<T> {
    struct Committing(Arc<Running>);
    impl Drop for Committing {
        fn drop(&mut self) {
            self.0.end_commit();
        }
    }
    let statement = CURRENT.try_with(Clone::clone).ok();
    let _committing = match statement {
        Some(statement) => {
            statement.begin_commit()?;
            Some(Committing(statement))
        }
        None => None,
    };
    commit.await
}

/// Records that other nodes run parts of the present statement.
pub(crate) fn runs_on(workers: impl Iterator<Item = NodeId>) {
    let _ = CURRENT.try_with(|statement| {
        let workers = workers.filter(|worker| *worker != statement.all.node);
        let mut known = statement.workers.lock().unwrap_or_else(PoisonError::into_inner);
        *known = workers.collect();
    });
}

/// Waits until the present statement may run a long query. It then may until its end.
///
/// # Errors
/// `ResourceExhausted` when too many wait already.
pub(crate) async fn admit_long() -> Result<()> {
    let Ok(statement) = CURRENT.try_with(Clone::clone) else {
        return Ok(());
    };
    let admit = async {
        let all = &statement.all;
        let admitted = all.admitted.clone().try_acquire_owned().map_err(|_| {
            Error::exhausted(format!(
                "{LONG_QUERIES_WAITING_MAX} long queries wait on this node: try again later, or on another \
                 node"
            ))
        })?;
        let slot = match all.long.clone().try_acquire_owned() {
            Ok(slot) => slot,
            Err(_) => {
                *statement.lock_phase() = Phase::Queued;
                let slot = all.long.clone().acquire_owned().await;
                let mut phase = statement.lock_phase();
                if *phase == Phase::Queued {
                    *phase = Phase::Running { commits: 0 };
                }
                slot.map_err(|e| Error::internal(format!("the queue of long queries: {e}")))?
            }
        };
        Ok([admitted, slot])
    };
    statement.slots.get_or_try_init(|| admit).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use plexus_model::ErrorKind;
    use tokio::task::unconstrained;

    use super::*;
    use crate::peers::tests::NoPeers;

    fn statements() -> Arc<RunningStatements> {
        Arc::new(RunningStatements::new(NodeId(1), Arc::default(), Arc::new(NoPeers), usize::MAX))
    }

    #[tokio::test]
    async fn a_statement_ends_by_its_time_and_by_a_kill_but_not_within_a_commit() {
        let all = statements();
        let time_max = Some(Duration::from_millis(50));
        let mut slow = all.start("SELECT slow", time_max, 0).unwrap();
        let error = slow.run(std::future::pending::<Result<()>>().boxed()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        assert!(error.message().contains("statement_timeout, 50ms"), "{error}");
        drop(slow);

        let mut reset = all.start("RESET statement_timeout", Some(Duration::ZERO), 0).unwrap();
        let run = async {
            ignore_timeout();
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok(())
        };
        reset.run(run.boxed()).await.unwrap();
        drop(reset);

        let mut commit = all.start("INSERT", time_max, 0).unwrap();
        let long_commit = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            Ok(7)
        };
        assert_eq!(commit.run(committing(long_commit.boxed()).boxed()).await.unwrap(), 7);
        // From here on it has ended.
        let late = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            committing(async { Ok(()) }.boxed()).await
        };
        let late = commit.run(late.boxed());
        assert_eq!(late.await.unwrap_err().kind(), ErrorKind::Cancelled);
        drop(commit);

        let mut killed = all.start("SELECT 1", None, 0x2a).unwrap();
        let id = all.list()[0].query_id.clone();
        assert!(!all.kill("2b") && !all.kill("0") && all.kill(&id) && all.kill("2a"));
        let error = killed.run(std::future::pending::<Result<()>>().boxed()).await.unwrap_err();
        assert!(error.message().contains(&id), "{error}");
        drop(killed);
        assert!(all.list().is_empty() && !all.kill(&id));
    }

    #[tokio::test]
    async fn long_queries_wait_for_their_turn_and_too_many_are_refused() {
        let all = statements();
        let mut running = Vec::new();
        for _ in 0..LONG_QUERIES_MAX {
            let mut started = all.start("long", None, 0).unwrap();
            started.run(admit_long().boxed()).await.unwrap();
            running.push(started);
        }
        let mut waiting: Vec<_> =
            (0..LONG_QUERIES_WAITING_MAX).map(|_| all.start("waits", None, 0).unwrap()).collect();
        // All are polled by this one task, which may do more than its share here.
        let mut futures: Vec<_> =
            waiting.iter_mut().map(|w| Box::pin(unconstrained(w.run(admit_long().boxed())))).collect();
        for future in &mut futures {
            assert!(futures::poll!(future.as_mut()).is_pending());
        }
        let queued = all.list().iter().filter(|query| query.state == "queued").count();
        assert_eq!(queued, LONG_QUERIES_WAITING_MAX);
        let mut refused = all.start("refused", None, 0).unwrap();
        assert_eq!(refused.run(admit_long().boxed()).await.unwrap_err().kind(), ErrorKind::ResourceExhausted);
        drop(running.pop());
        futures.remove(0).await.unwrap();
    }
}
