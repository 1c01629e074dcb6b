//! Which columns a full-text query searches, each with which analyzer and index.

use plexus_index::text::Analyzer;
use plexus_model::{Error, IndexDefinition, IndexKind, Result, Table};

/// The columns of a full-text query. They may be in several indexes, each with its own analyzer.
#[derive(Clone, Debug, PartialEq)]
pub struct TextFields {
    /// The groups in the order of the fields. A field of the query is a position in the columns of all
    /// groups, one group after another.
    pub groups: Vec<FieldGroup>,
}

/// Columns whose texts are in one inverted index.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldGroup {
    /// Column ids.
    pub columns: Vec<u32>,
    /// Splits text into terms.
    pub analyzer: Analyzer,
    /// Id of the index with exactly these columns and this analyzer, if there is one.
    pub index: Option<u32>,
}

impl TextFields {
    /// The column of each field, and how its text is analyzed.
    pub(crate) fn all(&self) -> impl Iterator<Item = (u32, &Analyzer)> {
        self.groups.iter().flat_map(|group| group.columns.iter().map(|id| (*id, &group.analyzer)))
    }

    /// Number of fields.
    pub(crate) fn count(&self) -> usize {
        self.groups.iter().map(|group| group.columns.len()).sum()
    }

    /// The field of a column, and how its text is analyzed.
    pub(crate) fn field(&self, column: u32) -> Option<(usize, &Analyzer)> {
        self.all().enumerate().find(|(_, (id, _))| *id == column).map(|(at, (_, analyzer))| (at, analyzer))
    }

    /// What tells these fields from others of the same table: the columns and the analyzer of each group.
    pub(crate) fn key(&self) -> FieldsKey {
        self.groups.iter().map(|group| (group.columns.clone(), group.analyzer.name().to_owned())).collect()
    }
}

/// The column ids and the name of the analyzer of each [`FieldGroup`].
pub(crate) type FieldsKey = Vec<(Vec<u32>, String)>;

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

/// Fails when a column has several indexes that differ in their tokenizers, and so in what they find.
///
/// # Errors
/// `InvalidArgument` names them.
pub(crate) fn check_unambiguous(table: &Table, wanted: &[u32], tokenizer: Option<&str>) -> Result<()> {
    let tokenizer_of = |index: &IndexDefinition| match &index.kind {
        IndexKind::Text { tokenizer, .. } => Some(tokenizer.clone()),
        IndexKind::Vector { .. } => None,
    };
    for id in searched(table, wanted) {
        let indexes = || table.schema.indexes.iter().filter(|index| suits(index, &[id], tokenizer));
        let mut tokenizers = indexes().map(tokenizer_of);
        let first = tokenizers.next();
        if tokenizers.any(|other| Some(&other) != first.as_ref()) {
            let names: Vec<&str> = indexes().map(|index| index.name.as_str()).collect();
            return Err(Error::invalid(format!(
                "table {} has several text indexes with column {:?}: say which, as in index => '{}' ({})",
                table.name,
                name_of(table, id),
                names[0],
                names.join(", ")
            )));
        }
    }
    Ok(())
}

/// The columns that a query searches: those that are named, else all that are indexed as text, else all that
/// hold text.
fn searched(table: &Table, named: &[u32]) -> Vec<u32> {
    if !named.is_empty() {
        return named.to_vec();
    }
    let indexes = table.schema.indexes.iter().filter(|index| suits(index, &[], None));
    let mut indexed = Vec::new();
    for id in indexes.flat_map(|index| index.kind.columns().iter().copied()) {
        if !indexed.contains(&id) {
            indexed.push(id);
        }
    }
    match indexed.is_empty() {
        true => table.schema.columns.iter().filter(|c| c.data_type.is_text()).map(|c| c.id).collect(),
        false => indexed,
    }
}

/// The columns of an index as a group of fields.
fn group_of(index: &IndexDefinition) -> Result<FieldGroup> {
    match &index.kind {
        IndexKind::Text { columns, tokenizer } => Ok(FieldGroup {
            columns: columns.clone(),
            analyzer: Analyzer::named(tokenizer)?,
            index: Some(index.id),
        }),
        IndexKind::Vector { .. } => Err(Error::internal(format!("index {:?} is no text index", index.name))),
    }
}

/// Chooses the fields of a full-text query: those of the given `index`, or of the first index that has all
/// `wanted` columns, and best no others, and the tokenizer; or each column those of the first index that has
/// it. Columns without an index are analyzed with the tokenizer, or the default one. Without wanted columns,
/// those of all indexes are meant, or all text columns.
///
/// # Errors
/// `InvalidArgument` when the index does not have the columns, or a column does not hold text.
pub(crate) fn text_fields(
    table: &Table,
    index: Option<&IndexDefinition>,
    wanted: &[u32],
    tokenizer: Option<&str>,
) -> Result<TextFields> {
    if let Some(index) = index {
        return match suits(index, wanted, tokenizer) {
            true => Ok(TextFields { groups: vec![group_of(index)?] }),
            false => {
                let with = tokenizer.map(|name| format!(" with tokenizer {name}")).unwrap_or_default();
                let name = &index.name;
                Err(Error::invalid(format!("index {name:?} does not index these columns as text{with}")))
            }
        };
    }
    let wanted = searched(table, wanted);
    let texts = |id: &u32| table.schema.columns.iter().any(|c| c.id == *id && c.data_type.is_text());
    if let Some(other) = wanted.iter().find(|id| !texts(id)) {
        return Err(Error::invalid(format!("column {:?} does not hold text", name_of(table, *other))));
    }
    if wanted.is_empty() {
        return Err(Error::invalid(format!("table {} has no text column", table.name)));
    }
    if let Some(index) = suitable(table, &wanted, tokenizer).first() {
        return Ok(TextFields { groups: vec![group_of(index)?] });
    }
    let mut groups: Vec<FieldGroup> = Vec::new();
    let mut without = Vec::new();
    for id in wanted {
        if groups.iter().any(|group| group.columns.contains(&id)) || without.contains(&id) {
            continue;
        }
        match suitable(table, &[id], tokenizer).first() {
            Some(index) => groups.push(group_of(index)?),
            None => without.push(id),
        }
    }
    if !without.is_empty() {
        let analyzer = Analyzer::named(tokenizer.unwrap_or(Analyzer::DEFAULT))?;
        groups.push(FieldGroup { columns: without, analyzer, index: None });
    }
    Ok(TextFields { groups })
}
