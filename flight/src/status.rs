//! Maps error kinds to gRPC status codes and back.

use plexus_model::{Error, ErrorKind, cut};
use tonic::{Code, Status};

/// The gRPC status that a client receives for an error. Long messages are truncated.
///
/// Codes name what the client can do: errors in a statement are `INVALID_ARGUMENT`, conflicts of transactions
/// are `ABORTED`. Internal errors and data loss are also logged here, since they need an operator.
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

/// Status messages travel in an HTTP/2 header, and many clients refuse headers above 8 KiB.
const MESSAGE_BYTES_MAX: usize = 4 * 1024;

/// The error for a gRPC status: the inverse of [`to_status`], for the clients in this workspace.
pub fn from_status(status: &Status) -> Error {
    let kind = match status.code() {
        Code::InvalidArgument | Code::OutOfRange | Code::FailedPrecondition => ErrorKind::InvalidArgument,
        Code::NotFound => ErrorKind::NotFound,
        Code::AlreadyExists => ErrorKind::AlreadyExists,
        Code::Aborted => ErrorKind::Conflict,
        // A session that has ended: the same request may succeed in a new one.
        Code::Unavailable | Code::Unauthenticated => ErrorKind::Unavailable,
        // tonic reports a connection that breaks during a request as `Unknown`. The outcome is unknown then,
        // too.
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
    fn long_messages_are_truncated_at_character_boundaries() {
        let status = to_status(&Error::invalid("ü".repeat(10_000)));
        assert!(status.message().len() < 5_000);
        assert!(status.message().ends_with("ü [... 20000 bytes in all]"));
    }

    #[test]
    fn error_kinds_round_trip() {
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
