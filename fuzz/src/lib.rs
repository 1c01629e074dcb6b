//! Fuzz targets: whatever bytes come in from a client, from another node or from the disk are taken or
//! refused, and nothing panics or takes memory by what they announce.
//!
//! A [`Target`] is a function of bytes and the valid inputs to begin with. [`run`] changes these at random,
//! from a seed; the test `seeded` does so for a moment, `plexus-fuzz` for as long as one likes.
//! `fuzz/libfuzzer` runs the same functions under coverage guidance.

mod mutate;
mod sample;
mod statements;
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};

use plexus_memory::allocated_bytes;

pub use mutate::Mutator;
pub use targets::TARGETS;

/// What is fuzzed.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, also that of the folder of its corpus.
    pub name: &'static str,
    /// Valid inputs.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Takes or refuses an input. Returns which.
    pub run: fn(&[u8]) -> bool,
}

/// An input that a target does not stand.
#[derive(Debug)]
pub struct Finding {
    /// The input.
    pub input: Vec<u8>,
    /// What it did.
    pub what: String,
}

/// Memory that may remain after an input. Caches take some.
const KEPT_BYTES_MAX: u64 = 256 * 1024 * 1024;

impl Target {
    /// The target of a name.
    pub fn named(name: &str) -> Option<Self> {
        TARGETS.iter().find(|target| target.name == name).copied()
    }

    /// Runs one input.
    ///
    /// # Errors
    /// The input, if the target panics or keeps much memory.
    pub fn try_input(&self, input: Vec<u8>) -> Result<(), Finding> {
        let before = allocated_bytes();
        let run = catch_unwind(AssertUnwindSafe(|| (self.run)(&input)));
        let kept = allocated_bytes().saturating_sub(before);
        let what = match run {
            Err(panic) => panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                .unwrap_or_else(|| "a panic without a message".to_owned()),
            Ok(_) if kept > KEPT_BYTES_MAX => format!("{kept} bytes are kept"),
            Ok(_) => return Ok(()),
        };
        Err(Finding { input, what })
    }

    /// Runs the seeds, and `inputs` random changes of them.
    ///
    /// # Errors
    /// The first finding.
    pub fn fuzz(&self, seed: u64, inputs: u64, mut progress: impl FnMut(u64)) -> Result<(), Finding> {
        let seeds = (self.seeds)();
        for input in &seeds {
            self.try_input(input.clone())?;
        }
        let mut mutator = Mutator::new(seed, seeds);
        for done in 0..inputs {
            self.try_input(mutator.next_input())?;
            progress(done + 1);
        }
        Ok(())
    }
}

/// Runs work on a thread with the stack that the threads of a node have.
///
/// # Panics
/// With `work`, or when no thread can be started.
pub fn with_stack<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    const STACK_BYTES: usize = 64 * 1024 * 1024;
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(work);
    match thread.expect("the system starts a thread").join() {
        Ok(outcome) => outcome,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}
