//! The item of `x IN (SELECT ...)` has a name of its own, where it is computed or cast.
//!
//! DataFusion casts the items to the type of `x`, and names the cast by the column that is cast. If a
//! condition of the subquery refers to the query around it and to that column, it selects the column as well,
//! and refuses the two columns of one name.

use std::sync::Arc;

use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result};
use datafusion::logical_expr::{Expr, LogicalPlan, Projection};

/// What the rule looks for.
pub(crate) fn concerns(expr: &Expr) -> bool {
    matches!(expr, Expr::InSubquery(_))
}

/// The rule; runs when types are coerced.
pub(crate) fn rewrite(expr: Expr, _: &DFSchema) -> Result<Transformed<Expr>> {
    let Expr::InSubquery(mut predicate) = expr else {
        return Ok(Transformed::no(expr));
    };
    let renamed = match predicate.subquery.subquery.as_ref() {
        LogicalPlan::Projection(Projection { expr, input, .. }) => match expr.as_slice() {
            [item] if !matches!(item, Expr::Column(_)) => {
                let item = item.clone().unalias().alias("$item");
                Some(Projection::try_new(vec![item], input.clone())?)
            }
            _ => None,
        },
        _ => None,
    };
    let is_renamed = renamed.is_some();
    if let Some(projection) = renamed {
        predicate.subquery.subquery = Arc::new(LogicalPlan::Projection(projection));
    }
    Ok(Transformed::new_transformed(Expr::InSubquery(predicate), is_renamed))
}
