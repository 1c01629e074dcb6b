//! Accounts: what a piece of work holds, and how it is ended.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::counter::{self, ACCOUNTS_MAX};
use crate::guard::Overrun;
use crate::room;

/// The memory of one statement or request. Clones are the same account;
/// it closes with the last of them.
///
/// It is an estimate: what work of others frees for it, or it for others, is not known. Where memory changes
/// hands on purpose, [`Account::release`] says so.
#[derive(Clone)]
pub struct Account(Arc<Inner>);

struct Inner {
    /// Number of its counter; zero if there is none left.
    number: usize,
    end: Box<dyn Fn(&Overrun) -> bool + Send + Sync>,
}

/// The accounts that are open, and the numbers of closed ones.
struct Accounts {
    /// By number.
    open: Vec<Weak<Inner>>,
    free: Vec<usize>,
}

static ACCOUNTS: Mutex<Accounts> = Mutex::new(Accounts { open: vec![], free: vec![] });

fn accounts() -> MutexGuard<'static, Accounts> {
    ACCOUNTS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Account {
    /// Opens an account. `end` ends the work that it is for, which holds too much, and returns whether that
    /// is possible now. It must not block.
    pub fn open(end: impl Fn(&Overrun) -> bool + Send + Sync + 'static) -> Self {
        let mut accounts = accounts();
        if accounts.open.is_empty() {
            // Nobody's.
            accounts.open.push(Weak::new());
        }
        let number = match accounts.free.pop() {
            Some(number) => number,
            None if accounts.open.len() < ACCOUNTS_MAX => {
                accounts.open.push(Weak::new());
                accounts.open.len() - 1
            }
            None => 0,
        };
        let inner = Arc::new(Inner { number, end: Box::new(end) });
        if number > 0 {
            counter::reset(number);
            accounts.open[number] = Arc::downgrade(&inner);
        }
        Self(inner)
    }

    /// The account in whose scope this thread works.
    pub fn current() -> Option<Self> {
        match counter::current() {
            0 => None,
            number => accounts().open.get(number)?.upgrade().map(Self),
        }
    }

    /// Whether the work of the account in whose scope this thread works has been ended.
    pub fn current_has_ended() -> bool {
        counter::has_ended(counter::current())
    }

    /// Whether memory is short, and the work of the account in whose scope this thread works holds so much of
    /// it that it should fail rather than take more.
    pub fn current_must_not_grow() -> bool {
        room::must_not_grow()
    }

    /// All that are open.
    pub(crate) fn all() -> Vec<Self> {
        // Dropping the last clone of an account takes the lock again.
        let open: Vec<Weak<Inner>> = accounts().open.clone();
        open.iter().filter_map(Weak::upgrade).map(Self).collect()
    }

    /// Bytes that the work of this account has allocated and not freed.
    pub fn bytes(&self) -> u64 {
        match self.0.number {
            0 => 0,
            number => counter::balance(number).try_into().unwrap_or(0),
        }
    }

    /// Takes bytes out of this account that others free: of rows which are on their way to a client.
    pub fn release(&self, bytes: usize) {
        if self.0.number > 0 {
            counter::adjust(self.0.number, -isize::try_from(bytes).unwrap_or(isize::MAX));
        }
    }

    /// Ends the work of this account. Returns whether that is possible now.
    pub(crate) fn end(&self, overrun: &Overrun) -> bool {
        // Before, because what it wakes must not wait for room. Nor must work that cannot be ended now: it
        // commits, and frees its memory then.
        counter::let_pass(self.0.number);
        let is_possible = (self.0.end)(overrun);
        if is_possible {
            counter::note_end(self.0.number);
        }
        is_possible
    }

    /// Does work in the scope of this account.
    pub fn enter<T>(&self, work: impl FnOnce() -> T) -> T {
        /// Restores the account of the thread, also after a panic.
        struct Restore(usize);
        impl Drop for Restore {
            fn drop(&mut self) {
                counter::switch(self.0);
            }
        }
        let _restore = Restore(counter::switch(self.0.number));
        work()
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").field("number", &self.0.number).field("bytes", &self.bytes()).finish()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.number > 0 {
            accounts().free.push(self.number);
        }
    }
}
