//! `min` and `max` of groups of floats, with NaN above all numbers, as for all rows together.
//!
//! DataFusion compares the floats of groups in another way: NaN is never greater, and infinities are lost
//! behind the largest finite number. See apache/datafusion#24432.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef, Float32Type, Float64Type};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result, not_impl_err};
use datafusion::functions_aggregate::min_max::{max_udaf, min_udaf};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Expr, ExprSchemable, GroupsAccumulator, Signature,
};
use datafusion_functions_aggregate_common::aggregate::groups_accumulator::prim_op::PrimitiveGroupsAccumulator;

use crate::analysis::inner_aggregate;

/// What the rule looks for.
pub(crate) fn concerns(expr: &Expr) -> bool {
    matches!(expr, Expr::AggregateFunction(aggregate) if ["min", "max"].contains(&aggregate.func.name()))
}

/// The rule; runs when types are coerced.
pub(crate) fn rewrite(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let Expr::AggregateFunction(mut aggregate) = expr else {
        return Ok(Transformed::no(expr));
    };
    let own = functions().into_iter().find(|own| own.name().strip_prefix('$') == Some(aggregate.func.name()));
    let is_float = |arg: &Expr| matches!(arg.get_type(schema), Ok(DataType::Float32 | DataType::Float64));
    match own {
        Some(own) if aggregate.params.args.iter().all(is_float) => {
            aggregate.func = own;
            Ok(Transformed::yes(Expr::AggregateFunction(aggregate)))
        }
        _ => Ok(Transformed::no(Expr::AggregateFunction(aggregate))),
    }
}

/// The functions that the rule puts into plans.
pub(crate) fn functions() -> [Arc<AggregateUDF>; 2] {
    [(Extreme::Min, min_udaf()), (Extreme::Max, max_udaf())]
        .map(|(extreme, inner)| Arc::new(AggregateUDF::from(FloatExtreme { extreme, inner })))
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Extreme {
    Min,
    Max,
}

/// `$min(x)` and `$max(x)`: DataFusion's functions, with groups of their own.
#[derive(PartialEq, Eq, Hash, Debug)]
struct FloatExtreme {
    extreme: Extreme,
    inner: Arc<AggregateUDF>,
}

impl AggregateUDFImpl for FloatExtreme {
    fn name(&self) -> &str {
        match self.extreme {
            Extreme::Min => "$min",
            Extreme::Max => "$max",
        }
    }

    inner_aggregate!();

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        self.inner.accumulator(args)
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        matches!(args.return_type(), DataType::Float32 | DataType::Float64)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        let data_type = args.return_type();
        macro_rules! groups {
            ($arrow:ty, $start:expr, $is_better:ident) => {
                Box::new(
                    PrimitiveGroupsAccumulator::<$arrow, _>::new(data_type, |best, value| {
                        // Computed floats have NaN of several bit patterns, and two zeros.
                        let order = match (value.is_nan(), best.is_nan()) {
                            (false, false) => value.partial_cmp(best),
                            (value, best) => value.partial_cmp(&best),
                        };
                        if order.is_some_and(Ordering::$is_better) {
                            *best = value;
                        }
                    })
                    .with_starting_value($start),
                )
            };
        }
        Ok(match (self.extreme, data_type) {
            (Extreme::Min, DataType::Float32) => groups!(Float32Type, f32::NAN, is_lt),
            (Extreme::Min, DataType::Float64) => groups!(Float64Type, f64::NAN, is_lt),
            (Extreme::Max, DataType::Float32) => groups!(Float32Type, f32::NEG_INFINITY, is_gt),
            (Extreme::Max, DataType::Float64) => groups!(Float64Type, f64::NEG_INFINITY, is_gt),
            (_, other) => return not_impl_err!("{} of {other}", self.name()),
        })
    }
}
