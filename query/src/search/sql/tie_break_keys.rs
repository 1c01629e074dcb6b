//! Plain SQL that is a search breaks ties by primary key, so that pages of it have each row once.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, Result};
use datafusion::logical_expr::{
    Expr, LogicalPlan, LogicalPlanBuilder, Projection, Sort, SubqueryAlias, TableScan, TableScanBuilder,
};

/// Adds the primary key to the order of the limited sort in a plan over the scan of one table.
///
/// # Errors
/// Those of building plans.
pub(super) fn break_ties(plan: LogicalPlan, key: &[String]) -> Result<LogicalPlan> {
    if key.is_empty() {
        return Ok(plan);
    }
    plan.transform_down(|node| {
        let LogicalPlan::Sort(sort) = node else {
            return Ok(Transformed::no(node));
        };
        if sort.fetch.is_none() {
            return Ok(Transformed::no(LogicalPlan::Sort(sort)));
        }
        let columns: Vec<Expr> = sort.input.schema().columns().into_iter().map(Expr::Column).collect();
        let Some((input, keys)) = with_key(&sort.input, key)? else {
            return Ok(Transformed::new(LogicalPlan::Sort(sort), false, TreeNodeRecursion::Stop));
        };
        let ties = keys.into_iter().map(|key| Expr::Column(key).sort(true, false));
        let expr = sort.expr.into_iter().chain(ties).collect();
        let sorted = LogicalPlan::Sort(Sort { expr, input: Arc::new(input), fetch: sort.fetch });
        let plan = LogicalPlanBuilder::from(sorted).project(columns)?.build()?;
        Ok(Transformed::new(plan, true, TreeNodeRecursion::Stop))
    })
    .data()
}

/// A plan that has the key among its columns, and its columns of the key.
fn with_key(plan: &LogicalPlan, key: &[String]) -> Result<Option<(LogicalPlan, Vec<Column>)>> {
    let input = |plan: &LogicalPlan| with_key(plan, key);
    Ok(match plan {
        LogicalPlan::TableScan(scan) => Some(scan_with_key(scan, key)?),
        LogicalPlan::Projection(projection) => input(&projection.input)?
            .map(|(input, keys)| {
                let names = (0..keys.len()).map(|index| format!("$key_{index}"));
                let columns = names.clone().map(Column::from_name).collect();
                let keys = keys.into_iter().zip(names).map(|(key, name)| Expr::Column(key).alias(name));
                let exprs = projection.expr.iter().cloned().chain(keys).collect();
                Projection::try_new(exprs, Arc::new(input))
                    .map(|projection| (LogicalPlan::Projection(projection), columns))
            })
            .transpose()?,
        LogicalPlan::SubqueryAlias(alias) => input(&alias.input)?
            .map(|(input, keys)| {
                let relation = &alias.alias;
                let keys =
                    keys.into_iter().map(|key| Column::new(Some(relation.clone()), key.name)).collect();
                SubqueryAlias::try_new(Arc::new(input), relation.clone())
                    .map(|alias| (LogicalPlan::SubqueryAlias(alias), keys))
            })
            .transpose()?,
        LogicalPlan::Filter(_) => match plan.inputs().as_slice() {
            [below] => match input(below)? {
                Some((input, keys)) => Some((plan.with_new_exprs(plan.expressions(), vec![input])?, keys)),
                None => None,
            },
            _ => None,
        },
        _ => None,
    })
}

fn scan_with_key(scan: &TableScan, key: &[String]) -> Result<(LogicalPlan, Vec<Column>)> {
    let schema = scan.source.schema();
    let mut projection = scan.projection.clone();
    if let Some(projection) = &mut projection {
        for name in key {
            let index = schema.index_of(name)?;
            if !projection.contains(&index) {
                projection.push(index);
            }
        }
    }
    let keys = key.iter().map(|name| Column::new(Some(scan.table_name.clone()), name)).collect();
    let (table, source) = (scan.table_name.clone(), scan.source.clone());
    let scan = TableScanBuilder::new(table, source)
        .with_projection(projection)
        .with_filters(scan.filters.clone())
        .with_fetch(scan.fetch)
        .build()?;
    Ok((LogicalPlan::TableScan(scan), keys))
}
