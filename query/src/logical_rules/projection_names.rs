//! Gives the columns between one projection and the next names of their own.
//!
//! DataFusion drops a projection whose expressions are written like those of its input. But `s + s AS s`
//! above `s + s AS s` doubles twice: the two mean different columns `s` (apache/datafusion#24686, which
//! later versions have).

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, Result};
use datafusion::logical_expr::expr::{Alias, Exists, InSubquery, SetComparison};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{Expr, LogicalPlan, Projection};
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};

/// What the names begin with.
const BETWEEN: &str = "$between";

/// The rule; runs before projections are merged.
#[derive(Debug)]
pub(super) struct ProjectionNames;

impl OptimizerRule for ProjectionNames {
    fn name(&self) -> &str {
        "projection_names"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::TopDown)
    }

    fn rewrite(&self, plan: LogicalPlan, config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        let LogicalPlan::Projection(outer) = plan else {
            return Ok(Transformed::no(plan));
        };
        let inner = match outer.input.as_ref() {
            LogicalPlan::Projection(inner) if !has_own_names(inner) && computes(&outer) => inner,
            _ => return Ok(Transformed::no(LogicalPlan::Projection(outer))),
        };
        let inner = inner.clone();
        let names: Vec<String> = inner.expr.iter().map(|_| config.alias_generator().next(BETWEEN)).collect();
        let renamed = inner.expr.iter().zip(&names).map(|(expr, name)| match expr {
            Expr::Alias(Alias { expr, metadata: None, .. }) => expr.as_ref().clone().alias(name),
            expr => expr.clone().alias(name),
        });
        let input = Projection::try_new(renamed.collect(), inner.input.clone())?;

        let preserver = NamePreserver::new_for_projection();
        let exprs = outer.expr.into_iter().map(|expr| {
            let saved = preserver.save(&expr);
            let expr = expr.transform(|expr| match expr {
                Expr::Column(column) => Ok(match inner.schema.maybe_index_of_column(&column) {
                    Some(index) => Transformed::yes(Expr::Column(Column::from_name(&names[index]))),
                    None => Transformed::no(Expr::Column(column)),
                }),
                expr => Ok(Transformed::no(expr)),
            })?;
            Ok(saved.restore(expr.data))
        });
        let exprs = exprs.collect::<Result<_>>()?;
        let input = Arc::new(LogicalPlan::Projection(input));
        let outer = Projection::try_new_with_schema(exprs, input, outer.schema)?;
        Ok(Transformed::yes(LogicalPlan::Projection(outer)))
    }
}

/// Whether the columns of a projection have such names already.
fn has_own_names(projection: &Projection) -> bool {
    projection.schema.fields().iter().all(|field| field.name().starts_with(BETWEEN))
}

/// Whether a projection does more than to pass on columns. One with a subquery that names columns of its
/// input stays as it is.
fn computes(projection: &Projection) -> bool {
    let is_correlated = |expr: &Expr| {
        let subquery = match expr {
            Expr::ScalarSubquery(subquery) => subquery,
            Expr::InSubquery(InSubquery { subquery, .. })
            | Expr::Exists(Exists { subquery, .. })
            | Expr::SetComparison(SetComparison { subquery, .. }) => subquery,
            _ => return Ok(false),
        };
        Ok(!subquery.outer_ref_columns.is_empty())
    };
    projection.expr.iter().any(|expr| !matches!(expr, Expr::Column(_)))
        && !projection.expr.iter().any(|expr| expr.exists(is_correlated).unwrap_or(true))
}

#[cfg(test)]
mod tests {
    use datafusion::logical_expr::{LogicalPlanBuilder, col, lit};
    use datafusion::optimizer::{Optimizer, OptimizerContext};

    use super::*;

    #[test]
    fn equal_projections_are_both_kept() {
        let tripled = |plan: LogicalPlanBuilder| plan.project([(col("s") * lit(3)).alias("s")]).unwrap();
        let values = LogicalPlanBuilder::values(vec![vec![lit(1)]]).unwrap();
        let named = values.project([col("column1").alias("s")]).unwrap();
        let plan = tripled(tripled(tripled(named))).build().unwrap();
        let merge = Optimizer::new().rules.into_iter().filter(|rule| rule.name() == "optimize_projections");
        let rules = std::iter::once(Arc::new(ProjectionNames) as _).chain(merge).collect();
        let optimizer = Optimizer::with_rules(rules);
        let optimized = optimizer.optimize(plan, &OptimizerContext::new(), |_, _| {}).unwrap();
        let text = optimized.display_indent().to_string();
        assert_eq!(text.matches("* Int32(3)").count(), 3, "{text}");
    }
}
