//! Failpoints: named places in the code at which a test crashes the process or simulates a full disk, to
//! check what every intermediate state leaves behind. At most one failpoint is armed at a time. None is
//! armed unless the operator allows it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

/// Whether any failpoint is armed. Keeps the lock out of the path of production code.
static ARMED: AtomicBool = AtomicBool::new(false);
static ARMED_NAME: Mutex<String> = Mutex::new(String::new());

/// Arms the failpoint `name` and disarms the previous one. An empty name only disarms.
pub fn arm(name: &str) {
    name.clone_into(&mut lock_armed_name());
    ARMED.store(!name.is_empty(), Ordering::Release);
}

/// Whether the failpoint `name` is armed.
pub fn is_armed(name: &str) -> bool {
    ARMED.load(Ordering::Acquire) && *lock_armed_name() == name
}

/// Aborts the process, as a crash would, if the failpoint `name` is armed.
pub fn crash_if_armed(name: &str) {
    if is_armed(name) {
        eprintln!("failpoint {name} is armed: aborting");
        std::process::abort();
    }
}

fn lock_armed_name() -> MutexGuard<'static, String> {
    ARMED_NAME.lock().expect("no code panics while it holds this lock")
}
