//! Whether a list has an item that may be equal to anything: for comparisons with `ANY` and `ALL` of a list.

use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray};
use arrow::compute::cast;
use arrow_schema::{DataType, Field};
use datafusion::common::{Result, exec_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};

/// Name of the function.
pub const HAS_UNKNOWN_ITEM: &str = "$has_unknown_item";

/// `$has_unknown_item(list, is_null)`: whether a comparison with the items of a list may be null: the list or
/// one of its items is, or what is compared with at least one item.
#[derive(PartialEq, Eq, Hash, Debug)]
pub(crate) struct HasUnknownItem(Signature);

impl Default for HasUnknownItem {
    fn default() -> Self {
        Self(Signature::any(2, Volatility::Immutable))
    }
}

impl ScalarUDFImpl for HasUnknownItem {
    fn name(&self) -> &str {
        HAS_UNKNOWN_ITEM
    }

    fn signature(&self) -> &Signature {
        &self.0
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [list, is_null] = args.args.as_slice() else {
            return exec_err!("{} takes a list and a boolean", self.name());
        };
        let (lists, is_null) = (list.to_array(args.number_rows)?, is_null.to_array(args.number_rows)?);
        let item = match lists.data_type() {
            DataType::List(item)
            | DataType::LargeList(item)
            | DataType::FixedSizeList(item, _)
            | DataType::ListView(item)
            | DataType::LargeListView(item) => item.data_type().clone(),
            // The null of no type.
            _ => return Ok(ColumnarValue::Array(Arc::new(BooleanArray::from(vec![true; lists.len()])))),
        };
        let lists = cast(&lists, &DataType::List(Arc::new(Field::new("item", item, true))))?;
        let lists = lists.as_list::<i32>();
        let Some(is_null) = is_null.as_boolean_opt() else {
            return exec_err!("{} takes a list and a boolean", self.name());
        };
        let is_unknown = |row: usize| {
            let items = lists.value(row);
            items.logical_null_count() > 0 || (!items.is_empty() && is_null.value(row))
        };
        let unknown = (0..lists.len()).map(|row| Some(lists.is_null(row) || is_unknown(row)));
        Ok(ColumnarValue::Array(Arc::new(unknown.collect::<BooleanArray>())))
    }
}
