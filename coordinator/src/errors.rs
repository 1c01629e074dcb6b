//! From the query engine's errors to kinds that tell a caller what to do.

use datafusion::common::DataFusionError;
use datafusion::sql::sqlparser::parser::ParserError;
use plexus_model::{Error, ErrorKind};

/// Marks, in an error's context, that a worker could not be reached; its URL follows. Contexts survive the
/// way through other workers, where error types do not.
pub const WORKER_UNAVAILABLE: &str = "worker unavailable: ";

/// The URL of the worker whose failure caused this error.
pub(crate) fn unavailable_worker(error: &DataFusionError) -> Option<String> {
    let text = error.to_string();
    let (_, rest) = text.split_once(WORKER_UNAVAILABLE)?;
    let url: String = rest.chars().take_while(|c| !c.is_whitespace()).collect();
    Some(url.trim_end_matches([',', ';', ':']).to_owned())
}

/// Converts, keeping a position in the statement where there is one.
pub fn from_datafusion(error: DataFusionError) -> Error {
    if unavailable_worker(&error).is_some() {
        return Error::unavailable(error.strip_backtrace());
    }
    let first = error.iter().next().unwrap_or(&error);
    let position = first
        .diagnostic()
        .and_then(|d| d.span)
        .map(|span| format!(" at Line: {}, Column: {}", span.start.line, span.start.column))
        .unwrap_or_default();
    let root = first.find_root();
    if let Some(ours) = ours(root) {
        return Error::new(ours.kind(), ours.message());
    }
    let message = match root {
        DataFusionError::SQL(error, _) => match error.as_ref() {
            ParserError::TokenizerError(text) | ParserError::ParserError(text) => text.clone(),
            ParserError::RecursionLimitExceeded => "the statement is nested too deeply".to_owned(),
        },
        other => other.strip_backtrace(),
    };
    let message = if message.contains(" at Line: ") { message } else { message + &position };
    let kind = match root {
        DataFusionError::Plan(text) if is_unknown_table(text) => ErrorKind::NotFound,
        DataFusionError::SQL(..)
        | DataFusionError::Plan(_)
        | DataFusionError::SchemaError(..)
        | DataFusionError::Configuration(_)
        | DataFusionError::Execution(_)
        | DataFusionError::ArrowError(..) => ErrorKind::InvalidArgument,
        DataFusionError::NotImplemented(_) => ErrorKind::Unsupported,
        DataFusionError::ResourcesExhausted(_) => ErrorKind::ResourceExhausted,
        DataFusionError::ObjectStore(_) | DataFusionError::IoError(_) => ErrorKind::Unavailable,
        _ => ErrorKind::Internal,
    };
    Error::new(kind, message).with_source(error)
}

/// The planner's words for a table that its catalog does not have; they carry no type.
fn is_unknown_table(text: &str) -> bool {
    text.starts_with("table '") && text.ends_with("' not found")
}

/// An error of ours that travelled inside the engine's.
fn ours(error: &DataFusionError) -> Option<&Error> {
    let DataFusionError::External(inner) = error else {
        return None;
    };
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(inner.as_ref());
    while let Some(error) = source {
        if let Some(ours) = error.downcast_ref::<Error>() {
            return Some(ours);
        }
        source = error.source();
    }
    None
}

/// A statement, or a part of one, that is not supported yet.
pub(crate) fn unsupported(what: &str) -> Error {
    let what: String = what.chars().take(80).collect();
    Error::unsupported(format!("not supported yet: {what}"))
}
