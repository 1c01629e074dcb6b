//! Classification of statements: decided once after parsing, and then used to dispatch to executors.

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast;

use crate::sql::names::identifier;
use crate::sql::rewrite;

/// The kind of a statement, which decides the executor that runs it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum StatementKind {
    /// `BEGIN`, `COMMIT` and `ROLLBACK`.
    Transaction,
    /// `CALL`, and the statements that the dialect parses as calls: `OPTIMIZE`, `VACUUM`, `RESTORE`, `CHECK
    /// TABLE`.
    Procedure,
    /// `CREATE`, `ALTER` and `DROP`.
    Ddl,
    /// `TRUNCATE`, which changes rows but needs no plan.
    Truncate,
    /// `COPY ... TO`.
    CopyTo,
    /// `INSERT`, `UPDATE`, `DELETE` and `MERGE`.
    Dml,
    /// Everything else: `SELECT`, `EXPLAIN`, `SHOW`, `SET`, `RESET`.
    Query,
}

impl StatementKind {
    /// The kind of a parsed statement.
    pub(crate) fn of(statement: &Statement) -> Self {
        match statement {
            Statement::CopyTo(_) => Self::CopyTo,
            Statement::CreateExternalTable(_) => Self::Ddl,
            Statement::Statement(statement) => Self::of_standard(statement),
            _ => Self::Query,
        }
    }

    fn of_standard(statement: &ast::Statement) -> Self {
        match statement {
            ast::Statement::StartTransaction { .. }
            | ast::Statement::Commit { .. }
            | ast::Statement::Rollback { .. } => Self::Transaction,
            ast::Statement::Call(_) | ast::Statement::OptimizeTable { .. } => Self::Procedure,
            ast::Statement::CreateTable(_)
            | ast::Statement::CreateSchema { .. }
            | ast::Statement::CreateIndex(_)
            | ast::Statement::CreateView(_)
            | ast::Statement::Drop { .. }
            | ast::Statement::AlterTable(_) => Self::Ddl,
            ast::Statement::Truncate(_) => Self::Truncate,
            statement if rewrite::target(statement).is_some() => Self::Dml,
            _ => Self::Query,
        }
    }
}

/// A parsed statement with its kind.
#[derive(Debug)]
pub(crate) struct Parsed {
    /// The statement, with numbered placeholders.
    pub(crate) statement: Statement,
    /// Its kind.
    pub(crate) kind: StatementKind,
}

impl From<Statement> for Parsed {
    fn from(statement: Statement) -> Self {
        let kind = StatementKind::of(&statement);
        Self { statement, kind }
    }
}

/// Whether a DML statement has `RETURNING`.
pub(crate) fn has_returning(statement: &Statement) -> bool {
    matches!(statement, Statement::Statement(statement) if rewrite::has_returning(statement))
}

/// The insert and its rows, if a statement is an `INSERT ... VALUES`.
pub(crate) fn insert_values(statement: &ast::Statement) -> Option<(&ast::Insert, &ast::Values)> {
    let ast::Statement::Insert(insert) = statement else {
        return None;
    };
    let ast::SetExpr::Values(values) = insert.source.as_ref()?.body.as_ref() else {
        return None;
    };
    Some((insert, values))
}

/// Whether a statement inserts literal values only. Functions need the optimizer, and subqueries need a
/// linearizable read.
pub(crate) fn is_insert_values(statement: &ast::Statement) -> bool {
    fn is_literal(expr: &ast::Expr) -> bool {
        match expr {
            ast::Expr::Value(_) | ast::Expr::TypedString(_) => true,
            ast::Expr::UnaryOp { expr, .. } | ast::Expr::Nested(expr) => is_literal(expr),
            ast::Expr::Array(array) => array.elem.iter().all(is_literal),
            _ => false,
        }
    }
    let rows = |values: &ast::Values| values.rows.iter().all(|row| row.content.iter().all(is_literal));
    insert_values(statement).is_some_and(|(_, values)| rows(values))
}

/// The columns of an insert whose single row is exactly `$1, ..., $n`; empty when the statement names none.
/// `None` for other statements.
pub(crate) fn plain_insert(statement: &ast::Statement, parameters: usize) -> Option<Vec<String>> {
    let (insert, values) = insert_values(statement)?;
    let [row] = values.rows.as_slice() else {
        return None;
    };
    let expected = (1..=parameters).map(|i| format!("${i}"));
    if !row.content.iter().map(ToString::to_string).eq(expected) {
        return None;
    }
    Some(insert.columns.iter().map(|c| identifier(&c.to_string())).collect())
}
