//! Functions of lists and their items, with decimals of any type: `array_has([1.5, 10.25], 1.5)`.
//!
//! DataFusion wants an item to have exactly the type of the items of the list, but for integers. Literals
//! with a point are decimals here, each with as many digits as it is written with, so that few would fit.

use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray};
use arrow_schema::{DataType, Field, FieldRef};
use datafusion::common::{ExprSchema, Result, ScalarValue, internal_err};
use datafusion::execution::SessionState;
use datafusion::logical_expr::binary::comparison_coercion;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::type_coercion::functions::fields_with_udf;
use datafusion::logical_expr::{
    ColumnarValue, Documentation, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature,
};

use crate::inner_function::inner_function;

/// `array_has` is null only if the array or the value is, as in DuckDB. DataFusion makes null of some arrays
/// that have a null and not the value, depending on whether they are constant.
const ARRAY_HAS: &str = "array_has";

/// These are null only if one of the lists is. DataFusion makes true or false of some that are constant, or
/// stand beside others.
const COMPARISONS: [&str; 3] = [ARRAY_HAS, "array_has_all", "array_has_any"];

/// The functions, with the positions of the arguments that are items.
const FUNCTIONS: [(&str, &[usize]); 18] = [
    ("array_append", &[1]),
    ("array_concat", &[]),
    ("array_except", &[]),
    (ARRAY_HAS, &[1]),
    ("array_has_all", &[]),
    ("array_has_any", &[]),
    ("array_intersect", &[]),
    ("array_position", &[1]),
    ("array_positions", &[1]),
    ("array_prepend", &[0]),
    ("array_remove", &[1]),
    ("array_remove_all", &[1]),
    ("array_remove_n", &[1]),
    ("array_replace", &[1, 2]),
    ("array_replace_all", &[1, 2]),
    ("array_replace_n", &[1, 2]),
    ("array_resize", &[2]),
    ("array_union", &[]),
];

/// The functions of a session, made to accept decimals.
pub(crate) fn list_functions(state: &SessionState) -> Vec<Arc<ScalarUDF>> {
    let wrap = |&(name, items): &(&str, &'static [usize])| {
        let inner = state.scalar_functions().get(name)?.clone();
        let signature = Signature::user_defined(inner.signature().volatility);
        Some(Arc::new(ScalarUDF::from(ListFunction { inner, items, signature })))
    };
    FUNCTIONS.iter().filter_map(wrap).collect()
}

/// A function of DataFusion whose arguments are brought to one type first.
#[derive(PartialEq, Eq, Hash, Debug)]
struct ListFunction {
    inner: Arc<ScalarUDF>,
    items: &'static [usize],
    signature: Signature,
}

impl ListFunction {
    /// The types of arguments, with one type for the items of lists and the items beside them.
    fn unify(&self, types: &[DataType]) -> Vec<DataType> {
        let of_lists: Vec<&DataType> = types.iter().filter_map(item_type).collect();
        let beside = types.iter().enumerate().filter(|(index, _)| self.items.contains(index));
        let beside = beside.map(|(_, data_type)| data_type).filter(|data_type| data_type.is_numeric());
        let all: Vec<&DataType> = of_lists.into_iter().chain(beside).collect();
        if !all.iter().any(|data_type| data_type.is_decimal()) {
            return types.to_vec();
        }
        let common = match all.iter().find(|data_type| data_type.is_floating()) {
            Some(float) => Some((*float).clone()),
            None => {
                let mut numbers = all.iter().map(|data_type| (*data_type).clone());
                let first = numbers.next();
                numbers.fold(first, |wider, next| comparison_coercion(&wider?, &next))
            }
        };
        let Some(common) = common else {
            return types.to_vec();
        };
        let unified = types.iter().enumerate().map(|(index, data_type)| match item_type(data_type) {
            Some(item) if item.is_numeric() && *item != common => with_items(data_type, &common),
            None if self.items.contains(&index) && data_type.is_numeric() => common.clone(),
            _ => data_type.clone(),
        });
        unified.collect()
    }
}

/// The type of the items of a list.
fn item_type(list: &DataType) -> Option<&DataType> {
    match list {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            Some(item.data_type())
        }
        _ => None,
    }
}

/// The same kind of list with other items.
fn with_items(list: &DataType, items: &DataType) -> DataType {
    let field = |field: &FieldRef| Arc::new(field.as_ref().clone().with_data_type(items.clone()));
    match list {
        DataType::List(item) => DataType::List(field(item)),
        DataType::LargeList(item) => DataType::LargeList(field(item)),
        DataType::FixedSizeList(item, length) => DataType::FixedSizeList(field(item), *length),
        other => other.clone(),
    }
}

impl ScalarUDFImpl for ListFunction {
    inner_function!();

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let field = |data_type| Arc::new(Field::new("argument", data_type, true));
        let fields: Vec<FieldRef> = self.unify(types).into_iter().map(field).collect();
        let coerced = fields_with_udf(&fields, self.inner.as_ref())?;
        Ok(coerced.iter().map(|field| field.data_type().clone()).collect())
    }

    fn is_nullable(&self, args: &[Expr], schema: &dyn ExprSchema) -> bool {
        #[expect(deprecated)]
        self.inner.is_nullable(args, schema)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        if !COMPARISONS.contains(&self.name()) {
            return self.inner.invoke_with_args(args);
        }
        let rows = args.number_rows;
        let operands = args.args.iter().map(|operand| operand.to_array(rows)).collect::<Result<Vec<_>>>()?;
        let found = self.inner.invoke_with_args(args)?.into_array(rows)?;
        let nulls: Vec<_> = operands.iter().filter_map(|operand| operand.logical_nulls()).collect();
        let is_unknown = |row: usize| nulls.iter().any(|nulls| nulls.is_null(row));
        let Some(found) = found.as_boolean_opt() else {
            return internal_err!("{} returned {}", self.name(), found.data_type());
        };
        let known = (0..rows).map(|row| (!is_unknown(row)).then(|| found.is_valid(row) && found.value(row)));
        Ok(ColumnarValue::Array(Arc::new(known.collect::<BooleanArray>())))
    }

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        // The engine makes `x IN (...)` of it, which is null where a list has a null and not the value.
        let may_have_null = |list: &Expr| match list.as_literal().map(ScalarValue::to_array) {
            Some(Ok(list)) => {
                let items = list.as_list_opt::<i32>().map(|list| list.values());
                items.is_none_or(|items| items.is_empty() || items.logical_null_count() > 0)
            }
            _ => true,
        };
        if self.name() == ARRAY_HAS && args.first().is_some_and(may_have_null) {
            return Ok(ExprSimplifyResult::Original(args));
        }
        self.inner.simplify(args, info)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_and_their_lists_get_one_type() {
        let of = |name: &str| {
            let state = datafusion::prelude::SessionContext::new().state();
            let mut functions = list_functions(&state).into_iter();
            functions.find(|function| function.name() == name).unwrap()
        };
        let list = |item: DataType| DataType::new_list(item, true);
        let decimal = DataType::Decimal128;
        let coerced = of("array_has").coerce_types(&[list(decimal(3, 1)), decimal(5, 2)]).unwrap();
        assert_eq!(coerced, [list(decimal(5, 2)), decimal(5, 2)]);
        let coerced = of("array_append").coerce_types(&[list(DataType::Float64), decimal(2, 1)]).unwrap();
        assert_eq!(coerced, [list(DataType::Float64), DataType::Float64]);
        let coerced =
            of("array_concat").coerce_types(&[list(decimal(2, 1)), list(DataType::Float64)]).unwrap();
        assert_eq!(coerced, [list(DataType::Float64), list(DataType::Float64)]);
        let texts = [list(DataType::Utf8), DataType::Utf8];
        assert_eq!(of("array_position").coerce_types(&texts).unwrap()[1], DataType::Utf8);
        // The number of items to remove stays an integer.
        let arguments = [list(decimal(3, 1)), DataType::Int64, DataType::Int64];
        assert_eq!(of("array_remove_n").coerce_types(&arguments).unwrap()[2], DataType::Int64);
    }
}
