//! How often the engine visits the parts of a plan. Twice as often with each level of subqueries in
//! expressions, because it checks them with what they are in and then on their own; and with each level of
//! casts, because it computes from the argument whether a cast may be null, and its field as well.

use datafusion::common::Result;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::expr::{Exists, InSubquery, SetComparison};
use datafusion::logical_expr::{Expr, LogicalPlan};

/// Levels that cost nothing worth counting, however many expressions have them.
const LEVELS_FREE: usize = 4;

/// The visits of a plan or of an expression.
#[derive(Clone, Copy, Default)]
struct Visits {
    /// Those of what is visited again and again, beyond one each.
    repeated: usize,
    /// All of them.
    all: usize,
    /// Levels of subqueries and casts.
    levels: usize,
}

impl Visits {
    /// With what stands beside it.
    fn and(self, other: Self) -> Self {
        Self {
            repeated: self.repeated.saturating_add(other.repeated),
            all: self.all.saturating_add(other.all),
            levels: self.levels.max(other.levels),
        }
    }

    /// Inside of one more level.
    fn in_level(self) -> Self {
        let again = if self.levels < LEVELS_FREE { 0 } else { self.all };
        Self {
            repeated: self.repeated.saturating_add(again),
            all: self.all.saturating_add(again),
            levels: self.levels + 1,
        }
    }
}

/// The visits of a plan beyond one of each of its parts.
pub(super) fn repeated_visits(plan: &LogicalPlan) -> Result<usize> {
    Ok(visits_of_plan(plan)?.repeated)
}

#[recursive::recursive]
fn visits_of_plan(plan: &LogicalPlan) -> Result<Visits> {
    let mut visits = Visits::default();
    plan.apply_expressions(|expr| {
        visits = visits.and(visits_of(expr)?);
        Ok(TreeNodeRecursion::Continue)
    })?;
    for input in plan.inputs() {
        visits = visits.and(visits_of_plan(input)?);
    }
    Ok(visits)
}

#[recursive::recursive]
fn visits_of(expr: &Expr) -> Result<Visits> {
    let mut visits = Visits::default();
    expr.apply_children(|part| {
        visits = visits.and(visits_of(part)?);
        Ok(TreeNodeRecursion::Continue)
    })?;
    if argument_of_cast(expr).is_some_and(|argument| argument_of_cast(argument).is_none()) {
        visits = visits.in_level();
    }
    if let Expr::Exists(Exists { subquery, .. })
    | Expr::InSubquery(InSubquery { subquery, .. })
    | Expr::SetComparison(SetComparison { subquery, .. })
    | Expr::ScalarSubquery(subquery) = expr
    {
        visits = visits.and(visits_of_plan(&subquery.subquery)?.in_level());
    }
    Ok(Visits { all: visits.all.saturating_add(1), ..visits })
}

/// The argument of a cast. Casts of casts look at the field of theirs only.
fn argument_of_cast(expr: &Expr) -> Option<&Expr> {
    match expr {
        Expr::Cast(cast) => Some(&cast.expr),
        Expr::TryCast(cast) => Some(&cast.expr),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use arrow_schema::DataType;
    use datafusion::logical_expr::{LogicalPlanBuilder, cast, lit, scalar_subquery};

    use super::*;

    #[test]
    fn visits_double_with_each_level() {
        let nested = |levels: usize, level: fn(Expr) -> Expr| {
            let expr = (0..levels).fold(lit(1), |expr, _| level(expr + lit(1)));
            let plan = LogicalPlanBuilder::empty(true).project([expr]).unwrap().build().unwrap();
            repeated_visits(&plan).unwrap()
        };
        let of_cast = |expr| cast(expr, DataType::Int64);
        let of_query = |expr| {
            let query = LogicalPlanBuilder::empty(true).project([expr]).unwrap().build().unwrap();
            scalar_subquery(query.into())
        };
        for level in [of_cast as fn(Expr) -> Expr, of_query] {
            assert_eq!(nested(LEVELS_FREE, level), 0);
            assert!((10..100).contains(&nested(LEVELS_FREE + 2, level)));
            assert!((10_000..50_000).contains(&nested(15, level)), "{}", nested(15, level));
            assert_eq!(nested(90, level), usize::MAX);
        }
        let casts = (0..90).fold(lit(1), |expr, _| cast(expr, DataType::Int64));
        let plan = LogicalPlanBuilder::empty(true).project([casts]).unwrap().build().unwrap();
        assert_eq!(repeated_visits(&plan).unwrap(), 0);
    }
}
