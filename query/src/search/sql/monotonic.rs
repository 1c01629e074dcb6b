//! Orders by an expression that grows or falls with a score: `ORDER BY 1 - (v <=> q) DESC`.

use arrow_schema::DataType;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};

use crate::canonical_float::NAME as CANONICAL_FLOAT;

/// What an order by an expression is an order by, and whether it ascends in it: `1 - distance` falls when the
/// distance grows.
pub(super) fn monotonic_in(expr: &Expr, ascending: bool) -> (&Expr, bool) {
    match Step::of(expr) {
        Some((step, inner)) => monotonic_in(inner, ascending == step.grows()),
        None => (expr, ascending),
    }
}

/// The value of an expression for a value of what it is monotonic in. Different values may have the same, by
/// rounding.
pub(super) fn value_for(expr: &Expr, inner: f32) -> f64 {
    match Step::of(expr) {
        Some((step, of)) => step.apply(value_for(of, inner)),
        None => f64::from(inner),
    }
}

/// Whether the value of an expression may be the same for different values of what it is monotonic in.
pub(super) fn rounds(expr: &Expr) -> bool {
    match Step::of(expr) {
        Some((Step::Same | Step::Negate, inner)) => rounds(inner),
        Some(_) => true,
        None => false,
    }
}

/// One operation on the way from a score to the value of an expression.
enum Step {
    Same,
    Round,
    Negate,
    /// With a constant, rounded to single precision if that is `true`.
    Add(f64, bool),
    SubtractFrom(f64, bool),
    Multiply(f64, bool),
    Divide(f64, bool),
}

impl Step {
    /// The operation that an expression is, and what it is applied to; `None` for others.
    fn of(expr: &Expr) -> Option<(Self, &Expr)> {
        match expr {
            // Each simplification of an expression wraps it in an alias with its former name.
            Expr::Alias(alias) => Some((Self::Same, &alias.expr)),
            Expr::Cast(cast) => match cast.field.data_type() {
                DataType::Float64 => Some((Self::Same, &cast.expr)),
                DataType::Float32 => Some((Self::Round, &cast.expr)),
                _ => None,
            },
            Expr::Negative(inner) => Some((Self::Negate, inner)),
            // It makes one of the two zeros.
            Expr::ScalarFunction(call) if call.name() == CANONICAL_FLOAT => {
                call.args.first().map(|inner| (Self::Same, inner))
            }
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => match (number(left), op, number(right)) {
                (None, Operator::Plus, Some((number, rounds))) => Some((Self::Add(number, rounds), left)),
                (Some((number, rounds)), Operator::Plus, None) => Some((Self::Add(number, rounds), right)),
                (None, Operator::Minus, Some((number, rounds))) => Some((Self::Add(-number, rounds), left)),
                (Some((number, rounds)), Operator::Minus, None) => {
                    Some((Self::SubtractFrom(number, rounds), right))
                }
                (None, Operator::Multiply, Some((number, rounds))) if number != 0.0 => {
                    Some((Self::Multiply(number, rounds), left))
                }
                (Some((number, rounds)), Operator::Multiply, None) if number != 0.0 => {
                    Some((Self::Multiply(number, rounds), right))
                }
                (None, Operator::Divide, Some((number, rounds))) if number != 0.0 => {
                    Some((Self::Divide(number, rounds), left))
                }
                _ => None,
            },
            _ => None,
        }
    }

    fn grows(&self) -> bool {
        match self {
            Self::Same | Self::Round | Self::Add(..) => true,
            Self::Negate | Self::SubtractFrom(..) => false,
            Self::Multiply(number, _) | Self::Divide(number, _) => *number > 0.0,
        }
    }

    fn apply(&self, value: f64) -> f64 {
        // The result of one operation in double precision, rounded again, is that in single precision.
        let rounded = |value: f64, rounds: bool| if rounds { f64::from(value as f32) } else { value };
        match *self {
            Self::Same => value,
            Self::Round => rounded(value, true),
            Self::Negate => -value,
            Self::Add(number, rounds) => rounded(value + number, rounds),
            Self::SubtractFrom(number, rounds) => rounded(number - value, rounds),
            Self::Multiply(number, rounds) => rounded(value * number, rounds),
            Self::Divide(number, rounds) => rounded(value / number, rounds),
        }
    }
}

/// The value of a constant if it is a finite float, and whether it is one of single precision.
fn number(expr: &Expr) -> Option<(f64, bool)> {
    let (value, rounds) = match expr {
        Expr::Alias(alias) => return number(&alias.expr),
        Expr::Literal(ScalarValue::Float64(value), _) => ((*value)?, false),
        Expr::Literal(ScalarValue::Float32(value), _) => (f64::from((*value)?), true),
        _ => return None,
    };
    value.is_finite().then_some((value, rounds))
}

#[cfg(test)]
mod tests {
    use datafusion::logical_expr::{col, lit};

    use super::*;

    #[test]
    fn values_and_directions_follow_the_operations() {
        let distance = || col("d");
        for (expr, grows, value) in [
            (distance(), true, 0.25),
            (lit(1_f32) - distance(), false, 0.75),
            (-distance(), false, -0.25),
            (lit(2_f64) * (lit(1_f64) - distance()), false, 1.5),
            (distance() / lit(-4_f64) + lit(1_f64), false, 0.9375),
            (lit(1_f32) - lit(3_f32) * distance(), false, 0.25),
            // In single precision, one less this is one.
            (lit(1_f32) - distance() * lit(1e-9_f32), false, 1.0),
        ] {
            let (inner, ascending) = monotonic_in(&expr, true);
            assert_eq!((inner, ascending), (&distance(), grows), "{expr}");
            assert_eq!(value_for(&expr, 0.25), value, "{expr}");
        }
        for other in [distance() * lit(0_f64), distance() * distance(), lit(1_f64) / distance()] {
            assert_eq!(monotonic_in(&other, true), (&other, true));
        }
    }
}
