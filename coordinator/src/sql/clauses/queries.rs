//! Clauses of queries, wherever a statement has one.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    self, Expr, GroupByExpr, JoinConstraint, JoinOperator, LimitClause, OrderByKind, Query, Select,
    SelectItem, SetExpr, TableFactor, Visitor,
};
use plexus_model::{Error, Result};

use super::common_tables::check_volatile;
use super::functions::check_call;
use super::types::check_type;
use super::{refuse, unsupported};

/// Visits the queries of a statement.
pub(super) struct Clauses;

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
        body,
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
        changes_rows(body) => "WITH before UPDATE, DELETE or MERGE: write a subquery, it",
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
    check_volatile(query)?;
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

/// Whether the body of a query is a statement of another kind.
fn changes_rows(body: &SetExpr) -> bool {
    matches!(body, SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_))
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
        from,
        lateral_views,
        prewhere,
        selection: _,
        connect_by,
        group_by,
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
        select_modifiers.is_some() => "a modifier", top.is_some() => "TOP (write LIMIT)",
        exclude.is_some() => "EXCLUDE behind the list: write * EXCLUDE (a), it",
        into.is_some() => "INTO: write CREATE TABLE ... AS, it", !lateral_views.is_empty() => "LATERAL VIEW",
        prewhere.is_some() => "PREWHERE", !connect_by.is_empty() => "CONNECT BY",
        !cluster_by.is_empty() => "CLUSTER BY", !distribute_by.is_empty() => "DISTRIBUTE BY",
        !sort_by.is_empty() => "SORT BY", value_table_mode.is_some() => "AS VALUE or AS STRUCT",
    );
    let (GroupByExpr::All(modifiers) | GroupByExpr::Expressions(_, modifiers)) = group_by;
    if let Some(modifier) = modifiers.first() {
        return Err(Error::unsupported(format!(
            "GROUP BY: {modifier} is not supported: write GROUP BY ROLLUP (a) or GROUPING SETS ((a), ())"
        )));
    }
    for join in from.iter().flat_map(|relation| &relation.joins) {
        if matches!(
            join.join_operator,
            JoinOperator::Join(JoinConstraint::None) | JoinOperator::Inner(JoinConstraint::None)
        ) {
            return Err(Error::invalid("JOIN needs ON or USING: write CROSS JOIN for all pairs of rows"));
        }
    }
    for item in projection {
        if let SelectItem::Wildcard(options) | SelectItem::QualifiedWildcard(_, options) = item {
            let ast::WildcardAdditionalOptions {
                wildcard_token: _,
                opt_ilike,
                opt_exclude: _,
                opt_except: _,
                opt_replace: _,
                opt_rename,
                opt_alias,
            } = options;
            refuse!("SELECT *":
                opt_ilike.is_some() => "ILIKE",
                opt_rename.is_some() => "RENAME",
                opt_alias.is_some() => "AS",
            );
        }
    }
    Ok(())
}

fn check_factor(factor: &TableFactor) -> Result<()> {
    match factor {
        TableFactor::Table { name, .. } if is_internal(name) => {
            return Err(Error::not_found(format!("table {name} does not exist")));
        }
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
        TableFactor::Pivot { .. } => {
            return Err(unsupported(
                "FROM",
                "PIVOT: write sum(v) FILTER (WHERE k = 'a') for each column, it",
            ));
        }
        TableFactor::Unpivot { .. } => {
            return Err(unsupported("FROM", "UNPIVOT: write a UNION ALL of one query for each column, it"));
        }
        TableFactor::MatchRecognize { .. } => return Err(unsupported("FROM", "MATCH_RECOGNIZE")),
        _ => {}
    }
    Ok(())
}

/// Whether a name begins with a schema of the system's own.
fn is_internal(name: &ast::ObjectName) -> bool {
    let parts = name.0.iter().filter_map(|part| part.as_ident());
    name.0.len() > 1 && parts.take(name.0.len() - 1).any(|part| part.value.starts_with('$'))
}

fn check_expr(expr: &Expr) -> Result<()> {
    match expr {
        Expr::Function(function) => check_call(function)?,
        Expr::Collate { .. } => return Err(unsupported("expression", "COLLATE")),
        Expr::Value(value) => check_number(&value.value)?,
        Expr::Cast { data_type, .. } => check_type(data_type)?,
        _ => {}
    }
    Ok(())
}

/// Refuses numbers that are too large for a double.
fn check_number(value: &ast::Value) -> Result<()> {
    match value {
        ast::Value::Number(digits, _)
            if digits.contains(['e', 'E']) && digits.parse().is_ok_and(f64::is_infinite) =>
        {
            Err(Error::invalid(format!("{digits} does not fit DOUBLE: it is too large")))
        }
        _ => Ok(()),
    }
}
