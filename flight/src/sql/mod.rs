//! Arrow Flight and Flight SQL on the client port.

mod encode;
mod front;
mod metadata;
mod options;
mod server;
mod sessions;
mod tickets;

pub use front::Front;
pub use server::SqlService;
pub use sessions::Sessions;
