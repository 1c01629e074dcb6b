//! Intervals are compared by their length, as in DuckDB and PostgreSQL: a month has 30 days, a day 24 hours.
//! DataFusion compares months first, then days, then the rest: `INTERVAL '1 day' = INTERVAL '24 hours'` is
//! false there.

use std::sync::Arc;

use arrow::array::{AsArray, Decimal128Array};
use arrow::compute::cast;
use arrow::datatypes::{IntervalMonthDayNano, IntervalMonthDayNanoType};
use arrow_schema::{DECIMAL128_MAX_PRECISION, DataType, IntervalUnit};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result, exec_err};
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, ExprSchemable, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};

/// The rule; runs when types are coerced.
pub(crate) fn rewrite(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let is_interval = |side: &Expr| matches!(side.get_type(schema), Ok(DataType::Interval(_)));
    Ok(match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right })
            if op.supports_propagation() && is_interval(&left) && is_interval(&right) =>
        {
            let length = |side: Expr| Box::new(ScalarUDF::from(IntervalLength::default()).call(vec![side]));
            Transformed::yes(Expr::BinaryExpr(BinaryExpr { left: length(*left), op, right: length(*right) }))
        }
        expr => Transformed::no(expr),
    })
}

/// `$interval_length(i)`: the length of an interval in nanoseconds.
#[derive(PartialEq, Eq, Hash, Debug)]
pub(crate) struct IntervalLength(Signature);

impl Default for IntervalLength {
    fn default() -> Self {
        Self(Signature::any(1, Volatility::Immutable))
    }
}

const NANOS_PER_DAY: i128 = 24 * 60 * 60 * 1_000_000_000;
const DAYS_PER_MONTH: i128 = 30;

impl ScalarUDFImpl for IntervalLength {
    fn name(&self) -> &str {
        "$interval_length"
    }

    fn signature(&self) -> &Signature {
        &self.0
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Decimal128(DECIMAL128_MAX_PRECISION, 0))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [interval] = args.args.as_slice() else {
            return exec_err!("{} takes one interval", self.name());
        };
        let intervals = interval.to_array(args.number_rows)?;
        let intervals = cast(&intervals, &DataType::Interval(IntervalUnit::MonthDayNano))?;
        let lengths: Decimal128Array =
            intervals.as_primitive::<IntervalMonthDayNanoType>().unary(|interval| {
                let IntervalMonthDayNano { months, days, nanoseconds } = interval;
                let days = i128::from(months) * DAYS_PER_MONTH + i128::from(days);
                days * NANOS_PER_DAY + i128::from(nanoseconds)
            });
        let lengths = lengths.with_precision_and_scale(DECIMAL128_MAX_PRECISION, 0)?;
        Ok(ColumnarValue::Array(Arc::new(lengths)))
    }
}
