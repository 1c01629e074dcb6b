//! Types under names that the planner does not know, as those that they are other names of.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    AlterColumnOperation, AlterTableOperation, ArrayElemTypeDef, CharacterLength, DataType, Expr, Statement,
    VisitorMut,
};
use plexus_query::visit_mut;

/// Rewrites them in a statement.
pub(crate) fn rewrite(statement: &mut Statement) {
    let _: ControlFlow<()> = visit_mut(statement, &mut Aliases);
}

struct Aliases;

impl VisitorMut for Aliases {
    type Break = ();

    fn pre_visit_statement(&mut self, statement: &mut Statement) -> ControlFlow<()> {
        match statement {
            Statement::CreateTable(create) => {
                create.columns.iter_mut().for_each(|column| replace(&mut column.data_type));
            }
            Statement::AlterTable(alter) => {
                for operation in &mut alter.operations {
                    match operation {
                        AlterTableOperation::AddColumn { column_def, .. } => {
                            replace(&mut column_def.data_type);
                        }
                        AlterTableOperation::AlterColumn {
                            op: AlterColumnOperation::SetDataType { data_type, .. },
                            ..
                        } => replace(data_type),
                        _ => {}
                    }
                }
            }
            Statement::Prepare { data_types, .. } => data_types.iter_mut().for_each(replace),
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Cast { data_type, .. } = expr {
            replace(data_type);
        }
        ControlFlow::Continue(())
    }
}

/// Replaces a type, and those inside of it.
fn replace(data_type: &mut DataType) {
    match data_type {
        DataType::Array(
            ArrayElemTypeDef::AngleBracket(item)
            | ArrayElemTypeDef::SquareBracket(item, _)
            | ArrayElemTypeDef::Parenthesis(item),
        ) => replace(item),
        DataType::Struct(fields, _) => fields.iter_mut().for_each(|field| replace(&mut field.field_type)),
        other => {
            if let Some(named) = standard(other) {
                *other = named;
            }
        }
    }
}

/// The type that another name stands for.
fn standard(data_type: &DataType) -> Option<DataType> {
    let varchar = |length: &Option<CharacterLength>| DataType::Varchar(*length);
    Some(match data_type {
        DataType::CharacterVarying(length) | DataType::CharVarying(length) => varchar(length),
        DataType::Nvarchar(length) => varchar(length),
        DataType::Character(length) => DataType::Char(*length),
        DataType::Clob(None) | DataType::TinyText | DataType::MediumText | DataType::LongText => {
            DataType::Text
        }
        DataType::Dec(digits) => DataType::Decimal(*digits),
        DataType::Int16 => DataType::SmallInt(None),
        DataType::Int32 => DataType::Int(None),
        DataType::Int64 => DataType::BigInt(None),
        DataType::UInt8 | DataType::UTinyInt => DataType::TinyIntUnsigned(None),
        DataType::UInt16 | DataType::USmallInt => DataType::SmallIntUnsigned(None),
        DataType::UInt32 => DataType::IntUnsigned(None),
        DataType::UInt64 | DataType::UBigInt => DataType::BigIntUnsigned(None),
        DataType::Float32 => DataType::Real,
        DataType::Float64 => DataType::DoublePrecision,
        DataType::Blob(None) | DataType::Binary(None) | DataType::Varbinary(None) | DataType::Bytes(None) => {
            DataType::Bytea
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::parse;

    #[test]
    fn other_names_become_those_of_the_planner() {
        for (sql, expected) in [
            ("SELECT CAST(a AS CHARACTER VARYING(3))", "SELECT CAST(a AS VARCHAR(3))"),
            ("SELECT a::DEC(4, 2)", "SELECT a::DECIMAL(4,2)"),
            ("SELECT CAST(a AS BLOB[])", "SELECT CAST(a AS BYTEA[])"),
            (
                "CREATE TABLE t (a INT64, b STRUCT<c FLOAT64>)",
                "CREATE TABLE t (a BIGINT, b STRUCT<c DOUBLE PRECISION>)",
            ),
            ("ALTER TABLE t ADD COLUMN a CHARACTER(2)", "ALTER TABLE t ADD COLUMN a CHAR(2)"),
        ] {
            let mut statement = parse::plain_statement(sql).unwrap();
            rewrite(&mut statement);
            assert_eq!(statement.to_string(), expected);
        }
    }
}
