//! Between error kinds and gRPC codes.

use plexus_model::{Error, ErrorKind, cut};
use tonic::{Code, Status};

/// The status that a client sees. A mistake in SQL is never `Internal`.
pub fn to_status(error: &Error) -> Status {
    let code = match error.kind() {
        ErrorKind::InvalidArgument => Code::InvalidArgument,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::AlreadyExists => Code::AlreadyExists,
        ErrorKind::Conflict => Code::Aborted,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::Unknown => Code::DeadlineExceeded,
        ErrorKind::ResourceExhausted => Code::ResourceExhausted,
        ErrorKind::Cancelled => Code::Cancelled,
        ErrorKind::Unsupported => Code::Unimplemented,
        ErrorKind::Corrupt => Code::DataLoss,
        ErrorKind::Internal => Code::Internal,
    };
    if matches!(code, Code::Internal | Code::DataLoss) {
        tracing::error!(%error, "a request failed");
    }
    Status::new(code, cut(error.message(), MESSAGE_BYTES_MAX))
}

/// Messages travel in a header, and clients refuse headers of more than 8 KiB or so.
const MESSAGE_BYTES_MAX: usize = 4 * 1024;

/// The other way, for our own clients.
pub fn from_status(status: &Status) -> Error {
    let kind = match status.code() {
        Code::InvalidArgument | Code::OutOfRange | Code::FailedPrecondition => ErrorKind::InvalidArgument,
        Code::NotFound => ErrorKind::NotFound,
        Code::AlreadyExists => ErrorKind::AlreadyExists,
        Code::Aborted => ErrorKind::Conflict,
        Code::Unavailable => ErrorKind::Unavailable,
        // A connection that breaks under a request is of an unknown kind to the library as well.
        Code::DeadlineExceeded | Code::Unknown => ErrorKind::Unknown,
        Code::ResourceExhausted => ErrorKind::ResourceExhausted,
        Code::Cancelled => ErrorKind::Cancelled,
        Code::Unimplemented => ErrorKind::Unsupported,
        Code::DataLoss => ErrorKind::Corrupt,
        _ => ErrorKind::Internal,
    };
    Error::new(kind, status.message())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_messages_are_cut_between_characters() {
        let status = to_status(&Error::invalid("ü".repeat(10_000)));
        assert!(status.message().len() < 5_000);
        assert!(status.message().ends_with("ü [... 20000 bytes in all]"));
    }

    #[test]
    fn kinds_survive_the_way_to_a_client() {
        use ErrorKind::*;
        for kind in [
            InvalidArgument,
            NotFound,
            AlreadyExists,
            Conflict,
            Unavailable,
            Unknown,
            ResourceExhausted,
            Cancelled,
            Unsupported,
            Corrupt,
            Internal,
        ] {
            assert_eq!(from_status(&to_status(&Error::new(kind, "m"))).kind(), kind);
        }
    }
}
