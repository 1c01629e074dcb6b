//! Converts errors of the query engine to [`plexus_model::Error`], whose kinds tell a caller what to do.
//!
//! Errors are matched by type where the engine has one. The remaining matches on text are in
//! [`engine_text`](crate::engine_text).

use std::error::Error as StdError;
use std::{fmt, io};

use arrow::error::ArrowError;
use datafusion::common::DataFusionError;
use datafusion::sql::sqlparser::parser::ParserError;
use plexus_model::{Error, ErrorKind};
use plexus_query::{plain, plain_text};
use url::Url;

use crate::engine_text::{self, WORKER_UNAVAILABLE};

/// A worker that could not be reached, and the connection error.
#[derive(Debug)]
pub struct WorkerUnavailable {
    url: Url,
    message: String,
}

impl WorkerUnavailable {
    /// The error for the worker at `url`, in the form that the coordinator recognizes: by its type on this
    /// node, and by its context on other nodes.
    pub fn engine_error(url: &Url, cause: &DataFusionError) -> DataFusionError {
        let unavailable = Self { url: url.clone(), message: cause.to_string() };
        DataFusionError::External(Box::new(unavailable)).context(format!("{WORKER_UNAVAILABLE}{url} "))
    }
}

impl fmt::Display for WorkerUnavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for WorkerUnavailable {}

/// The URL of the worker whose failure caused an error of the engine.
///
/// An error that arose on this node is found by its type. The text is searched for errors that crossed a gRPC
/// hop between workers: see [`WORKER_UNAVAILABLE`].
pub(crate) fn unavailable_worker(error: &DataFusionError) -> Option<String> {
    match find_in_chain::<WorkerUnavailable>(error) {
        Some(unavailable) => Some(unavailable.url.to_string()),
        None => engine_text::unavailable_worker(&error.to_string()),
    }
}

/// Converts an error of the query engine. Errors of this project that passed through the engine come out
/// unchanged. The message ends with a position in the SQL text if there is one.
pub fn from_datafusion(error: DataFusionError) -> Error {
    if unavailable_worker(&error).is_some() {
        return Error::unavailable(error.strip_backtrace());
    }
    let text = error.to_string();
    if let Some(unreadable) = engine_text::unreadable_segment(&text) {
        return unreadable;
    }
    if let Some(message) = engine_text::exhausted_disk(&text) {
        return Error::exhausted(message);
    }
    let first = error.iter().next().unwrap_or(&error);
    let position = first
        .diagnostic()
        .and_then(|d| d.span)
        .map(|span| engine_text::position(span.start.line, span.start.column))
        .unwrap_or_default();
    let root = first.find_root();
    if let Some(ours) = wrapped_error(root) {
        return Error::new(ours.kind(), ours.message());
    }
    let message = match root {
        DataFusionError::SQL(error, _) => match error.as_ref() {
            ParserError::TokenizerError(text) | ParserError::ParserError(text) => text.clone(),
            ParserError::RecursionLimitExceeded => "the statement is nested too deeply".to_owned(),
        },
        DataFusionError::NotImplemented(text) if engine_text::is_unplanned_subquery(text) => {
            UNPLANNED_SUBQUERY.to_owned()
        }
        DataFusionError::ResourcesExhausted(text) => {
            engine_text::exhausted_pool(text).unwrap_or_else(|| plain_text(text))
        }
        other => plain(other),
    };
    let message = if engine_text::has_position(&message) { message } else { message + &position };
    let kind = match root {
        DataFusionError::Plan(text) if engine_text::unknown_table(text).is_some() => ErrorKind::NotFound,
        DataFusionError::IoError(error) if error.kind() == io::ErrorKind::StorageFull => {
            ErrorKind::ResourceExhausted
        }
        DataFusionError::ArrowError(error, _) if matches!(error.as_ref(), ArrowError::IoError(..)) => {
            match error.as_ref() {
                ArrowError::IoError(_, error) if error.kind() == io::ErrorKind::StorageFull => {
                    ErrorKind::ResourceExhausted
                }
                _ => ErrorKind::Unavailable,
            }
        }
        DataFusionError::Execution(text) if engine_text::is_lost_task(text) => ErrorKind::Unavailable,
        DataFusionError::SQL(..)
        | DataFusionError::Plan(_)
        | DataFusionError::SchemaError(..)
        | DataFusionError::Configuration(_)
        | DataFusionError::Execution(_)
        | DataFusionError::ArrowError(..) => ErrorKind::InvalidArgument,
        DataFusionError::NotImplemented(_) => ErrorKind::Unsupported,
        DataFusionError::ResourcesExhausted(_) => ErrorKind::ResourceExhausted,
        DataFusionError::ObjectStore(_) | DataFusionError::IoError(_) => ErrorKind::Unavailable,
        _ if engine_text::is_bad_argument(&message) => ErrorKind::InvalidArgument,
        _ => ErrorKind::Internal,
    };
    Error::new(kind, message).with_source(error)
}

/// An error with the line of the statement that it is about, and a mark below the place.
pub(crate) fn point_at(sql: &str, error: Error) -> Error {
    let Some((line, column)) = engine_text::find_position(error.message()) else {
        return error;
    };
    let Some(text) = sql.lines().nth(line.saturating_sub(1)) else {
        return error;
    };
    // A part of a long line.
    let before = column.saturating_sub(1);
    let start = before.saturating_sub(EXCERPT_CHARS / 2);
    let excerpt: String = text.chars().skip(start).take(EXCERPT_CHARS).collect();
    if excerpt.is_empty() || error.message().contains("\n  ") {
        return error;
    }
    let excerpt = excerpt.replace('\t', " ");
    let message = format!("{}\n  {excerpt}\n  {}^", error.message(), " ".repeat(before - start));
    Error::new(error.kind(), message).with_source(error)
}

/// For subqueries that the engine cannot plan.
const UNPLANNED_SUBQUERY: &str =
    "a subquery that refers to the query around it in a way that is not supported: write a join";

/// Characters of a line that an error shows.
const EXCERPT_CHARS: usize = 80;

/// The error of this project inside an external error of the engine.
fn wrapped_error(error: &DataFusionError) -> Option<&Error> {
    match error {
        DataFusionError::External(inner) => find_in_chain(inner.as_ref()),
        _ => None,
    }
}

/// The first error of type `T` among an error and its sources.
fn find_in_chain<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// The error for a statement, or a part of one, that is not supported.
pub(crate) fn unsupported(what: &str) -> Error {
    let what: String = what.chars().take(80).collect();
    Error::unsupported(format!("not supported yet: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unavailable_workers_are_found_by_type_and_after_a_hop_by_context() {
        let url = Url::parse("https://127.0.0.1:7000/").unwrap();
        let cause = DataFusionError::Execution("connection refused".into());
        let local = WorkerUnavailable::engine_error(&url, &cause);
        // What a hop leaves of the error: its context, and the text of its cause.
        let remote = DataFusionError::External(local.find_root().to_string().into())
            .context(format!("{WORKER_UNAVAILABLE}{url} "));
        let nested = DataFusionError::ArrowError(
            Box::new(ArrowError::ExternalError(Box::new(WorkerUnavailable::engine_error(&url, &cause)))),
            None,
        );
        for error in [local, remote, nested.context("stage 1")] {
            assert_eq!(unavailable_worker(&error).as_deref(), Some(url.as_str()), "{error:?}");
            assert_eq!(from_datafusion(error).kind(), ErrorKind::Unavailable);
        }
        assert_eq!(unavailable_worker(&cause), None);
    }

    #[test]
    fn errors_of_this_project_pass_through_the_engine() {
        let error = DataFusionError::External(Box::new(Error::conflict("rows changed"))).context("stage 1");
        let error = from_datafusion(error);
        assert_eq!((error.kind(), error.message()), (ErrorKind::Conflict, "rows changed"));
    }
}
