//! A condition that may fail is evaluated only where the conditions before it let it count: `b <> 0 AND a / b
//! > 1` does not divide by zero.
//!
//! DataFusion evaluates the parts of `AND` and `OR` for all rows, unless most of them are decided, and turns
//! a `CASE` that guards a condition into `AND` (apache/datafusion#8927, #25136). Here they become a `CASE`
//! again when nothing is simplified any more. In a filter, conditions that cannot fail come first.

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, Result};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::{conjunction, merge_schema, split_conjunction_owned};
use datafusion::logical_expr::{BinaryExpr, Case, Expr, LogicalPlan, Operator, binary_expr, lit, when};

use crate::analysis::fallible::can_fail;

/// Guards the conditions in an optimized plan.
///
/// # Errors
/// Those of building plans.
pub(super) fn guard(plan: LogicalPlan) -> Result<LogicalPlan> {
    plan.transform_up_with_subqueries(|node| {
        let schema = merge_schema(&node.inputs());
        match node {
            LogicalPlan::Filter(mut filter) => {
                let guarded = guard_conjuncts(filter.predicate.clone(), &schema)?;
                Ok(guarded.update_data(|predicate| {
                    filter.predicate = predicate;
                    LogicalPlan::Filter(filter)
                }))
            }
            LogicalPlan::Join(mut join) if join.filter.is_some() => {
                let filter = join.filter.take().unwrap_or_else(|| lit(true));
                let guarded = guard_conjuncts(filter, &schema)?;
                Ok(guarded.update_data(|filter| {
                    join.filter = Some(filter);
                    LogicalPlan::Join(join)
                }))
            }
            LogicalPlan::TableScan(_) => Ok(Transformed::no(node)),
            node => {
                let names = NamePreserver::new(&node);
                node.map_expressions(|expr| {
                    let name = names.save(&expr);
                    Ok(Transformed::yes(name.restore(guard_operands(expr, &schema)?)))
                })
            }
        }
    })
    .data()
}

/// A condition whose rows count where it is true.
fn guard_conjuncts(condition: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let (fallible, safe): (Vec<_>, Vec<_>) =
        split_conjunction_owned(condition.clone()).into_iter().partition(|expr| can_fail(expr, schema));
    if fallible.is_empty() {
        return Ok(Transformed::no(condition));
    }
    let mut guarded: Option<Expr> = None;
    for condition in fallible.into_iter().rev() {
        let condition = guard_operands(condition, schema)?;
        guarded = Some(match guarded {
            Some(inner) => when(condition, inner).otherwise(lit(false))?,
            None => condition,
        });
    }
    // Conditions that cannot fail also stand alone, for what reads less because of them. One that has another
    // value each time is evaluated once.
    let (volatile, stable): (Vec<_>, Vec<_>) = safe.into_iter().partition(Expr::is_volatile);
    let (volatile, stable) = (conjunction(volatile), conjunction(stable));
    let safe = [stable.clone(), volatile].into_iter().flatten().reduce(Expr::and);
    let guarded = match (safe, guarded) {
        (Some(safe), Some(guarded)) => Some(when(safe, guarded).otherwise(lit(false))?),
        (safe, guarded) => safe.or(guarded),
    };
    let all = [stable, guarded].into_iter().flatten().reduce(Expr::and);
    Ok(Transformed::yes(all.unwrap_or_else(|| lit(true))))
}

/// Guards the operands of `AND` and `OR` that may fail by those before them, and by those that cannot fail.
#[recursive::recursive]
fn guard_operands(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    if !can_fail(&expr, schema) {
        return Ok(expr);
    }
    let op = match &expr {
        Expr::BinaryExpr(BinaryExpr { op: op @ (Operator::And | Operator::Or), .. }) => *op,
        _ => {
            return expr.map_children(|child| guard_operands(child, schema).map(Transformed::yes)).data();
        }
    };
    let operands = operands_of(expr, op).into_iter().map(|operand| guard_operands(operand, schema));
    let operands = operands.collect::<Result<Vec<_>>>()?;
    let chain = |operands: Vec<Expr>| operands.into_iter().reduce(|left, right| binary_expr(left, op, right));
    let is_large = operands.iter().map(nodes).sum::<usize>() > NODES_MAX;
    if is_large || operands.iter().any(Expr::is_volatile) {
        return Ok(chain(operands).unwrap_or_else(|| lit(true)));
    }
    let whole = chain(operands.clone()).unwrap_or_else(|| lit(true));
    let (fallible, safe): (Vec<_>, Vec<_>) = operands.into_iter().partition(|expr| can_fail(expr, schema));
    // What decides the value comes first. If nothing does, no operand fails any more, or one has to.
    let decides = |operand: Expr| match op {
        Operator::And => operand.is_false(),
        _ => operand.is_true(),
    };
    let branches = chain(safe).into_iter().chain(fallible);
    let branches = branches.map(|operand| (Box::new(decides(operand)), Box::new(lit(op == Operator::Or))));
    let (when_then_expr, else_expr) = (branches.collect(), Some(Box::new(whole)));
    Ok(Expr::Case(Case { expr: None, when_then_expr, else_expr }))
}

/// Largest chain that is guarded, in nodes. A guard holds each operand twice, and chains in chains double at
/// each level. What is larger stays as it is, and may fail.
const NODES_MAX: usize = 4_000;

/// The number of nodes of an expression, counted up to a little more than [`NODES_MAX`].
fn nodes(expr: &Expr) -> usize {
    let mut nodes = 0;
    let _ = expr.apply(|_| {
        nodes += 1;
        Ok(if nodes > NODES_MAX { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    nodes
}

/// The operands of a chain of one operator.
fn operands_of(expr: Expr, op: Operator) -> Vec<Expr> {
    let mut operands = Vec::new();
    let mut rest = vec![expr];
    while let Some(expr) = rest.pop() {
        match expr {
            Expr::BinaryExpr(BinaryExpr { left, op: inner, right }) if inner == op => {
                rest.push(*right);
                rest.push(*left);
            }
            expr => operands.push(expr),
        }
    }
    operands
}
