//! `$named_value(x, 'name')`: a value by another name than the engine would give it.

use arrow_schema::DataType;
use datafusion::common::{Result, exec_err};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};

/// The name of the function.
pub const NAMED_VALUE: &str = "$named_value";

/// The function.
#[derive(PartialEq, Eq, Hash, Debug)]
pub(crate) struct NamedValue(Signature);

impl Default for NamedValue {
    fn default() -> Self {
        Self(Signature::any(2, Volatility::Immutable))
    }
}

impl ScalarUDFImpl for NamedValue {
    fn name(&self) -> &str {
        NAMED_VALUE
    }

    fn signature(&self) -> &Signature {
        &self.0
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        match args {
            [_, Expr::Literal(name, _)] => Ok(name.try_as_str().flatten().unwrap_or_default().to_owned()),
            _ => exec_err!("{NAMED_VALUE} takes a value and a name"),
        }
    }

    fn display_name(&self, args: &[Expr]) -> Result<String> {
        self.schema_name(args)
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types {
            [data_type, _] => Ok(data_type.clone()),
            _ => exec_err!("{NAMED_VALUE} takes a value and a name"),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match args.args.into_iter().next() {
            Some(value) => Ok(value),
            None => exec_err!("{NAMED_VALUE} takes a value and a name"),
        }
    }
}
