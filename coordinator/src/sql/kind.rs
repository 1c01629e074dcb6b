//! Classification of statements: decided once after parsing, and then used to dispatch to executors.

use std::sync::Arc;

use datafusion::sql::parser::{CopyToSource, Statement};
use datafusion::sql::sqlparser::ast;

use plexus_model::{Error, Result};
use plexus_query::{balance, make_doubles};

use crate::errors::point_at;
use crate::sql::reads::Reads;
use crate::sql::result_names::{self, ResultNames};
use crate::sql::{
    clauses, grouping_sets, like_escapes, multisets, named_windows, operators, order_items, plan_size,
    recursive_terms, regressions, rewrite, row_values, scopes, standard_forms, time_zones, timestamps,
    using_columns, window_calls,
};

/// The kind of a statement, which decides the executor that runs it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum StatementKind {
    /// `BEGIN`, `COMMIT` and `ROLLBACK`.
    Transaction,
    /// `PREPARE` and `DEALLOCATE`; and `EXECUTE`, until it is resolved.
    Prepared,
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
            ast::Statement::Prepare { .. }
            | ast::Statement::Execute { .. }
            | ast::Statement::Deallocate { .. } => Self::Prepared,
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
    /// The names of the columns of its result, if it is a query, or of what it exports.
    pub(crate) names: ResultNames,
    /// Which manifest it has to see.
    pub(crate) reads: Reads,
    /// The text to which positions refer, if it is another one than that of the request.
    pub(crate) text: Option<Arc<str>>,
}

impl Parsed {
    /// Classifies a statement.
    ///
    /// # Errors
    /// Those of [`standard_forms::rewrite`] and [`clauses::check`].
    pub(crate) fn new(mut statement: Statement) -> Result<Self> {
        check_plan_size(&statement)?;
        if StatementKind::of(&statement) == StatementKind::Prepared {
            // What it prepares is rewritten when it is executed.
            return Ok(Self {
                statement,
                kind: StatementKind::Prepared,
                names: ResultNames::default(),
                reads: Reads::Newest,
                text: None,
            });
        }
        if let Statement::CopyTo(copy) = &mut statement
            && let CopyToSource::Query(query) = &mut copy.source
        {
            let source = ast::Statement::Query(query.clone());
            let source = Self::new(Statement::Statement(Box::new(source)))?;
            if let Statement::Statement(rewritten) = source.statement
                && let ast::Statement::Query(rewritten) = *rewritten
            {
                *query = rewritten;
            }
            let (kind, reads) = (StatementKind::CopyTo, Reads::of(&statement));
            return Ok(Self { statement, kind, names: source.names, reads, text: None });
        }
        standard_forms::rewrite(&mut statement)?;
        clauses::check(&statement)?;
        let kind = StatementKind::of(&statement);
        let names = ResultNames::of_statement(&statement);
        result_names::tell_apart(&mut statement);
        make_doubles(&mut statement);
        make_standard(&mut statement)?;
        let reads = Reads::of(&statement);
        Ok(Self { statement, kind, names, reads, text: None })
    }

    /// An error of the statement, which shows its place if the text is not that of the request.
    pub(crate) fn locate(&self, error: Error) -> Error {
        match &self.text {
            Some(text) => point_at(text, error),
            None => error,
        }
    }

    /// Whether the statement reads or changes settings, and no table.
    pub(crate) fn is_about_settings(&self) -> bool {
        match &self.statement {
            Statement::Reset(_) => true,
            Statement::Statement(statement) => matches!(
                statement.as_ref(),
                ast::Statement::Set(_) | ast::Statement::Reset(_) | ast::Statement::ShowVariable { .. }
            ),
            _ => false,
        }
    }
}

/// Rewrites what the planner understands differently from the SQL standard.
fn make_standard(statement: &mut Statement) -> Result<()> {
    match statement {
        Statement::Statement(statement) => {
            scopes::rewrite(statement.as_mut());
            balance(statement.as_mut());
            using_columns::rewrite(statement.as_mut())?;
            multisets::rewrite(statement.as_mut())?;
            grouping_sets::rewrite(statement.as_mut())?;
            order_items::rewrite(statement.as_mut());
            named_windows::rewrite(statement.as_mut())?;
            window_calls::rewrite(statement.as_mut());
            regressions::rewrite(statement.as_mut());
            row_values::rewrite(statement.as_mut())?;
            operators::rewrite(statement.as_mut())?;
            timestamps::rewrite(statement.as_mut());
            like_escapes::rewrite(statement.as_mut());
            time_zones::rewrite(statement.as_mut());
            recursive_terms::rewrite(statement.as_mut())
        }
        Statement::Explain(explain) => make_standard(&mut explain.statement),
        _ => Ok(()),
    }
}

/// Fails for a statement with too large a plan.
fn check_plan_size(statement: &Statement) -> Result<()> {
    match statement {
        Statement::Statement(statement) => plan_size::check(statement),
        Statement::Explain(explain) => check_plan_size(&explain.statement),
        _ => Ok(()),
    }
}

/// Whether a DML statement has `RETURNING`.
pub(crate) fn has_returning(statement: &Statement) -> bool {
    matches!(statement, Statement::Statement(statement) if rewrite::has_returning(statement))
}

/// Whether a query is `VALUES`.
pub(crate) fn is_rows(query: &ast::Query) -> bool {
    matches!(query.body.as_ref(), ast::SetExpr::Values(_))
}

/// Whether a query is literal rows only. Functions need the optimizer, and subqueries need a linearizable
/// read.
pub(crate) fn is_literal_rows(query: &ast::Query) -> bool {
    fn is_literal(expr: &ast::Expr) -> bool {
        match expr {
            ast::Expr::Value(_) | ast::Expr::TypedString(_) => true,
            ast::Expr::UnaryOp { expr, .. } | ast::Expr::Nested(expr) | ast::Expr::Cast { expr, .. } => {
                is_literal(expr)
            }
            ast::Expr::Array(array) => array.elem.iter().all(is_literal),
            _ => false,
        }
    }
    match query.body.as_ref() {
        ast::SetExpr::Values(values) => values.rows.iter().all(|row| row.content.iter().all(is_literal)),
        _ => false,
    }
}

/// How many literal rows a query is.
pub(crate) fn literal_rows(query: &ast::Query) -> usize {
    match query.body.as_ref() {
        ast::SetExpr::Values(values) => values.rows.len(),
        _ => 0,
    }
}

/// Whether a query is the single row `$1, ..., $n` and nothing else.
pub(crate) fn is_row_of_parameters(query: &ast::Query, parameters: usize) -> bool {
    let ast::SetExpr::Values(values) = query.body.as_ref() else {
        return false;
    };
    let [row] = values.rows.as_slice() else {
        return false;
    };
    let is_parameter = |(number, expr): (usize, &ast::Expr)| {
        matches!(expr, ast::Expr::Value(value)
            if matches!(&value.value, ast::Value::Placeholder(name) if *name == format!("${}", number + 1)))
    };
    row.content.len() == parameters && row.content.iter().enumerate().all(is_parameter)
}
