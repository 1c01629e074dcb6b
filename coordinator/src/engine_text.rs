//! Matches on error texts of the query engine, for errors that have no type of their own.
//!
//! Those that decide what is done are here, each with the version and the source line that produces the
//! text; those that make texts plain are in [`plexus_query::plain_text`]. The tests provoke the real errors,
//! so that an upgrade that changes a text fails them. A text that no longer matches makes an error less
//! precise; it does not change results.

use plexus_model::{Error, ErrorKind, TableName};
use plexus_query::plain_text;
use plexus_storage::{LOST_SEGMENT, UNREADABLE_SEGMENT};

/// Starts the context of an error about a worker that could not be reached; the URL of the worker and a space
/// follow.
///
/// Errors travel between workers as protobuf messages of datafusion-distributed. These keep the contexts of
/// an error, but of an external error only the text, so the type
/// [`WorkerUnavailable`](crate::WorkerUnavailable) is lost on the first hop.
pub(crate) const WORKER_UNAVAILABLE: &str = "worker unavailable: ";

/// Starts a position in the SQL text, at the end of a parser error.
///
/// sqlparser 0.62.0, `src/tokenizer.rs` line 568, `impl Display for Location`. `ParserError` has only the
/// text.
const POSITION: &str = " at Line: ";

/// Whether a message has a position in the SQL text.
pub(crate) fn has_position(message: &str) -> bool {
    message.contains(POSITION)
}

/// The line and the column in a message, both from 1.
pub(crate) fn find_position(message: &str) -> Option<(usize, usize)> {
    let (line, rest) = message.split_once(POSITION)?.1.split_once(", Column: ")?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    Some((line.parse().ok()?, rest[..digits].parse().ok()?))
}

/// A message with more text, before its position if it has one.
pub(crate) fn insert_before_position(message: &str, text: &str) -> String {
    let end = message.find(POSITION).unwrap_or(message.len());
    format!("{}{text}{}", &message[..end], &message[end..])
}

/// A position in the SQL text, in the form of the parser. Both numbers start at 1.
pub(crate) fn position(line: u64, column: u64) -> String {
    format!("{POSITION}{line}, Column: {column}")
}

/// The table of a planning error which says that the catalog has none of its name.
///
/// datafusion 55.2.0, `src/execution/session_state.rs` line 1991, `get_table_source`. The error is the
/// general `DataFusionError::Plan`. The planner attaches a diagnostic (datafusion-sql, `src/relation/mod.rs`
/// line 205), but that has only a text as well. Resolving the names of the statement against the manifest
/// would have to repeat the rules of the planner for common table expressions and virtual schemas.
pub(crate) fn unknown_table(text: &str) -> Option<TableName> {
    let text = plain_text(text);
    let name = text.strip_prefix("table '")?.strip_suffix("' not found")?;
    let (_catalog, name) = name.split_once('.')?;
    let (schema, table) = name.split_once('.')?;
    Some(TableName::new(schema, table))
}

/// The error of reading a segment inside a message of the reader of its format, which keeps no source.
///
/// vortex-datafusion 0.90.0, `src/persistent/opener.rs`: "Failed to open Vortex file {e}", with a backtrace.
pub(crate) fn unreadable_segment(message: &str) -> Option<Error> {
    let found = |start: &str, kind| {
        let text = &message[message.find(start)?..];
        Some(Error::new(kind, text.lines().next().unwrap_or(text).trim_end()))
    };
    found(LOST_SEGMENT, ErrorKind::Corrupt).or_else(|| found(UNREADABLE_SEGMENT, ErrorKind::Unavailable))
}

/// What to say of a query that asked the pool of memory for more than it has.
///
/// datafusion-execution 55.2.0, `src/memory_pool/pool.rs`, `insufficient_capacity_err`, and the `Display` of
/// `GreedyMemoryPool`.
pub(crate) fn exhausted_pool(text: &str) -> Option<String> {
    let (more, rest) = text.split_once("Failed to allocate additional ")?.1.split_once(" for ")?;
    let (before, pool) = rest.split_once(" remain available for the total memory pool: ")?;
    let free = before.rsplit_once(" - ")?.1;
    let size = pool.split_once("pool_size: ")?.1.split_once(')')?.0;
    Some(format!(
        "the query needs {more} more, and of the {size} that the queries of a node may use, {free} are free: \
         raise --query-memory, or read less at once"
    ))
}

/// What to say of a query that spills more than there is room for.
///
/// datafusion-execution 55.2.0, `src/disk_manager.rs`.
pub(crate) fn exhausted_disk(text: &str) -> Option<String> {
    let room = text.split_once("during the spilling process has exceeded the allowable limit of ")?.1;
    let room = room.split_once(". ").map_or(room, |(room, _)| room);
    Some(format!(
        "the query spills more to the disk than the {room} that there is room for: enlarge the disk, raise \
         --query-memory, or read less at once"
    ))
}

/// Whether an error of the engine is one of its user, although it has no such type.
///
/// regex 1, `src/error.rs`; datafusion-functions-nested 55.2.0, `src/resize.rs`; datafusion-optimizer 55.2.0,
/// `src/analyzer/type_coercion.rs`, `BETWEEN` and `RANGE`; datafusion-expr 55.2.0,
/// `src/type_coercion/functions.rs`.
pub(crate) fn is_bad_argument(text: &str) -> bool {
    let starts = [
        "regex parse error",
        "array_resize: failed to convert size",
        "Failed to coerce types ",
        "Cannot run range queries on datatype",
        "could not cast array of type ",
        "Uncomparable values",
        "Min/Max accumulator not implemented",
        "Assertion failed: n != 0",
    ];
    starts.iter().any(|start| text.starts_with(start)) || text.contains("' failed to match any signature")
}

/// Whether an error says that a node got no plan for its task of a query.
///
/// datafusion-distributed 4.0.0, `src/worker/impl_execute_task.rs`.
pub(crate) fn is_lost_task(text: &str) -> bool {
    text.contains("timed-out while waiting for the plan to be set by the coordinator")
}

/// Whether an error says that a subquery is left in a plan: the optimizer could not make a join of it.
///
/// datafusion-physical-expr 55.2.0, `src/planner.rs`, the last arm of `create_physical_expr`: the general
/// `DataFusionError::NotImplemented`.
pub(crate) fn is_unplanned_subquery(text: &str) -> bool {
    let rest = text.strip_prefix("Physical plan does not support logical expression ");
    rest.is_some_and(|rest| {
        ["ScalarSubquery(", "InSubquery(", "Exists(", "OuterReferenceColumn("]
            .iter()
            .any(|s| rest.starts_with(s))
    })
}

/// Whether an error says that two columns of a select list have one name.
///
/// datafusion-expr 55.2.0, `src/logical_plan/builder.rs`, `validate_unique_names`: the general
/// `DataFusionError::Plan`.
pub(crate) fn is_name_clash(text: &str) -> bool {
    text.contains("require unique expression names")
}

/// The URL of the worker that an error context names as unavailable: see [`WORKER_UNAVAILABLE`]. This text is
/// ours, but it is embedded in texts of the engine.
pub(crate) fn unavailable_worker(text: &str) -> Option<String> {
    let (_, rest) = text.split_once(WORKER_UNAVAILABLE)?;
    let url: String = rest.chars().take_while(|c| !c.is_whitespace()).collect();
    Some(url.trim_end_matches([',', ';', ':']).to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_schema::{DataType, Field, Schema};
    use datafusion::catalog::MemTable;
    use datafusion::common::DataFusionError;
    use datafusion::execution::memory_pool::{GreedyMemoryPool, MemoryConsumer, MemoryPool};
    use datafusion::logical_expr::LogicalPlan;
    use datafusion::prelude::SessionContext;
    use plexus_model::ErrorKind;

    use super::*;
    use crate::errors::from_datafusion;

    /// An engine with table `t (a BIGINT, b TEXT NOT NULL)`.
    fn engine() -> SessionContext {
        let context = SessionContext::new();
        let fields = vec![Field::new("a", DataType::Int64, true), Field::new("b", DataType::Utf8, false)];
        let table = MemTable::try_new(Arc::new(Schema::new(fields)), vec![vec![]]).unwrap();
        context.register_table("t", Arc::new(table)).unwrap();
        context
    }

    async fn plan(sql: &str) -> Result<LogicalPlan, DataFusionError> {
        engine().state().create_logical_plan(sql).await
    }

    #[tokio::test]
    async fn unknown_tables_are_recognized() {
        let error = plan("SELECT * FROM missing").await.unwrap_err();
        let DataFusionError::Plan(text) = error.find_root() else { panic!("{error:?}") };
        assert_eq!(unknown_table(text), Some(TableName::new("public", "missing")));
        assert_eq!(from_datafusion(error).kind(), ErrorKind::NotFound);
        let error = plan("SELECT missing FROM t").await.unwrap_err();
        assert_eq!(from_datafusion(error).kind(), ErrorKind::InvalidArgument);
    }

    #[tokio::test]
    async fn messages_are_plain() {
        let error = from_datafusion(plan("SELECT md5(a) FROM t").await.unwrap_err());
        assert!(error.message().starts_with("No function matches"), "{error}");
        assert!(!error.message().contains("DataFusion's code"), "{error}");
        let error = from_datafusion(plan("SELECT b, count(*) FROM t GROUP BY a").await.unwrap_err());
        let ungrouped =
            "SELECT list: column t.b must appear in the GROUP BY clause, or in an aggregate function";
        assert!(error.message().starts_with(ungrouped), "{error}");
    }

    #[test]
    fn exhausted_pools_name_the_setting() {
        let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(4096));
        let held = MemoryConsumer::new("held").register(&pool);
        held.try_grow(1024).unwrap();
        let error = MemoryConsumer::new("a join (a = b)").register(&pool).try_grow(8192).unwrap_err();
        let error = from_datafusion(error);
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
        assert_eq!(
            error.message(),
            "the query needs 8.0 KB more, and of the 4.0 KB that the queries of a node may use, 3.0 KB are \
             free: raise --query-memory, or read less at once"
        );
    }

    #[tokio::test]
    async fn positions_of_the_parser_are_recognized() {
        let error = from_datafusion(plan("SELECT 1 FRM t x y").await.unwrap_err());
        assert!(has_position(error.message()), "{error}");
    }

    #[tokio::test]
    async fn subqueries_without_a_plan_are_recognized() {
        let plan = plan("SELECT (SELECT max(a) FROM t u WHERE u.a > t.a) FROM t").await.unwrap();
        let error = engine().state().create_physical_plan(&plan).await.unwrap_err();
        let DataFusionError::NotImplemented(text) = error.find_root() else { panic!("{error:?}") };
        assert!(is_unplanned_subquery(text), "{text}");
    }

    #[tokio::test]
    async fn clashes_of_names_are_recognized() {
        let error = plan("SELECT CAST(a AS INT), a FROM t").await.unwrap_err();
        let DataFusionError::Plan(text) = error.find_root() else { panic!("{error:?}") };
        assert!(is_name_clash(text), "{text}");
    }

    #[test]
    fn urls_of_unavailable_workers_end_at_a_space() {
        let text = format!("stage 1\ncaused by\n{WORKER_UNAVAILABLE}https://a:1/ \ncaused by\nrefused");
        assert_eq!(unavailable_worker(&text).as_deref(), Some("https://a:1/"));
        assert_eq!(unavailable_worker("refused"), None);
    }
}
