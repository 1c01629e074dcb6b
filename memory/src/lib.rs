//! Memory accounts: which work of a process holds how much memory, and which ends when that is too much.
//!
//! Operators of queries tell a pool what they are about to take, and spill or fail if there is no more. That
//! is exact where it is done, and nobody does it everywhere: not planners, not every aggregate, not decoders.
//! So the allocator of the process counts as well. Each statement has an [`Account`], whatever runs for it
//! runs in the *scope* of that account, and the [`MemoryGuard`] ends the largest one before the system ends
//! the process.

mod account;
mod allocator;
mod counter;
mod guard;
mod room;
mod scope;

pub use account::Account;
pub use allocator::CountingAllocator;
pub use counter::allocated_bytes;
pub use guard::{MemoryGuard, Overrun};
pub use scope::{Scoped, inherit, inherit_in};
