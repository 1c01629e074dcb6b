//! Runs the background tasks of a node. Tasks have no loops of their own: the runner gives each of them a
//! name, an interval, counters, and a bound on how many heavy ones run at once.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::FutureExt;
use futures::future::join_all;
use plexus_model::{Error, Result};
use tokio::sync::Semaphore;
use tokio::time::{MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

/// Heavy tasks that run at the same time. Each may keep a CPU core busy for minutes.
const HEAVY_TASKS_MAX: usize = 2;
/// Maximum delay of the first run of a task, as a fraction of its interval. It keeps nodes that were started
/// together from working in lockstep.
const JITTER_FRACTION: f64 = 0.1;

/// How a failed run is reported. Either way the task runs again after its interval.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ErrorPolicy {
    /// As a warning: an operator should know.
    Warn,
    /// At debug level: failures are expected, for example while there is no leader.
    Debug,
}

/// One kind of background work. A run may be dropped at any await point; the next run must be able to finish
/// its work.
#[async_trait]
pub(crate) trait BackgroundTask: Send {
    /// Name of the task in logs and metrics.
    fn name(&self) -> &'static str;

    /// Time between the starts of two runs. A run that takes longer delays the next ones.
    fn interval(&self) -> Duration;

    /// Whether a run may take minutes of CPU time. At most [`HEAVY_TASKS_MAX`] such tasks run at once.
    fn is_heavy(&self) -> bool {
        false
    }

    /// How failures are reported.
    fn error_policy(&self) -> ErrorPolicy {
        ErrorPolicy::Warn
    }

    /// Does the work that is due now.
    ///
    /// # Errors
    /// Any error. It is reported by [`Self::error_policy`], and the task runs again after its interval.
    async fn run(&mut self) -> Result<()>;
}

/// Counters of one task since the node started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TaskStatistics {
    /// Runs that have ended.
    pub runs: u64,
    /// Runs that have failed.
    pub failures: u64,
    /// Total time of all runs.
    pub busy: Duration,
}

/// Counters of all tasks, by name. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct TaskMetrics(Arc<Mutex<BTreeMap<&'static str, TaskStatistics>>>);

impl TaskMetrics {
    /// The counters of every task.
    pub fn snapshot(&self) -> BTreeMap<&'static str, TaskStatistics> {
        self.lock().clone()
    }

    fn record(&self, task: &'static str, busy: Duration, failed: bool) {
        let mut all = self.lock();
        let statistics = all.entry(task).or_default();
        statistics.runs += 1;
        statistics.failures += u64::from(failed);
        statistics.busy += busy;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, TaskStatistics>> {
        self.0.lock().expect("no code panics while it holds this lock")
    }
}

/// Runs tasks concurrently.
#[derive(Default)]
pub(crate) struct Runner {
    tasks: Vec<Box<dyn BackgroundTask>>,
    metrics: TaskMetrics,
}

impl Runner {
    /// A runner that counts the runs in `metrics`.
    pub(crate) fn new(metrics: TaskMetrics) -> Self {
        Self { tasks: vec![], metrics }
    }

    /// Adds a task.
    pub(crate) fn add(&mut self, task: impl BackgroundTask + 'static) {
        self.tasks.push(Box::new(task));
    }

    /// Runs all tasks until `stop` is canceled. Runs in progress are dropped then.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let heavy = Semaphore::new(HEAVY_TASKS_MAX);
        let loops = self.tasks.into_iter().map(|task| run_task(task, &heavy, &self.metrics));
        tokio::select! {
            _ = join_all(loops) => {}
            () = stop.cancelled() => {}
        }
    }
}

/// Runs one task again and again.
async fn run_task(mut task: Box<dyn BackgroundTask>, heavy: &Semaphore, metrics: &TaskMetrics) {
    let period = task.interval();
    let mut ticker = interval_at(tokio::time::Instant::now() + jitter(period), period);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failures = 0u64;
    loop {
        ticker.tick().await;
        let _permit = match task.is_heavy() {
            // The semaphore is never closed.
            true => heavy.acquire().await.ok(),
            false => None,
        };
        let started = Instant::now();
        // A panic is a failure of this run: the other tasks, and the node, go on.
        let panicked = |_| Err(Error::internal("the task panicked"));
        let result = AssertUnwindSafe(task.run()).catch_unwind().await.unwrap_or_else(panicked);
        metrics.record(task.name(), started.elapsed(), result.is_err());
        let Err(error) = result else {
            failures = 0;
            continue;
        };
        failures += 1;
        let (task, policy) = (task.name(), task.error_policy());
        match policy {
            // A failure that lasts is reported less and less often.
            ErrorPolicy::Warn if failures.is_power_of_two() => {
                tracing::warn!(task, failures, %error, "background task failed; retrying");
            }
            _ => tracing::debug!(task, failures, %error, "background task failed; retrying"),
        }
    }
}

/// A random delay between zero and [`JITTER_FRACTION`] of `period`.
fn jitter(period: Duration) -> Duration {
    period.mul_f64(fastrand::f64() * JITTER_FRACTION)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use plexus_model::Error;

    use super::*;

    /// A heavy task that measures how many of its kind run at once.
    struct CountingTask {
        running: Arc<AtomicUsize>,
        running_max: Arc<AtomicUsize>,
        fails: bool,
    }

    #[async_trait]
    impl BackgroundTask for CountingTask {
        fn name(&self) -> &'static str {
            if self.fails { "failing" } else { "working" }
        }

        fn interval(&self) -> Duration {
            Duration::from_millis(10)
        }

        fn is_heavy(&self) -> bool {
            true
        }

        async fn run(&mut self) -> Result<()> {
            let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
            self.running_max.fetch_max(running, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(30)).await;
            self.running.fetch_sub(1, Ordering::SeqCst);
            if self.fails { Err(Error::unavailable("not now")) } else { Ok(()) }
        }
    }

    #[tokio::test]
    async fn heavy_tasks_are_bounded_and_failures_do_not_end_a_task() {
        let (running, running_max) = (Arc::default(), Arc::new(AtomicUsize::new(0)));
        let metrics = TaskMetrics::default();
        let mut runner = Runner::new(metrics.clone());
        for fails in [false, false, false, true] {
            runner.add(CountingTask {
                running: Arc::clone(&running),
                running_max: running_max.clone(),
                fails,
            });
        }
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(500)).await;
            stopped.cancel();
        });
        runner.run(stop).await;
        assert_eq!(running_max.load(Ordering::SeqCst), HEAVY_TASKS_MAX);
        let all = metrics.snapshot();
        assert_eq!(all["working"].failures, 0);
        assert!(all["failing"].runs > 1 && all["failing"].failures == all["failing"].runs, "{all:?}");
    }
}
