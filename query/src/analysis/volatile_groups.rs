//! Keys of groups that differ each time they are computed, as `random() < 0.5`, are computed once, below the
//! groups. DataFusion pushes conditions on such a key below them, where it is computed again
//! (apache/datafusion#25415).

use datafusion::common::Column;
use datafusion::common::Result;
use datafusion::common::tree_node::Transformed;
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan, LogicalPlanBuilder};

/// What the rule looks for.
pub(crate) fn concerns(node: &LogicalPlan) -> bool {
    matches!(node, LogicalPlan::Aggregate(aggregate) if aggregate.group_expr.iter().any(Expr::is_volatile))
}

/// The rule; runs before DataFusion optimizes.
pub(crate) fn rewrite(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let LogicalPlan::Aggregate(Aggregate { input, group_expr, aggr_expr, schema, .. }) = plan else {
        return Ok(Transformed::no(plan));
    };
    let is_volatile = |expr: &Expr| !matches!(expr, Expr::GroupingSet(_)) && expr.is_volatile();
    if !group_expr.iter().any(is_volatile) {
        let plan = Aggregate::try_new_with_schema(input, group_expr, aggr_expr, schema)?;
        return Ok(Transformed::no(LogicalPlan::Aggregate(plan)));
    }
    let mut columns: Vec<Expr> = input.schema().columns().into_iter().map(Expr::Column).collect();
    let groups: Vec<Expr> = group_expr
        .into_iter()
        .map(|expr| match is_volatile(&expr) {
            true => {
                let name = expr.schema_name().to_string();
                columns.push(expr.alias(&name));
                Expr::Column(Column::new_unqualified(name))
            }
            false => expr,
        })
        .collect();
    let plan = LogicalPlanBuilder::from(input).project(columns)?.aggregate(groups, aggr_expr)?.build()?;
    Ok(Transformed::yes(plan))
}
