//! `information_schema`: that of the engine but for `columns`, where positions begin at one and types have
//! their names in SQL.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray, UInt64Array};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use async_trait::async_trait;
use datafusion::catalog::information_schema::{INFORMATION_SCHEMA, InformationSchemaProvider};
use datafusion::catalog::{CatalogProvider, MemTable, SchemaProvider, TableFunction, TableProvider};
use datafusion::common::Result;
use plexus_model::TableName;
use plexus_storage::sql_name;

use crate::CATALOG;
use crate::tables::catalog::PinnedCatalog;

/// Table functions by name, as `information_schema.routines` shows them.
pub(crate) type TableFunctions = HashMap<String, Arc<TableFunction>>;

const COLUMNS: &str = "columns";

/// The schema over a pinned catalog.
#[derive(Debug)]
pub(crate) struct InformationSchema {
    inner: InformationSchemaProvider,
    catalog: PinnedCatalog,
}

impl InformationSchema {
    pub(crate) const NAME: &str = INFORMATION_SCHEMA;

    pub(crate) fn new(catalog: PinnedCatalog) -> Self {
        let inner = InformationSchemaProvider::new(Arc::new(catalog.clone()))
            .with_table_functions(catalog.functions.as_ref().clone());
        Self { inner, catalog }
    }

    /// All columns of the tables that have names.
    async fn columns(&self) -> Result<RecordBatch> {
        let mut columns: Vec<NamedColumn> = vec![];
        for schema_name in self.catalog.schema_names() {
            let Some(schema) = self.catalog.schema(&schema_name) else {
                continue;
            };
            for table_name in schema.table_names() {
                let Some(table) = schema.table(&table_name).await? else {
                    continue;
                };
                let name = TableName::new(&schema_name, &table_name);
                let stored = self.catalog.manifest.table(&name);
                let default = |column: &Field| {
                    let schema = &stored?.schema;
                    let id = schema.columns.iter().find(|stored| stored.name == *column.name())?.id;
                    schema.default_of(id).map(str::to_owned)
                };
                columns.extend((1..).zip(table.schema().fields()).map(|(position, column)| NamedColumn {
                    table: name.clone(),
                    position,
                    default: default(column),
                    column: column.as_ref().clone(),
                }));
            }
        }
        batch(&columns)
    }
}

#[async_trait]
impl SchemaProvider for InformationSchema {
    fn table_names(&self) -> Vec<String> {
        self.inner.table_names()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        if name != COLUMNS {
            return self.inner.table(name).await;
        }
        let columns = self.columns().await?;
        Ok(Some(Arc::new(MemTable::try_new(columns.schema(), vec![vec![columns]])?)))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.inner.table_exist(name)
    }
}

/// A column of a table.
struct NamedColumn {
    table: TableName,
    /// From one.
    position: u64,
    default: Option<String>,
    column: Field,
}

/// The rows of `information_schema.columns`.
fn batch(columns: &[NamedColumn]) -> Result<RecordBatch> {
    let texts = |text: &dyn Fn(&NamedColumn) -> Option<String>| -> ArrayRef {
        Arc::new(columns.iter().map(text).collect::<StringArray>())
    };
    let numbers = |number: &dyn Fn(&NamedColumn) -> Option<u64>| -> ArrayRef {
        Arc::new(columns.iter().map(number).collect::<UInt64Array>())
    };
    let numeric = |part: fn(Numeric) -> Option<u64>| {
        numbers(&move |named| Numeric::of(named.column.data_type()).and_then(part))
    };
    let is_nullable = |named: &NamedColumn| if named.column.is_nullable() { "YES" } else { "NO" };
    let values: [(&str, ArrayRef, bool); 15] = [
        ("table_catalog", texts(&|_| Some(CATALOG.to_owned())), false),
        ("table_schema", texts(&|named| Some(named.table.schema.clone())), false),
        ("table_name", texts(&|named| Some(named.table.table.clone())), false),
        ("column_name", texts(&|named| Some(named.column.name().clone())), false),
        ("ordinal_position", numbers(&|named| Some(named.position)), false),
        ("column_default", texts(&|named| named.default.clone()), true),
        ("is_nullable", texts(&|named| Some(is_nullable(named).to_owned())), false),
        ("data_type", texts(&|named| Some(sql_name(named.column.data_type()))), false),
        // Texts have no limit of their own, and intervals all fields.
        ("character_maximum_length", numbers(&|_| None), true),
        ("character_octet_length", numbers(&|_| None), true),
        ("numeric_precision", numeric(|numeric| Some(numeric.precision)), true),
        ("numeric_precision_radix", numeric(|numeric| Some(numeric.radix)), true),
        ("numeric_scale", numeric(|numeric| numeric.scale), true),
        ("datetime_precision", numbers(&|named| digits_of_seconds(named.column.data_type())), true),
        ("interval_type", texts(&|_| None), true),
    ];
    let fields =
        values.iter().map(|(name, array, nullable)| Field::new(*name, array.data_type().clone(), *nullable));
    let schema: SchemaRef = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    Ok(RecordBatch::try_new(schema, values.into_iter().map(|(_, array, _)| array).collect())?)
}

/// What the standard says of a numeric type.
struct Numeric {
    /// Digits in the base `radix`.
    precision: u64,
    radix: u64,
    /// Digits after the point; `None` for floats.
    scale: Option<u64>,
}

impl Numeric {
    fn of(data_type: &DataType) -> Option<Self> {
        let binary = |precision, scale| Some(Self { precision, radix: 2, scale });
        match data_type {
            DataType::Float16 => binary(11, None),
            DataType::Float32 => binary(24, None),
            DataType::Float64 => binary(53, None),
            DataType::Decimal32(precision, scale)
            | DataType::Decimal64(precision, scale)
            | DataType::Decimal128(precision, scale)
            | DataType::Decimal256(precision, scale) => {
                let scale = Some(u64::try_from(*scale).unwrap_or(0));
                Some(Self { precision: u64::from(*precision), radix: 10, scale })
            }
            integer if integer.is_integer() => binary(8 * integer.primitive_width()? as u64, Some(0)),
            _ => None,
        }
    }
}

/// Digits of the seconds of a time; zero for dates.
fn digits_of_seconds(data_type: &DataType) -> Option<u64> {
    match data_type {
        DataType::Date32 | DataType::Date64 => Some(0),
        DataType::Time32(unit) | DataType::Time64(unit) | DataType::Timestamp(unit, _) => Some(match unit {
            TimeUnit::Second => 0,
            TimeUnit::Millisecond => 3,
            TimeUnit::Microsecond => 6,
            TimeUnit::Nanosecond => 9,
        }),
        _ => None,
    }
}
