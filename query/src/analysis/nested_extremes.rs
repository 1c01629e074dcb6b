//! `min` and `max` over windows, `greatest` and `least` of lists and structs, in the order of
//! [`nested_order`](super::nested_order): DataFusion takes a null in them for the smallest value.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::interleave;
use arrow::row::RowConverter;
use arrow_schema::{DataType, FieldRef};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result, ScalarValue, exec_err};
use datafusion::functions_aggregate::min_max::{
    MaxAccumulator, MinAccumulator, SlidingMaxAccumulator, SlidingMinAccumulator, max_udaf, min_udaf,
};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, ColumnarValue, Expr, ExprSchemable, ScalarFunctionArgs,
    ScalarUDF, ScalarUDFImpl, Signature, Volatility, WindowFunctionDefinition,
};

use crate::analysis::inner_aggregate;
use crate::analysis::nested_order::{converter, has_order, keys};

/// What the rule looks for.
pub(crate) fn concerns(expr: &Expr) -> bool {
    match expr {
        Expr::WindowFunction(window) => ["min", "max"].contains(&window.fun.name()),
        Expr::ScalarFunction(call) => ["greatest", "least"].contains(&call.name()),
        _ => false,
    }
}

/// The rule; runs when types are coerced.
pub(crate) fn rewrite(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let is_nested = |arg: &Expr| arg.get_type(schema).is_ok_and(|data_type| has_order(&data_type));
    Ok(match expr {
        Expr::WindowFunction(mut window) if window.params.args.iter().all(is_nested) => {
            let own =
                windows().into_iter().find(|own| own.name().strip_prefix(OWN) == Some(window.fun.name()));
            let is_own = own.is_some();
            if let Some(own) = own {
                window.fun = WindowFunctionDefinition::AggregateUDF(own);
            }
            Transformed::new_transformed(Expr::WindowFunction(window), is_own)
        }
        Expr::ScalarFunction(mut call) if call.args.iter().all(is_nested) => {
            let own = functions().into_iter().find(|own| own.name().strip_prefix(OWN) == Some(call.name()));
            let is_own = own.is_some();
            if let Some(own) = own {
                call.func = own;
            }
            Transformed::new_transformed(Expr::ScalarFunction(call), is_own)
        }
        expr => Transformed::no(expr),
    })
}

/// What the names of the functions that the rule puts into plans begin with.
const OWN: &str = "$nested_";

/// The functions over windows that the rule puts into plans.
pub(crate) fn windows() -> [Arc<AggregateUDF>; 2] {
    [(End::Least, min_udaf()), (End::Greatest, max_udaf())]
        .map(|(end, inner)| Arc::new(AggregateUDF::from(WindowExtreme { end, inner })))
}

/// The functions of several values that the rule puts into plans.
pub(crate) fn functions() -> [Arc<ScalarUDF>; 2] {
    [End::Least, End::Greatest].map(|end| {
        let signature = Signature::variadic_any(Volatility::Immutable);
        Arc::new(ScalarUDF::from(Extreme { end, signature }))
    })
}

/// The end of the order that is looked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum End {
    Least,
    Greatest,
}

/// `$nested_min(v)` and `$nested_max(v)` over windows.
#[derive(PartialEq, Eq, Hash, Debug)]
struct WindowExtreme {
    end: End,
    inner: Arc<AggregateUDF>,
}

impl AggregateUDFImpl for WindowExtreme {
    fn name(&self) -> &str {
        match self.end {
            End::Least => "$nested_min",
            End::Greatest => "$nested_max",
        }
    }

    inner_aggregate!();

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let best: Box<dyn Accumulator> = match self.end {
            End::Least => Box::new(MinAccumulator::try_new(&DataType::Binary)?),
            End::Greatest => Box::new(MaxAccumulator::try_new(&DataType::Binary)?),
        };
        KeyAccumulator::boxed(best, args.return_type())
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let best: Box<dyn Accumulator> = match self.end {
            End::Least => Box::new(SlidingMinAccumulator::try_new(&DataType::Binary)?),
            End::Greatest => Box::new(SlidingMaxAccumulator::try_new(&DataType::Binary)?),
        };
        KeyAccumulator::boxed(best, args.return_type())
    }
}

/// Accumulates the keys of values instead of the values.
#[derive(Debug)]
struct KeyAccumulator {
    best: Box<dyn Accumulator>,
    values: RowConverter,
    /// What is returned when there is no value.
    null: ScalarValue,
}

impl KeyAccumulator {
    fn boxed(best: Box<dyn Accumulator>, data_type: &DataType) -> Result<Box<dyn Accumulator>> {
        let null = ScalarValue::try_from(data_type)?;
        Ok(Box::new(Self { best, values: converter(data_type)?, null }))
    }
}

impl Accumulator for KeyAccumulator {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.best.update_batch(&values.iter().map(keys).collect::<Result<Vec<_>>>()?)
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.best.retract_batch(&values.iter().map(keys).collect::<Result<Vec<_>>>()?)
    }

    fn supports_retract_batch(&self) -> bool {
        self.best.supports_retract_batch()
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let ScalarValue::Binary(Some(key)) = self.best.evaluate()? else {
            return Ok(self.null.clone());
        };
        let columns = self.values.convert_rows([self.values.parser().parse(&key)])?;
        match columns.as_slice() {
            [value] => ScalarValue::try_from_array(value, 0),
            _ => exec_err!("a key stands for {} columns", columns.len()),
        }
    }

    // Windows are computed where their rows are: no state leaves them.
    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        exec_err!("windows have no state")
    }

    fn merge_batch(&mut self, _: &[ArrayRef]) -> Result<()> {
        exec_err!("windows have no state")
    }

    fn size(&self) -> usize {
        self.best.size() + self.values.size() + self.null.size()
    }
}

/// `$nested_greatest(v, ...)` and `$nested_least(v, ...)`: of the values that are not null.
#[derive(PartialEq, Eq, Hash, Debug)]
struct Extreme {
    end: End,
    signature: Signature,
}

impl ScalarUDFImpl for Extreme {
    fn name(&self) -> &str {
        match self.end {
            End::Least => "$nested_least",
            End::Greatest => "$nested_greatest",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types.first() {
            Some(first) => Ok(first.clone()),
            None => exec_err!("{} takes a value or more", self.name()),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let array = |value: &ColumnarValue| value.to_array(args.number_rows);
        let values = args.args.iter().map(array).collect::<Result<Vec<_>>>()?;
        let keys = values.iter().map(keys).collect::<Result<Vec<_>>>()?;
        let keys: Vec<_> = keys.iter().map(|keys| keys.as_binary::<i32>()).collect();
        let chosen = |row: usize| {
            let valid = (0..keys.len()).filter(|&value| keys[value].is_valid(row));
            let chosen = match self.end {
                End::Least => valid.min_by_key(|&value| keys[value].value(row)),
                End::Greatest => valid.max_by_key(|&value| keys[value].value(row)),
            };
            // All are null.
            (chosen.unwrap_or(0), row)
        };
        let chosen: Vec<_> = (0..args.number_rows).map(chosen).collect();
        let values: Vec<&dyn Array> = values.iter().map(AsRef::as_ref).collect();
        Ok(ColumnarValue::Array(interleave(&values, &chosen)?))
    }
}
