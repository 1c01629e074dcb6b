//! `percentile_cont` over windows, between two values as exactly as in groups (see
//! [`percentiles`](super::percentiles)).

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef, Float64Type};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result, ScalarValue, exec_err};
use datafusion::functions_aggregate::percentile_cont::percentile_cont_udaf;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Expr, ReversedUDAF, Signature, WindowFunctionDefinition,
};
use datafusion::physical_expr::expressions::Literal;

use crate::analysis::inner_aggregate;
use crate::analysis::percentiles::interpolate;

/// What the rule looks for.
pub(crate) fn concerns(expr: &Expr) -> bool {
    matches!(expr, Expr::WindowFunction(window) if window.fun.name() == "percentile_cont")
}

/// The rule; runs when types are coerced.
pub(crate) fn rewrite(expr: Expr, _: &DFSchema) -> Result<Transformed<Expr>> {
    match expr {
        Expr::WindowFunction(mut window) if window.fun.name() == "percentile_cont" => {
            window.fun = WindowFunctionDefinition::AggregateUDF(function());
            Ok(Transformed::yes(Expr::WindowFunction(window)))
        }
        expr => Ok(Transformed::no(expr)),
    }
}

/// The function that the rule puts into plans.
pub(crate) fn function() -> Arc<AggregateUDF> {
    Arc::new(AggregateUDF::from(WindowPercentile { inner: percentile_cont_udaf() }))
}

/// `$percentile_cont(value, share)` over windows.
#[derive(PartialEq, Eq, Hash, Debug)]
struct WindowPercentile {
    inner: Arc<AggregateUDF>,
}

impl AggregateUDFImpl for WindowPercentile {
    fn name(&self) -> &str {
        "$percentile_cont"
    }

    inner_aggregate!();

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        match constant_share(&args)? {
            Some(share) => Ok(SortedValues::boxed(share, args.return_type())),
            None => self.inner.accumulator(args),
        }
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        match constant_share(&args)? {
            Some(share) => Ok(SortedValues::boxed(share, args.return_type())),
            None => self.inner.create_sliding_accumulator(args),
        }
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }
}

/// The share of a call. `None` for calls that are left to the engine: with `DISTINCT`, and with a share that
/// is no constant, which it refuses.
fn constant_share(args: &AccumulatorArgs) -> Result<Option<f64>> {
    let share = match args.exprs {
        [_, share] if !args.is_distinct => share.downcast_ref::<Literal>(),
        _ => None,
    };
    let Some(share) = share else {
        return Ok(None);
    };
    match share.value().cast_to(&DataType::Float64)? {
        ScalarValue::Float64(Some(share)) if (0.0..=1.0).contains(&share) => Ok(Some(share)),
        share => exec_err!("percentile_cont({share}): a number from 0 to 1 is needed"),
    }
}

/// The values of a window in order.
#[derive(Debug)]
struct SortedValues {
    values: Vec<f64>,
    /// Those that came since the last look.
    unsorted: Vec<f64>,
    /// Where the wanted value is, from 0 to 1.
    share: f64,
    /// The type of what is returned.
    result: DataType,
}

impl SortedValues {
    fn boxed(share: f64, result: &DataType) -> Box<dyn Accumulator> {
        Box::new(Self { values: vec![], unsorted: vec![], share, result: result.clone() })
    }

    /// Puts new values in their places.
    fn sort(&mut self) {
        match self.unsorted.as_slice() {
            [] => {}
            [value] => {
                let place = self.values.partition_point(|other| other.total_cmp(value).is_lt());
                self.values.insert(place, *value);
            }
            _ => {
                self.values.append(&mut self.unsorted);
                self.values.sort_unstable_by(f64::total_cmp);
            }
        }
        self.unsorted.clear();
    }
}

fn floats(values: &ArrayRef) -> Result<Float64Array> {
    Ok(cast(values, &DataType::Float64)?.as_primitive::<Float64Type>().clone())
}

impl Accumulator for SortedValues {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let [values, _] = values else {
            return exec_err!("percentile_cont takes a value and a share");
        };
        self.unsorted.extend(floats(values)?.iter().flatten());
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.sort();
        for value in values.first().map(floats).transpose()?.iter().flat_map(Float64Array::iter).flatten() {
            let place = self.values.partition_point(|other| other.total_cmp(&value).is_lt());
            if place < self.values.len() {
                self.values.remove(place);
            }
        }
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        self.sort();
        ScalarValue::Float64(interpolate(&self.values, self.share)).cast_to(&self.result)
    }

    // Windows are computed where their rows are: no state leaves them.
    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        exec_err!("windows have no state")
    }

    fn merge_batch(&mut self, _: &[ArrayRef]) -> Result<()> {
        exec_err!("windows have no state")
    }

    fn size(&self) -> usize {
        size_of_val(self) + (self.values.capacity() + self.unsorted.capacity()) * size_of::<f64>()
    }
}
