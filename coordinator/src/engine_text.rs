//! Matches on error texts of the query engine, for errors that have no type of their own.
//!
//! All of them are here, each with the version and the source line that produces the text. The tests provoke
//! the real errors, so that an upgrade that changes a text fails them. A text that no longer matches makes an
//! error less precise; it does not change results.

use plexus_model::{Error, ErrorKind, TableName};
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

/// Whether a planning error says that the catalog has no such table.
///
/// datafusion 55.2.0, `src/execution/session_state.rs` line 1991, `get_table_source`. The error is the
/// general `DataFusionError::Plan`. The planner attaches a diagnostic (datafusion-sql, `src/relation/mod.rs`
/// line 205), but that has only a text as well. Resolving the names of the statement against the manifest
/// would have to repeat the rules of the planner for common table expressions and virtual schemas.
pub(crate) fn is_unknown_table(text: &str) -> bool {
    text.starts_with("table '") && text.ends_with("' not found")
}

/// The table of such an error.
pub(crate) fn unknown_table(text: &str) -> Option<TableName> {
    let text = plain(text);
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

/// What the names of the schemas of `plexus_query::as_of_schema` begin with.
const AS_OF: &str = "$as_of:";

/// A message without what tells a user nothing: the layers of the engine that it came through, its request to
/// report a fault of its own, and the attempts to match a call with each signature of a function.
///
/// datafusion-common 55.2.0, `src/error.rs`, `impl Display for DataFusionError` and
/// `DataFusionError::BUG_REPORT`; datafusion-expr, `src/utils.rs`, `generate_signature_error_message`.
pub(crate) fn plain(message: &str) -> String {
    const LAYERS: [&str; 11] = [
        "Error during planning: ",
        "Execution error: ",
        "Internal error: ",
        "This feature is not implemented: ",
        "Schema error: ",
        "Arrow error: ",
        "External error: ",
        "Invalid argument error: ",
        "Compute error: ",
        "Cast error: ",
        "Parser error: ",
    ];
    const NO_FUNCTION: &str = "No function matches the given name and argument types";
    const REQUEST: &str = "\nThis issue was likely caused by a bug in DataFusion's code.";
    const END_OF_REQUEST: &str = "datafusion/issues";
    let unquoted;
    let mut rest = match message.find(NO_FUNCTION) {
        // The call is quoted, and its types have the names of the engine.
        Some(start) => {
            unquoted = message[start..].replace('\'', "");
            unquoted.as_str()
        }
        None => message,
    };
    while let Some(inner) = LAYERS.iter().find_map(|layer| rest.strip_prefix(layer)) {
        rest = inner;
    }
    let mut plain = rest.to_owned();
    while let Some(start) = plain.find(REQUEST) {
        let end = plain[start..].find(END_OF_REQUEST).map(|end| start + end + END_OF_REQUEST.len());
        plain.replace_range(start..end.unwrap_or(plain.len()), "");
    }
    if let Some(start) = plain.find(HIDDEN_SUGGESTION) {
        plain.truncate(start);
    }
    // The schema of the tables at a version: `$as_of:7:public`.
    while let Some(start) = plain.find(AS_OF) {
        let version = start + AS_OF.len();
        let end = plain[version..].find(':').map_or(version, |length| version + length + 1);
        plain.replace_range(start..end, "");
    }
    // The syntax tree of what is not supported.
    if plain.contains(POSITION_IN_TREE) {
        plain.truncate(plain.find(" { ").unwrap_or(plain.len()));
    }
    if let Some(statement) = plain.strip_suffix(UNPLANNED_CHANGE) {
        return format!("EXPLAIN of {statement} is not supported: explain a SELECT of the same rows");
    }
    if plain.starts_with(MISPLACED_WINDOW) {
        return "a window function cannot stand here: WHERE, GROUP BY and HAVING come before windows; write \
                QUALIFY, or a subquery"
            .to_owned();
    }
    if plain.starts_with(MISPLACED_AGGREGATE) {
        return "an aggregate function cannot stand here: there are no groups of rows".to_owned();
    }
    if let Some(ungrouped) = ungrouped_column(&plain) {
        return ungrouped;
    }
    if plain.starts_with(COMPUTED_LIMIT) {
        return "LIMIT and OFFSET take a number or a parameter".to_owned();
    }
    if let Some(node) = plain.strip_prefix(UNSUPPORTED_NODE) {
        let name: String = node.chars().take_while(|c| c.is_alphanumeric()).collect();
        return format!("{} is not supported here", name.to_uppercase());
    }
    for outer in ["\"$outer\".", "$outer."] {
        plain = plain.replace(outer, "");
    }
    with_sql_types(&without_hidden_columns(&plain))
}

/// What to say of a column that is neither grouped nor aggregated.
///
/// datafusion-sql 55.2.0, `src/utils.rs`, `check_column_satisfies_expr`.
fn ungrouped_column(text: &str) -> Option<String> {
    let (clause, rest) = text.strip_prefix("Column in ")?.split_once(" must be in GROUP BY")?;
    let column = rest.split_once("While expanding wildcard, column \"")?.1.split_once("\" must appear")?.0;
    Some(format!(
        "{}: column {column} must appear in the GROUP BY clause, or in an aggregate function",
        if clause == "SELECT" { "SELECT list" } else { clause }
    ))
}

/// datafusion-sql 55.2.0, `src/relation/mod.rs`, the last arm of `create_relation`: a syntax tree follows.
const UNSUPPORTED_NODE: &str = "Unsupported ast node ";

/// datafusion-sql 55.2.0, `src/expr/function.rs`: the end of the error for an unknown function, which may
/// name one that statements cannot call.
const HIDDEN_SUGGESTION: &str = "\nDid you mean '$";

/// datafusion-physical-expr 55.2.0, `src/planner.rs`, the last arm of `create_physical_expr`.
const MISPLACED_AGGREGATE: &str = "Physical plan does not support logical expression AggregateFunction(";

/// The same for windows.
const MISPLACED_WINDOW: &str = "Physical plan does not support logical expression WindowFunction(";

/// datafusion-session 55.2.0, `src/table.rs`: `TableProvider::update` and `delete_from`.
const UNPLANNED_CHANGE: &str = " not supported for Base table";

/// sqlparser 0.62.0, the `Debug` form of expressions.
const POSITION_IN_TREE: &str = "span: Span(";

/// datafusion-expr 55.2.0, `src/logical_plan/plan.rs`, `Limit::get_fetch_type`; the same for an offset.
const COMPUTED_LIMIT: &str = "Unsupported LIMIT expression: ";

/// A message whose list of columns lacks those that statements cannot name.
fn without_hidden_columns(message: &str) -> String {
    const COLUMNS: &str = "Valid fields are ";
    let Some((before, list)) = message.split_once(COLUMNS) else {
        return message.to_owned();
    };
    let (list, after) =
        list.split_once(" at Line: ").map_or((list, None), |(list, after)| (list, Some(after)));
    let names = list.trim_end_matches('.').split(", ").filter(|name| !name.contains('\u{1}'));
    let names = names.collect::<Vec<_>>().join(", ");
    let position = after.map(|after| format!(" at Line: {after}")).unwrap_or_default();
    format!("{before}{COLUMNS}{names}.{position}")
}

/// A message with the names that types have in SQL, but for what is quoted in it.
fn with_sql_types(message: &str) -> String {
    let mut text = String::with_capacity(message.len());
    let mut rest = message;
    let mut quote = None;
    while let Some(first) = rest.chars().next() {
        let word = &rest[..rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len())];
        if word.is_empty() {
            quote = match quote {
                None if matches!(first, '"' | '\'' | '`') => Some(first),
                Some(open) if open == first => None,
                quote => quote,
            };
            text.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        }
        rest = &rest[word.len()..];
        match (quote, word) {
            (None, "Timestamp") => match timestamp_type(rest) {
                Some((name, after)) => {
                    text.push_str(&name);
                    rest = after;
                }
                None => text.push_str(word),
            },
            (None, word) => text.push_str(sql_type(word).unwrap_or(word)),
            (Some(_), word) => text.push_str(word),
        }
    }
    text
}

/// The SQL name of a type without parameters, or of one whose parameters are written alike.
fn sql_type(name: &str) -> Option<&'static str> {
    Some(match name {
        "Boolean" => "BOOLEAN",
        "Int8" => "TINYINT",
        "Int16" => "SMALLINT",
        "Int32" => "INT",
        "Int64" => "BIGINT",
        "UInt8" => "TINYINT UNSIGNED",
        "UInt16" => "SMALLINT UNSIGNED",
        "UInt32" => "INT UNSIGNED",
        "UInt64" => "BIGINT UNSIGNED",
        "Float32" => "REAL",
        "Float64" => "DOUBLE",
        "Utf8" | "LargeUtf8" | "Utf8View" => "VARCHAR",
        "Binary" | "LargeBinary" | "BinaryView" => "BYTEA",
        "Date32" | "Date64" => "DATE",
        "Decimal32" | "Decimal64" | "Decimal128" | "Decimal256" => "DECIMAL",
        _ => return None,
    })
}

/// The SQL name of a timestamp whose parameters are at the start of a text, and the text behind them.
fn timestamp_type(parameters: &str) -> Option<(String, &str)> {
    let (parameters, rest) = parameters.strip_prefix('(')?.split_once(')')?;
    let (unit, zone) =
        parameters.split_once(", ").map_or((parameters, None), |(unit, zone)| (unit, Some(zone)));
    let digits = match unit {
        "s" => 0,
        "ms" => 3,
        "µs" => 6,
        "ns" => 9,
        _ => return None,
    };
    let zone = if zone.is_some() { " WITH TIME ZONE" } else { "" };
    Some((format!("TIMESTAMP({digits}){zone}"), rest))
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
        assert!(is_unknown_table(text), "{text}");
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
        let nested = "Arrow error: Compute error: out of range";
        assert_eq!(plain(nested), "out of range");
        assert_eq!(plain("table 'plexus.$as_of:7:s.t' not found"), "table 'plexus.s.t' not found");
        let error = from_datafusion(plan("SELECT b, count(*) FROM t GROUP BY a").await.unwrap_err());
        let ungrouped =
            "SELECT list: column t.b must appear in the GROUP BY clause, or in an aggregate function";
        assert!(error.message().starts_with(ungrouped), "{error}");
        let internal = DataFusionError::Internal("no such slot".into()).strip_backtrace();
        assert_eq!(plain(&internal), "no such slot.");
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
    fn messages_name_the_types_of_sql_and_no_hidden_columns() {
        let message =
            "Cannot cast string 'Int32' to value of Int32 type: Timestamp(µs, \"UTC\") + Decimal128(3, 1)";
        let expected =
            "Cannot cast string 'Int32' to value of INT type: TIMESTAMP(6) WITH TIME ZONE + DECIMAL(3, 1)";
        assert_eq!(plain(message), expected);
        let message = "No field named x.\nValid fields are t.a, t.\"\u{1}row\", t.b. at Line: 1, Column: 2";
        assert_eq!(plain(message), "No field named x.\nValid fields are t.a, t.b. at Line: 1, Column: 2");
        assert_eq!(
            plain("Unsupported LIMIT expression: Some(x)"),
            "LIMIT and OFFSET take a number or a parameter"
        );
    }

    #[test]
    fn urls_of_unavailable_workers_end_at_a_space() {
        let text = format!("stage 1\ncaused by\n{WORKER_UNAVAILABLE}https://a:1/ \ncaused by\nrefused");
        assert_eq!(unavailable_worker(&text).as_deref(), Some("https://a:1/"));
        assert_eq!(unavailable_worker("refused"), None);
    }
}
