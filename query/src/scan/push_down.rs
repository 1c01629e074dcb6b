//! Which predicates the segment format may evaluate by itself.
//!
//! The format skips chunks by their statistics. For a negated list it concludes from a chunk without values
//! that `y NOT IN (...)` is true, and returns its rows, although the condition is null for each of them (see
//! ADR 0032). Negations of lists and patterns are evaluated by the engine, on decoded values, and so are
//! conditions of which it matters whether they are null or false, such as `(y BETWEEN 1 AND 2) IS NULL`. A
//! property test compares both ways for what is left.
//!
//! Conditions that may fail, like quotients, are evaluated by the engine as well, after those that exclude
//! rows.
//!
//! The format orders floats by their bits, and takes the two zeros for different values. Stored floats have
//! one zero, so that only computed and constant floats must be kept from it.

use std::sync::Arc;

use arrow_schema::{DataType, Schema};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{
    BinaryExpr, CaseExpr, CastExpr, Column, InListExpr, IsNotNullExpr, IsNullExpr, LikeExpr, Literal, NotExpr,
};
use datafusion::physical_plan::PhysicalExpr;
use vortex::expr::Expression;
use vortex::session::VortexSession;
use vortex_datafusion::convert::{DefaultExpressionConverter, ExpressionConverter};

use crate::analysis::fallible::is_total;

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
        if has_negation(expr)?
            || tells_null_from_false(expr, schema)?
            || has_other_zero(expr, schema)?
            || can_fail(expr, schema)?
        {
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

/// Whether an expression tells a condition that is null from one that is false. The format may take one for
/// the other in a chunk without values.
fn tells_null_from_false(expr: &Arc<dyn PhysicalExpr>, schema: &Schema) -> Result<bool> {
    let is_stored = |expr: &Arc<dyn PhysicalExpr>| expr.is::<Column>() || expr.is::<Literal>();
    let mut found = false;
    expr.apply(|expr| {
        let tested = (expr.downcast_ref::<IsNullExpr>().map(IsNullExpr::arg))
            .or_else(|| expr.downcast_ref::<IsNotNullExpr>().map(IsNotNullExpr::arg));
        found |= expr.is::<CaseExpr>() || tested.is_some_and(|tested| !is_stored(tested));
        if let Some(binary) = expr.downcast_ref::<BinaryExpr>()
            && !matches!(binary.op(), Operator::And | Operator::Or)
        {
            for side in [binary.left(), binary.right()] {
                found |= !is_stored(side) && side.data_type(schema)? == DataType::Boolean;
            }
        }
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}

/// Whether an expression computes something that may fail for a row which another condition excludes.
fn can_fail(expr: &Arc<dyn PhysicalExpr>, schema: &Schema) -> Result<bool> {
    let mut found = false;
    expr.apply(|expr| {
        use Operator::{Divide, Minus, Modulo, Multiply, Plus};
        if let Some(binary) = expr.downcast_ref::<BinaryExpr>() {
            found |= matches!(binary.op(), Plus | Minus | Multiply | Divide | Modulo);
        }
        if let Some(cast) = expr.downcast_ref::<CastExpr>() {
            found |= !is_total(&cast.expr().data_type(schema)?, cast.cast_type());
        }
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}

/// Whether an expression is a comparison, or several of them. To ask for the type of a long chain would take
/// long.
fn is_condition(expr: &Arc<dyn PhysicalExpr>) -> bool {
    let binary = expr.downcast_ref::<BinaryExpr>().map(BinaryExpr::op);
    binary.is_some_and(|op| op.is_logic_operator() || op.supports_propagation())
}

/// Whether an expression computes a float, or has a constant that no stored float equals bit by bit.
fn has_other_zero(expr: &Arc<dyn PhysicalExpr>, schema: &Schema) -> Result<bool> {
    let mut found = false;
    expr.apply(|expr| {
        let is_stored = expr.is::<Column>();
        let is_canonical = |value: &ScalarValue| match value {
            ScalarValue::Float32(Some(v)) => !v.is_nan() && v.to_bits() != (-0_f32).to_bits(),
            ScalarValue::Float64(Some(v)) => !v.is_nan() && v.to_bits() != (-0_f64).to_bits(),
            _ => true,
        };
        found |= match expr.downcast_ref::<Literal>() {
            Some(literal) => !is_canonical(literal.value()),
            None => !is_stored && !is_condition(expr) && expr.data_type(schema)?.is_floating(),
        };
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}
