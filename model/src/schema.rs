//! Table schemas in a form of our own, so that the log does not depend on a library's encoding.

use rkyv::{Archive, Deserialize, Serialize};

use crate::limits::{COLUMNS_MAX, EXPRESSION_BYTES_MAX, INDEXES_MAX, NAME_BYTES_MAX, NESTING_MAX};
use crate::{Error, IndexDefinition, IndexKind, Result};

#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TimeUnit {
    Second,
    Millisecond,
    Microsecond,
    Nanosecond,
}

/// The type of a column: the Arrow types that segments store and return unchanged.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Hash, Debug)]
#[rkyv(serialize_bounds(__S: rkyv::ser::Writer + rkyv::ser::Allocator, __S::Error: rkyv::rancor::Source))]
#[rkyv(deserialize_bounds(__D::Error: rkyv::rancor::Source))]
#[rkyv(bytecheck(bounds(__C: rkyv::validation::ArchiveContext, __C::Error: rkyv::rancor::Source)))]
pub enum ColumnType {
    Null,
    Boolean,
    Int8,
    Int16,
    Int32,
    Int64,
    UInt8,
    UInt16,
    UInt32,
    UInt64,
    Float16,
    Float32,
    Float64,
    Utf8,
    LargeUtf8,
    Utf8View,
    Binary,
    LargeBinary,
    BinaryView,
    Date32,
    Date64,
    Time32(TimeUnit),
    Time64(TimeUnit),
    Timestamp(TimeUnit, Option<String>),
    Decimal32 {
        precision: u8,
        scale: i8,
    },
    Decimal64 {
        precision: u8,
        scale: i8,
    },
    Decimal128 {
        precision: u8,
        scale: i8,
    },
    Decimal256 {
        precision: u8,
        scale: i8,
    },
    List(#[rkyv(omit_bounds)] Box<Column>),
    LargeList(#[rkyv(omit_bounds)] Box<Column>),
    ListView(#[rkyv(omit_bounds)] Box<Column>),
    LargeListView(#[rkyv(omit_bounds)] Box<Column>),
    /// `VECTOR(n)` is a fixed-size list of `Float32` that are not null, and `HALFVEC(n)` one of `Float16`.
    FixedSizeList(#[rkyv(omit_bounds)] Box<Column>, u32),
    Struct(#[rkyv(omit_bounds)] Vec<Column>),
    /// A list of structs of key and value.
    Map {
        #[rkyv(omit_bounds)]
        entries: Box<Column>,
        keys_sorted: bool,
    },
}

/// A column. Segments name it by `id`, people by `name`.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Hash, Debug)]
pub struct Column {
    /// Unique within its table for ever; 0 inside nested types.
    pub id: u32,
    pub name: String,
    pub data_type: ColumnType,
    pub nullable: bool,
}

#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
pub struct TableSchema {
    pub columns: Vec<Column>,
    /// Indexes into `columns`. Empty: no key, rows are spread over the shards in turn.
    pub primary_key: Vec<u32>,
    /// SQL of the values that inserts give to columns that they do not name, by column id.
    pub defaults: Vec<(u32, String)>,
    /// Values of columns that were added later, for the rows that were there: by column id, one row as
    /// inline segments are encoded. Without one such a value is null.
    pub initials: Vec<(u32, Vec<u8>)>,
    /// Conditions that every row fulfils, or is null in.
    pub checks: Vec<Check>,
    /// How long removed segments stay readable, when the table says so, in microseconds.
    pub retention_us: Option<u64>,
    /// Ids of columns by which rows are ordered when segments are merged.
    pub cluster_by: Vec<u32>,
    /// The largest column id that was ever given.
    pub last_column: u32,
    /// By which rows are searched.
    pub indexes: Vec<IndexDefinition>,
    /// The largest index id that was ever given.
    pub last_index: u32,
}

/// A named condition on rows, as SQL over the columns.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Check {
    pub name: String,
    pub expression: String,
}

impl TableSchema {
    /// Checks what no table may have: no columns, too many, a name that is empty, too long or used
    /// twice, a key column that is absent, repeated or nullable.
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
        let sizes = self.defaults.iter().map(|(_, sql)| sql.len());
        let sizes = sizes.chain(self.checks.iter().map(|c| c.expression.len()));
        if let Some(size) = sizes.into_iter().find(|size| *size > EXPRESSION_BYTES_MAX) {
            return Err(Error::invalid(format!(
                "a default or check of {size} bytes is longer than {EXPRESSION_BYTES_MAX}"
            )));
        }
        let initial = self.initials.iter().map(|(_, bytes)| bytes.len()).find(|n| *n > EXPRESSION_BYTES_MAX);
        if let Some(size) = initial {
            return Err(Error::invalid(format!(
                "an initial value of {size} bytes is longer than {EXPRESSION_BYTES_MAX}"
            )));
        }
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
                    "column {:?} of type {:?} cannot be part of a primary key",
                    column.name, column.data_type
                )));
            }
        }
        self.validate_indexes()
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
                let column = column
                    .ok_or_else(|| Error::invalid(format!("index {:?} is of no column {id}", index.name)))?;
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
                return Err(Error::invalid(format!("index {:?} is of no column", index.name)));
            }
        }
        Ok(())
    }

    pub fn default_of(&self, column: u32) -> Option<&str> {
        self.defaults.iter().find(|(id, _)| *id == column).map(|(_, sql)| sql.as_str())
    }

    pub fn initial_of(&self, column: u32) -> Option<&[u8]> {
        self.initials.iter().find(|(id, _)| *id == column).map(|(_, bytes)| bytes.as_slice())
    }

    pub fn index_named(&self, name: &str) -> Option<&IndexDefinition> {
        self.indexes.iter().find(|index| index.name == name)
    }

    pub fn has_key(&self) -> bool {
        !self.primary_key.is_empty()
    }

    pub fn column_index(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|c| c.name == name)
    }
}

impl ColumnType {
    /// Whether equal values have equal bytes, so that a hash of them can choose a shard.
    pub fn is_hashable_key(&self) -> bool {
        !matches!(
            self,
            Self::Float16
                | Self::Float32
                | Self::Float64
                | Self::List(_)
                | Self::LargeList(_)
                | Self::ListView(_)
                | Self::LargeListView(_)
                | Self::FixedSizeList(..)
                | Self::Struct(_)
                | Self::Map { .. }
                | Self::Null
        )
    }

    pub fn is_text(&self) -> bool {
        matches!(self, Self::Utf8 | Self::LargeUtf8 | Self::Utf8View)
    }

    /// How many components a value has, if it is a vector.
    pub fn vector_dimensions(&self) -> Option<u32> {
        match self {
            Self::FixedSizeList(item, length)
                if matches!(item.data_type, Self::Float16 | Self::Float32 | Self::Float64) =>
            {
                Some(*length)
            }
            _ => None,
        }
    }

    /// Bounds what is nested in a type: every node keeps it in memory.
    fn validate(&self, depth: usize, fields: &mut usize) -> Result<()> {
        if depth > NESTING_MAX {
            return Err(Error::invalid(format!("its type is nested more than {NESTING_MAX} times")));
        }
        let nested: &[Column] = match self {
            Self::Timestamp(_, Some(zone)) if zone.len() > NAME_BYTES_MAX => {
                return Err(Error::invalid(format!("a time zone of {} bytes", zone.len())));
            }
            Self::List(item)
            | Self::LargeList(item)
            | Self::ListView(item)
            | Self::LargeListView(item)
            | Self::FixedSizeList(item, _)
            | Self::Map { entries: item, .. } => std::slice::from_ref(item),
            Self::Struct(columns) => columns,
            _ => &[],
        };
        *fields += nested.len();
        if *fields > COLUMNS_MAX {
            return Err(Error::invalid(format!("its type has more than {COLUMNS_MAX} fields")));
        }
        for column in nested {
            if column.name.len() > NAME_BYTES_MAX {
                return Err(Error::invalid(format!("a field's name of {} bytes", column.name.len())));
            }
            column.data_type.validate(depth + 1, fields)?;
        }
        Ok(())
    }
}

/// Checks the name of a table, schema or column.
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
