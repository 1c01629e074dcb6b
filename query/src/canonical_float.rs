//! `$canonical_float`: what computed floats are wrapped in.

use arrow_schema::DataType;
use datafusion::common::{Result, ScalarValue, exec_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};
use plexus_storage::canonical_floats;

/// Its name.
pub(crate) const NAME: &str = "$canonical_float";

/// `$canonical_float(x)`: `x` with one zero and one NaN.
#[derive(PartialEq, Eq, Hash, Debug)]
pub(crate) struct CanonicalFloat(Signature);

impl Default for CanonicalFloat {
    fn default() -> Self {
        Self(Signature::any(1, Volatility::Immutable))
    }
}

impl ScalarUDFImpl for CanonicalFloat {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.0
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types {
            [data_type] if data_type.is_floating() => Ok(data_type.clone()),
            _ => exec_err!("{} takes one float", self.name()),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match args.args.as_slice() {
            [ColumnarValue::Array(values)] => Ok(ColumnarValue::Array(canonical_floats(values))),
            [ColumnarValue::Scalar(value)] => {
                ScalarValue::try_from_array(&canonical_floats(&value.to_array()?), 0)
                    .map(ColumnarValue::Scalar)
            }
            _ => exec_err!("{} takes one float", self.name()),
        }
    }
}
