//! Sums, differences, products and negations of integers that overflow are errors, and those of decimals that
//! have more digits than their type. DataFusion wraps around, or makes decimals that are none. See
//! apache/datafusion#3520. Quotients of decimals are doubles; a divisor of zero is an error all the same.

use std::hash::Hash;
use std::sync::Arc;

use arrow::array::{Array, AsArray, Datum};
use arrow::compute::kernels::numeric;
use arrow::datatypes::{Decimal128Type, DecimalType, Float64Type};
use arrow_schema::{DECIMAL128_MAX_PRECISION, DataType};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{Result, ScalarValue, exec_err};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, ExprSchemable, LogicalPlan, Operator, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility, cast, lit,
};

use crate::analysis::{has_expression, rewrite_expressions};

/// What the rule looks for.
pub(crate) fn concerns(node: &LogicalPlan) -> bool {
    has_expression(node, |expr| match expr {
        Expr::BinaryExpr(BinaryExpr { op, .. }) => op.is_numerical_operators(),
        expr => matches!(expr, Expr::Negative(_)),
    })
}

/// The rule; runs when types are coerced.
pub(crate) fn analyze(plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
    let rewrite = |expr: Expr, schema: &datafusion::common::DFSchema| {
        if let Expr::Negative(inner) = &expr
            && !matches!(inner.as_ref(), Expr::Literal(..))
            && let Ok(data_type) = inner.get_type(schema)
            && data_type.is_signed_integer()
            && let Some(function) = CheckedOperator::of(Operator::Minus)
        {
            let zero = lit(ScalarValue::new_zero(&data_type)?);
            return Ok(Transformed::yes(ScalarUDF::from(function).call(vec![zero, inner.as_ref().clone()])));
        }
        let Expr::BinaryExpr(BinaryExpr { left, op, right }) = expr else {
            return Ok(Transformed::no(expr));
        };
        let is_integer = |side: &Expr| side.get_type(schema).is_ok_and(|t| t.is_integer());
        let function = CheckedOperator::of(op)
            .filter(|_| op != Operator::Divide && is_integer(&left) && is_integer(&right));
        if let Some(function) = function {
            return Ok(Transformed::yes(ScalarUDF::from(function).call(vec![*left, *right])));
        }
        let expr = Expr::BinaryExpr(BinaryExpr { left, op, right });
        let is_sum = matches!(op, Operator::Plus | Operator::Minus | Operator::Multiply);
        Ok(match expr.get_type(schema) {
            // Types with fewer digits have room for every result.
            Ok(DataType::Decimal128(DECIMAL128_MAX_PRECISION, _)) if is_sum => {
                Transformed::yes(ScalarUDF::from(CheckedDigits::new()).call(vec![expr]))
            }
            _ => Transformed::no(expr),
        })
    };
    rewrite_expressions(plan, &rewrite, &|plan| Ok(Transformed::no(plan)))
}

/// All functions that the rule uses.
pub(crate) fn functions() -> impl Iterator<Item = Arc<ScalarUDF>> {
    [Operator::Plus, Operator::Minus, Operator::Multiply, Operator::Divide]
        .into_iter()
        .filter_map(CheckedOperator::of)
        .map(|function| Arc::new(ScalarUDF::from(function)))
        .chain([Arc::new(ScalarUDF::from(CheckedDigits::new()))])
}

/// The quotient of two numbers as a double; an error if the divisor is zero.
pub(crate) fn divide(left: Expr, right: Expr) -> Expr {
    let double = |side| cast(side, DataType::Float64);
    match CheckedOperator::of(Operator::Divide) {
        Some(function) => ScalarUDF::from(function).call(vec![double(left), double(right)]),
        None => double(left) / double(right),
    }
}

/// Whether a number that is not null is divided by zero. A side of one value stands for all rows.
fn divides_by_zero(dividends: &dyn Datum, divisors: &dyn Datum) -> bool {
    let (dividends, one_dividend) = dividends.get();
    let (divisors, one_divisor) = divisors.get();
    let divisors = divisors.as_primitive::<Float64Type>();
    let at = |row: usize, one: bool| if one { 0 } else { row };
    let rows = if one_dividend { divisors.len() } else { dividends.len() };
    (0..rows).any(|row| {
        let divisor = at(row, one_divisor);
        divisors.is_valid(divisor)
            && divisors.value(divisor) == 0.0
            && dividends.is_valid(at(row, one_dividend))
    })
}

/// `+`, `-` or `*` of two integers of one type, or `/` of two doubles.
#[derive(PartialEq, Eq, Hash, Debug)]
struct CheckedOperator {
    op: Operator,
    name: &'static str,
    signature: Signature,
}

impl CheckedOperator {
    fn of(op: Operator) -> Option<Self> {
        let name = match op {
            Operator::Plus => "$checked_add",
            Operator::Minus => "$checked_subtract",
            Operator::Multiply => "$checked_multiply",
            Operator::Divide => "$checked_divide",
            _ => return None,
        };
        Some(Self { op, name, signature: Signature::any(2, Volatility::Immutable) })
    }
}

impl ScalarUDFImpl for CheckedOperator {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types {
            [left, right] if left == right => Ok(left.clone()),
            _ => exec_err!("{} takes two integers of one type", self.name),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [left, right] = args.args.as_slice() else {
            return exec_err!("{} takes two integers", self.name);
        };
        let apply = |left: &dyn Datum, right: &dyn Datum| {
            let result = match self.op {
                Operator::Plus => numeric::add(left, right),
                Operator::Minus => numeric::sub(left, right),
                Operator::Multiply => numeric::mul(left, right),
                _ => {
                    if divides_by_zero(left, right) {
                        return exec_err!("division by zero");
                    }
                    numeric::div(left, right)
                }
            };
            result.map_err(datafusion::error::DataFusionError::from)
        };
        match (left, right) {
            (ColumnarValue::Array(left), ColumnarValue::Array(right)) => {
                apply(left, right).map(ColumnarValue::Array)
            }
            (ColumnarValue::Array(left), ColumnarValue::Scalar(right)) => {
                apply(left, &right.to_scalar()?).map(ColumnarValue::Array)
            }
            (ColumnarValue::Scalar(left), ColumnarValue::Array(right)) => {
                apply(&left.to_scalar()?, right).map(ColumnarValue::Array)
            }
            (ColumnarValue::Scalar(left), ColumnarValue::Scalar(right)) => {
                let result = apply(&left.to_scalar()?, &right.to_scalar()?)?;
                ScalarValue::try_from_array(&result, 0).map(ColumnarValue::Scalar)
            }
        }
    }
}

/// A decimal as it is; an error if it has more digits than its type.
#[derive(PartialEq, Eq, Hash, Debug)]
struct CheckedDigits {
    signature: Signature,
}

impl CheckedDigits {
    fn new() -> Self {
        Self { signature: Signature::any(1, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for CheckedDigits {
    fn name(&self) -> &str {
        "$checked_digits"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types {
            [decimal @ DataType::Decimal128(..)] => Ok(decimal.clone()),
            _ => exec_err!("{} takes a decimal", self.name()),
        }
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let Some(value) = args.args.pop() else {
            return exec_err!("{} takes a decimal", self.name());
        };
        match &value {
            ColumnarValue::Array(array) => {
                let decimals = array.as_primitive::<Decimal128Type>();
                decimals.validate_decimal_precision(decimals.precision())?;
            }
            ColumnarValue::Scalar(ScalarValue::Decimal128(Some(decimal), precision, scale)) => {
                Decimal128Type::validate_decimal_precision(*decimal, *precision, *scale)?;
            }
            ColumnarValue::Scalar(_) => {}
        }
        Ok(value)
    }
}
