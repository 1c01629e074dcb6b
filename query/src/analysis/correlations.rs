//! Conditions of a correlated subquery on columns whose name occurs in two of its tables.
//!
//! DataFusion moves such conditions into the join that it makes of the subquery, where only the names are
//! left, and takes the first column for both. Here these columns get names of their own.

use std::collections::HashMap;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, Result};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::{Expr, Filter, LogicalPlan, LogicalPlanBuilder};

use crate::analysis::recompute_schemas;

/// What the rule looks for.
pub(crate) fn concerns(node: &LogicalPlan) -> bool {
    matches!(node, LogicalPlan::Filter(filter) if filter.predicate.contains_outer())
}

/// The rule; runs before subqueries are rewritten.
pub(crate) fn analyze(plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
    let rewritten = plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Filter(filter) if filter.predicate.contains_outer() => rewrite(filter),
        node => Ok(Transformed::no(node)),
    })?;
    recompute_schemas(rewritten.data)
}

fn rewrite(filter: Filter) -> Result<Transformed<LogicalPlan>> {
    let columns = filter.input.schema().columns();
    let mut count: HashMap<&str, usize> = HashMap::new();
    columns.iter().for_each(|column| *count.entry(&column.name).or_default() += 1);
    let renamed: HashMap<&Column, Column> = columns
        .iter()
        .filter(|column| count.get(column.name.as_str()).is_some_and(|count| *count > 1))
        .map(|column| (column, Column::from_name(format!("{}#", column.flat_name()))))
        .collect();
    if renamed.is_empty() {
        return Ok(Transformed::no(LogicalPlan::Filter(filter)));
    }
    let own = columns.iter().map(|column| {
        let expr = Expr::Column(column.clone());
        match renamed.get(column) {
            Some(new) => expr.alias(&new.name),
            None => expr,
        }
    });
    let old = columns.iter().map(|column| match renamed.get(column) {
        Some(new) => Expr::Column(new.clone()).alias_qualified(column.relation.clone(), &column.name),
        None => Expr::Column(column.clone()),
    });
    let predicate = filter.predicate.clone().transform(|expr| match expr {
        Expr::Column(column) => match renamed.get(&column) {
            Some(new) => Ok(Transformed::yes(Expr::Column(new.clone()))),
            None => Ok(Transformed::no(Expr::Column(column))),
        },
        expr => Ok(Transformed::no(expr)),
    })?;
    let plan = LogicalPlanBuilder::from(filter.input.as_ref().clone())
        .project(own)?
        .filter(predicate.data)?
        .project(old)?
        .build()?;
    Ok(Transformed::yes(plan))
}
