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
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::{
    Between, BinaryExpr, ColumnarValue, Expr, ExprSchemable, LogicalPlan, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility,
};

/// What the rule looks for.
pub(crate) fn concerns(expr: &Expr) -> bool {
    match expr {
        Expr::BinaryExpr(BinaryExpr { op, .. }) => op.supports_propagation(),
        Expr::Between(_) | Expr::InList(_) | Expr::WindowFunction(_) => true,
        _ => false,
    }
}

/// The rule; runs when types are coerced.
pub(crate) fn rewrite(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let is_interval = |side: &Expr| matches!(side.get_type(schema), Ok(DataType::Interval(_)));
    Ok(match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right })
            if op.supports_propagation() && is_interval(&left) && is_interval(&right) =>
        {
            let [left, right] = [left, right].map(|side| Box::new(length_of(*side)));
            Transformed::yes(Expr::BinaryExpr(BinaryExpr { left, op, right }))
        }
        Expr::Between(Between { expr, negated, low, high }) if is_interval(&expr) => {
            let [expr, low, high] = [expr, low, high].map(|side| Box::new(length_of(*side)));
            Transformed::yes(Expr::Between(Between { expr, negated, low, high }))
        }
        Expr::InList(InList { expr, list, negated }) if is_interval(&expr) => {
            let list = list.into_iter().map(length_of).collect();
            Transformed::yes(Expr::InList(InList { expr: Box::new(length_of(*expr)), list, negated }))
        }
        Expr::WindowFunction(mut window) => {
            let params = &mut window.params;
            let orders = params.order_by.iter_mut().map(|sort| &mut sort.expr);
            let keys = params.partition_by.iter_mut().chain(orders).filter(|key| is_interval(key));
            let mut is_changed = false;
            for key in keys {
                *key = length_of(std::mem::take(key));
                is_changed = true;
            }
            Transformed::new_transformed(Expr::WindowFunction(window), is_changed)
        }
        expr => Transformed::no(expr),
    })
}

/// What the rule for sorts looks for.
pub(crate) fn concerns_sort(node: &LogicalPlan) -> bool {
    matches!(node, LogicalPlan::Sort(_))
}

/// The rule for the keys of sorts.
pub(crate) fn rewrite_sort(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let LogicalPlan::Sort(mut sort) = plan else {
        return Ok(Transformed::no(plan));
    };
    let mut is_changed = false;
    for key in &mut sort.expr {
        if matches!(key.expr.get_type(sort.input.schema()), Ok(DataType::Interval(_))) {
            key.expr = length_of(std::mem::take(&mut key.expr));
            is_changed = true;
        }
    }
    Ok(Transformed::new_transformed(LogicalPlan::Sort(sort), is_changed))
}

fn length_of(interval: Expr) -> Expr {
    ScalarUDF::from(IntervalLength::default()).call(vec![interval])
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
