//! Refuses clauses that the parser accepts and nothing obeys.
//!
//! Statements, queries and definitions are taken apart field by field, without `..`: a clause that a new
//! version of the parser adds does not compile until it is decided here.

use std::ops::ControlFlow;

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    self, ObjectType, Set, TableFactor, TransactionAccessMode, TransactionMode,
};
use plexus_model::{Error, Result};
use plexus_query::visit;

mod common_tables;
mod definitions;
mod functions;
mod groups;
mod queries;
mod types;

pub(crate) use functions::is_volatile;
pub(crate) use groups::{has_aggregates, has_groups};

use definitions::{check_alter_table, check_create_index, check_create_table, check_truncate};
use queries::Clauses;

/// Fails with the first clause of a statement that is not supported.
///
/// # Errors
/// `Unsupported` names the clause.
pub(crate) fn check(statement: &Statement) -> Result<()> {
    match statement {
        Statement::Statement(statement) => check_standard(statement),
        Statement::Explain(explain) => check(&explain.statement),
        Statement::CopyTo(_) | Statement::CreateExternalTable(_) | Statement::Reset(_) => Ok(()),
    }
}

/// Fails for the first clause that is given.
macro_rules! refuse {
    ($of:literal: $($given:expr => $clause:expr),+ $(,)?) => {
        {
            let clauses = [$(($given, $clause)),+];
            if let Some((_, clause)) = clauses.into_iter().find(|(given, _)| *given) {
                return Err(unsupported($of, clause));
            }
        }
    };
}

use refuse;

fn unsupported(of: &str, clause: &str) -> Error {
    Error::unsupported(format!("{of}: {clause} is not supported"))
}

fn check_standard(statement: &ast::Statement) -> Result<()> {
    match statement {
        ast::Statement::Insert(insert) => check_insert(insert)?,
        ast::Statement::Update(update) => check_update(update)?,
        ast::Statement::Delete(delete) => check_delete(delete)?,
        ast::Statement::Merge(merge) => check_merge(merge)?,
        ast::Statement::CreateTable(create) => check_create_table(create)?,
        ast::Statement::CreateIndex(create) => check_create_index(create)?,
        ast::Statement::AlterTable(alter) => check_alter_table(alter)?,
        ast::Statement::Truncate(truncate) => check_truncate(truncate)?,
        ast::Statement::CreateSchema {
            schema_name: _,
            if_not_exists: _,
            with,
            options,
            default_collate_spec,
            clone,
        } => refuse!("CREATE SCHEMA":
            with.is_some() => "WITH", options.is_some() => "OPTIONS",
            default_collate_spec.is_some() => "DEFAULT COLLATE", clone.is_some() => "CLONE",
        ),
        // Nothing refers to a table, so CASCADE and RESTRICT are the same for one.
        ast::Statement::Drop {
            object_type,
            if_exists: _,
            names: _,
            cascade,
            restrict: _,
            purge,
            temporary,
            table,
        } => refuse!("DROP":
            *cascade && *object_type != ObjectType::Table => "CASCADE", *purge => "PURGE",
            *temporary => "TEMPORARY", table.is_some() => "ON",
        ),
        ast::Statement::StartTransaction {
            modes,
            begin: _,
            transaction: _,
            modifier,
            statements,
            exception,
            has_end_keyword,
        } => refuse!("BEGIN":
            modes.contains(&TransactionMode::AccessMode(TransactionAccessMode::ReadOnly)) => "READ ONLY",
            modifier.is_some() => "a modifier", !statements.is_empty() || *has_end_keyword => "a block",
            exception.is_some() => "EXCEPTION",
        ),
        ast::Statement::Commit { chain, end: _, modifier } => refuse!("COMMIT":
            *chain => "AND CHAIN", modifier.is_some() => "a modifier",
        ),
        ast::Statement::Rollback { chain, savepoint: _ } => refuse!("ROLLBACK": *chain => "AND CHAIN"),
        ast::Statement::Set(set) => check_set(set)?,
        ast::Statement::Explain {
            statement,
            describe_alias: _,
            analyze: _,
            verbose: _,
            query_plan,
            estimate,
            format: _,
            options,
        } => {
            refuse!("EXPLAIN":
                *query_plan => "QUERY PLAN", *estimate => "ESTIMATE", options.is_some() => "(options)",
            );
            return check_standard(statement);
        }
        _ => {}
    }
    match visit(statement, &mut Clauses) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

fn check_insert(insert: &ast::Insert) -> Result<()> {
    let ast::Insert {
        insert_token: _,
        optimizer_hints: _,
        or,
        ignore,
        into: _,
        table: _,
        table_alias: _,
        columns: _,
        overwrite,
        source: _,
        assignments,
        partitioned,
        after_columns,
        has_table_keyword: _,
        on: _,
        returning: _,
        output,
        replace_into,
        priority,
        insert_alias,
        settings,
        format_clause,
        multi_table_insert_type,
        multi_table_into_clauses,
        multi_table_when_clauses,
        multi_table_else_clause,
    } = insert;
    refuse!("INSERT":
        or.is_some() => "OR: write ON CONFLICT, it", *ignore => "IGNORE: write ON CONFLICT DO NOTHING, it",
        *replace_into => "REPLACE: write ON CONFLICT DO UPDATE, it", *overwrite => "OVERWRITE",
        !assignments.is_empty() => "SET", partitioned.is_some() => "PARTITION",
        !after_columns.is_empty() => "a column list after PARTITION", output.is_some() => "OUTPUT",
        priority.is_some() => "a priority", insert_alias.is_some() => "an alias of the rows",
        settings.is_some() => "SETTINGS", format_clause.is_some() => "FORMAT",
        multi_table_insert_type.is_some()
            || !multi_table_into_clauses.is_empty()
            || !multi_table_when_clauses.is_empty()
            || multi_table_else_clause.is_some() => "several tables",
    );
    Ok(())
}

fn check_update(update: &ast::Update) -> Result<()> {
    let ast::Update {
        update_token: _,
        optimizer_hints: _,
        table: _,
        assignments: _,
        from: _,
        selection: _,
        returning: _,
        output,
        or,
        order_by,
        limit,
    } = update;
    refuse!("UPDATE":
        output.is_some() => "OUTPUT", or.is_some() => "OR", !order_by.is_empty() => "ORDER BY",
        limit.is_some() => "LIMIT",
    );
    check_target("UPDATE", &update.table.relation)
}

fn check_delete(delete: &ast::Delete) -> Result<()> {
    let ast::Delete {
        delete_token: _,
        optimizer_hints: _,
        tables,
        from,
        using: _,
        selection: _,
        returning: _,
        output,
        order_by,
        limit,
    } = delete;
    refuse!("DELETE":
        !tables.is_empty() => "a list of tables", output.is_some() => "OUTPUT",
        !order_by.is_empty() => "ORDER BY", limit.is_some() => "LIMIT",
    );
    let (ast::FromTable::WithFromKeyword(from) | ast::FromTable::WithoutKeyword(from)) = from;
    from.iter().try_for_each(|table| check_target("DELETE", &table.relation))
}

fn check_merge(merge: &ast::Merge) -> Result<()> {
    let ast::Merge {
        merge_token: _,
        optimizer_hints: _,
        into: _,
        table,
        source: _,
        on: _,
        clauses: _,
        output,
    } = merge;
    refuse!("MERGE": output.is_some() => "OUTPUT or RETURNING");
    check_target("MERGE", table)
}

/// Fails for a target that is not the table as it is now.
fn check_target(of: &'static str, target: &TableFactor) -> Result<()> {
    match target {
        TableFactor::Table { version: Some(_), .. } => {
            Err(Error::invalid(format!("{of}: an older version of a table cannot be changed")))
        }
        TableFactor::Table { .. } => Ok(()),
        other => Err(Error::invalid(format!("{of}: {other} is not a table that can be changed"))),
    }
}

fn check_set(set: &Set) -> Result<()> {
    match set {
        Set::SingleAssignment { scope, hivevar, variable: _, values: _ } => refuse!("SET":
            matches!(scope, Some(ast::ContextModifier::Local | ast::ContextModifier::Global))
                => "LOCAL or GLOBAL",
            *hivevar => "HIVEVAR",
        ),
        Set::SetTimeZone { local, value: _ } => refuse!("SET TIME ZONE": *local => "LOCAL"),
        Set::ParenthesizedAssignments { .. }
        | Set::MultipleAssignments { .. }
        | Set::SetSessionAuthorization(_)
        | Set::SetSessionParam(_)
        | Set::SetRole { .. }
        | Set::SetNames { .. }
        | Set::SetNamesDefault {}
        | Set::SetTransaction { .. } => {
            return Err(Error::unsupported(format!("{set} is not supported: write SET name = value")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use plexus_model::ErrorKind;

    use super::*;
    use crate::sql::parse;

    #[test]
    fn clauses_that_nothing_obeys_are_refused() {
        for sql in [
            "CREATE TABLE t (a INT GENERATED ALWAYS AS (1))",
            "CREATE TABLE t (a INT GENERATED BY DEFAULT AS IDENTITY)",
            "CREATE TABLE t (a INT AUTO_INCREMENT)",
            "CREATE TABLE t (a TEXT COLLATE \"C\")",
            "CREATE TABLE t (a INT UNIQUE)",
            "CREATE TABLE t (a INT, UNIQUE (a))",
            "CREATE TABLE t (a INT REFERENCES u (a))",
            "CREATE TABLE t (a INT PRIMARY KEY, b INT PRIMARY KEY)",
            "CREATE TABLE t (a INT COMMENT 'x')",
            "ALTER TABLE t ADD COLUMN a INT UNIQUE",
            "ALTER TABLE t ADD CONSTRAINT c UNIQUE (a)",
            "ALTER TABLE ONLY t ADD COLUMN a INT",
            "TRUNCATE ONLY t",
            "TRUNCATE t CASCADE",
            "TRUNCATE t RESTART IDENTITY",
            "DROP SCHEMA s CASCADE",
            "COMMIT AND CHAIN",
            "SET LOCAL plexus.ef_search = 10",
            "SELECT a FROM t ORDER BY a COLLATE \"C\"",
            "SELECT a FROM t FOR UPDATE",
            "SELECT a FROM (SELECT a FROM t FOR SHARE)",
            "SELECT a FROM t TABLESAMPLE BERNOULLI (10)",
            "SELECT a INTO u FROM t",
            "SELECT a FROM t SETTINGS x = 1",
            "UPDATE t VERSION AS OF 5 SET a = 1",
            "INSERT OR REPLACE INTO t VALUES (1)",
        ] {
            let Ok(statement) = parse::statement(sql) else { continue };
            let error = check(&statement).expect_err(sql);
            assert!(
                matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::InvalidArgument),
                "{sql}: {error}"
            );
        }
        let sql = "CREATE TABLE t (a INT PRIMARY KEY, b TEXT DEFAULT 'x' CHECK (b <> ''), PRIMARY KEY (a))";
        assert!(check(&parse::statement(sql).unwrap()).is_err(), "{sql}");
    }

    #[test]
    fn clauses_that_are_obeyed_are_accepted() {
        for sql in [
            "CREATE TABLE t (a INT, b TEXT NOT NULL DEFAULT 'x' CHECK (b <> ''), PRIMARY KEY (a, b))",
            "DROP TABLE IF EXISTS t CASCADE",
            "TRUNCATE TABLE t RESTRICT",
            "WITH x AS (SELECT 1 AS a) SELECT * EXCLUDE (a) FROM x ORDER BY 1 LIMIT 1 OFFSET 2",
            "SELECT count(*) FILTER (WHERE a > 1) OVER (PARTITION BY b) FROM t VERSION AS OF 3",
            "BEGIN TRANSACTION ISOLATION LEVEL SERIALIZABLE",
            "SET TIME ZONE 'UTC'",
            "EXPLAIN SELECT 1",
        ] {
            check(&parse::statement(sql).unwrap()).unwrap_or_else(|e| panic!("{sql}: {e}"));
        }
    }
}
