//! Work that ends the process is set aside, so that it does not end one process after the other.
//!
//! A unit of background work, such as the compaction of a shard, leaves a file while it runs. If the process
//! ends meanwhile, the file stays, and the next process sees it. After three of them, the unit waits for an
//! hour, and each further one begins another hour. The node serves meanwhile, and says what it does not do.
//!
//! A unit that fails by a fault of its own, such as a panic, is tried less and less often: it would fail
//! again, and take as much time as what works.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use futures::FutureExt;
use plexus_model::{Error, ErrorKind, Result};

/// Processes that a unit may end before it is set aside.
const ENDED_PROCESSES_MAX: u32 = 3;
/// How long a unit is set aside.
const SET_ASIDE: Duration = Duration::from_secs(60 * 60);

/// Faults in a row that a unit may have before it waits.
const FAULTS_AT_ONCE: u32 = 4;
/// How long it waits after the next one, and twice as long after each further one.
const FAULT_DELAY: Duration = Duration::from_secs(1);
/// How long it waits at most.
const FAULT_DELAY_MAX: Duration = Duration::from_secs(10 * 60);

/// The units of work of this node that have not succeeded lately.
#[derive(Debug)]
pub struct Attempts {
    directory: PathBuf,
    /// Those that failed, by unit.
    failures: Mutex<HashMap<String, Failures>>,
}

/// How often in a row a unit has failed.
#[derive(Default, Debug)]
struct Failures {
    times: u32,
    /// Faults among them, since the last failure of another kind.
    faults: u32,
    /// When it may be tried again.
    not_before: Option<Instant>,
}

impl Attempts {
    /// Keeps its files in `directory`.
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), failures: Mutex::default() }
    }

    /// How many units are set aside.
    pub fn set_aside(&self) -> usize {
        let files = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        files.filter(|file| is_set_aside(&file.path())).count()
    }

    /// Runs a unit of work, unless it is set aside. Its failure is logged, and must not keep a task from the
    /// rest of its work.
    pub(crate) async fn run(&self, unit: impl fmt::Display, work: impl Future<Output = Result<()>>) {
        let unit = unit.to_string();
        if self.waits(&unit) {
            return;
        }
        let path = self.directory.join(&unit);
        let placing = path.clone();
        let placed =
            tokio::task::spawn_blocking(move || (!is_set_aside(&placing)).then(|| Marker::place(&placing)));
        let Ok(Some(_marker)) = placed.await else {
            let file = path.display();
            self.report(unit, false, |unit, times| {
                tracing::error!(unit, times, %file, "background work is set aside: it ended the process");
            });
            return;
        };
        let panicked = |_| Err(Error::internal("the work panicked"));
        match AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(panicked) {
            Ok(()) => drop(self.lock().remove(&unit)),
            Err(error) => self.report(unit, error.kind() == ErrorKind::Internal, |unit, times| {
                tracing::warn!(unit, times, %error, "background work failed; retrying");
            }),
        }
    }

    /// Whether a unit waits after faults.
    fn waits(&self, unit: &str) -> bool {
        let not_before = self.lock().get(unit).and_then(|failures| failures.not_before);
        not_before.is_some_and(|not_before| Instant::now() < not_before)
    }

    /// Reports a unit the first time in a row, the second, the fourth, and so on.
    fn report(&self, unit: String, is_fault: bool, log: impl FnOnce(&str, u32)) {
        let times = {
            let mut all = self.lock();
            let failures = all.entry(unit.clone()).or_default();
            failures.times += 1;
            failures.faults = if is_fault { failures.faults + 1 } else { 0 };
            failures.not_before = failures.faults.checked_sub(FAULTS_AT_ONCE + 1).map(|doublings| {
                let delay = FAULT_DELAY.saturating_mul(1 << doublings.min(16));
                Instant::now() + delay.min(FAULT_DELAY_MAX)
            });
            failures.times
        };
        if times.is_power_of_two() {
            log(&unit, times);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Failures>> {
        self.failures.lock().expect("no code panics while it holds this lock")
    }
}

fn is_set_aside(path: &Path) -> bool {
    let age = fs::metadata(path).and_then(|file| file.modified()).ok().and_then(|at| at.elapsed().ok());
    ended_processes(path) >= ENDED_PROCESSES_MAX && age.is_some_and(|age| age < SET_ASIDE)
}

/// How many processes a unit has ended.
fn ended_processes(path: &Path) -> u32 {
    fs::read_to_string(path).ok().and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

/// The file of a unit that runs. It is removed when the work has ended, in whatever way, but by the end of
/// the process.
struct Marker(PathBuf);

impl Marker {
    fn place(path: &Path) -> Self {
        let count = ended_processes(path) + 1;
        // Without the file the work runs all the same: the disk may be full.
        let _ = path.parent().map(fs::create_dir_all);
        let _ = fs::write(path, count.to_string());
        Self(path.to_owned())
    }
}

impl Drop for Marker {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn work_that_panics_again_and_again_waits() {
        let dir = tempfile::tempdir().unwrap();
        let attempts = Attempts::new(dir.path());
        let runs = AtomicU32::new(0);
        for _ in 0..20 {
            let work = async {
                runs.fetch_add(1, Ordering::Relaxed);
                panic!("a fault")
            };
            attempts.run("flush-1-0", work).await;
        }
        assert_eq!(runs.load(Ordering::Relaxed), FAULTS_AT_ONCE + 1);
        // Other failures may pass, and do not wait.
        for _ in 0..20 {
            let work = async {
                runs.fetch_add(1, Ordering::Relaxed);
                Err(Error::unavailable("not now"))
            };
            attempts.run("flush-1-1", work).await;
        }
        assert_eq!(runs.load(Ordering::Relaxed), FAULTS_AT_ONCE + 1 + 20);
    }

    #[tokio::test]
    async fn work_that_ended_three_processes_is_set_aside_and_a_panic_is_no_end() {
        let dir = tempfile::tempdir().unwrap();
        let runs = AtomicU32::new(0);
        let work = async || {
            runs.fetch_add(1, Ordering::Relaxed);
            Ok(())
        };
        for ended in 1..=ENDED_PROCESSES_MAX {
            let attempts = Attempts::new(dir.path());
            attempts.run("flush-1-0", async { panic!("a fault") }).await;
            assert_eq!(attempts.set_aside(), 0);
            attempts.run("flush-1-0", work()).await;
            assert_eq!(runs.load(Ordering::Relaxed), ended, "neither failures nor panics count");
            // The process ends in the middle of the work.
            fs::write(dir.path().join("flush-1-0"), ended.to_string()).unwrap();
        }
        let attempts = Attempts::new(dir.path());
        assert_eq!(attempts.set_aside(), 1);
        attempts.run("flush-1-0", work()).await;
        attempts.run("flush-1-1", work()).await;
        assert_eq!(runs.load(Ordering::Relaxed), ENDED_PROCESSES_MAX + 1, "the other one ran");
        // After an hour, it is tried again, and forgotten when it succeeds.
        let earlier = std::time::SystemTime::now() - SET_ASIDE;
        let file = fs::File::options().write(true).open(dir.path().join("flush-1-0")).unwrap();
        file.set_modified(earlier).unwrap();
        attempts.run("flush-1-0", work()).await;
        assert_eq!(runs.load(Ordering::Relaxed), ENDED_PROCESSES_MAX + 2);
        assert_eq!(attempts.set_aside(), 0);
    }
}
