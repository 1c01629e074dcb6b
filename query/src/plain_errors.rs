//! Errors of the query engine as users read them.
//!
//! What is matched here is the text of errors, each with the version and the source that produces it. A text
//! that no longer matches makes an error less plain; it does not change results.

use datafusion::common::DataFusionError;

/// What the message of an error says to a user: see [`plain_text`].
pub fn plain(error: &DataFusionError) -> String {
    plain_text(&error.strip_backtrace())
}

/// What the names of the schemas of `plexus_query::as_of_schema` begin with.
const AS_OF: &str = "$as_of:";

/// The message of an error without what tells a user nothing: the layers of the engine that it came through,
/// its request to report a fault of its own, and the attempts to match a call with each signature of a
/// function.
///
/// datafusion-common 55.2.0, `src/error.rs`, `impl Display for DataFusionError` and
/// `DataFusionError::BUG_REPORT`; datafusion-expr, `src/utils.rs`, `generate_signature_error_message`.
pub fn plain_text(message: &str) -> String {
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
    if plain.starts_with(CHANGED_TYPE) {
        return "the recursive term of a query has another type than its first rows: cast one of them"
            .to_owned();
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
    if plain.starts_with(NULL_IN_ARRAY) {
        return "an item is null, which the type does not allow".to_owned();
    }
    if let Some((call, candidates)) = plain.split_once(CANDIDATES) {
        plain = format!("{call}{}", readable_candidates(candidates)).trim_end().to_owned();
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

/// The candidates whose types are named as a user would: `abs(Numeric(1))` shows how the engine describes
/// them.
fn readable_candidates(candidates: &str) -> String {
    let is_readable = |candidate: &&str| match candidate.split_once('(') {
        Some((_, types)) => !types.contains('(') && !types.chars().any(char::is_uppercase),
        None => false,
    };
    let readable: Vec<&str> = candidates.lines().filter(is_readable).collect();
    match readable.is_empty() {
        true => String::new(),
        false => format!("{CANDIDATES}{}", readable.join("\n")),
    }
}

/// datafusion-expr 55.2.0, `src/utils.rs`, `generate_signature_error_msg`: what follows the call.
const CANDIDATES: &str = "\tCandidate functions:\n";

/// arrow-array, `FixedSizeListArray::try_new` and others.
const NULL_IN_ARRAY: &str = "Found unmasked nulls for non-nullable ";

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

/// datafusion-physical-plan 55.2.0, `src/common.rs`, for a recursive query whose types are known only after
/// rules of ours.
const CHANGED_TYPE: &str = "Cannot project plan column ";

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
            let is_apostrophe = text.ends_with(|c: char| c.is_alphanumeric());
            quote = match quote {
                None if matches!(first, '"' | '\'' | '`') && !is_apostrophe => Some(first),
                Some(open) if open == first => None,
                quote => quote,
            };
            text.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        }
        rest = &rest[word.len()..];
        match (quote, word) {
            (None, "Timestamp" | "Time32" | "Time64" | "Duration" | "Interval" | "FixedSizeList") => {
                match type_with_parameters(word, rest) {
                    Some((name, after)) => {
                        text.push_str(&name);
                        rest = after;
                    }
                    None => text.push_str(word),
                }
            }
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

/// The SQL name of a type whose parameters are at the start of a text, and the text behind them.
fn type_with_parameters<'a>(name: &str, parameters: &'a str) -> Option<(String, &'a str)> {
    let (parameters, rest) = parameters.strip_prefix('(')?.split_once(')')?;
    if name == "Duration" || name == "Interval" {
        return Some(("INTERVAL".to_owned(), rest));
    }
    if name == "FixedSizeList" {
        let (length, item) = parameters.split_once(" x ").unwrap_or((parameters, "non-null Float32"));
        return match item.strip_prefix("non-null ").unwrap_or(item) {
            "Float32" => Some((format!("VECTOR({length})"), rest)),
            "Float16" => Some((format!("HALFVEC({length})"), rest)),
            item => Some((format!("{}[{length}]", sql_type(item)?), rest)),
        };
    }
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
    let name = if name == "Timestamp" { "TIMESTAMP" } else { "TIME" };
    Some((format!("{name}({digits}){zone}"), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_of_the_engine_are_left_out() {
        assert_eq!(plain_text("Arrow error: Compute error: out of range"), "out of range");
        assert_eq!(plain_text("table 'plexus.$as_of:7:s.t' not found"), "table 'plexus.s.t' not found");
        assert_eq!(plain(&DataFusionError::Internal("no such slot".into())), "no such slot.");
    }

    #[test]
    fn messages_name_the_types_of_sql_and_no_hidden_columns() {
        let message =
            "Cannot cast string 'Int32' to value of Int32 type: Timestamp(µs, \"UTC\") + Decimal128(3, 1)";
        let expected =
            "Cannot cast string 'Int32' to value of INT type: TIMESTAMP(6) WITH TIME ZONE + DECIMAL(3, 1)";
        assert_eq!(plain_text(message), expected);
        assert_eq!(plain_text("Can't cast value 300 to type Int8"), "Can't cast value 300 to type TINYINT");
        assert_eq!(
            plain_text("FixedSizeList(2 x non-null Float32) + Time64(µs) * Interval(MonthDayNano)"),
            "VECTOR(2) + TIME(6) * INTERVAL"
        );
        let message = "No field named x.\nValid fields are t.a, t.\"\u{1}row\", t.b. at Line: 1, Column: 2";
        assert_eq!(
            plain_text(message),
            "No field named x.\nValid fields are t.a, t.b. at Line: 1, Column: 2"
        );
        assert_eq!(
            plain_text("Unsupported LIMIT expression: Some(x)"),
            "LIMIT and OFFSET take a number or a parameter"
        );
    }
}
