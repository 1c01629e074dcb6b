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
        let result = args.return_type().clone();
        Ok(Box::new(SortedValues { values: vec![], unsorted: vec![], share: None, result }))
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        self.accumulator(args)
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }
}

/// The values of a window in order.
#[derive(Debug)]
struct SortedValues {
    values: Vec<f64>,
    /// Those that came since the last look.
    unsorted: Vec<f64>,
    /// Where the wanted value is, from 0 to 1.
    share: Option<f64>,
    /// The type of what is returned.
    result: DataType,
}

impl SortedValues {
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
        let [values, shares] = values else {
            return exec_err!("percentile_cont takes a value and a share");
        };
        let shares = floats(shares)?;
        if let Some(share) = shares.iter().next() {
            match share {
                Some(share) if (0.0..=1.0).contains(&share) => self.share = Some(share),
                other => {
                    return exec_err!("percentile_cont({other:?}): a number from 0 to 1 is needed");
                }
            }
        }
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
        let found = self.share.and_then(|share| interpolate(&self.values, share));
        ScalarValue::Float64(found).cast_to(&self.result)
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
