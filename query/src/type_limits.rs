//! Limits of types. A type that has itself twice in it, twenty times over, has a million fields, and each
//! step of planning looks at all of them; a value of a fixed width is that wide for each row, also if it is
//! null.
//!
//! Types are checked in functions whose results have them, also in those that put several types into one, and
//! after planning.

use std::sync::Arc;

use arrow_schema::{DataType, FieldRef};
use datafusion::common::{DFSchema, Result, plan_err};
use datafusion::execution::SessionState;
use datafusion::functions::core::{named_struct, r#struct};
use datafusion::functions_nested::make_array::make_array;
use datafusion::functions_nested::map::map_udf;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawDictionaryExpr};
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature,
};

use crate::inner_function::{inner_arguments, inner_function};
use crate::pool::check_growth;

/// Functions whose type has those of several arguments in it.
const FUNCTIONS: [&str; 4] = ["arrays_zip", "map", "named_struct", "struct"];

/// Most fields of a type, with those inside of it.
const FIELDS_MAX: usize = 10_000;

/// Most bytes of a value of a fixed width. A vector of the most dimensions has a quarter of it.
const WIDTH_MAX: usize = 1024 * 1024;

/// Checks a type.
///
/// # Errors
/// When it has too many fields, or too wide values.
pub(crate) fn check_type(data_type: &DataType) -> Result<()> {
    let mut fields = 0;
    count_fields(data_type, &mut fields);
    if fields > FIELDS_MAX {
        return plan_err!("a type has more than {FIELDS_MAX} fields, with those inside of structs and lists");
    }
    let width = width(data_type);
    if width > WIDTH_MAX {
        return plan_err!("a type has values of {width} bytes each, at most {WIDTH_MAX} are possible");
    }
    Ok(())
}

/// The functions of a session that put several types into one, made to check it.
pub(crate) fn checked_functions(state: &SessionState) -> Vec<Arc<ScalarUDF>> {
    let functions = FUNCTIONS.iter().filter_map(|name| state.scalar_functions().get(*name));
    functions.cloned().map(checked).collect()
}

fn checked(inner: Arc<ScalarUDF>) -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::from(Checked { inner }))
}

/// A function that checks the type of its result.
#[derive(PartialEq, Eq, Hash, Debug)]
struct Checked {
    inner: Arc<ScalarUDF>,
}

impl ScalarUDFImpl for Checked {
    inner_function!();
    inner_arguments!();

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        check_growth()?;
        self.inner.invoke_with_args(args)
    }
}

/// Makes such functions of literals. Those of the engine would be called by themselves until the plan is
/// complete.
#[derive(Debug)]
pub(crate) struct CheckedLiterals;

impl ExprPlanner for CheckedLiterals {
    fn plan_dictionary_literal(
        &self,
        expr: RawDictionaryExpr,
        _: &DFSchema,
    ) -> Result<PlannerResult<RawDictionaryExpr>> {
        let args = expr.keys.into_iter().zip(expr.values).flat_map(|(key, value)| [key, value]);
        Ok(PlannerResult::Planned(checked(named_struct()).call(args.collect())))
    }

    fn plan_struct_literal(&self, args: Vec<Expr>, is_named: bool) -> Result<PlannerResult<Vec<Expr>>> {
        let function = if is_named { named_struct() } else { r#struct() };
        Ok(PlannerResult::Planned(checked(function).call(args)))
    }

    fn plan_make_map(&self, args: Vec<Expr>) -> Result<PlannerResult<Vec<Expr>>> {
        if args.len() % 2 == 1 {
            return plan_err!("the last key of the map has no value");
        }
        let (keys, values) = args.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).unzip();
        Ok(PlannerResult::Planned(checked(map_udf()).call(vec![make_array(keys), make_array(values)])))
    }
}

/// Counts the fields of a type, until they are too many.
#[recursive::recursive]
fn count_fields(data_type: &DataType, fields: &mut usize) {
    *fields += 1;
    if *fields > FIELDS_MAX {
        return;
    }
    match data_type {
        DataType::Struct(inner) => inner.iter().for_each(|field| count_fields(field.data_type(), fields)),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _)
        | DataType::Map(item, _) => count_fields(item.data_type(), fields),
        DataType::Dictionary(_, values) => count_fields(values, fields),
        DataType::RunEndEncoded(_, values) => count_fields(values.data_type(), fields),
        _ => {}
    }
}

/// Bytes that a value takes whatever it is, of a type with a bounded number of fields.
#[recursive::recursive]
fn width(data_type: &DataType) -> usize {
    match data_type {
        DataType::FixedSizeBinary(bytes) => usize::try_from(*bytes).unwrap_or(0),
        DataType::FixedSizeList(item, length) => {
            width(item.data_type()).saturating_mul(usize::try_from(*length).unwrap_or(0))
        }
        DataType::Struct(inner) => {
            inner.iter().map(|field| width(field.data_type())).fold(0, usize::saturating_add)
        }
        other => other.primitive_width().unwrap_or(1),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_schema::{Field, Fields};

    use super::*;

    #[test]
    fn doubling_and_wide_types_are_refused() {
        let item = |data_type: DataType| Arc::new(Field::new("item", data_type, true));
        let doubled = (0..40).fold(DataType::Int64, |inner, _| {
            DataType::Struct(Fields::from(vec![
                Field::new("a", inner.clone(), true),
                Field::new("b", inner, true),
            ]))
        });
        let fixed = |data_type: DataType, length: i32| DataType::FixedSizeList(item(data_type), length);
        for bad in [
            doubled,
            fixed(DataType::Float32, 1_000_000_000),
            fixed(fixed(DataType::Int64, 65_536), 65_536),
            DataType::List(item(DataType::FixedSizeBinary(i32::MAX))),
        ] {
            // That of a list is in its items, which are there only if there are any.
            let is_list = matches!(bad, DataType::List(_));
            assert_eq!(check_type(&bad).is_ok(), is_list);
        }
        check_type(&fixed(DataType::Float32, 65_536)).unwrap();
    }
}
