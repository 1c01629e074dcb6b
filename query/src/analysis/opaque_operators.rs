//! Operators as functions, where DataFusion simplifies them to what they are not: `x ^ x` is zero also if `x`
//! is null (apache/datafusion#24246), and `random() BETWEEN a AND b` draws two numbers
//! (apache/datafusion#25457).

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, downcast_integer_array};
use arrow::compute::kernels::bitwise::bitwise_not;
use arrow::compute::kernels::cmp::{gt_eq, lt_eq};
use arrow::compute::{and_kleene, binary, cast};
use arrow::datatypes::{Int64Type, UInt64Type};
use arrow_schema::DataType;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result, exec_err, plan_err};
use datafusion::logical_expr::{
    Between, BinaryExpr, ColumnarValue, Expr, Operator, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, Volatility, not,
};

/// What the rule looks for.
pub(crate) fn concerns(expr: &Expr) -> bool {
    match expr {
        Expr::BinaryExpr(BinaryExpr { op, .. }) => *op == Operator::BitwiseXor,
        Expr::Between(Between { expr, .. }) => expr.is_volatile(),
        _ => false,
    }
}

/// The rule; runs when types are coerced.
pub(crate) fn rewrite(expr: Expr, _: &DFSchema) -> Result<Transformed<Expr>> {
    Ok(match expr {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::BitwiseXor, right }) => {
            Transformed::yes(ScalarUDF::from(ExclusiveOr::default()).call(vec![*left, *right]))
        }
        Expr::Between(Between { expr, negated, low, high }) if expr.is_volatile() => {
            let within = ScalarUDF::from(Within::default()).call(vec![*expr, *low, *high]);
            Transformed::yes(if negated { not(within) } else { within })
        }
        expr => Transformed::no(expr),
    })
}

/// All functions that the rule uses, and [`BITWISE_NOT`].
pub(crate) fn functions() -> [Arc<ScalarUDF>; 3] {
    [
        Arc::new(ExclusiveOr::default().into()),
        Arc::new(Within::default().into()),
        Arc::new(BitwiseNot::default().into()),
    ]
}

/// Name of the function that is the operator `~`, which the planner does not know.
pub const BITWISE_NOT: &str = "$bitwise_not";

/// `$bitwise_not(a)` of an integer.
#[derive(PartialEq, Eq, Hash, Debug)]
struct BitwiseNot(Signature);

impl Default for BitwiseNot {
    fn default() -> Self {
        Self(Signature::any(1, Volatility::Immutable))
    }
}

impl ScalarUDFImpl for BitwiseNot {
    fn name(&self) -> &str {
        BITWISE_NOT
    }

    fn signature(&self) -> &Signature {
        &self.0
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types {
            [integer] if integer.is_integer() || integer.is_null() => Ok(integer.clone()),
            _ => plan_err!("~ takes an integer"),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let values = args.args.first().map(|value| value.to_array(args.number_rows)).transpose()?;
        let Some(values) = values else {
            return exec_err!("~ takes an integer");
        };
        let array = values.as_ref();
        let inverted: ArrayRef = downcast_integer_array!(
            array => Arc::new(bitwise_not(array)?),
            _ => values.clone(),
        );
        Ok(ColumnarValue::Array(inverted))
    }
}

/// `$exclusive_or(a, b)` of integers of one type.
#[derive(PartialEq, Eq, Hash, Debug)]
struct ExclusiveOr(Signature);

impl Default for ExclusiveOr {
    fn default() -> Self {
        Self(Signature::any(2, Volatility::Immutable))
    }
}

impl ScalarUDFImpl for ExclusiveOr {
    fn name(&self) -> &str {
        "$exclusive_or"
    }

    fn signature(&self) -> &Signature {
        &self.0
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types {
            [left, right] if left == right => Ok(left.clone()),
            _ => exec_err!("{} takes two integers of one type", self.name()),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let values = ColumnarValue::values_to_arrays(&args.args)?;
        let [left, right] = values.as_slice() else {
            return exec_err!("{} takes two integers", self.name());
        };
        let narrow = left.data_type().clone();
        // Bits are the same in 64, whatever the sign.
        let wide = if narrow.is_unsigned_integer() { DataType::UInt64 } else { DataType::Int64 };
        let (left, right) = (cast(left, &wide)?, cast(right, &wide)?);
        let found = match (left.as_primitive_opt::<UInt64Type>(), right.as_primitive_opt::<UInt64Type>()) {
            (Some(left), Some(right)) => {
                cast(&binary::<_, _, _, UInt64Type>(left, right, |a, b| a ^ b)?, &narrow)?
            }
            _ => {
                let (left, right) = (left.as_primitive::<Int64Type>(), right.as_primitive::<Int64Type>());
                cast(&binary::<_, _, _, Int64Type>(left, right, |a, b| a ^ b)?, &narrow)?
            }
        };
        Ok(ColumnarValue::Array(found))
    }
}

/// `$within(value, low, high)`: what `BETWEEN` is, for a value that is another one each time.
#[derive(PartialEq, Eq, Hash, Debug)]
struct Within(Signature);

impl Default for Within {
    fn default() -> Self {
        Self(Signature::any(3, Volatility::Immutable))
    }
}

impl ScalarUDFImpl for Within {
    fn name(&self) -> &str {
        "$within"
    }

    fn signature(&self) -> &Signature {
        &self.0
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let values = args.args.iter().map(|value| value.to_array(args.number_rows));
        let [value, low, high] = values
            .collect::<Result<Vec<_>>>()?
            .try_into()
            .map_err(|_| datafusion::common::exec_datafusion_err!("{} takes three values", self.name()))?;
        let found = and_kleene(&gt_eq(&value, &low)?, &lt_eq(&value, &high)?)?;
        Ok(ColumnarValue::Array(Arc::new(found)))
    }
}
