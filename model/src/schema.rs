//! Table schemas: what the DDL of a table defines, and the checks that every schema passes.

use rkyv::{Archive, Deserialize, Serialize};

use crate::limits::{COLUMNS_MAX, EXPRESSION_BYTES_MAX, INDEXES_MAX, NAME_BYTES_MAX};
use crate::{Column, Error, IndexDefinition, IndexKind, Result};

/// The columns of a table, and everything else that its DDL defines.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
pub struct TableSchema {
    /// In the order of `SELECT *`.
    pub columns: Vec<Column>,
    /// The primary key, as positions in `columns`. When it is empty, batches go to the shards in turn.
    pub primary_key: Vec<u32>,
    /// Column defaults as SQL expressions, by column id. Inserts that omit a column evaluate its default.
    pub defaults: Vec<(u32, String)>,
    /// Initial values, by column id: the value of an added column in rows that are older than the column.
    /// Each is encoded as an inline segment of one row. A column without one is null in those rows.
    pub initial_defaults: Vec<(u32, Vec<u8>)>,
    /// Check constraints. A row satisfies a check that is true or null.
    pub checks: Vec<Check>,
    /// Microseconds for which removed segments stay readable. `None` is the default of one day.
    pub retention_us: Option<u64>,
    /// Ids of the columns by which `OPTIMIZE` sorts rows.
    pub cluster_by: Vec<u32>,
    /// The largest column id that was ever assigned. Ids are not reused.
    pub last_column: u32,
    /// Search indexes.
    pub indexes: Vec<IndexDefinition>,
    /// The largest index id that was ever assigned. Ids are not reused.
    pub last_index: u32,
}

/// A check constraint.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Check {
    /// Unique within the table.
    pub name: String,
    /// SQL expression over the columns.
    pub expression: String,
}

impl TableSchema {
    /// Checks the invariants of a schema: the limits of `limits.rs`, unique and valid names, key columns that
    /// exist, are hashable and not nullable, and indexes on columns of a suitable type.
    ///
    /// # Errors
    /// `InvalidArgument` names the column or index that violates one. `AlreadyExists` for two indexes of the
    /// same name.
    pub fn validate(&self) -> Result<()> {
        if self.columns.is_empty() {
            return Err(Error::invalid("a table needs at least one column"));
        }
        if self.columns.len() > COLUMNS_MAX {
            return Err(Error::invalid(format!(
                "{} columns are more than the {COLUMNS_MAX} that a table may have",
                self.columns.len()
            )));
        }
        let mut names = std::collections::BTreeSet::new();
        for column in &self.columns {
            validate_name("column", &column.name)?;
            let mut fields = 0;
            column
                .data_type
                .validate(0, &mut fields)
                .map_err(|e| e.context(format!("column {:?}", column.name)))?;
            if !names.insert(&column.name) {
                return Err(Error::invalid(format!("column {:?} is named twice", column.name)));
            }
        }
        self.validate_expressions()?;
        self.validate_primary_key()?;
        self.validate_indexes()
    }

    /// Checks the sizes of defaults, checks and initial values.
    fn validate_expressions(&self) -> Result<()> {
        let sizes = self.defaults.iter().map(|(_, sql)| sql.len());
        let sizes = sizes.chain(self.checks.iter().map(|c| c.expression.len()));
        if let Some(size) = sizes.into_iter().find(|size| *size > EXPRESSION_BYTES_MAX) {
            return Err(Error::invalid(format!(
                "a default or check of {size} bytes is longer than {EXPRESSION_BYTES_MAX}"
            )));
        }
        let initial =
            self.initial_defaults.iter().map(|(_, bytes)| bytes.len()).find(|n| *n > EXPRESSION_BYTES_MAX);
        if let Some(size) = initial {
            return Err(Error::invalid(format!(
                "an initial value of {size} bytes is longer than {EXPRESSION_BYTES_MAX}"
            )));
        }
        Ok(())
    }

    fn validate_primary_key(&self) -> Result<()> {
        let mut keys = std::collections::BTreeSet::new();
        for &key in &self.primary_key {
            let column = self.columns.get(key as usize).ok_or_else(|| {
                Error::invalid(format!(
                    "primary key column {key} of a table with {} columns",
                    self.columns.len()
                ))
            })?;
            if !keys.insert(key) {
                return Err(Error::invalid(format!("primary key names column {:?} twice", column.name)));
            }
            if column.nullable {
                return Err(Error::invalid(format!("primary key column {:?} must be NOT NULL", column.name)));
            }
            if !column.data_type.is_hashable_key() {
                return Err(Error::invalid(format!(
                    "column {:?} cannot be part of a primary key: floats, vectors, lists, structs and maps \
                     are no keys",
                    column.name
                )));
            }
        }
        Ok(())
    }

    fn validate_indexes(&self) -> Result<()> {
        if self.indexes.len() > INDEXES_MAX {
            return Err(Error::invalid(format!(
                "{} indexes are more than the {INDEXES_MAX} that a table may have",
                self.indexes.len()
            )));
        }
        let mut names = std::collections::BTreeSet::new();
        for index in &self.indexes {
            validate_name("index", &index.name)?;
            if !names.insert(&index.name) {
                return Err(Error::already_exists(format!("index {:?} exists already", index.name)));
            }
            let mut columns = std::collections::BTreeSet::new();
            for id in index.kind.columns() {
                let column = self.columns.iter().find(|c| c.id == *id);
                let column = column.ok_or_else(|| {
                    Error::invalid(format!("index {:?} names no column: id {id}", index.name))
                })?;
                let suits = match index.kind {
                    IndexKind::Text { .. } => column.data_type.is_text(),
                    IndexKind::Vector { .. } => column.data_type.vector_dimensions().is_some(),
                };
                if !suits {
                    return Err(Error::invalid(format!(
                        "column {:?} of type {:?} cannot have a {} index",
                        column.name,
                        column.data_type,
                        index.kind.name()
                    )));
                }
                if !columns.insert(id) {
                    return Err(Error::invalid(format!(
                        "index {:?} names column {:?} twice",
                        index.name, column.name
                    )));
                }
            }
            if columns.is_empty() {
                return Err(Error::invalid(format!("index {:?} names no column", index.name)));
            }
        }
        Ok(())
    }

    /// The default of a column as an SQL expression, by column id.
    pub fn default_of(&self, column: u32) -> Option<&str> {
        self.defaults.iter().find(|(id, _)| *id == column).map(|(_, sql)| sql.as_str())
    }

    /// The encoded initial value of a column, by column id.
    pub fn initial_default_of(&self, column: u32) -> Option<&[u8]> {
        self.initial_defaults.iter().find(|(id, _)| *id == column).map(|(_, bytes)| bytes.as_slice())
    }

    /// The index of this name.
    pub fn index_by_name(&self, name: &str) -> Option<&IndexDefinition> {
        self.indexes.iter().find(|index| index.name == name)
    }

    /// Whether the table has a primary key.
    pub fn has_key(&self) -> bool {
        !self.primary_key.is_empty()
    }

    /// The position of a column in `columns`, by name.
    pub fn column_index(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|c| c.name == name)
    }
}

/// Checks the name of a schema, table, column or index; `what` says which in the message.
///
/// # Errors
/// `InvalidArgument` when the name is empty, too long, or contains a control character.
pub fn validate_name(what: &str, name: &str) -> Result<()> {
    if name.is_empty() {
        return Err(Error::invalid(format!("a {what} name must not be empty")));
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(Error::invalid(format!(
            "{what} name of {} bytes is longer than {NAME_BYTES_MAX}: {:.40}...",
            name.len(),
            name
        )));
    }
    if name.chars().any(char::is_control) {
        return Err(Error::invalid(format!("{what} name {name:?} contains a control character")));
    }
    Ok(())
}
