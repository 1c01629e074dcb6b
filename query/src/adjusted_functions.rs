//! Functions of the engine that fail for some arguments, or take one row for all. The arguments are adjusted
//! before the function sees them.

use std::sync::Arc;

use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::Int64Type;
use arrow_schema::{DataType, FieldRef};
use datafusion::common::{Result, ScalarValue};
use datafusion::execution::SessionState;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature,
};

use crate::inner_function::{inner_arguments, inner_function};

/// The functions, each with what is done to its arguments.
const FUNCTIONS: [(&str, Adjustment); 10] = [
    ("lpad", Adjustment::NoNegativeLength),
    ("rpad", Adjustment::NoNegativeLength),
    ("to_char", Adjustment::ConstantAsRows),
    ("to_date", Adjustment::ConstantAsRows),
    ("to_timestamp", Adjustment::ConstantAsRows),
    ("to_timestamp_micros", Adjustment::ConstantAsRows),
    ("to_timestamp_millis", Adjustment::ConstantAsRows),
    ("to_timestamp_nanos", Adjustment::ConstantAsRows),
    ("to_timestamp_seconds", Adjustment::ConstantAsRows),
    ("to_unixtime", Adjustment::ConstantAsRows),
];

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Adjustment {
    /// A negative length, the second argument, becomes zero: the function allocates by it.
    NoNegativeLength,
    /// A constant value beside formats that are columns becomes a column: the function would take the format
    /// of the first row for all rows, or fail.
    ConstantAsRows,
}

/// The functions of a session, with their adjustments.
pub(crate) fn adjusted_functions(state: &SessionState) -> Vec<Arc<ScalarUDF>> {
    let wrap = |&(name, adjustment): &(&str, Adjustment)| {
        let inner = state.scalar_functions().get(name)?.clone();
        Some(Arc::new(ScalarUDF::from(Adjusted { inner, adjustment })))
    };
    FUNCTIONS.iter().filter_map(wrap).collect()
}

#[derive(PartialEq, Eq, Hash, Debug)]
struct Adjusted {
    inner: Arc<ScalarUDF>,
    adjustment: Adjustment,
}

impl Adjusted {
    fn adjust(&self, args: &mut ScalarFunctionArgs) -> Result<()> {
        match self.adjustment {
            Adjustment::NoNegativeLength => {
                if let Some(length) = args.args.get_mut(1) {
                    *length = not_negative(length)?;
                }
            }
            Adjustment::ConstantAsRows => {
                let is_column = |arg: &ColumnarValue| matches!(arg, ColumnarValue::Array(_));
                if let [value, rest @ ..] = args.args.as_mut_slice()
                    && rest.iter().any(is_column)
                {
                    *value = ColumnarValue::Array(value.to_array(args.number_rows)?);
                }
            }
        }
        Ok(())
    }
}

/// The same integers, with zero for negative ones.
fn not_negative(lengths: &ColumnarValue) -> Result<ColumnarValue> {
    let data_type = lengths.data_type();
    if !data_type.is_signed_integer() {
        return Ok(lengths.clone());
    }
    let is_constant = matches!(lengths, ColumnarValue::Scalar(_));
    let wide = cast(&lengths.to_array(1)?, &DataType::Int64)?;
    let wide = wide.as_primitive::<Int64Type>().unary::<_, Int64Type>(|length| length.max(0));
    let lengths = cast(&wide, &data_type)?;
    Ok(match is_constant {
        true => ColumnarValue::Scalar(ScalarValue::try_from_array(&lengths, 0)?),
        false => ColumnarValue::Array(lengths),
    })
}

impl ScalarUDFImpl for Adjusted {
    inner_function!();
    inner_arguments!();

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        self.adjust(&mut args)?;
        self.inner.invoke_with_args(args)
    }

    fn with_updated_config(&self, config: &datafusion::config::ConfigOptions) -> Option<ScalarUDF> {
        let inner = Arc::new(self.inner.inner().with_updated_config(config)?);
        Some(ScalarUDF::from(Self { inner, adjustment: self.adjustment }))
    }
}
