//! Which predicates the segment format may evaluate by itself.
//!
//! The format skips chunks by their statistics. For a negated list it concludes from a chunk without values
//! that `y NOT IN (...)` is true, and returns its rows, although the condition is null for each of them (see
//! ADR 0032). Negations of lists and patterns are evaluated by the engine, on decoded values. A property test
//! compares both ways for what is left.

use std::sync::Arc;

use arrow_schema::Schema;
use datafusion::common::Result;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::physical_expr::expressions::{InListExpr, LikeExpr, NotExpr};
use datafusion::physical_plan::PhysicalExpr;
use vortex::expr::Expression;
use vortex::session::VortexSession;
use vortex_datafusion::convert::{DefaultExpressionConverter, ExpressionConverter};

/// Converts expressions for the segment format, except those that it evaluates differently.
pub(crate) struct SafeConverter(DefaultExpressionConverter);

impl SafeConverter {
    /// A converter for the types of a session.
    pub(crate) fn new(session: VortexSession) -> Self {
        Self(DefaultExpressionConverter::new(session))
    }
}

impl ExpressionConverter for SafeConverter {
    fn try_convert(&self, expr: &Arc<dyn PhysicalExpr>, schema: &Schema) -> Result<Option<Expression>> {
        if has_negation(expr)? {
            return Ok(None);
        }
        self.0.try_convert(expr, schema)
    }
}

/// Whether an expression negates a list, a pattern, or anything that has one.
fn has_negation(expr: &Arc<dyn PhysicalExpr>) -> Result<bool> {
    let mut found = false;
    expr.apply(|expr| {
        let is_negated = expr.downcast_ref::<InListExpr>().is_some_and(InListExpr::negated)
            || expr.downcast_ref::<LikeExpr>().is_some_and(LikeExpr::negated)
            || expr.is::<NotExpr>();
        found |= is_negated;
        Ok(if is_negated { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}
