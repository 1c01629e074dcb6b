//! Which columns a full-text query searches, with which analyzer and index.

use plexus_index::text::Analyzer;
use plexus_model::{Error, IndexDefinition, IndexKind, Result, Table};

/// The columns of a full-text query and how their text is analyzed.
#[derive(Clone, Debug, PartialEq)]
pub struct TextFields {
    /// Column ids. A field of the query is a position in this list.
    pub columns: Vec<u32>,
    /// Splits text into terms.
    pub analyzer: Analyzer,
    /// Id of the index with exactly these columns and this analyzer, if there is one.
    pub index: Option<u32>,
}

/// The message that a table has no column of this name.
pub(crate) fn no_column(table: &Table, name: &str) -> String {
    let names: Vec<&str> = table.schema.columns.iter().map(|c| c.name.as_str()).collect();
    format!("table {} has no column {name:?}; there are {}", table.name, names.join(", "))
}

/// The name of a column, given by its id.
pub(crate) fn name_of(table: &Table, id: u32) -> String {
    table.schema.columns.iter().find(|c| c.id == id).map(|c| c.name.clone()).unwrap_or_default()
}

/// Whether a text index has the `wanted` columns and the tokenizer.
fn suits(index: &IndexDefinition, wanted: &[u32], tokenizer: Option<&str>) -> bool {
    match &index.kind {
        IndexKind::Text { columns, tokenizer: of_index } => {
            wanted.iter().all(|id| columns.contains(id)) && tokenizer.is_none_or(|name| name == of_index)
        }
        IndexKind::Vector { .. } => false,
    }
}

/// The text indexes that have the `wanted` columns and the tokenizer: those with no other columns if there
/// are any.
fn suitable<'a>(table: &'a Table, wanted: &[u32], tokenizer: Option<&str>) -> Vec<&'a IndexDefinition> {
    let all = table.schema.indexes.iter().filter(|index| suits(index, wanted, tokenizer));
    let (exact, others): (Vec<_>, Vec<_>) = all.partition(|index| index.kind.columns().len() == wanted.len());
    if exact.is_empty() { others } else { exact }
}

/// Fails when several indexes could serve a query, with different results.
///
/// # Errors
/// `InvalidArgument` names them.
pub(crate) fn check_unambiguous(table: &Table, wanted: &[u32], tokenizer: Option<&str>) -> Result<()> {
    let suitable = suitable(table, wanted, tokenizer);
    match suitable.as_slice() {
        [first, others @ ..] if others.iter().any(|other| other.kind != first.kind) => {
            let names: Vec<&str> = suitable.iter().map(|index| index.name.as_str()).collect();
            Err(Error::invalid(format!(
                "table {} has several text indexes for this: say which, as in index => '{}' ({})",
                table.name,
                names[0],
                names.join(", ")
            )))
        }
        _ => Ok(()),
    }
}

/// Chooses the fields of a full-text query: those of the first index that has the `wanted` columns, and best
/// no others, and the tokenizer, or of the given `index`. Without such an index the fields are the wanted
/// columns, or all text columns if none are named.
///
/// # Errors
/// `InvalidArgument` when the index does not have the columns, or a column does not hold text.
pub(crate) fn text_fields(
    table: &Table,
    index: Option<&IndexDefinition>,
    wanted: &[u32],
    tokenizer: Option<&str>,
) -> Result<TextFields> {
    let chosen = match index {
        Some(index) => suits(index, wanted, tokenizer).then_some(index),
        None => suitable(table, wanted, tokenizer).first().copied(),
    };
    if let Some(IndexDefinition { id, kind: IndexKind::Text { columns, tokenizer }, .. }) = chosen {
        let analyzer = Analyzer::named(tokenizer)?;
        return Ok(TextFields { columns: columns.clone(), analyzer, index: Some(*id) });
    }
    if let Some(index) = index {
        return Err(Error::invalid(format!("index {:?} does not index these columns as text", index.name)));
    }
    let columns = match wanted {
        [] => table.schema.columns.iter().filter(|c| c.data_type.is_text()).map(|c| c.id).collect(),
        wanted => wanted.to_vec(),
    };
    let texts = |id: &u32| table.schema.columns.iter().any(|c| c.id == *id && c.data_type.is_text());
    if let Some(other) = columns.iter().find(|id| !texts(id)) {
        return Err(Error::invalid(format!("column {:?} does not hold text", name_of(table, *other))));
    }
    if columns.is_empty() {
        return Err(Error::invalid(format!("table {} has no text column", table.name)));
    }
    let analyzer = Analyzer::named(tokenizer.unwrap_or(Analyzer::DEFAULT))?;
    Ok(TextFields { columns, analyzer, index: None })
}
