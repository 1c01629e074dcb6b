//! Aggregates of floats over windows that slide, without subtraction.
//!
//! DataFusion subtracts the value that leaves a window. After 1e16 the small values are then lost, and after
//! an infinity or NaN all values are NaN. Here the rows of a window are two stacks, each with the states of
//! its aggregates, which are merged: a row is added, moved and dropped once.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, FieldRef, Schema};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::config::ConfigOptions;
use datafusion::functions_aggregate::all_default_aggregate_functions;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Expr, ExprSchemable, GroupsAccumulator, LogicalPlan,
    ReversedUDAF, Signature, WindowFunctionDefinition,
};
use datafusion::physical_expr::{PhysicalExpr, PhysicalSortExpr};

use crate::analysis::{inner_aggregate, rewrite_expressions};

/// Functions that DataFusion does not compute over windows that slide, or not with nulls alone in them.
const UNSUPPORTED: [&str; 5] = ["bool_and", "bool_or", "bit_and", "bit_or", "bit_xor"];

/// It is zero without rows. DataFusion makes it null in a window without rows.
const REGR_COUNT: &str = "$regr_count";

/// The functions that subtract.
const FUNCTIONS: [&str; 18] = [
    "sum",
    "avg",
    "var",
    "var_pop",
    "stddev",
    "stddev_pop",
    "corr",
    "covar_samp",
    "covar_pop",
    "regr_slope",
    "regr_intercept",
    "regr_count",
    "regr_r2",
    "regr_avgx",
    "regr_avgy",
    "regr_sxx",
    "regr_syy",
    "regr_sxy",
];

/// What the rule looks for.
pub(crate) fn concerns(node: &LogicalPlan) -> bool {
    matches!(node, LogicalPlan::Window(_))
}

/// The rule; runs when types are coerced.
pub(crate) fn analyze(plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
    let functions = functions();
    let rewrite = |expr: Expr, schema: &DFSchema| rewrite(expr, schema, &functions);
    rewrite_expressions(plan, &rewrite, &|plan| Ok(Transformed::no(plan)))
}

fn rewrite(expr: Expr, schema: &DFSchema, functions: &[Arc<AggregateUDF>]) -> Result<Transformed<Expr>> {
    let Expr::WindowFunction(mut window) = expr else {
        return Ok(Transformed::no(expr));
    };
    let WindowFunctionDefinition::AggregateUDF(function) = &window.fun else {
        return Ok(Transformed::no(Expr::WindowFunction(window)));
    };
    // Sums of integers in doubles are exact, if they are not very large and none is squared.
    let is_mean = function.name() == "avg";
    let is_integer = |arg: &Expr| match arg {
        Expr::Cast(cast) if is_mean => cast.expr.get_type(schema).is_ok_and(|data_type| {
            data_type.is_integer() && data_type.primitive_width().is_some_and(|width| width <= 4)
        }),
        _ => false,
    };
    let is_float =
        |arg: &Expr| arg.get_type(schema).is_ok_and(|data_type| data_type.is_floating()) && !is_integer(arg);
    let own = functions.iter().find(|own| own.name().strip_prefix('$') == Some(function.name()));
    let is_unsupported = UNSUPPORTED.contains(&function.name());
    match own {
        Some(own) if is_unsupported || window.params.args.iter().any(is_float) => {
            window.fun = WindowFunctionDefinition::AggregateUDF(own.clone());
            Ok(Transformed::yes(Expr::WindowFunction(window)))
        }
        _ => Ok(Transformed::no(Expr::WindowFunction(window))),
    }
}

/// The functions that the rule puts into plans.
pub(crate) fn functions() -> Vec<Arc<AggregateUDF>> {
    let all = all_default_aggregate_functions().into_iter();
    let subtracting =
        all.filter(|function| FUNCTIONS.contains(&function.name()) || UNSUPPORTED.contains(&function.name()));
    subtracting
        .map(|inner| {
            let name = format!("${}", inner.name());
            Arc::new(AggregateUDF::from(SlidingFunction { name, inner }))
        })
        .collect()
}

/// An aggregate function of DataFusion with other sliding windows.
#[derive(PartialEq, Eq, Hash, Debug)]
struct SlidingFunction {
    name: String,
    inner: Arc<AggregateUDF>,
}

impl AggregateUDFImpl for SlidingFunction {
    fn name(&self) -> &str {
        &self.name
    }

    inner_aggregate!();

    fn default_value(&self, data_type: &DataType) -> Result<ScalarValue> {
        match self.name.as_str() {
            REGR_COUNT => ScalarValue::new_zero(data_type),
            _ => self.inner.default_value(data_type),
        }
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        self.inner.accumulator(args)
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        if args.is_distinct {
            return self.inner.create_sliding_accumulator(args);
        }
        let factory = AccumulatorFactory::new(self.inner.clone(), &args);
        let incoming = factory.accumulator()?;
        Ok(Box::new(SlidingAccumulator { factory, outgoing: vec![], rows: vec![], incoming }))
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        self.inner.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        self.inner.create_groups_accumulator(args)
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }
}

/// Makes accumulators of a function.
#[derive(Debug)]
struct AccumulatorFactory {
    function: Arc<AggregateUDF>,
    return_field: FieldRef,
    schema: Schema,
    ignore_nulls: bool,
    order_bys: Vec<PhysicalSortExpr>,
    is_reversed: bool,
    name: String,
    exprs: Vec<Arc<dyn PhysicalExpr>>,
    expr_fields: Vec<FieldRef>,
}

impl AccumulatorFactory {
    fn new(function: Arc<AggregateUDF>, args: &AccumulatorArgs) -> Self {
        Self {
            function,
            return_field: args.return_field.clone(),
            schema: args.schema.clone(),
            ignore_nulls: args.ignore_nulls,
            order_bys: args.order_bys.to_vec(),
            is_reversed: args.is_reversed,
            name: args.name.to_owned(),
            exprs: args.exprs.to_vec(),
            expr_fields: args.expr_fields.to_vec(),
        }
    }

    fn accumulator(&self) -> Result<Box<dyn Accumulator>> {
        self.function.accumulator(AccumulatorArgs {
            return_field: self.return_field.clone(),
            schema: &self.schema,
            ignore_nulls: self.ignore_nulls,
            order_bys: &self.order_bys,
            is_reversed: self.is_reversed,
            name: &self.name,
            is_distinct: false,
            exprs: &self.exprs,
            expr_fields: &self.expr_fields,
        })
    }
}

/// The rows of a window as two stacks.
#[derive(Debug)]
struct SlidingAccumulator {
    factory: AccumulatorFactory,
    /// For each of the older rows, the state of the aggregate from that row to the last of the older ones;
    /// the oldest is at the top.
    outgoing: Vec<Vec<ScalarValue>>,
    /// The younger rows, each as its arguments.
    rows: Vec<Vec<ArrayRef>>,
    /// The aggregate of the younger rows.
    incoming: Box<dyn Accumulator>,
}

impl SlidingAccumulator {
    /// Makes the younger rows the older ones, of which there are none.
    fn turn(&mut self) -> Result<()> {
        let mut from_last = self.factory.accumulator()?;
        for row in std::mem::take(&mut self.rows).into_iter().rev() {
            from_last.update_batch(&row)?;
            self.outgoing.push(from_last.state()?);
        }
        self.incoming = self.factory.accumulator()?;
        Ok(())
    }

    /// The aggregate of all rows.
    fn merged(&mut self) -> Result<Box<dyn Accumulator>> {
        let mut merged = self.factory.accumulator()?;
        let states = self.outgoing.last().cloned().into_iter().chain([self.incoming.state()?]);
        for state in states {
            let state: Vec<ArrayRef> = state.iter().map(ScalarValue::to_array).collect::<Result<_>>()?;
            merged.merge_batch(&state)?;
        }
        Ok(merged)
    }
}

impl Accumulator for SlidingAccumulator {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let count = values.first().map_or(0, |values| values.len());
        let row = |row: usize| values.iter().map(|values| values.slice(row, 1)).collect();
        self.rows.extend((0..count).map(row));
        self.incoming.update_batch(values)
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for _ in 0..values.first().map_or(0, |values| values.len()) {
            if self.outgoing.is_empty() {
                self.turn()?;
            }
            self.outgoing.pop();
        }
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        match self.outgoing.is_empty() {
            true => self.incoming.evaluate(),
            false => self.merged()?.evaluate(),
        }
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.merged()?.state()
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.incoming.merge_batch(states)
    }

    fn size(&self) -> usize {
        let state = self.outgoing.first().map_or(0, |state| state.len() * size_of::<ScalarValue>());
        let row = self.rows.first().map_or(0, |row| row.len() * size_of::<ArrayRef>());
        size_of_val(self) + self.outgoing.capacity() * state + self.rows.capacity() * row
    }
}
