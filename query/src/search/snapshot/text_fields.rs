//! TODO module docs.

use plexus_index::text::Analyzer;
use plexus_model::{Error, IndexDefinition, IndexKind, Result, Table};

/// How the words of some columns are found.
#[derive(Clone, Debug, PartialEq)]
pub struct TextFields {
    /// Their ids.
    pub columns: Vec<u32>,
    pub analyzer: Analyzer,
    /// The index whose files can be used.
    pub index: Option<u32>,
}

pub fn no_column(table: &Table, name: &str) -> String {
    let names: Vec<&str> = table.schema.columns.iter().map(|c| c.name.as_str()).collect();
    format!("table {} has no column {name:?}; there are {}", table.name, names.join(", "))
}

pub fn name_of(table: &Table, id: u32) -> String {
    table.schema.columns.iter().find(|c| c.id == id).map(|c| c.name.clone()).unwrap_or_default()
}

/// How words of some columns are found: by an index that has them, or without; of all that are indexed or, without an
/// index, of all texts, where none are named.
pub fn text_fields(
    table: &Table,
    index: Option<&IndexDefinition>,
    wanted: &[u32],
    tokenizer: Option<&str>,
) -> Result<TextFields> {
    let candidates: Vec<&IndexDefinition> = match index {
        Some(index) => vec![index],
        None => table.schema.indexes.iter().collect(),
    };
    let suits = |index: &&IndexDefinition| match &index.kind {
        IndexKind::Text { columns, tokenizer: of_index } => {
            wanted.iter().all(|id| columns.contains(id)) && tokenizer.is_none_or(|t| t == of_index)
        }
        IndexKind::Vector { .. } => false,
    };
    if let Some(IndexDefinition { id, kind: IndexKind::Text { columns, tokenizer }, .. }) =
        candidates.into_iter().find(suits)
    {
        let analyzer = Analyzer::named(tokenizer)?;
        return Ok(TextFields { columns: columns.clone(), analyzer, index: Some(*id) });
    }
    if let Some(index) = index {
        return Err(Error::invalid(format!("index {:?} does not have these columns as words", index.name)));
    }
    let columns = match wanted {
        [] => table.schema.columns.iter().filter(|c| c.data_type.is_text()).map(|c| c.id).collect(),
        wanted => wanted.to_vec(),
    };
    let texts = |id: &u32| table.schema.columns.iter().any(|c| c.id == *id && c.data_type.is_text());
    if let Some(other) = columns.iter().find(|id| !texts(id)) {
        return Err(Error::invalid(format!("column {:?} holds no texts", name_of(table, *other))));
    }
    if columns.is_empty() {
        return Err(Error::invalid(format!("table {} has no column of texts", table.name)));
    }
    let analyzer = Analyzer::named(tokenizer.unwrap_or(Analyzer::DEFAULT))?;
    Ok(TextFields { columns, analyzer, index: None })
}
