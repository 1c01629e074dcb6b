//! A scalar subquery with several rows is an error, and one without a row is null, as the SQL standard says.
//!
//! DataFusion joins uncorrelated subqueries without looking at their number of rows when plans may be
//! distributed, and refuses correlated ones that it cannot prove to have one row. Here both are aggregated by
//! a function that fails at the second row.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, Result, ScalarValue, exec_err};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Expr, FetchType, LogicalPlan, LogicalPlanBuilder, Signature,
    Volatility,
};

use crate::analysis::{has_expression, rewrite_expressions};

/// What the rule looks for.
pub(crate) fn concerns(node: &LogicalPlan) -> bool {
    has_expression(node, |expr| matches!(expr, Expr::ScalarSubquery(_)))
}

/// The rule; runs before DataFusion checks subqueries.
pub(crate) fn analyze(plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
    let rewrite = |expr: Expr, _: &datafusion::common::DFSchema| {
        let Expr::ScalarSubquery(mut subquery) = expr else {
            return Ok(Transformed::no(expr));
        };
        if !has_one_row(&subquery.subquery) {
            subquery.subquery = Arc::new(single_row(subquery.subquery.as_ref().clone())?);
        }
        if subquery.outer_ref_columns.is_empty() {
            subquery.subquery = Arc::new(renamed(subquery.subquery.as_ref().clone())?);
        }
        Ok(Transformed::yes(Expr::ScalarSubquery(subquery)))
    };
    rewrite_expressions(plan, &rewrite, &|plan| Ok(Transformed::no(plan)))
}

/// Whether a plan has one row at most. DataFusion's own count takes a query without tables for one without
/// rows.
fn has_one_row(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Projection(projection) => has_one_row(&projection.input),
        LogicalPlan::SubqueryAlias(alias) => has_one_row(&alias.input),
        LogicalPlan::Filter(filter) => has_one_row(&filter.input),
        LogicalPlan::Sort(sort) => sort.fetch.is_some_and(|fetch| fetch <= 1) || has_one_row(&sort.input),
        LogicalPlan::Limit(limit) => {
            matches!(limit.get_fetch_type(), Ok(FetchType::Literal(Some(0 | 1)))) || has_one_row(&limit.input)
        }
        LogicalPlan::Aggregate(aggregate) => aggregate.group_expr.is_empty(),
        LogicalPlan::EmptyRelation(_) => true,
        _ => false,
    }
}

/// A subquery as the one row that it must have at most.
fn single_row(plan: LogicalPlan) -> Result<LogicalPlan> {
    if plan.schema().fields().len() != 1 {
        // DataFusion reports subqueries with several columns.
        return Ok(plan);
    }
    let (qualifier, field) = plan.schema().qualified_field(0);
    let (column, name) = (Column::from((qualifier, field)), field.name().clone());
    let function = Arc::new(AggregateUDF::from(SingleRow::default()));
    let value = function.call(vec![Expr::Column(column)]).alias(name);
    LogicalPlanBuilder::from(plan).aggregate(Vec::<Expr>::new(), vec![value])?.build()
}

/// A subquery whose column has a name that no other has. DataFusion joins it to the query around it, and
/// refuses a name that is there already: `SELECT sum(x) / (SELECT sum(x) FROM t) FROM t`.
fn renamed(plan: LogicalPlan) -> Result<LogicalPlan> {
    if plan.schema().fields().len() != 1 {
        return Ok(plan);
    }
    let value = Expr::Column(Column::from(plan.schema().qualified_field(0))).alias("$value");
    LogicalPlanBuilder::from(plan).project([value])?.build()
}

/// `$single_row(x)`: the value of the only row; null if there is none.
#[derive(PartialEq, Eq, Hash, Debug)]
pub(crate) struct SingleRow(Signature);

impl Default for SingleRow {
    fn default() -> Self {
        Self(Signature::any(1, Volatility::Immutable))
    }
}

impl AggregateUDFImpl for SingleRow {
    fn name(&self) -> &str {
        "$single_row"
    }

    fn signature(&self) -> &Signature {
        &self.0
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types {
            [data_type] => Ok(data_type.clone()),
            _ => exec_err!("{} takes one argument", self.name()),
        }
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(OneValue {
            value: ScalarValue::try_new_null(args.return_field.data_type())?,
            seen: false,
        }))
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        Ok(vec![
            Arc::new(Field::new("value", args.return_field.data_type().clone(), true)),
            Arc::new(Field::new("seen", DataType::Boolean, false)),
        ])
    }
}

/// The value of the row that was seen.
#[derive(Debug)]
struct OneValue {
    value: ScalarValue,
    seen: bool,
}

impl OneValue {
    fn add(&mut self, values: &ArrayRef, row: usize) -> Result<()> {
        if self.seen {
            return exec_err!("a subquery that is used as a value returns more than one row");
        }
        self.value = ScalarValue::try_from_array(values, row)?;
        self.seen = true;
        Ok(())
    }
}

impl Accumulator for OneValue {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let Some(values) = values.first() else {
            return Ok(());
        };
        // Two rows are enough for the error.
        (0..values.len().min(2)).try_for_each(|row| self.add(values, row))
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(self.value.clone())
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.value.size() - size_of_val(&self.value)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.value.clone(), ScalarValue::Boolean(Some(self.seen))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let [values, seen] = states else {
            return exec_err!("the state of a subquery has two columns");
        };
        let seen: &BooleanArray = seen.as_boolean();
        (0..values.len()).filter(|&row| seen.value(row)).try_for_each(|row| self.add(values, row))
    }
}
