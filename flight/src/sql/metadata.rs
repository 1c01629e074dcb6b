//! Answers to the metadata commands of Flight SQL: server capabilities, SQL types, schemas, tables and keys.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, RecordBatch, StringArray, new_null_array};
use arrow_flight::sql::metadata::{
    SqlInfoData, SqlInfoDataBuilder, XdbcTypeInfo, XdbcTypeInfoData, XdbcTypeInfoDataBuilder,
};
use arrow_flight::sql::{
    CommandGetDbSchemas, CommandGetPrimaryKeys, CommandGetTables, Nullable, Searchable, SqlInfo,
    SqlSupportedCaseSensitivity, SqlSupportedTransaction, XdbcDataType,
};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use plexus_coordinator::IDLE_TIMEOUT_DEFAULT;
use plexus_model::{Error, Manifest, Result, Table, TableName};
use plexus_query::{CATALOG, SYSTEM_SCHEMA};
use plexus_storage::types;

use crate::sql::encode::wire_schema;

fn internal(error: impl std::fmt::Display) -> Error {
    Error::internal(format!("metadata: {error}"))
}

/// Capabilities of the server. Lists only what works.
pub(crate) fn sql_info() -> Result<SqlInfoData> {
    let mut info = SqlInfoDataBuilder::new();
    info.append(SqlInfo::FlightSqlServerName, "Plexus");
    info.append(SqlInfo::FlightSqlServerVersion, env!("CARGO_PKG_VERSION"));
    info.append(SqlInfo::FlightSqlServerArrowVersion, arrow::ARROW_VERSION);
    info.append(SqlInfo::FlightSqlServerReadOnly, false);
    info.append(SqlInfo::FlightSqlServerSql, true);
    info.append(SqlInfo::FlightSqlServerSubstrait, false);
    info.append(SqlInfo::FlightSqlServerTransaction, SqlSupportedTransaction::Transaction as i32);
    info.append(SqlInfo::FlightSqlServerCancel, false);
    info.append(SqlInfo::FlightSqlServerBulkIngestion, true);
    info.append(SqlInfo::FlightSqlServerIngestTransactionsSupported, true);
    info.append(SqlInfo::FlightSqlServerStatementTimeout, 0i32);
    info.append(SqlInfo::FlightSqlServerTransactionTimeout, IDLE_TIMEOUT_DEFAULT.as_millis() as i32);
    info.append(SqlInfo::SqlDdlCatalog, false);
    info.append(SqlInfo::SqlDdlSchema, true);
    info.append(SqlInfo::SqlDdlTable, true);
    // Unquoted names are folded to lower case. Quoted names keep their case, for which the protocol has no
    // value but "unknown".
    info.append(SqlInfo::SqlIdentifierCase, SqlSupportedCaseSensitivity::SqlCaseSensitivityLowercase as i64);
    info.append(
        SqlInfo::SqlQuotedIdentifierCase,
        SqlSupportedCaseSensitivity::SqlCaseSensitivityUnknown as i64,
    );
    info.append(SqlInfo::SqlIdentifierQuoteChar, "\"");
    info.append(SqlInfo::SqlSearchStringEscape, "\\");
    info.append(SqlInfo::SqlCatalogTerm, "database");
    info.append(SqlInfo::SqlSchemaTerm, "schema");
    info.append(SqlInfo::SqlCatalogAtStart, true);
    info.append(SqlInfo::SqlTransactionsSupported, true);
    info.append(SqlInfo::SqlSavepointsSupported, false);
    info.append(SqlInfo::SqlNamedParametersSupported, false);
    info.build().map_err(internal)
}

/// The SQL types, in the form that ODBC and JDBC drivers expect.
pub(crate) fn type_info() -> Result<XdbcTypeInfoData> {
    use XdbcDataType as X;
    // Name, type, column size in digits or characters, whether unsigned, radix of the digits.
    type Row = (&'static str, X, Option<i32>, Option<bool>, Option<i32>);
    let types: [Row; 15] = [
        ("BOOLEAN", X::XdbcBit, Some(1), None, None),
        ("TINYINT", X::XdbcTinyint, Some(3), Some(false), Some(10)),
        ("SMALLINT", X::XdbcSmallint, Some(5), Some(false), Some(10)),
        ("INTEGER", X::XdbcInteger, Some(10), Some(false), Some(10)),
        ("BIGINT", X::XdbcBigint, Some(19), Some(false), Some(10)),
        ("BIGINT UNSIGNED", X::XdbcBigint, Some(20), Some(true), Some(10)),
        ("REAL", X::XdbcFloat, Some(24), Some(false), Some(2)),
        ("DOUBLE", X::XdbcDouble, Some(53), Some(false), Some(2)),
        ("DECIMAL", X::XdbcDecimal, Some(76), Some(false), Some(10)),
        ("CHAR", X::XdbcChar, Some(i32::MAX), None, None),
        ("VARCHAR", X::XdbcVarchar, Some(i32::MAX), None, None),
        ("BYTEA", X::XdbcVarbinary, Some(i32::MAX), None, None),
        ("DATE", X::XdbcDate, Some(10), None, None),
        ("TIME", X::XdbcTime, Some(18), None, None),
        ("TIMESTAMP", X::XdbcTimestamp, Some(29), None, None),
    ];
    let mut builder = XdbcTypeInfoDataBuilder::new();
    for (name, data_type, column_size, unsigned_attribute, num_prec_radix) in types {
        let text =
            matches!(data_type, X::XdbcChar | X::XdbcVarchar | X::XdbcDate | X::XdbcTime | X::XdbcTimestamp);
        builder.append(XdbcTypeInfo {
            type_name: name.into(),
            data_type,
            sql_data_type: data_type,
            column_size,
            literal_prefix: text.then(|| "'".into()),
            literal_suffix: text.then(|| "'".into()),
            nullable: Nullable::NullabilityNullable,
            case_sensitive: text,
            searchable: Searchable::Full,
            unsigned_attribute,
            num_prec_radix,
            ..Default::default()
        });
    }
    builder.build().map_err(internal)
}

fn text(name: &str, nullable: bool) -> Field {
    Field::new(name, DataType::Utf8, nullable)
}

/// Schema of [`primary_keys`].
pub(crate) fn primary_keys_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        text("catalog_name", true),
        text("db_schema_name", true),
        text("table_name", false),
        text("column_name", false),
        Field::new("key_sequence", DataType::Int32, false),
        text("key_name", true),
    ]))
}

/// The primary key of a table: one row per key column.
pub(crate) fn primary_keys(query: &CommandGetPrimaryKeys, manifest: &Manifest) -> Result<RecordBatch> {
    let matches = |t: &&Arc<Table>| {
        t.name.table == query.table && query.db_schema.as_ref().is_none_or(|schema| *schema == t.name.schema)
    };
    // Schema, table, column, and the 1-based position of the column in the key.
    let rows: Vec<(&str, &str, &str, i32)> = named_tables(manifest)
        .filter(matches)
        .flat_map(|t| {
            t.schema.primary_key.iter().zip(1..).map(|(&key, sequence)| {
                let column = &t.schema.columns[key as usize];
                (t.name.schema.as_str(), t.name.table.as_str(), column.name.as_str(), sequence)
            })
        })
        .collect();
    let strings = |pick: fn(&(&'_ str, &'_ str, &'_ str, i32)) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(rows.iter().map(pick)))
    };
    let columns = vec![
        strings(|_| CATALOG.to_owned()),
        strings(|r| r.0.to_owned()),
        strings(|r| r.1.to_owned()),
        strings(|r| r.2.to_owned()),
        Arc::new(Int32Array::from_iter_values(rows.iter().map(|r| r.3))),
        new_null_array(&DataType::Utf8, rows.len()),
    ];
    RecordBatch::try_new(primary_keys_schema(), columns).map_err(internal)
}

/// Tables that users can name. Tables of unfinished loads are left out.
fn named_tables(manifest: &Manifest) -> impl Iterator<Item = &Arc<Table>> {
    let named = manifest.names.iter().filter(|(name, _)| !name.is_staging());
    named.filter_map(|(_, id)| manifest.tables.get(id))
}

/// Values of the `table_type` column: tables of users, and system tables.
pub(crate) const TABLE_TYPES: [&str; 2] = ["TABLE", "SYSTEM TABLE"];

/// Tables with their columns as they are on the wire.
pub(crate) fn tables(query: CommandGetTables, manifest: &Manifest, string_view: bool) -> Result<RecordBatch> {
    let mut builder = query.into_builder();
    for table in named_tables(manifest) {
        let TableName { schema, table: name } = &table.name;
        let columns = wire_schema(&types::to_arrow(&table.schema), string_view);
        builder.append(CATALOG, schema, name, TABLE_TYPES[0], &columns).map_err(internal)?;
    }
    for (name, columns) in plexus_query::system_tables(manifest).map_err(internal)? {
        let columns = wire_schema(&columns, string_view);
        builder.append(CATALOG, SYSTEM_SCHEMA, name, TABLE_TYPES[1], &columns).map_err(internal)?;
    }
    builder.build().map_err(internal)
}

/// Schemas, including those of the system.
pub(crate) fn schemas(query: CommandGetDbSchemas, manifest: &Manifest) -> Result<RecordBatch> {
    let mut builder = query.into_builder();
    let system = [SYSTEM_SCHEMA, "information_schema"];
    for schema in manifest.schemas.keys().map(String::as_str).chain(system) {
        builder.append(CATALOG, schema);
    }
    builder.build().map_err(internal)
}

/// Schema of the foreign key commands. There are no foreign keys, so their results are always empty.
pub(crate) fn foreign_keys_schema() -> SchemaRef {
    let side = |side: &str| {
        vec![
            text(&format!("{side}_catalog_name"), true),
            text(&format!("{side}_db_schema_name"), true),
            text(&format!("{side}_table_name"), false),
            text(&format!("{side}_column_name"), false),
        ]
    };
    let rest = vec![
        Field::new("key_sequence", DataType::Int32, false),
        text("fk_key_name", true),
        text("pk_key_name", true),
        Field::new("update_rule", DataType::UInt8, false),
        Field::new("delete_rule", DataType::UInt8, false),
    ];
    Arc::new(Schema::new([side("pk"), side("fk"), rest].concat()))
}
