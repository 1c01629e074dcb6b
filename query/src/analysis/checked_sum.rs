//! A sum of 64-bit integers or of wide decimals that does not fit is an error. DataFusion wraps around.
//! See apache/datafusion#3520.
//!
//! The values are summed as wider decimals, and the sum is cast back, which fails if it is too large.

use arrow_schema::DataType;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::expr::{AggregateFunction, Alias, WindowFunction};
use datafusion::logical_expr::{
    Aggregate, Cast, Expr, ExprSchemable, LogicalPlan, Window, WindowFunctionDefinition, cast,
};

use crate::analysis::{change_results, rewrite_expressions};

/// Digits of decimals of which ten billion fit into 38 digits together.
const DECIMAL_DIGITS_SAFE: u8 = 28;

/// What the rule looks for.
pub(crate) fn concerns(node: &LogicalPlan) -> bool {
    matches!(node, LogicalPlan::Aggregate(_) | LogicalPlan::Window(_))
}

/// The rule; runs when types are coerced.
pub(crate) fn analyze(plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
    rewrite_expressions(plan, &|expr, _| Ok(Transformed::no(expr)), &|plan| match plan {
        LogicalPlan::Aggregate(Aggregate { input, group_expr, aggr_expr, schema, .. }) => {
            let (sums, types) = widen_all(aggr_expr, input.schema())?;
            if types.iter().all(Option::is_none) {
                let plan = Aggregate::try_new_with_schema(input, group_expr, sums, schema)?;
                return Ok(Transformed::no(LogicalPlan::Aggregate(plan)));
            }
            let groups = schema.fields().len() - types.len();
            let plan = LogicalPlan::Aggregate(Aggregate::try_new(input, group_expr, sums)?);
            narrow(plan, groups, &types).map(Transformed::yes)
        }
        LogicalPlan::Window(Window { input, window_expr, schema }) => {
            let (sums, types) = widen_all(window_expr, input.schema())?;
            if types.iter().all(Option::is_none) {
                let plan = Window { input, window_expr: sums, schema };
                return Ok(Transformed::no(LogicalPlan::Window(plan)));
            }
            let before = schema.fields().len() - types.len();
            narrow(LogicalPlan::Window(Window::try_new(sums, input)?), before, &types).map(Transformed::yes)
        }
        plan => Ok(Transformed::no(plan)),
    })
}

/// Widens the sums among expressions. Returns the expressions, and of each widened sum the type that it had.
fn widen_all(exprs: Vec<Expr>, schema: &DFSchema) -> Result<(Vec<Expr>, Vec<Option<DataType>>)> {
    let mut types = Vec::with_capacity(exprs.len());
    let widened = exprs
        .into_iter()
        .map(|expr| {
            let name = expr.schema_name().to_string();
            let (expr, sum_type) = widen(expr, schema)?;
            types.push(sum_type.clone());
            // Physical planning looks for windows below one alias, not below two.
            let is_named = matches!(expr, Expr::Alias(_));
            Ok(if sum_type.is_some() && !is_named { expr.alias(name) } else { expr })
        })
        .collect::<Result<_>>()?;
    Ok((widened, types))
}

/// Widens the argument of a sum of 64-bit integers. Returns the type of the sum if it was one.
fn widen(expr: Expr, schema: &DFSchema) -> Result<(Expr, Option<DataType>)> {
    match expr {
        Expr::Alias(Alias { expr, relation, name, metadata }) => {
            let (expr, sum_type) = widen(*expr, schema)?;
            let alias = Alias { expr: Box::new(expr), relation, name, metadata };
            Ok((Expr::Alias(alias), sum_type))
        }
        Expr::AggregateFunction(AggregateFunction { func, mut params }) => {
            let sum_type = match params.args.as_mut_slice() {
                [argument] if func.name() == "sum" => widen_argument(argument, schema)?,
                _ => None,
            };
            Ok((Expr::AggregateFunction(AggregateFunction { func, params }), sum_type))
        }
        Expr::WindowFunction(mut window) => {
            let WindowFunction { fun, params } = window.as_mut();
            let sum_type = match (&*fun, params.args.as_mut_slice()) {
                // DataFusion has distinct sums over windows of integers only.
                (WindowFunctionDefinition::AggregateUDF(func), [argument])
                    if func.name() == "sum" && !params.distinct =>
                {
                    widen_argument(argument, schema)?
                }
                _ => None,
            };
            Ok((Expr::WindowFunction(window), sum_type))
        }
        other => Ok((other, None)),
    }
}

/// Casts an argument to a decimal if it is a 64-bit integer, whose type is returned. Narrower integers, which
/// DataFusion has cast to 64 bits, would need four billion rows to overflow.
fn widen_argument(argument: &mut Expr, schema: &DFSchema) -> Result<Option<DataType>> {
    let data_type = argument.get_type(schema)?;
    if let DataType::Decimal128(precision, scale) = data_type
        && precision > DECIMAL_DIGITS_SAFE
    {
        *argument = cast(std::mem::take(argument), DataType::Decimal256(76, scale));
        return Ok(Some(DataType::Decimal128(38, scale)));
    }
    if !matches!(data_type, DataType::Int64 | DataType::UInt64) {
        return Ok(None);
    }
    if let Expr::Cast(Cast { expr, .. }) = argument
        && expr.get_type(schema)?.primitive_width().is_some_and(|width| width < 8)
    {
        return Ok(None);
    }
    *argument = cast(std::mem::take(argument), DataType::Decimal128(20, 0));
    Ok(Some(data_type))
}

/// Casts the columns of a plan behind the first `before` to the types that they had.
fn narrow(plan: LogicalPlan, before: usize, types: &[Option<DataType>]) -> Result<LogicalPlan> {
    change_results(plan, before, |index, column| types[index].clone().map(|to| cast(column, to)))
}
