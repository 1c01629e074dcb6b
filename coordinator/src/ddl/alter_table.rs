//! `ALTER TABLE`: from a table's schema to the next. Segments stay as they are; what is new in the schema is
//! read into them.

use datafusion::sql::sqlparser::ast::{
    self, AlterColumnOperation, AlterTableOperation, Ident, ObjectName, RenameTableNameKind, TableConstraint,
};
use futures::TryStreamExt;
use plexus_model::{AlterTable, Check, Column, ColumnType, Command, Error, Result, Table, TableSchema};
use plexus_storage::{inline, types};

use crate::ddl::create_table;
use crate::ddl::create_table::DefinedColumn;
use crate::ddl::executor::DdlExecutor;
use crate::errors::unsupported;
use crate::exec::context::{StatementContext, find};
use crate::sql::names::{identifier, object_name};
use crate::sql::parse;

impl DdlExecutor {
    /// The command that a statement stands for.
    pub(crate) async fn alter_table(
        &self,
        scope: &StatementContext<'_>,
        alter: &ast::AlterTable,
    ) -> Result<Command> {
        let name = object_name(&alter.name, &scope.session.schema())?;
        let table = find(&scope.manifest, &name)?;
        if let [AlterTableOperation::RenameTable { table_name }] = alter.operations.as_slice() {
            let (RenameTableNameKind::To(to) | RenameTableNameKind::As(to)) = table_name;
            // Without a schema it stays in its own.
            let to = object_name(to, &table.name.schema)?;
            return Ok(Command::RenameTable { from: name, to, replace: false });
        }
        let mut schema = (*table.schema).clone();
        // Conditions that no visible row may break.
        let mut violations = Vec::new();
        for operation in &alter.operations {
            self.change_schema(scope, &table, &mut schema, operation, &mut violations).await?;
        }
        schema.validate()?;
        self.writer().engine.row_checks(&schema)?;
        for (what, condition) in &violations {
            self.refuse_rows(scope, &table, what, condition).await?;
        }
        let base = (!violations.is_empty()).then_some(scope.manifest.version);
        Ok(Command::AlterTable(AlterTable {
            table: table.id,
            schema_version: table.schema_version,
            schema,
            base,
        }))
    }

    async fn change_schema(
        &self,
        scope: &StatementContext<'_>,
        table: &Table,
        schema: &mut TableSchema,
        operation: &AlterTableOperation,
        violations: &mut Vec<(String, String)>,
    ) -> Result<()> {
        match operation {
            AlterTableOperation::AddColumn { if_not_exists, column_def, column_position: None, .. } => {
                let name = named(&column_def.name);
                if *if_not_exists && schema.column_index(&name).is_some() {
                    return Ok(());
                }
                let state = self.planner().local_state(scope)?;
                let defined = create_table::define_column(column_def.clone(), &state).await?;
                add_column(table, schema, defined, &self.writer().engine)
            }
            AlterTableOperation::DropColumn { column_names, if_exists, .. } => {
                for name in column_names.iter().map(named) {
                    if !(*if_exists && schema.column_index(&name).is_none()) {
                        drop_column(table, schema, &name)?;
                    }
                }
                Ok(())
            }
            AlterTableOperation::RenameColumn { old_column_name, new_column_name } => {
                let index = column(table, schema, old_column_name)?;
                refuse_checked(table, schema, &named(old_column_name))?;
                schema.columns[index].name = named(new_column_name);
                Ok(())
            }
            AlterTableOperation::AlterColumn { column_name, op } => {
                let index = column(table, schema, column_name)?;
                let quoted = Ident::with_quote('"', &schema.columns[index].name);
                match op {
                    AlterColumnOperation::SetNotNull => {
                        schema.columns[index].nullable = false;
                        violations.push((format!("column {quoted} is null"), format!("{quoted} IS NULL")));
                    }
                    AlterColumnOperation::DropNotNull => schema.columns[index].nullable = true,
                    AlterColumnOperation::SetDefault { value } => {
                        let sql = value.to_string();
                        self.writer().engine.evaluate_constant(&sql)?;
                        let id = schema.columns[index].id;
                        schema.defaults.retain(|(of, _)| *of != id);
                        schema.defaults.push((id, sql));
                    }
                    AlterColumnOperation::DropDefault => {
                        let id = schema.columns[index].id;
                        schema.defaults.retain(|(of, _)| *of != id);
                    }
                    AlterColumnOperation::SetDataType { data_type, using: None, .. } => {
                        let state = self.planner().local_state(scope)?;
                        let wanted = create_table::column_type(data_type.clone(), &state).await?;
                        widen(table, schema, index, wanted)?;
                    }
                    _ => return Err(unsupported(&operation.to_string())),
                }
                Ok(())
            }
            AlterTableOperation::AddConstraint {
                constraint: TableConstraint::Check(check),
                not_valid: false,
            } => {
                let check = create_table::name_check(check, schema);
                let condition = format!("NOT ({})", check.expression);
                violations.push((format!("a row breaks check {:?}", check.name), condition));
                schema.checks.push(check);
                Ok(())
            }
            AlterTableOperation::DropConstraint { if_exists, name, .. } => {
                let name = named(name);
                let before = schema.checks.len();
                schema.checks.retain(|check| check.name != name);
                if schema.checks.len() == before && !if_exists {
                    return Err(Error::not_found(format!("table {} has no constraint {name:?}", table.name)));
                }
                Ok(())
            }
            AlterTableOperation::ClusterBy { exprs } => create_table::cluster_by_exprs(exprs, schema),
            AlterTableOperation::SetTblProperties { table_properties: options }
            | AlterTableOperation::SetOptionsParens { options } => {
                create_table::set_properties(options, schema)
            }
            other => Err(unsupported(&other.to_string())),
        }
    }

    /// Fails when a row that the statement sees fulfils a condition.
    async fn refuse_rows(
        &self,
        scope: &StatementContext<'_>,
        table: &Table,
        what: &str,
        condition: &str,
    ) -> Result<()> {
        let name = ObjectName::from(vec![
            Ident::with_quote('"', &table.name.schema),
            Ident::with_quote('"', &table.name.table),
        ]);
        let sql = format!("SELECT 1 FROM {name} WHERE {condition} LIMIT 1");
        let statement = parse::statement(&sql)?;
        let plan = self.planner().state(scope)?.statement_to_plan(statement).await;
        let mut rows = self.planner().query(scope, &plan.map_err(crate::errors::from_datafusion)?).await?;
        while let Some(batch) = rows.stream.try_next().await? {
            if batch.num_rows() > 0 {
                return Err(Error::invalid(format!("table {}: {what} in a row that is there", table.name)));
            }
        }
        Ok(())
    }
}

pub fn named(ident: &Ident) -> String {
    identifier(&ident.to_string())
}

pub fn column(table: &Table, schema: &TableSchema, name: &Ident) -> Result<usize> {
    let name = named(name);
    schema
        .column_index(&name)
        .ok_or_else(|| Error::not_found(format!("table {} has no column {name:?}", table.name)))
}

pub fn add_column(
    table: &Table,
    schema: &mut TableSchema,
    defined: DefinedColumn,
    engine: &plexus_query::Engine,
) -> Result<()> {
    let DefinedColumn { mut column, default, checks } = defined;
    if schema.column_index(&column.name).is_some() {
        return Err(Error::already_exists(format!(
            "table {} has a column {:?} already",
            table.name, column.name
        )));
    }
    if !checks.is_empty() {
        return Err(Error::unsupported("add the column first, and then its CHECK as a constraint"));
    }
    if !column.nullable && default.is_none() {
        return Err(Error::invalid(format!(
            "column {:?} is NOT NULL: it needs a DEFAULT for the rows that are there",
            column.name
        )));
    }
    schema.last_column += 1;
    column.id = schema.last_column;
    if let Some(sql) = default {
        // The rows that are there get the value that the default has now.
        let value = engine.evaluate_constant(&sql)?;
        let wanted = types::to_data_type(&column.data_type);
        let value = arrow::compute::cast(&value, &wanted).map_err(|e| {
            Error::invalid(format!("column {:?}: its default {sql} is no {wanted}: {e}", column.name))
        })?;
        if value.is_null(0) && !column.nullable {
            return Err(Error::invalid(format!("column {:?} is NOT NULL and its default is", column.name)));
        }
        schema.initial_defaults.push((column.id, inline::encode_value(value)?));
        schema.defaults.push((column.id, sql));
    }
    schema.columns.push(column);
    Ok(())
}

pub fn drop_column(table: &Table, schema: &mut TableSchema, name: &str) -> Result<()> {
    let index = schema
        .column_index(name)
        .ok_or_else(|| Error::not_found(format!("table {} has no column {name:?}", table.name)))?;
    if schema.primary_key.contains(&(index as u32)) {
        return Err(Error::invalid(format!("column {name:?} is part of the primary key of {}", table.name)));
    }
    refuse_checked(table, schema, name)?;
    let id = schema.columns[index].id;
    if let Some(used) = schema.indexes.iter().find(|index| index.kind.columns().contains(&id)) {
        return Err(Error::invalid(format!(
            "column {name:?} of table {} is used by index {:?}: drop that first",
            table.name, used.name
        )));
    }
    schema.columns.remove(index);
    schema.defaults.retain(|(of, _)| *of != id);
    schema.initial_defaults.retain(|(of, _)| *of != id);
    schema.primary_key.iter_mut().filter(|k| **k > index as u32).for_each(|k| *k -= 1);
    Ok(())
}

/// Fails when a check names a column, which would then be another or none.
pub fn refuse_checked(table: &Table, schema: &TableSchema, name: &str) -> Result<()> {
    let uses = |check: &&Check| parse::identifiers(&check.expression).is_ok_and(|names| names.contains(name));
    match schema.checks.iter().find(uses) {
        Some(check) => Err(Error::invalid(format!(
            "column {name:?} of table {} is used by check {:?}: drop that first",
            table.name, check.name
        ))),
        None => Ok(()),
    }
}

pub fn widen(table: &Table, schema: &mut TableSchema, index: usize, wanted: ColumnType) -> Result<()> {
    let column: &Column = &schema.columns[index];
    if schema.primary_key.contains(&(index as u32)) {
        return Err(Error::invalid(format!(
            "column {:?} is part of the primary key of {}: its type decides where rows are",
            column.name, table.name
        )));
    }
    if !is_wider(&column.data_type, &wanted) {
        return Err(Error::invalid(format!(
            "column {:?} of table {} cannot become {}: not every {} is one",
            column.name,
            table.name,
            types::to_data_type(&wanted),
            types::to_data_type(&column.data_type)
        )));
    }
    schema.columns[index].data_type = wanted;
    Ok(())
}

/// Whether every value of a type is one of another, unchanged.
pub fn is_wider(from: &ColumnType, to: &ColumnType) -> bool {
    use ColumnType::*;
    let signed = |t: &ColumnType| {
        Some(match t {
            Int8 => 8,
            Int16 => 16,
            Int32 => 32,
            Int64 => 64,
            _ => return None,
        })
    };
    let unsigned = |t: &ColumnType| {
        Some(match t {
            UInt8 => 8,
            UInt16 => 16,
            UInt32 => 32,
            UInt64 => 64,
            _ => return None,
        })
    };
    // Bits of whole numbers that a float has all of.
    let float = |t: &ColumnType| {
        Some(match t {
            Float16 => 11,
            Float32 => 24,
            Float64 => 53,
            _ => return None,
        })
    };
    let decimal = |t: &ColumnType| match t {
        Decimal32 { precision, scale }
        | Decimal64 { precision, scale }
        | Decimal128 { precision, scale }
        | Decimal256 { precision, scale } => Some((i32::from(*precision), i32::from(*scale))),
        _ => None,
    };
    let text = |t: &ColumnType| matches!(t, Utf8 | LargeUtf8 | Utf8View);
    let bytes = |t: &ColumnType| matches!(t, Binary | LargeBinary | BinaryView);
    match (from, to) {
        (a, b) if a == b => true,
        (a, b) if text(a) && text(b) => true,
        (a, b) if bytes(a) && bytes(b) => true,
        (a, b) if float(a).is_some() && float(b).is_some() => float(a) <= float(b),
        (a, b) if signed(a).is_some() && signed(b).is_some() => signed(a) <= signed(b),
        (a, b) if unsigned(a).is_some() && unsigned(b).is_some() => unsigned(a) <= unsigned(b),
        (a, b) if unsigned(a).is_some() && signed(b).is_some() => unsigned(a) < signed(b),
        (a, b) if signed(a).is_some() && float(b).is_some() => signed(a) < float(b),
        (a, b) if unsigned(a).is_some() && float(b).is_some() => unsigned(a) <= float(b),
        (a, b) => match (decimal(a), decimal(b)) {
            (Some((p, s)), Some((wide_p, wide_s))) => wide_s >= s && wide_p - wide_s >= p - s,
            _ => false,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wider_types_hold_every_value() {
        use ColumnType::*;
        let money = |precision, scale| Decimal128 { precision, scale };
        for (from, to) in
            [(Int32, Int64), (UInt32, Int64), (Int32, Float64), (Float32, Float64), (Utf8, Utf8View)]
        {
            assert!(is_wider(&from, &to), "{from:?} {to:?}");
            assert!(!is_wider(&to, &from) || from == Utf8, "{to:?} {from:?}");
        }
        assert!(is_wider(&money(10, 2), &money(12, 3)));
        assert!(!is_wider(&money(10, 2), &money(10, 3)));
        assert!(!is_wider(&Int64, &Float64) && !is_wider(&UInt64, &Int64) && !is_wider(&Int32, &Utf8));
    }
}
