//! Casts to types that do not hold every value.
//!
//! DataFusion compares a constant with what is cast instead: `CAST(d AS INT) = 10` finds no 10.4, and
//! `TRY_CAST(a AS TINYINT) > 50` finds 300 (apache/datafusion#23095, #24702). And numbers that are too large
//! for a float become infinite. Structs lose fields that the type does not have. Timestamps before 1970 round
//! up where they lose digits.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use arrow::compute::{CastOptions, cast_with_options, nullif};
use arrow::datatypes::{Float32Type, Float64Type};
use arrow_schema::{DataType, TimeUnit};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result, ScalarValue, exec_err, plan_err};
use datafusion::functions::datetime::date_trunc;
use datafusion::logical_expr::{
    Cast, ColumnarValue, Expr, ExprSchemable, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    TryCast, Volatility, lit,
};

use plexus_storage::{decimals_as_floats, dropped_field};

use crate::analysis::fallible::{is_text, is_total};
use crate::analysis::typed::typed;
use crate::clock_texts::{Completed, is_complete};
use crate::type_limits::check_type;

/// Casts to a type that a text names.
const ARROW_CASTS: [&str; 2] = ["arrow_cast", "arrow_try_cast"];

/// What the rule looks for.
pub(crate) fn concerns(expr: &Expr) -> bool {
    match expr {
        Expr::Cast(_) | Expr::TryCast(_) => true,
        Expr::ScalarFunction(call) => ARROW_CASTS.contains(&call.name()),
        _ => false,
    }
}

/// The rule; runs when types are coerced.
pub(crate) fn rewrite(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let (value, field, fails) = match &expr {
        Expr::Cast(Cast { expr, field }) => (expr, field, true),
        Expr::TryCast(TryCast { expr, field }) => (expr, field, false),
        _ => {
            check_type(&expr.get_type(schema)?)?;
            return Ok(Transformed::no(expr));
        }
    };
    check_type(field.data_type())?;
    let from = value.get_type(schema)?;
    let to = field.data_type();
    if let Some(dropped) = dropped_field(&from, to) {
        return plan_err!("{dropped}");
    }
    let is_number = |data_type: &DataType| data_type.is_integer() || data_type.is_decimal();
    let is_float = matches!(to, DataType::Float32 | DataType::Float64);
    Ok(match () {
        () if is_float
            && (is_text(&from)
                || from.is_decimal()
                || (from == DataType::Float64 && *to == DataType::Float32)) =>
        {
            let cast = FloatCast { to: to.clone(), fails, signature: FloatCast::signature() };
            Transformed::yes(ScalarUDF::from(cast).call(vec![value.as_ref().clone()]))
        }
        () if is_text(&from) && matches!(to, DataType::Timestamp(..)) && !is_complete_text(value, to) => {
            let zone = lit(ScalarValue::Utf8(zone_of(to).map(str::to_owned)));
            let text = ScalarUDF::from(Completed::default()).call(vec![value.as_ref().clone(), zone]);
            let text = Box::new(text);
            Transformed::yes(match fails {
                true => Expr::Cast(Cast::new_from_field(text, field.clone())),
                false => Expr::TryCast(TryCast::new_from_field(text, field.clone())),
            })
        }
        () if is_coarser(to, &from) && !is_present(value) => {
            let unit = lit(unit_name(to));
            let cut = date_trunc().call(vec![unit, value.as_ref().clone()]);
            Transformed::yes(match fails {
                true => Expr::Cast(Cast::new_from_field(Box::new(cut), field.clone())),
                false => Expr::TryCast(TryCast::new_from_field(Box::new(cut), field.clone())),
            })
        }
        () if is_number(&from) && is_number(to) && !is_total(&from, to) => Transformed::yes(typed(expr)),
        () => Transformed::no(expr),
    })
}

/// Whether an expression is a constant that nothing is missing in, or was completed.
fn is_complete_text(text: &Expr, to: &DataType) -> bool {
    let constant = text.as_literal().and_then(|value| value.try_as_str());
    let is_completed = matches!(text, Expr::ScalarFunction(call) if call.name() == Completed::NAME);
    is_completed || constant.is_some_and(|text| text.is_none_or(|text| is_complete(text, zone_of(to))))
}

fn zone_of(data_type: &DataType) -> Option<&str> {
    match data_type {
        DataType::Timestamp(_, zone) => zone.as_deref(),
        _ => None,
    }
}

/// Whether timestamps have fewer digits in a type. A cast to it would round those before 1970 up.
fn is_coarser(to: &DataType, from: &DataType) -> bool {
    match (from, to) {
        (DataType::Timestamp(from, _), DataType::Timestamp(to, _)) => to < from,
        _ => false,
    }
}

fn unit_name(data_type: &DataType) -> &'static str {
    match data_type {
        DataType::Timestamp(TimeUnit::Second, _) => "second",
        DataType::Timestamp(TimeUnit::Millisecond, _) => "millisecond",
        _ => "microsecond",
    }
}

/// Whether an expression is the present time, which is after 1970, or cut already.
fn is_present(expr: &Expr) -> bool {
    matches!(expr, Expr::ScalarFunction(call) if ["now", "date_trunc"].contains(&call.name()))
}

/// The functions that the rule puts into plans.
pub(crate) fn functions() -> Vec<Arc<ScalarUDF>> {
    let mut functions = Vec::new();
    for to in [DataType::Float32, DataType::Float64] {
        for fails in [false, true] {
            let function = FloatCast { to: to.clone(), fails, signature: FloatCast::signature() };
            functions.push(Arc::new(ScalarUDF::from(function)));
        }
    }
    functions
}

/// `$to_real(x)`, `$to_double(x)`, `$try_real(x)` and `$try_double(x)`: a cast of text, of a decimal or of a
/// wider float, in which no finite number becomes infinite, and each decimal the nearest float.
#[derive(PartialEq, Eq, Hash, Debug)]
struct FloatCast {
    to: DataType,
    /// Whether a number that is too large is an error, and not null.
    fails: bool,
    signature: Signature,
}

impl FloatCast {
    fn signature() -> Signature {
        Signature::any(1, Volatility::Immutable)
    }

    fn cast(&self, values: &ArrayRef) -> Result<ArrayRef> {
        let options = CastOptions { safe: !self.fails, ..CastOptions::default() };
        let cast = match decimals_as_floats(values, &self.to) {
            Some(floats) => floats?,
            None => cast_with_options(values, &self.to, &options)?,
        };
        let is_infinite: Vec<bool> = match self.to {
            DataType::Float32 => {
                cast.as_primitive::<Float32Type>().values().iter().map(|v| v.is_infinite()).collect()
            }
            _ => cast.as_primitive::<Float64Type>().values().iter().map(|v| v.is_infinite()).collect(),
        };
        if !is_infinite.contains(&true) {
            return Ok(cast);
        }
        let texts = arrow::compute::cast(values, &DataType::Utf8)?;
        let texts = texts.as_string::<i32>();
        let is_named =
            |text: &str| text.trim().trim_start_matches(['+', '-']).to_ascii_lowercase().starts_with("inf");
        let too_large = |row: usize| is_infinite[row] && cast.is_valid(row) && !is_named(texts.value(row));
        let too_large: BooleanArray = (0..cast.len()).map(|row| Some(too_large(row))).collect();
        match (0..cast.len()).find(|row| too_large.value(*row)) {
            Some(row) if self.fails => exec_err!("{} is too large for {}", texts.value(row), self.to),
            Some(_) => Ok(nullif(&cast, &too_large)?),
            None => Ok(cast),
        }
    }
}

impl ScalarUDFImpl for FloatCast {
    fn name(&self) -> &str {
        match (self.to == DataType::Float32, self.fails) {
            (true, true) => "$to_real",
            (true, false) => "$try_real",
            (false, true) => "$to_double",
            (false, false) => "$try_double",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.to.clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match args.args.as_slice() {
            [ColumnarValue::Array(values)] => self.cast(values).map(ColumnarValue::Array),
            [ColumnarValue::Scalar(value)] => {
                let cast = self.cast(&value.to_array()?)?;
                ScalarValue::try_from_array(&cast, 0).map(ColumnarValue::Scalar)
            }
            _ => exec_err!("{} takes one value", self.name()),
        }
    }
}
