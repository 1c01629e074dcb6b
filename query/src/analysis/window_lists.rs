//! Lists and texts that windows collect: `array_agg(v) OVER (ORDER BY v)` returns a longer one for each row.
//!
//! DataFusion keeps all of them, and accounts for none. Here a window fails when they are too large together.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result, ScalarValue, resources_err};
use datafusion::functions_aggregate::array_agg::array_agg_udaf;
use datafusion::functions_aggregate::string_agg::string_agg_udaf;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Expr, ReversedUDAF, Signature, WindowFunctionDefinition,
};

use crate::analysis::inner_aggregate;

/// Most bytes of the values that one window of a partition returns.
const VALUES_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What the rule looks for.
pub(crate) fn concerns(expr: &Expr) -> bool {
    matches!(expr, Expr::WindowFunction(window) if ["array_agg", "string_agg"].contains(&window.fun.name()))
}

/// The rule; runs when types are coerced.
pub(crate) fn rewrite(expr: Expr, _: &DFSchema) -> Result<Transformed<Expr>> {
    let Expr::WindowFunction(mut window) = expr else {
        return Ok(Transformed::no(expr));
    };
    let own = functions().into_iter().find(|own| own.name().strip_prefix('$') == Some(window.fun.name()));
    let is_own = own.is_some();
    if let Some(own) = own {
        window.fun = WindowFunctionDefinition::AggregateUDF(own);
    }
    Ok(Transformed::new_transformed(Expr::WindowFunction(window), is_own))
}

/// The functions that the rule puts into plans.
pub(crate) fn functions() -> [Arc<AggregateUDF>; 2] {
    [array_agg_udaf(), string_agg_udaf()].map(|inner| {
        let name = format!("${}", inner.name());
        Arc::new(AggregateUDF::from(WindowList { name, inner }))
    })
}

/// An aggregate function of DataFusion that counts what it returns.
#[derive(PartialEq, Eq, Hash, Debug)]
struct WindowList {
    name: String,
    inner: Arc<AggregateUDF>,
}

impl AggregateUDFImpl for WindowList {
    fn name(&self) -> &str {
        &self.name
    }

    inner_aggregate!();

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        counted(self.inner.accumulator(args))
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        counted(self.inner.create_sliding_accumulator(args))
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::NotSupported
    }
}

fn counted(inner: Result<Box<dyn Accumulator>>) -> Result<Box<dyn Accumulator>> {
    inner.map(|inner| Box::new(CountedAccumulator { inner, returned: 0 }) as Box<dyn Accumulator>)
}

/// Counts the bytes of what an accumulator returns.
#[derive(Debug)]
struct CountedAccumulator {
    inner: Box<dyn Accumulator>,
    returned: usize,
}

impl Accumulator for CountedAccumulator {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.inner.update_batch(values)
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.inner.retract_batch(values)
    }

    fn supports_retract_batch(&self) -> bool {
        self.inner.supports_retract_batch()
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let value = self.inner.evaluate()?;
        self.returned = self.returned.saturating_add(value.size());
        if self.returned > VALUES_BYTES_MAX {
            return resources_err!(
                "the lists or texts that a window collects take more than {VALUES_BYTES_MAX} bytes: use a \
                 smaller frame or GROUP BY"
            );
        }
        Ok(value)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.inner.state()
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.inner.merge_batch(states)
    }

    fn size(&self) -> usize {
        self.inner.size()
    }
}
