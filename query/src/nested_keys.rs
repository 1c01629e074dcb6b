//! Functions that look for a value among lists, structs or the keys of a map, with nulls as values of their
//! own: `array_position([[1], NULL], NULL)` is 2.
//!
//! DataFusion takes an empty list for a null one (apache/datafusion#21792), and a missing key of a map for
//! one whose value is null (apache/datafusion#24981).

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, LargeBinaryArray, ListArray, UInt32Array};
use arrow::buffer::OffsetBuffer;
use arrow::compute::take;
use arrow::row::{RowConverter, Rows, SortField};
use arrow_schema::{DataType, Field, FieldRef};
use datafusion::common::{DFSchema, Result, ScalarValue, plan_err};
use datafusion::execution::SessionState;
use datafusion::functions_nested::extract::array_element;
use datafusion::functions_nested::map_extract::map_extract_udf;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawFieldAccessExpr};
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, Expr, ExprSchemable, GetFieldAccess, ReturnFieldArgs, ScalarFunctionArgs,
    ScalarUDF, ScalarUDFImpl, Signature, lit, try_cast,
};
use plexus_storage::sql_name;

use crate::inner_function::{inner_arguments, inner_function};

const MAP_EXTRACT: &str = "map_extract";
const FUNCTIONS: [&str; 3] = ["array_position", "array_positions", MAP_EXTRACT];

/// The functions of a session, made to tell nulls apart.
pub(crate) fn nested_key_functions(state: &SessionState) -> Vec<Arc<ScalarUDF>> {
    let functions = FUNCTIONS.iter().filter_map(|name| state.scalar_functions().get(*name));
    functions.map(|inner| Arc::new(ScalarUDF::from(NestedKeys { inner: inner.clone() }))).collect()
}

/// Plans `map[key]`: the value of the key, which is of any expression. The engine takes constants only, and
/// compares them as they are.
#[derive(Debug)]
pub(crate) struct MapAccess;

impl ExprPlanner for MapAccess {
    fn plan_field_access(
        &self,
        access: RawFieldAccessExpr,
        schema: &DFSchema,
    ) -> Result<PlannerResult<RawFieldAccessExpr>> {
        let key = match &access.field_access {
            GetFieldAccess::NamedStructField { name } => lit(name.clone()),
            GetFieldAccess::ListIndex { key } => key.as_ref().clone(),
            GetFieldAccess::ListRange { .. } => return Ok(PlannerResult::Original(access)),
        };
        let Ok(DataType::Map(entries, _)) = access.expr.get_type(schema) else {
            return Ok(PlannerResult::Original(access));
        };
        let key = match (entries.data_type(), key.get_type(schema)) {
            (DataType::Struct(fields), Ok(given)) => of_key_type(key, &given, fields[0].data_type())?,
            _ => key,
        };
        let values = map_extract_udf().call(vec![access.expr, key]);
        Ok(PlannerResult::Planned(array_element(values, lit(1_i64))))
    }
}

/// A key as one of a map's type: null, which no map has, where it is out of range.
///
/// # Errors
/// For a key that only a cast with loss would make one of them: `m[1.5]` is not `m[1]`.
fn of_key_type(key: Expr, given: &DataType, wanted: &DataType) -> Result<Expr> {
    let is_fine = given == wanted
        || given.is_null()
        || (given.is_string() && wanted.is_string())
        || (given.is_integer() && (wanted.is_integer() || wanted.is_decimal()))
        || (given.is_numeric() && wanted.is_floating());
    match is_fine {
        true => Ok(try_cast(key, wanted.clone())),
        false => plan_err!("the keys of the map are {}, not {}", sql_name(wanted), sql_name(given)),
    }
}

#[derive(PartialEq, Eq, Hash, Debug)]
struct NestedKeys {
    inner: Arc<ScalarUDF>,
}

impl ScalarUDFImpl for NestedKeys {
    inner_function!();
    inner_arguments!();

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let [container, key] = match args.args.as_slice() {
            [container, key, ..] => [container.clone(), key.clone()],
            _ => return self.inner.invoke_with_args(args),
        };
        let is_comparable =
            |data_type: &DataType| RowConverter::supports_fields(&[SortField::new(data_type.clone())]);
        match container.data_type() {
            DataType::Map(..) if self.name() == MAP_EXTRACT && is_comparable(&key.data_type()) => {
                let (maps, keys) = (container.to_array(rows)?, key.to_array(rows)?);
                Ok(ColumnarValue::Array(values_of_key(&maps, &keys)?))
            }
            DataType::List(item) if item.data_type().is_nested() && is_comparable(item.data_type()) => {
                let lists = container.to_array(rows)?;
                let is_constant = matches!(key, ColumnarValue::Scalar(_));
                let wanted = key.to_array(if is_constant { 1 } else { rows })?;
                let (lists, wanted) = encoded(lists.as_list(), &wanted)?;
                let wanted = match is_constant {
                    true => ColumnarValue::Scalar(ScalarValue::try_from_array(&wanted, 0)?),
                    false => ColumnarValue::Array(wanted),
                };
                for (index, value) in [ColumnarValue::Array(lists), wanted].into_iter().enumerate() {
                    args.arg_fields[index] = Arc::new(Field::new("argument", value.data_type(), true));
                    args.args[index] = value;
                }
                self.inner.invoke_with_args(args)
            }
            _ => self.inner.invoke_with_args(args),
        }
    }
}

/// Rows of values of one type that are equal where the values are, with null as a value.
fn rows_of(values: [&ArrayRef; 2]) -> Result<[Rows; 2]> {
    let converter = RowConverter::new(vec![SortField::new(values[0].data_type().clone())])?;
    let [first, second] = values.map(|array| converter.convert_columns(std::slice::from_ref(array)));
    Ok([first?, second?])
}

/// Lists of other items that are equal where the items are, and the same of values that are looked for.
fn encoded(lists: &ListArray, wanted: &ArrayRef) -> Result<(ArrayRef, ArrayRef)> {
    let (first, last) = (lists.value_offsets()[0] as usize, lists.value_offsets()[lists.len()] as usize);
    let [items, wanted] = rows_of([&lists.values().slice(first, last - first), wanted])?;
    let binary = |rows: &Rows| LargeBinaryArray::from_iter_values(rows.iter());
    let field = Arc::new(Field::new("item", DataType::LargeBinary, true));
    let offsets = OffsetBuffer::from_lengths(lists.offsets().lengths());
    let lists = ListArray::try_new(field, offsets, Arc::new(binary(&items)), lists.nulls().cloned())?;
    Ok((Arc::new(lists), Arc::new(binary(&wanted))))
}

/// For each map the list of the value of a key, which is empty if the map has no such key.
fn values_of_key(maps: &ArrayRef, wanted: &ArrayRef) -> Result<ArrayRef> {
    let maps = maps.as_map();
    let [keys, wanted] = rows_of([maps.keys(), wanted])?;
    let (mut places, mut lengths) = (Vec::new(), Vec::with_capacity(maps.len()));
    for row in 0..maps.len() {
        let (start, end) = (maps.value_offsets()[row] as usize, maps.value_offsets()[row + 1] as usize);
        let place = (start..end).find(|place| maps.is_valid(row) && keys.row(*place) == wanted.row(row));
        places.extend(place.map(|place| place as u32));
        lengths.push(usize::from(place.is_some()));
    }
    let values = take(maps.values(), &UInt32Array::from(places), None)?;
    let field: FieldRef = Arc::new(Field::new_list_field(values.data_type().clone(), true));
    let lists =
        ListArray::try_new(field, OffsetBuffer::from_lengths(lengths), values, maps.nulls().cloned())?;
    Ok(Arc::new(lists))
}
