//! Refuses clauses that the parser accepts and nothing obeys.
//!
//! Statements, queries and definitions are taken apart field by field, without `..`: a clause that a new
//! version of the parser adds does not compile until it is decided here.

use std::ops::ControlFlow;

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    self, ColumnOption, Expr, FunctionArguments, HiveDistributionStyle, LimitClause, ObjectType, OrderByKind,
    Query, Select, SelectItem, Set, TableConstraint, TableFactor, Visit, Visitor,
};
use plexus_model::{Error, Result};

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
        {$(if $given {
            return Err(unsupported($of, $clause));
        })+}
    };
}

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
            modes: _,
            begin: _,
            transaction: _,
            modifier,
            statements,
            exception,
            has_end_keyword,
        } => refuse!("BEGIN":
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
    match Visit::visit(statement, &mut Clauses) {
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

fn check_create_table(create: &ast::CreateTable) -> Result<()> {
    let ast::CreateTable {
        or_replace: _,
        temporary,
        external,
        dynamic,
        global,
        if_not_exists: _,
        transient,
        volatile,
        iceberg,
        snapshot,
        name: _,
        columns,
        constraints,
        hive_distribution,
        hive_formats: _,
        table_options: _,
        file_format,
        location,
        query: _,
        without_rowid,
        like,
        clone,
        version,
        comment,
        on_commit,
        on_cluster,
        primary_key,
        order_by,
        partition_by,
        cluster_by: _,
        clustered_by,
        inherits,
        partition_of,
        for_values,
        strict,
        copy_grants,
        enable_schema_evolution,
        change_tracking,
        data_retention_time_in_days,
        max_data_extension_time_in_days,
        default_ddl_collation,
        with_aggregation_policy,
        with_row_access_policy,
        with_storage_lifecycle_policy,
        with_tags,
        external_volume,
        base_location,
        catalog,
        catalog_sync,
        storage_serialization_policy,
        target_lag,
        warehouse,
        refresh_mode,
        initialize,
        require_user,
        diststyle,
        distkey,
        sortkey,
        backup,
    } = create;
    refuse!("CREATE TABLE":
        *temporary => "TEMPORARY", *external => "EXTERNAL", *dynamic => "DYNAMIC",
        global.is_some() => "GLOBAL",
        *transient => "TRANSIENT", *volatile => "VOLATILE", *iceberg => "ICEBERG", *snapshot => "SNAPSHOT",
        *hive_distribution != HiveDistributionStyle::NONE => "PARTITIONED BY or SKEWED BY",
        file_format.is_some() => "STORED AS", location.is_some() => "LOCATION",
        *without_rowid => "WITHOUT ROWID", like.is_some() => "LIKE", clone.is_some() => "CLONE",
        version.is_some() => "a version", comment.is_some() => "COMMENT", on_commit.is_some() => "ON COMMIT",
        on_cluster.is_some() => "ON CLUSTER",
        primary_key.is_some() => "PRIMARY KEY behind the columns: write it among them, it",
        order_by.is_some() => "ORDER BY: write CLUSTER BY, it", partition_by.is_some() => "PARTITION BY",
        clustered_by.is_some() => "CLUSTERED BY", inherits.is_some() => "INHERITS",
        partition_of.is_some() || for_values.is_some() => "PARTITION OF", *strict => "STRICT",
        *copy_grants => "COPY GRANTS", enable_schema_evolution.is_some() => "ENABLE_SCHEMA_EVOLUTION",
        change_tracking.is_some() => "CHANGE_TRACKING",
        data_retention_time_in_days.is_some() || max_data_extension_time_in_days.is_some()
            => "DATA_RETENTION_TIME_IN_DAYS: write WITH (retention = '7 days'), it",
        default_ddl_collation.is_some() => "DEFAULT_DDL_COLLATION",
        with_aggregation_policy.is_some() || with_row_access_policy.is_some()
            || with_storage_lifecycle_policy.is_some() => "a policy",
        with_tags.is_some() => "TAG", external_volume.is_some() => "EXTERNAL_VOLUME",
        base_location.is_some() => "BASE_LOCATION", catalog.is_some() || catalog_sync.is_some() => "CATALOG",
        storage_serialization_policy.is_some() => "STORAGE_SERIALIZATION_POLICY",
        target_lag.is_some() => "TARGET_LAG", warehouse.is_some() => "WAREHOUSE",
        refresh_mode.is_some() => "REFRESH_MODE", initialize.is_some() => "INITIALIZE",
        *require_user => "REQUIRE USER", diststyle.is_some() => "DISTSTYLE", distkey.is_some() => "DISTKEY",
        sortkey.is_some() => "SORTKEY: write CLUSTER BY, it", backup.is_some() => "BACKUP",
    );
    let mut keys = 0;
    for column in columns {
        check_column(column)?;
        keys += column.options.iter().filter(|o| matches!(o.option, ColumnOption::PrimaryKey(_))).count();
    }
    for constraint in constraints {
        check_constraint(constraint)?;
        keys += usize::from(matches!(constraint, TableConstraint::PrimaryKey(_)));
    }
    if keys > 1 {
        return Err(Error::invalid(
            "CREATE TABLE: there are several primary keys; a key of several columns is written PRIMARY KEY \
             (a, b)",
        ));
    }
    Ok(())
}

/// Checks the definition of a column.
fn check_column(column: &ast::ColumnDef) -> Result<()> {
    let ast::ColumnDef { name, data_type: _, options } = column;
    for ast::ColumnOptionDef { name: _, option } in options {
        match option {
            ColumnOption::Null | ColumnOption::NotNull | ColumnOption::Default(_) => {}
            ColumnOption::PrimaryKey(key) => check_key(key)?,
            ColumnOption::Check(check) => check_check(check)?,
            ColumnOption::Unique(_)
            | ColumnOption::ForeignKey(_)
            | ColumnOption::Materialized(_)
            | ColumnOption::Ephemeral(_)
            | ColumnOption::Alias(_)
            | ColumnOption::DialectSpecific(_)
            | ColumnOption::CharacterSet(_)
            | ColumnOption::Collation(_)
            | ColumnOption::Comment(_)
            | ColumnOption::OnUpdate(_)
            | ColumnOption::Generated { .. }
            | ColumnOption::Options(_)
            | ColumnOption::Identity(_)
            | ColumnOption::OnConflict(_)
            | ColumnOption::Policy(_)
            | ColumnOption::Tags(_)
            | ColumnOption::Srid(_)
            | ColumnOption::Invisible => {
                return Err(Error::unsupported(format!("column {name}: {option} is not supported")));
            }
        }
    }
    Ok(())
}

fn check_constraint(constraint: &TableConstraint) -> Result<()> {
    match constraint {
        TableConstraint::PrimaryKey(key) => check_key(key),
        TableConstraint::Check(check) => check_check(check),
        TableConstraint::Unique(_)
        | TableConstraint::ForeignKey(_)
        | TableConstraint::Index(_)
        | TableConstraint::FulltextOrSpatial(_)
        | TableConstraint::PrimaryKeyUsingIndex(_)
        | TableConstraint::UniqueUsingIndex(_) => {
            Err(Error::unsupported(format!("constraint {constraint} is not supported")))
        }
    }
}

fn check_key(key: &ast::PrimaryKeyConstraint) -> Result<()> {
    let ast::PrimaryKeyConstraint {
        name: _,
        index_name,
        index_type,
        columns: _,
        index_options,
        characteristics,
    } = key;
    refuse!("PRIMARY KEY":
        index_name.is_some() || index_type.is_some() || !index_options.is_empty() => "an index",
        characteristics.is_some() => "DEFERRABLE or ENFORCED",
    );
    Ok(())
}

fn check_check(check: &ast::CheckConstraint) -> Result<()> {
    let ast::CheckConstraint { name: _, expr: _, enforced } = check;
    refuse!("CHECK": *enforced == Some(false) => "NOT ENFORCED");
    Ok(())
}

fn check_create_index(create: &ast::CreateIndex) -> Result<()> {
    let ast::CreateIndex {
        name: _,
        table_name: _,
        using: _,
        columns: _,
        unique,
        concurrently: _,
        if_not_exists: _,
        include,
        nulls_distinct,
        with: _,
        predicate,
        index_options,
        alter_options,
    } = create;
    // Indexes are always built in the background, so CONCURRENTLY is obeyed.
    refuse!("CREATE INDEX":
        *unique => "UNIQUE", !include.is_empty() => "INCLUDE", nulls_distinct.is_some() => "NULLS DISTINCT",
        predicate.is_some() => "WHERE", !index_options.is_empty() => "an option behind the columns",
        !alter_options.is_empty() => "ALGORITHM or LOCK",
    );
    Ok(())
}

fn check_alter_table(alter: &ast::AlterTable) -> Result<()> {
    let ast::AlterTable {
        name: _,
        if_exists,
        only,
        operations,
        location,
        on_cluster,
        table_type,
        end_token: _,
    } = alter;
    refuse!("ALTER TABLE":
        *if_exists => "IF EXISTS", *only => "ONLY", location.is_some() => "LOCATION",
        on_cluster.is_some() => "ON CLUSTER", table_type.is_some() => "a type of table",
    );
    for operation in operations {
        match operation {
            ast::AlterTableOperation::AddColumn { column_def, .. } => check_column(column_def)?,
            ast::AlterTableOperation::AddConstraint { constraint, .. } => check_constraint(constraint)?,
            _ => {}
        }
    }
    Ok(())
}

fn check_truncate(truncate: &ast::Truncate) -> Result<()> {
    let ast::Truncate { table_names, partitions, table: _, if_exists: _, identity, cascade, on_cluster } =
        truncate;
    for ast::TruncateTableTarget { name: _, only, has_asterisk } in table_names {
        refuse!("TRUNCATE": *only => "ONLY", *has_asterisk => "*");
    }
    refuse!("TRUNCATE":
        partitions.is_some() => "PARTITION",
        matches!(identity, Some(ast::TruncateIdentityOption::Restart)) => "RESTART IDENTITY",
        matches!(cascade, Some(ast::CascadeOption::Cascade)) => "CASCADE",
        on_cluster.is_some() => "ON CLUSTER",
    );
    Ok(())
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

/// Visits the queries of a statement.
struct Clauses;

impl Visitor for Clauses {
    type Break = Error;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Error> {
        to_flow(check_query(query))
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<Error> {
        to_flow(check_select(select))
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<Error> {
        to_flow(check_factor(factor))
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Error> {
        to_flow(check_expr(expr))
    }
}

fn to_flow(result: Result<()>) -> ControlFlow<Error> {
    match result {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => ControlFlow::Break(error),
    }
}

fn check_query(query: &Query) -> Result<()> {
    let Query {
        with,
        body: _,
        order_by,
        limit_clause,
        fetch: _,
        locks,
        for_clause,
        settings,
        format_clause,
        pipe_operators: _,
    } = query;
    refuse!("query":
        !locks.is_empty()
            => "FOR UPDATE or FOR SHARE: rows are not locked, conflicts are found at the commit; it",
        for_clause.is_some() => "FOR XML or FOR JSON", settings.is_some() => "SETTINGS",
        format_clause.is_some() => "FORMAT",
    );
    for ast::Cte { alias: _, query: _, from, materialized, closing_paren_token: _ } in
        with.iter().flat_map(|with| &with.cte_tables)
    {
        refuse!("WITH": from.is_some() => "FROM", materialized.is_some() => "MATERIALIZED");
    }
    if let Some(ast::OrderBy { kind, interpolate }) = order_by {
        refuse!("ORDER BY": interpolate.is_some() => "INTERPOLATE");
        if let OrderByKind::Expressions(exprs) = kind {
            for ast::OrderByExpr { expr: _, options: _, with_fill } in exprs {
                refuse!("ORDER BY": with_fill.is_some() => "WITH FILL");
            }
        }
    }
    if let Some(LimitClause::LimitOffset { limit: _, offset: _, limit_by }) = limit_clause {
        refuse!("LIMIT": !limit_by.is_empty() => "BY");
    }
    Ok(())
}

fn check_select(select: &Select) -> Result<()> {
    let Select {
        select_token: _,
        optimizer_hints: _,
        distinct: _,
        select_modifiers,
        top,
        top_before_distinct: _,
        projection,
        exclude,
        into,
        from: _,
        lateral_views,
        prewhere,
        selection: _,
        connect_by,
        group_by: _,
        cluster_by,
        distribute_by,
        sort_by,
        having: _,
        named_window: _,
        qualify: _,
        window_before_qualify: _,
        value_table_mode,
        flavor: _,
    } = select;
    refuse!("SELECT":
        select_modifiers.is_some() => "a modifier", top.is_some() => "TOP: write LIMIT, it",
        exclude.is_some() => "EXCLUDE behind the list: write * EXCLUDE (a), it",
        into.is_some() => "INTO: write CREATE TABLE ... AS, it", !lateral_views.is_empty() => "LATERAL VIEW",
        prewhere.is_some() => "PREWHERE", !connect_by.is_empty() => "CONNECT BY",
        !cluster_by.is_empty() => "CLUSTER BY", !distribute_by.is_empty() => "DISTRIBUTE BY",
        !sort_by.is_empty() => "SORT BY", value_table_mode.is_some() => "AS VALUE or AS STRUCT",
    );
    for item in projection {
        if let SelectItem::Wildcard(options) | SelectItem::QualifiedWildcard(_, options) = item {
            let ast::WildcardAdditionalOptions {
                wildcard_token: _,
                opt_ilike: _,
                opt_exclude: _,
                opt_except: _,
                opt_replace: _,
                opt_rename,
                opt_alias,
            } = options;
            refuse!("SELECT *": opt_rename.is_some() => "RENAME", opt_alias.is_some() => "AS");
        }
    }
    Ok(())
}

fn check_factor(factor: &TableFactor) -> Result<()> {
    match factor {
        TableFactor::Table {
            name: _,
            alias: _,
            args,
            with_hints,
            version: _,
            with_ordinality,
            partitions,
            json_path,
            sample,
            index_hints,
        } => refuse!("FROM":
            args.as_ref().is_some_and(|args| args.settings.is_some()) => "SETTINGS",
            !with_hints.is_empty() || !index_hints.is_empty() => "a hint",
            *with_ordinality => "WITH ORDINALITY", !partitions.is_empty() => "PARTITION",
            json_path.is_some() => "a JSON path", sample.is_some() => "TABLESAMPLE",
        ),
        TableFactor::Derived { lateral: _, subquery: _, alias: _, sample } => {
            refuse!("FROM": sample.is_some() => "TABLESAMPLE");
        }
        _ => {}
    }
    Ok(())
}

fn check_expr(expr: &Expr) -> Result<()> {
    match expr {
        Expr::Function(function) => {
            let ast::Function {
                name: _,
                uses_odbc_syntax: _,
                parameters,
                args: _,
                filter: _,
                null_treatment: _,
                over: _,
                within_group: _,
            } = function;
            let none = matches!(parameters, FunctionArguments::None);
            refuse!("function": !none => "a second list of arguments");
        }
        Expr::Collate { .. } => return Err(unsupported("expression", "COLLATE")),
        _ => {}
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
        for sql in ["CREATE TABLE t (a INT PRIMARY KEY, b TEXT DEFAULT 'x' CHECK (b <> ''), PRIMARY KEY (a))"]
        {
            assert!(check(&parse::statement(sql).unwrap()).is_err(), "{sql}");
        }
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
