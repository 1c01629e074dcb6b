//! Timestamps of different precision are compared and united in the finest.
//!
//! DataFusion reads text, and casts constants, with the precision of what they are compared with: `ts =
//! TIMESTAMP '... 00:00:00.0015'` is true for a column of milliseconds that holds `.001`. A constant that
//! nanoseconds cannot express, like the year 9999, is above or below all of them.

use std::sync::Arc;

use arrow_schema::{DataType, TimeUnit};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::{
    Between, BinaryExpr, Case, Cast, Expr, ExprSchemable, LogicalPlan, Operator, Union, binary_expr, cast,
    lit,
};

use crate::analysis::typed::typed;
use crate::analysis::{cast_union_columns, has_expression, rewrite_expressions};

/// What the rule looks for.
pub(crate) fn concerns(node: &LogicalPlan) -> bool {
    matches!(node, LogicalPlan::Union(_) | LogicalPlan::Join(_))
        || has_expression(node, |expr| match expr {
            Expr::BinaryExpr(BinaryExpr { op, .. }) => op.supports_propagation(),
            expr => matches!(expr, Expr::Between(_) | Expr::InList(_) | Expr::Case(_)),
        })
}

/// The rule; runs before types are coerced.
pub(crate) fn analyze(plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
    rewrite_expressions(plan, &rewrite, &|plan| match plan {
        LogicalPlan::Union(union) => unify_union(union),
        LogicalPlan::Join(mut join) => {
            for (left, right) in &mut join.on {
                let mut sides =
                    [Operand::of(left, join.left.schema()), Operand::of(right, join.right.schema())];
                unify(&mut sides);
            }
            Ok(Transformed::yes(LogicalPlan::Join(join)))
        }
        plan => Ok(Transformed::no(plan)),
    })
}

fn rewrite(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let unify_all = |exprs: Vec<&mut Expr>| {
        let mut operands: Vec<Operand> = exprs.into_iter().map(|expr| Operand::of(expr, schema)).collect();
        unify(&mut operands);
    };
    Ok(Transformed::yes(match expr {
        Expr::BinaryExpr(BinaryExpr { mut left, op, mut right }) if op.supports_propagation() => {
            if let Some(constant) = beyond_nanoseconds(&left, op, &right, schema) {
                return Ok(Transformed::yes(constant));
            }
            unify_all(vec![left.as_mut(), right.as_mut()]);
            Expr::BinaryExpr(BinaryExpr { left, op, right })
        }
        Expr::Between(between) if is_beyond_nanoseconds(&between, schema) => {
            let Between { expr, negated, low, high } = between;
            let from = binary_expr(expr.as_ref().clone(), Operator::GtEq, *low);
            let to = binary_expr(*expr, Operator::LtEq, *high);
            let both = rewrite(from, schema)?.data.and(rewrite(to, schema)?.data);
            if negated { Expr::Not(Box::new(both)) } else { both }
        }
        Expr::Between(mut between) => {
            let Between { expr, low, high, .. } = &mut between;
            unify_all(vec![expr.as_mut(), low.as_mut(), high.as_mut()]);
            Expr::Between(between)
        }
        Expr::InList(mut in_list) => {
            let InList { expr, list, .. } = &mut in_list;
            unify_all(std::iter::once(expr.as_mut()).chain(list).collect());
            Expr::InList(in_list)
        }
        Expr::Case(mut case) => {
            let Case { when_then_expr, else_expr, .. } = &mut case;
            let thens = when_then_expr.iter_mut().map(|(_, then)| then.as_mut());
            unify_all(thens.chain(else_expr.iter_mut().map(Box::as_mut)).collect());
            Expr::Case(case)
        }
        other => return Ok(Transformed::no(other)),
    }))
}

/// One of the expressions that get a common type.
struct Operand<'a> {
    expr: &'a mut Expr,
    data_type: DataType,
    /// The precision that the expression needs, if it is a timestamp.
    unit: Option<TimeUnit>,
}

impl<'a> Operand<'a> {
    fn of(expr: &'a mut Expr, schema: &DFSchema) -> Self {
        let data_type = expr.get_type(schema).unwrap_or(DataType::Null);
        let unit = match (&data_type, constant_text(expr)) {
            (DataType::Timestamp(..) | DataType::Utf8 | DataType::Utf8View, Some(text)) => {
                Some(unit_of(text))
            }
            (DataType::Timestamp(unit, _), None) => Some(match expr {
                Expr::Literal(value, _) => coarsest(value, *unit),
                _ => *unit,
            }),
            _ => None,
        };
        Self { expr, data_type, unit }
    }

    /// Makes the expression one of timestamps of a precision; text becomes one in `zone`. A date becomes one
    /// without a zone: the engine would make it one of nanoseconds.
    fn cast_to(&mut self, unit: TimeUnit, zone: Option<&Arc<str>>) {
        if self.data_type == DataType::Date32 {
            *self.expr = cast(std::mem::take(self.expr), DataType::Timestamp(unit, None));
            return;
        }
        match (&self.data_type, constant_text(self.expr)) {
            (DataType::Timestamp(_, own), Some(text)) => {
                *self.expr = cast(lit(text), DataType::Timestamp(unit, own.clone()));
            }
            (DataType::Timestamp(own, _), None) if *own == unit => {}
            (DataType::Timestamp(_, own), None) => {
                let is_constant = matches!(self.expr, Expr::Literal(..));
                let value = cast(std::mem::take(self.expr), DataType::Timestamp(unit, own.clone()));
                // The engine would cast a constant on the other side instead, and cut its digits.
                *self.expr = match is_constant {
                    true => value,
                    false => typed(value),
                };
            }
            (_, Some(text)) => *self.expr = cast(lit(text), DataType::Timestamp(unit, zone.cloned())),
            _ => {}
        }
    }
}

/// Gives expressions the finest precision among them, if they are timestamps.
fn unify(operands: &mut [Operand<'_>]) {
    let mut zones = operands.iter().filter_map(|operand| match &operand.data_type {
        DataType::Timestamp(_, zone) => Some(zone.clone()),
        _ => None,
    });
    let Some(first) = zones.next() else {
        return;
    };
    let zone = zones.fold(first, |zone, next| zone.or(next));
    let finest = operands.iter().filter_map(|operand| operand.unit).max_by_key(|unit| digits(*unit));
    let Some(finest) = finest else {
        return;
    };
    let own = |operand: &Operand| matches!(operand.data_type, DataType::Timestamp(unit, _) if unit == finest);
    if !operands.iter().all(own) {
        operands.iter_mut().for_each(|operand| operand.cast_to(finest, zone.as_ref()));
    }
}

/// Digits behind the point of a second.
fn digits(unit: TimeUnit) -> usize {
    match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 3,
        TimeUnit::Microsecond => 6,
        TimeUnit::Nanosecond => 9,
    }
}

/// The text of a constant, also of one that is cast to a timestamp.
fn constant_text(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Literal(value, _) => value.try_as_str().flatten().map(str::to_owned),
        Expr::Cast(Cast { expr, field }) => match field.data_type() {
            // A cast to a precision that cuts the text is not undone.
            DataType::Timestamp(unit, _) => {
                constant_text(expr).filter(|text| digits(unit_of(text.clone())) <= digits(*unit))
            }
            _ => None,
        },
        _ => None,
    }
}

/// The precision that text is written with.
fn unit_of(text: String) -> TimeUnit {
    let fraction = text.split_once('.').map_or("", |(_, rest)| rest);
    let fraction = fraction.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
    match fraction.trim_end_matches('0').len() {
        0 => TimeUnit::Second,
        1..=3 => TimeUnit::Millisecond,
        4..=6 => TimeUnit::Microsecond,
        _ => TimeUnit::Nanosecond,
    }
}

/// The coarsest precision that holds a constant.
fn coarsest(value: &ScalarValue, unit: TimeUnit) -> TimeUnit {
    let fits = |coarser: &TimeUnit| {
        let DataType::Timestamp(_, zone) = value.data_type() else {
            return false;
        };
        let there = value.cast_to(&DataType::Timestamp(*coarser, zone));
        there.and_then(|there| there.cast_to(&value.data_type())).is_ok_and(|back| back == *value)
    };
    let coarser = [TimeUnit::Second, TimeUnit::Millisecond, TimeUnit::Microsecond];
    coarser.into_iter().filter(|coarser| digits(*coarser) < digits(unit)).find(fits).unwrap_or(unit)
}

/// A comparison of nanoseconds with a constant that they cannot express, as one with the last or the first of
/// them.
fn beyond_nanoseconds(left: &Expr, op: Operator, right: &Expr, schema: &DFSchema) -> Option<Expr> {
    let (value, op, constant) = match (constant(left), constant(right)) {
        (None, Some(constant)) => (left, op, constant),
        (Some(constant), None) => (right, op.swap()?, constant),
        _ => return None,
    };
    let Ok(DataType::Timestamp(TimeUnit::Nanosecond, zone)) = value.get_type(schema) else {
        return None;
    };
    let micros = constant.cast_to(&DataType::Timestamp(TimeUnit::Microsecond, zone.clone())).ok()?;
    let ScalarValue::TimestampMicrosecond(Some(micros), _) = micros else {
        return None;
    };
    let is_above = match micros.checked_mul(1_000) {
        Some(_) => return None,
        None => micros > 0,
    };
    let holds = match op {
        Operator::Lt | Operator::LtEq => is_above,
        Operator::Gt | Operator::GtEq => !is_above,
        Operator::NotEq | Operator::IsDistinctFrom => true,
        _ => false,
    };
    // Null where the value is null, except for the operators that are never null.
    let last = lit(ScalarValue::TimestampNanosecond(Some(i64::MAX), zone));
    Some(match (op, holds) {
        (Operator::IsDistinctFrom | Operator::IsNotDistinctFrom, holds) => lit(holds),
        (_, true) => value.clone().lt_eq(last),
        (_, false) => value.clone().gt(last),
    })
}

/// Whether a bound is a constant that the nanoseconds between the bounds cannot express.
fn is_beyond_nanoseconds(between: &Between, schema: &DFSchema) -> bool {
    [&between.low, &between.high]
        .into_iter()
        .any(|bound| beyond_nanoseconds(&between.expr, Operator::Lt, bound, schema).is_some())
}

/// The value of a constant date or timestamp, also as text.
fn constant(expr: &Expr) -> Option<ScalarValue> {
    match expr {
        Expr::Literal(value, _) if !value.is_null() => Some(value.clone()),
        Expr::Cast(Cast { expr, field }) => match field.data_type() {
            DataType::Date32 => constant(expr)?.cast_to(&DataType::Date32).ok(),
            DataType::Timestamp(_, zone) => {
                constant(expr)?.cast_to(&DataType::Timestamp(TimeUnit::Microsecond, zone.clone())).ok()
            }
            _ => None,
        },
        _ => None,
    }
}

/// Gives the columns of a union the finest precision of its inputs.
fn unify_union(union: Union) -> Result<Transformed<LogicalPlan>> {
    cast_union_columns(union, |types| {
        let unit = |data_type: &DataType| match data_type {
            DataType::Timestamp(unit, _) => Some(*unit),
            _ => None,
        };
        let finest = types.iter().filter_map(unit).max_by_key(|unit| digits(*unit))?;
        let zone = types.iter().find_map(|data_type| match data_type {
            DataType::Timestamp(_, Some(zone)) => Some(zone.clone()),
            _ => None,
        });
        let to = |data_type: &DataType| match data_type {
            DataType::Timestamp(unit, zone) if *unit != finest => {
                Some(DataType::Timestamp(finest, zone.clone()))
            }
            DataType::Date32 => Some(DataType::Timestamp(finest, zone.clone())),
            _ => None,
        };
        Some(types.iter().map(to).collect())
    })
}
