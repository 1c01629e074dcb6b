//! `percentile_cont` between two values. DataFusion cuts the weight of the second value to six digits:
//! `percentile_cont(0.1234567)` of 0 and 1e9 is 123456000. Here the values are collected, and then counted.

use std::sync::Arc;

use arrow::array::{Array, AsArray, Float64Array};
use arrow::compute::cast as cast_array;
use arrow::datatypes::Float64Type;
use arrow_schema::{DataType, Field};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, Result, exec_err};
use datafusion::functions_aggregate::array_agg::array_agg_udaf;
use datafusion::logical_expr::expr::{AggregateFunction, AggregateFunctionParams};
use datafusion::logical_expr::{
    ColumnarValue, Expr, LogicalPlan, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
    cast,
};

use crate::analysis::ordered_sets::collect_lists;

/// What the rule looks for.
pub(crate) fn concerns(node: &LogicalPlan) -> bool {
    matches!(node, LogicalPlan::Aggregate(aggregate) if aggregate.aggr_expr.iter().any(is_percentile))
}

/// The rule; runs before types are coerced.
pub(crate) fn rewrite(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    match plan {
        LogicalPlan::Aggregate(aggregate) if aggregate.aggr_expr.iter().any(is_percentile) => {
            collect_lists(aggregate, as_list).map(Transformed::yes)
        }
        plan => Ok(Transformed::no(plan)),
    }
}

fn is_percentile(expr: &Expr) -> bool {
    match expr {
        Expr::AggregateFunction(function) => function.func.name() == "percentile_cont",
        Expr::Alias(alias) => is_percentile(&alias.expr),
        _ => false,
    }
}

/// The list of the values of a percentile, and the percentile of that list, of the type `data_type`.
fn as_list(expr: &Expr, index: usize, data_type: &DataType) -> Option<(Expr, Expr)> {
    let Expr::AggregateFunction(AggregateFunction { params, .. }) = expr else {
        return None;
    };
    if !is_percentile(expr) {
        return None;
    }
    let AggregateFunctionParams { args, distinct, filter, order_by, .. } = params;
    let [value, share] = args.as_slice() else {
        return None;
    };
    let is_descending = order_by.first().is_some_and(|sort| !sort.asc);
    let has_value = value.clone().is_not_null();
    let filter = match filter {
        Some(filter) => filter.as_ref().clone().and(has_value),
        None => has_value,
    };
    let name = format!("$values_{index}");
    let params = AggregateFunctionParams {
        args: vec![cast(value.clone(), DataType::Float64)],
        distinct: *distinct,
        filter: Some(Box::new(filter)),
        order_by: vec![],
        null_treatment: None,
    };
    let list = Expr::AggregateFunction(AggregateFunction { func: array_agg_udaf(), params }).alias(&name);
    let percentile = ScalarUDF::from(Percentile::new(is_descending));
    let value = percentile.call(vec![Expr::Column(Column::new_unqualified(name)), share.clone()]);
    Some((list, cast(value, data_type.clone())))
}

/// `$percentile(list, share)` and `$percentile_desc(list, share)`: the value at a share of the way from the
/// first to the last one in order, between two values as far as the share says.
#[derive(PartialEq, Eq, Hash, Debug)]
pub(crate) struct Percentile {
    is_descending: bool,
    signature: Signature,
}

impl Percentile {
    pub(crate) fn new(is_descending: bool) -> Self {
        Self { is_descending, signature: Signature::any(2, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for Percentile {
    fn name(&self) -> &str {
        if self.is_descending { "$percentile_desc" } else { "$percentile" }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [lists, shares] = args.args.as_slice() else {
            return exec_err!("{} takes a list and a share", self.name());
        };
        let floats = DataType::List(Arc::new(Field::new("item", DataType::Float64, true)));
        let lists = cast_array(&lists.to_array(args.number_rows)?, &floats)?;
        let shares = cast_array(&shares.to_array(args.number_rows)?, &DataType::Float64)?;
        let (lists, shares) = (lists.as_list::<i32>(), shares.as_primitive::<Float64Type>());
        let percentile = |row: usize| -> Result<Option<f64>> {
            let share = shares.value(row);
            if shares.is_null(row) || !(0.0..=1.0).contains(&share) {
                return exec_err!("percentile_cont({share}): a number from 0 to 1 is needed");
            }
            if lists.is_null(row) {
                return Ok(None);
            }
            let values = lists.value(row);
            let mut values = values.as_primitive::<Float64Type>().iter().flatten().collect::<Vec<f64>>();
            values.sort_unstable_by(f64::total_cmp);
            if self.is_descending {
                values.reverse();
            }
            Ok(interpolate(&values, share))
        };
        let found = (0..lists.len()).map(percentile).collect::<Result<Float64Array>>()?;
        Ok(ColumnarValue::Array(Arc::new(found)))
    }
}

/// The value at a share of the way through sorted values; `None` if there are none.
pub(super) fn interpolate(values: &[f64], share: f64) -> Option<f64> {
    let place = share * values.len().checked_sub(1)? as f64;
    let (lower, upper) = (values[place.floor() as usize], values[place.ceil() as usize]);
    Some(if lower == upper { lower } else { lower + (upper - lower) * place.fract() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_exact() {
        assert_eq!(interpolate(&[0.0, 1e9], 0.123_456_7), Some(123_456_700.0));
        assert_eq!(interpolate(&[1.0, 2.0, 4.0], 0.5), Some(2.0));
        assert_eq!(interpolate(&[f64::INFINITY, f64::INFINITY], 0.3), Some(f64::INFINITY));
        assert_eq!(interpolate(&[], 0.5), None);
    }
}
