//! Errors, classified by what the caller can do about them.

use std::error::Error as StdError;
use std::fmt;

use rkyv::{Archive, Deserialize, Serialize};

/// A result whose error is [`Error`] unless stated otherwise.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the caller can do about an error.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ErrorKind {
    /// The request can never succeed. Fix it.
    InvalidArgument,
    /// The named object does not exist.
    NotFound,
    /// An object of that name exists already.
    AlreadyExists,
    /// A concurrent change interferes with the statement. Run it again.
    Conflict,
    /// A required node or a quorum cannot be reached now. The same request may succeed later.
    Unavailable,
    /// The outcome is unknown: the change may or may not have been applied. Retry with the same token.
    Unknown,
    /// A limit on memory, disk space or a queue was reached. Free the resource or raise the limit.
    ResourceExhausted,
    /// The caller canceled the request.
    Cancelled,
    /// The feature is not supported. The message names what is supported.
    Unsupported,
    /// Stored or received bytes fail validation.
    Corrupt,
    /// A bug in Plexus.
    Internal,
}

/// An error with a [kind](ErrorKind), a message that names the object and the value, and its source.
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

macro_rules! constructors {
    ($($name:ident => $kind:ident),* $(,)?) => {
        $(
            #[doc = concat!("An error of kind [`ErrorKind::", stringify!($kind), "`].")]
            pub fn $name(message: impl Into<String>) -> Self {
                Self::new(ErrorKind::$kind, message)
            }
        )*
    };
}

impl Error {
    /// An error without a source.
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

    /// The same error with `source` as its cause.
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The same error with `context: ` in front of its message.
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }

    /// Converts an I/O error on the object `what`.
    ///
    /// A full disk or quota is [`ErrorKind::ResourceExhausted`], a missing file is [`ErrorKind::NotFound`],
    /// and invalid or truncated data is [`ErrorKind::Corrupt`]. Everything else is
    /// [`ErrorKind::Unavailable`].
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

    /// What the caller can do about the error.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The message, without that of the source.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Whether the same request may succeed when it is sent again.
    pub fn is_retryable(&self) -> bool {
        matches!(self.kind, ErrorKind::Unavailable | ErrorKind::Conflict | ErrorKind::Unknown)
    }
}

/// Truncates `text` to at most `max` bytes, at a character boundary. Truncated text ends with a note of its
/// original length, which is not counted against `max`.
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
