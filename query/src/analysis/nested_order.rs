//! Lists and structs have one order, in which a null in them is greater than any value, as in PostgreSQL and
//! DuckDB. DataFusion sorts them so, but takes the null for the smallest in comparisons, `min` and `max`, and
//! loses rows by that where it looks for the first ones of an order.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BinaryArray};
use arrow::row::{RowConverter, SortField};
use arrow_schema::{DataType, SortOptions};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result, exec_err};
use datafusion::functions_aggregate::first_last::first_value_udaf;
use datafusion::logical_expr::expr::{AggregateFunction, AggregateFunctionParams};
use datafusion::logical_expr::{
    AggregateUDF, Between, BinaryExpr, ColumnarValue, Expr, ExprSchemable, LogicalPlan, Operator,
    ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

/// What the rule looks for.
pub(crate) fn concerns(expr: &Expr) -> bool {
    match expr {
        Expr::BinaryExpr(BinaryExpr { op, .. }) => is_order(*op),
        Expr::Between(_) => true,
        Expr::AggregateFunction(call) => EXTREMES.contains(&call.func.name()),
        _ => false,
    }
}

/// Aggregates of the least and of the greatest value.
const EXTREMES: [&str; 2] = ["min", "max"];

/// The rule for comparisons, `min` and `max`; runs when types are coerced.
pub(crate) fn rewrite(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let is_nested = |side: &Expr| side.get_type(schema).is_ok_and(|data_type| has_order(&data_type));
    Ok(match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right })
            if is_order(op) && is_nested(&left) && is_nested(&right) =>
        {
            let [left, right] = [left, right].map(|side| Box::new(key_of(*side)));
            Transformed::yes(Expr::BinaryExpr(BinaryExpr { left, op, right }))
        }
        Expr::Between(Between { expr, negated, low, high })
            if [&expr, &low, &high].into_iter().all(|side| is_nested(side)) =>
        {
            let [expr, low, high] = [expr, low, high].map(|side| Box::new(key_of(*side)));
            Transformed::yes(Expr::Between(Between { expr, negated, low, high }))
        }
        Expr::AggregateFunction(AggregateFunction { func, params })
            if EXTREMES.contains(&func.name()) && params.args.iter().all(is_nested) =>
        {
            Transformed::yes(first_in_order(&func, params))
        }
        expr => Transformed::no(expr),
    })
}

/// `min` or `max` as the first value of an order.
fn first_in_order(func: &AggregateUDF, mut params: AggregateFunctionParams) -> Expr {
    for value in &params.args {
        let is_value = value.clone().is_not_null();
        params.filter = Some(Box::new(match params.filter.take() {
            Some(filter) => filter.and(is_value),
            None => is_value,
        }));
        params.order_by = vec![key_of(value.clone()).sort(func.name() == "min", false)];
    }
    params.distinct = false;
    Expr::AggregateFunction(AggregateFunction { func: first_value_udaf(), params })
}

/// The rule for the keys of sorts.
pub(crate) fn rewrite_sort(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let LogicalPlan::Sort(mut sort) = plan else {
        return Ok(Transformed::no(plan));
    };
    let mut is_changed = false;
    for key in &mut sort.expr {
        if key.expr.get_type(sort.input.schema()).is_ok_and(|data_type| has_order(&data_type)) {
            key.expr = key_of(std::mem::take(&mut key.expr));
            is_changed = true;
        }
    }
    Ok(Transformed::new_transformed(LogicalPlan::Sort(sort), is_changed))
}

pub(crate) fn has_order(data_type: &DataType) -> bool {
    matches!(data_type, DataType::List(_) | DataType::LargeList(_) | DataType::Struct(_))
}

fn is_order(op: Operator) -> bool {
    matches!(op, Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq)
}

fn key_of(value: Expr) -> Expr {
    ScalarUDF::from(OrderKey::default()).call(vec![value])
}

/// `$order_key(v)`: bytes that are ordered as the lists or structs are; null for one that is null as a whole.
#[derive(PartialEq, Eq, Hash, Debug)]
pub(crate) struct OrderKey(Signature);

impl Default for OrderKey {
    fn default() -> Self {
        Self(Signature::any(1, Volatility::Immutable))
    }
}

impl ScalarUDFImpl for OrderKey {
    fn name(&self) -> &str {
        "$order_key"
    }

    fn signature(&self) -> &Signature {
        &self.0
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Binary)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [value] = args.args.as_slice() else {
            return exec_err!("{} takes one value", self.name());
        };
        Ok(ColumnarValue::Array(keys(&value.to_array(args.number_rows)?)?))
    }
}

/// Converts values of a type into keys and back.
pub(super) fn converter(data_type: &DataType) -> Result<RowConverter> {
    let order = SortOptions { descending: false, nulls_first: false };
    Ok(RowConverter::new(vec![SortField::new_with_options(data_type.clone(), order)])?)
}

/// The keys of lists or structs, as [`OrderKey`] returns them.
pub(super) fn keys(values: &ArrayRef) -> Result<ArrayRef> {
    let rows = converter(values.data_type())?.convert_columns(std::slice::from_ref(values))?;
    let key = |row: usize| values.is_valid(row).then(|| rows.row(row));
    let keys: Vec<_> = (0..values.len()).map(key).collect();
    let keys = keys.iter().map(|key| key.as_ref().map(AsRef::<[u8]>::as_ref));
    Ok(Arc::new(keys.collect::<BinaryArray>()))
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, ListArray};
    use arrow::datatypes::Int32Type;

    use super::*;

    #[test]
    fn nulls_in_lists_are_greatest() {
        let lists = [
            Some(vec![]),
            Some(vec![Some(1)]),
            Some(vec![Some(1), Some(0)]),
            Some(vec![Some(1), None]),
            Some(vec![Some(2)]),
            Some(vec![None]),
        ];
        let lists = ListArray::from_iter_primitive::<Int32Type, _, _>(lists);
        let keys = keys(&(Arc::new(lists) as ArrayRef)).unwrap();
        let keys: Vec<&[u8]> = keys.as_binary::<i32>().iter().flatten().collect();
        assert!(keys.is_sorted(), "{keys:?}");
    }
}
