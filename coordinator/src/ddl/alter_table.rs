//! `ALTER TABLE`: derives the next schema of a table. Existing segments are not rewritten; reads adapt them
//! to the new schema.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    self, AlterColumnOperation, AlterTableOperation, ColumnDef, ColumnOption, ColumnOptionDef, Expr, Ident,
    RenameTableNameKind, SelectItem, TableConstraint, UnaryOperator,
};
use futures::TryStreamExt;
use plexus_model::{AlterTable, Check, Column, ColumnType, Command, Error, Result, Table, TableSchema};
use plexus_query::visit_expressions;
use plexus_storage::{inline, sql_name, types};

use crate::ddl::create_table;
use crate::ddl::create_table::DefinedColumn;
use crate::ddl::executor::DdlExecutor;
use crate::errors::unsupported;
use crate::exec::context::{StatementContext, find};
use crate::exec::session::Session;
use crate::sql::clauses::is_volatile;
use crate::sql::definition::definition;
use crate::sql::names::{name_of, object_name};
use crate::sql::{parse, syntax};

/// How an existing row may violate a new constraint.
struct Violation {
    /// For the error message.
    description: String,
    /// Condition that holds for rows that violate the constraint.
    condition: Expr,
}

impl DdlExecutor {
    /// The command for `ALTER TABLE`.
    ///
    /// # Errors
    /// `NotFound`, `AlreadyExists`, `InvalidArgument` or `Unsupported` for a wrong statement, and
    /// `InvalidArgument` when an existing row violates a new constraint.
    pub(crate) async fn alter_table(
        &self,
        context: &StatementContext<'_>,
        alter: &ast::AlterTable,
    ) -> Result<Command> {
        let name = object_name(&alter.name, &context.session.schema())?;
        let table = find(&context.manifest, &name)?;
        if let [AlterTableOperation::RenameTable { table_name }] = alter.operations.as_slice() {
            let (RenameTableNameKind::To(to) | RenameTableNameKind::As(to)) = table_name;
            // A new name without a schema keeps the schema of the table.
            let to = object_name(to, &table.name.schema)?;
            return Ok(Command::RenameTable { from: name, to, replace: false });
        }
        let mut schema = (*table.schema).clone();
        let mut violations = Vec::new();
        for operation in &alter.operations {
            self.change_schema(context, &table, &mut schema, operation, &mut violations).await?;
        }
        schema.validate()?;
        self.writer().engine.row_checks(&schema)?;
        for violation in &violations {
            self.reject_violations(context, &table, violation).await?;
        }
        let base = (!violations.is_empty()).then_some(context.manifest.version);
        Ok(Command::AlterTable(AlterTable {
            table: table.id,
            schema_version: table.schema_version,
            schema,
            base,
        }))
    }

    /// Applies one operation to the new schema. Adds a violation for each new constraint.
    async fn change_schema(
        &self,
        context: &StatementContext<'_>,
        table: &Table,
        schema: &mut TableSchema,
        operation: &AlterTableOperation,
        violations: &mut Vec<Violation>,
    ) -> Result<()> {
        match operation {
            AlterTableOperation::AddColumn { if_not_exists, column_def, column_position: None, .. } => {
                let name = name_of(&column_def.name);
                if *if_not_exists && schema.column_index(&name).is_some() {
                    return Ok(());
                }
                check_default(column_def)?;
                let state = self.planner().local_state(context)?;
                let defined = create_table::define_column(column_def.clone(), &state).await?;
                add_column(table, schema, defined, &self.writer().engine, &context.session.time_zone())
            }
            AlterTableOperation::DropColumn { column_names, if_exists, .. } => {
                for name in column_names.iter().map(name_of) {
                    if !(*if_exists && schema.column_index(&name).is_none()) {
                        drop_column(table, schema, &name)?;
                    }
                }
                Ok(())
            }
            AlterTableOperation::RenameColumn { old_column_name, new_column_name } => {
                let index = column(table, schema, old_column_name)?;
                reject_if_checked(table, schema, &name_of(old_column_name))?;
                schema.columns[index].name = name_of(new_column_name);
                Ok(())
            }
            AlterTableOperation::AlterColumn { column_name, op } => {
                let index = column(table, schema, column_name)?;
                let supported = self.alter_column(context, table, schema, index, op, violations).await?;
                if supported { Ok(()) } else { Err(unsupported(&operation.to_string())) }
            }
            AlterTableOperation::AddConstraint {
                constraint: TableConstraint::Check(check),
                not_valid: false,
            } => {
                let named = create_table::name_check(check, schema)?;
                violations.push(Violation {
                    description: format!("a row breaks check {:?} ({})", named.name, named.expression),
                    condition: Expr::UnaryOp {
                        op: UnaryOperator::Not,
                        expr: Box::new(syntax::nested((*check.expr).clone())),
                    },
                });
                schema.checks.push(named);
                Ok(())
            }
            AlterTableOperation::DropConstraint { if_exists, name, .. } => {
                let name = name_of(name);
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

    /// Applies `ALTER COLUMN` to the column at `index`. Returns false for operations that are not supported.
    async fn alter_column(
        &self,
        context: &StatementContext<'_>,
        table: &Table,
        schema: &mut TableSchema,
        index: usize,
        operation: &AlterColumnOperation,
        violations: &mut Vec<Violation>,
    ) -> Result<bool> {
        let id = schema.columns[index].id;
        match operation {
            AlterColumnOperation::SetNotNull => {
                let name = schema.columns[index].name.clone();
                schema.columns[index].nullable = false;
                violations.push(Violation {
                    description: format!("column {name:?} is null"),
                    condition: Expr::IsNull(Box::new(Expr::Identifier(syntax::ident(name)))),
                });
            }
            AlterColumnOperation::DropNotNull => schema.columns[index].nullable = true,
            AlterColumnOperation::SetDefault { value } => {
                let sql = definition(value)?;
                let zone = context.session.time_zone();
                let evaluated = self.writer().engine.evaluate_constant(value, &zone)?;
                create_table::check_default_value(&schema.columns[index], &sql, evaluated, &zone)?;
                schema.defaults.retain(|(column, _)| *column != id);
                schema.defaults.push((id, sql));
            }
            AlterColumnOperation::DropDefault => schema.defaults.retain(|(column, _)| *column != id),
            AlterColumnOperation::SetDataType { data_type, using: None, .. } => {
                let state = self.planner().local_state(context)?;
                let data_type = create_table::column_type(data_type.clone(), &state).await?;
                widen(table, schema, index, data_type)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Fails when a row that the statement sees violates a new constraint.
    async fn reject_violations(
        &self,
        context: &StatementContext<'_>,
        table: &Table,
        violation: &Violation,
    ) -> Result<()> {
        let Violation { description, condition } = violation;
        // Checks hold for everybody, and not in the zone of one session.
        let session = Session::ephemeral();
        let context = &StatementContext {
            session: &session,
            manifest: context.manifest.clone(),
            values: context.values,
            query_id: context.query_id,
        };
        let name = syntax::object_name([table.name.schema.as_str(), &table.name.table]);
        let from = syntax::table(name, syntax::ident(&table.name.table));
        let found = vec![SelectItem::UnnamedExpr(syntax::number(1))];
        let query = syntax::select(found, vec![syntax::relation(from)], Some(condition.clone()));
        let plan = self.planner().plan_query(context, query).await?;
        let mut rows = self.planner().query(context, &plan).await?;
        while let Some(batch) = rows.stream.try_next().await? {
            if batch.num_rows() > 0 {
                return Err(Error::invalid(format!(
                    "table {}: {description} in a row that is there",
                    table.name
                )));
            }
        }
        Ok(())
    }
}

/// The index of a column in the new schema.
pub(crate) fn column(table: &Table, schema: &TableSchema, name: &Ident) -> Result<usize> {
    let name = name_of(name);
    schema
        .column_index(&name)
        .ok_or_else(|| Error::not_found(format!("table {} has no column {name:?}", table.name)))
}

/// Fails for a column whose default is another one for each row: existing rows share one value.
fn check_default(column: &ColumnDef) -> Result<()> {
    for ColumnOptionDef { option, .. } in &column.options {
        if let ColumnOption::Default(default) = option
            && let ControlFlow::Break(function) = visit_expressions(default, &mut |expr| match expr {
                Expr::Function(function) if is_volatile(function) => ControlFlow::Break(function.to_string()),
                _ => ControlFlow::Continue(()),
            })
        {
            return Err(Error::unsupported(format!(
                "ADD COLUMN {}: all existing rows would get the same {function}: add the column without a \
                 DEFAULT, update the rows, and then SET DEFAULT",
                column.name
            )));
        }
    }
    Ok(())
}

/// Adds a column to the new schema. Existing rows take the value that its default has now.
fn add_column(
    table: &Table,
    schema: &mut TableSchema,
    defined: DefinedColumn,
    engine: &plexus_query::Engine,
    zone: &str,
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
            "column {:?} is NOT NULL: it needs a DEFAULT for the existing rows",
            column.name
        )));
    }
    schema.last_column += 1;
    column.id = schema.last_column;
    if let Some(sql) = default {
        // Evaluated once: existing rows keep this value, also when the default changes later.
        let value = engine.evaluate_constant(&parse::expression(&sql)?, zone)?;
        let value = create_table::check_default_value(&column, &sql, value, zone)?;
        schema.initial_defaults.push((column.id, inline::encode_value(value)?));
        schema.defaults.push((column.id, sql));
    }
    schema.columns.push(column);
    Ok(())
}

/// Removes a column from the new schema.
fn drop_column(table: &Table, schema: &mut TableSchema, name: &str) -> Result<()> {
    let index = schema
        .column_index(name)
        .ok_or_else(|| Error::not_found(format!("table {} has no column {name:?}", table.name)))?;
    if schema.primary_key.contains(&(index as u32)) {
        return Err(Error::invalid(format!("column {name:?} is part of the primary key of {}", table.name)));
    }
    reject_if_checked(table, schema, name)?;
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

/// Fails when a check uses a column that is renamed or dropped. The SQL text of the check would refer to
/// another column or to none.
fn reject_if_checked(table: &Table, schema: &TableSchema, name: &str) -> Result<()> {
    let uses = |check: &&Check| parse::identifiers(&check.expression).is_ok_and(|names| names.contains(name));
    match schema.checks.iter().find(uses) {
        Some(check) => Err(Error::invalid(format!(
            "column {name:?} of table {} is used by check {:?}: drop that first",
            table.name, check.name
        ))),
        None => Ok(()),
    }
}

/// Changes the type of a column to a wider one.
fn widen(table: &Table, schema: &mut TableSchema, index: usize, data_type: ColumnType) -> Result<()> {
    let column: &Column = &schema.columns[index];
    if schema.primary_key.contains(&(index as u32)) {
        return Err(Error::invalid(format!(
            "column {:?} is part of the primary key of {}: its type decides where rows are",
            column.name, table.name
        )));
    }
    if !is_wider(&column.data_type, &data_type) {
        return Err(Error::invalid(format!(
            "column {:?} of table {} cannot become {}: not every {} is one",
            column.name,
            table.name,
            sql_name(&types::to_data_type(&data_type)),
            sql_name(&types::to_data_type(&column.data_type))
        )));
    }
    schema.columns[index].data_type = data_type;
    Ok(())
}

/// Whether type `to` represents every value of type `from` without loss.
pub(crate) fn is_wider(from: &ColumnType, to: &ColumnType) -> bool {
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
    // Bits of the significand: floats represent all integers of that many bits.
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
    fn wider_types_represent_every_value() {
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
