//! Values in a type that the engine neither forgets nor moves to the other side of a comparison.
//!
//! Some functions of DataFusion return another type than they announce, and its optimizer casts a constant
//! instead of the column that it is compared with, which cuts the digits of the constant.

use arrow_schema::DataType;
use datafusion::common::{Result, exec_err};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility, lit,
};

/// Name of the function.
pub const TYPED: &str = "$typed";

/// A value in the type that the plan knows it by.
pub(crate) fn typed(value: Expr) -> Expr {
    ScalarUDF::from(Typed::default()).call(vec![value])
}

/// The same, told apart by a number from the value itself and from others.
pub(crate) fn typed_apart(value: Expr, number: u64) -> Expr {
    ScalarUDF::from(Typed::default()).call(vec![value, lit(number)])
}

/// `$typed(x)`: the values of `x` in the type that the plan knows it by.
#[derive(PartialEq, Eq, Hash, Debug)]
pub(crate) struct Typed(Signature);

impl Default for Typed {
    fn default() -> Self {
        Self(Signature::variadic_any(Volatility::Immutable))
    }
}

impl ScalarUDFImpl for Typed {
    fn name(&self) -> &str {
        TYPED
    }

    fn signature(&self) -> &Signature {
        &self.0
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types {
            [data_type, ..] => Ok(data_type.clone()),
            _ => exec_err!("{} takes one value", self.name()),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match args.args.as_slice() {
            [value, ..] => value.cast_to(args.return_field.data_type(), None),
            _ => exec_err!("{} takes one value", self.name()),
        }
    }
}
