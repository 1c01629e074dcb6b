//! The parameters that were bound last to each prepared statement.
//!
//! Binding returns a handle that includes the parameters. Clients that ignore it send the handle that they
//! have, and mean the parameters that they bound: the node that bound them remembers them for a while.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use crate::sql::tickets::StatementHandle;

/// Most prepared statements whose parameters are remembered.
const BINDINGS_MAX: usize = 10_000;
/// Most bytes of parameters that are remembered.
const BYTES_MAX: usize = 64 * 1024 * 1024;

/// Bound parameters by prepared statement. Beyond its limits, it forgets those that were used longest ago.
#[derive(Default)]
pub(crate) struct Bindings(Mutex<Remembered>);

#[derive(Default)]
struct Remembered {
    by_statement: HashMap<u128, Binding>,
    bytes: usize,
    /// Counts the uses.
    clock: u64,
}

struct Binding {
    parameters: Vec<u8>,
    last_used: u64,
}

impl Bindings {
    /// Remembers the parameters of a handle, or that it has none.
    pub(crate) fn remember(&self, handle: &StatementHandle) {
        self.forget(handle);
        if handle.prepared == 0 || handle.parameters.is_empty() {
            return;
        }
        let mut remembered = self.lock();
        let last_used = remembered.tick();
        remembered.bytes += handle.parameters.len();
        let binding = Binding { parameters: handle.parameters.clone(), last_used };
        remembered.by_statement.insert(handle.prepared, binding);
        while remembered.by_statement.len() > BINDINGS_MAX || remembered.bytes > BYTES_MAX {
            let oldest = remembered.by_statement.iter().min_by_key(|(_, binding)| binding.last_used);
            let Some(oldest) = oldest.map(|(statement, _)| *statement) else {
                break;
            };
            remembered.remove(oldest);
        }
    }

    /// The handle with the parameters that were bound last, if it has none of its own.
    pub(crate) fn complete(&self, handle: StatementHandle) -> StatementHandle {
        if handle.prepared == 0 || !handle.parameters.is_empty() {
            return handle;
        }
        let mut remembered = self.lock();
        let last_used = remembered.tick();
        match remembered.by_statement.get_mut(&handle.prepared) {
            Some(binding) => {
                binding.last_used = last_used;
                StatementHandle { parameters: binding.parameters.clone(), ..handle }
            }
            None => handle,
        }
    }

    /// Forgets the parameters of a statement that is closed.
    pub(crate) fn forget(&self, handle: &StatementHandle) {
        self.lock().remove(handle.prepared);
    }

    fn lock(&self) -> MutexGuard<'_, Remembered> {
        self.0.lock().expect("no code panics while it holds this lock")
    }
}

impl Remembered {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn remove(&mut self, statement: u128) {
        if let Some(binding) = self.by_statement.remove(&statement) {
            self.bytes -= binding.parameters.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handle(prepared: u128, bytes: usize) -> StatementHandle {
        StatementHandle { prepared, parameters: vec![1; bytes], ..StatementHandle::new("SELECT $1") }
    }

    fn unbound(prepared: u128) -> StatementHandle {
        handle(prepared, 0)
    }

    #[test]
    fn the_last_binding_counts_until_the_statement_is_closed() {
        let bindings = Bindings::default();
        bindings.remember(&handle(1, 5));
        bindings.remember(&handle(1, 7));
        assert_eq!(bindings.complete(unbound(1)).parameters.len(), 7);
        assert_eq!(bindings.complete(handle(1, 2)).parameters.len(), 2);
        assert!(bindings.complete(unbound(2)).parameters.is_empty());
        bindings.forget(&unbound(1));
        assert!(bindings.complete(unbound(1)).parameters.is_empty());
        assert_eq!(bindings.lock().bytes, 0);
    }

    #[test]
    fn the_memory_is_bounded() {
        let bindings = Bindings::default();
        for statement in 1..=10 {
            bindings.remember(&handle(statement, BYTES_MAX / 4));
            bindings.complete(unbound(1));
        }
        assert!(bindings.lock().bytes <= BYTES_MAX);
        assert!(!bindings.complete(unbound(1)).parameters.is_empty());
        assert!(bindings.complete(unbound(2)).parameters.is_empty());
        for statement in 11..=BINDINGS_MAX as u128 + 20 {
            bindings.remember(&handle(statement, 1));
        }
        assert!(bindings.lock().by_statement.len() <= BINDINGS_MAX);
    }
}
