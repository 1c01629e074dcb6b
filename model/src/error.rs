//! Errors, by what the caller can do about them.

use std::error::Error as StdError;
use std::fmt;

use rkyv::{Archive, Deserialize, Serialize};

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the caller can do.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ErrorKind {
    /// Fix the request: it can never succeed as it is.
    InvalidArgument,
    /// The named thing does not exist.
    NotFound,
    /// The named thing exists already.
    AlreadyExists,
    /// Something changed underneath; run the statement again.
    Conflict,
    /// A needed node or quorum cannot be reached now; the same request may succeed later.
    Unavailable,
    /// The outcome is unknown: it may or may not have happened. Ask again with the same token.
    Unknown,
    /// A limit was reached (memory, disk, queue); free or raise it.
    ResourceExhausted,
    /// The caller gave up.
    Cancelled,
    /// Not supported yet; the message says what is.
    Unsupported,
    /// Stored or received bytes are not what they should be.
    Corrupt,
    /// A defect of ours.
    Internal,
}

/// An error with a [kind](ErrorKind), a message that names the thing and the value, and its source.
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

macro_rules! constructors {
    ($($name:ident => $kind:ident),* $(,)?) => {
        $(pub fn $name(message: impl Into<String>) -> Self {
            Self::new(ErrorKind::$kind, message)
        })*
    };
}

impl Error {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    constructors! {
        invalid => InvalidArgument,
        not_found => NotFound,
        already_exists => AlreadyExists,
        conflict => Conflict,
        unavailable => Unavailable,
        unknown => Unknown,
        exhausted => ResourceExhausted,
        cancelled => Cancelled,
        unsupported => Unsupported,
        corrupt => Corrupt,
        internal => Internal,
    }

    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The same error with `context: ` before its message.
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }

    /// An I/O error on the named thing; a full disk is [`ErrorKind::ResourceExhausted`].
    pub fn io(what: impl fmt::Display, error: std::io::Error) -> Self {
        let kind = match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                ErrorKind::ResourceExhausted
            }
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof => ErrorKind::Corrupt,
            _ => ErrorKind::Unavailable,
        };
        Self::new(kind, format!("{what}: {error}")).with_source(error)
    }

    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    pub fn message(&self) -> &str {
        &self.message
    }

    /// Whether the same request may succeed when it is sent again.
    pub fn is_retryable(&self) -> bool {
        matches!(self.kind, ErrorKind::Unavailable | ErrorKind::Conflict | ErrorKind::Unknown)
    }
}

/// The beginning of a text that is too long, and how long it was.
pub fn cut(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let end = (0..=max).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
    format!("{} [... {} bytes in all]", &text[..end], text.len())
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|e| &**e as _)
    }
}
