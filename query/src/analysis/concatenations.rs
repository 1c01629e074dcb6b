//! `a || b` as a function that fails in time. The operator has no bound, and a query may double a text as
//! often as it likes: `WITH RECURSIVE r AS (SELECT 'x' AS s UNION ALL SELECT s || s FROM r)`.

use arrow::array::{Array, AsArray};
use arrow::compute::kernels::concat_elements::concat_elements_dyn;
use arrow_schema::DataType;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result, ScalarValue, exec_err};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::type_coercion::binary::BinaryTypeCoercer;
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, LogicalPlan, Operator, ScalarFunctionArgs, ScalarUDFImpl, Signature,
    Volatility,
};
use datafusion::optimizer::AnalyzerRule;

use crate::analysis::registered::RegisteredFunctions;
use crate::analysis::{plan_has_expression, rewrite_expressions};
use crate::bounded_functions::check_result;
use crate::constants::check_constant;

/// Name of the function.
pub(crate) const CONCATENATE: &str = "$concatenate";

/// The rule; runs when types are coerced.
#[derive(Debug)]
pub(crate) struct Concatenations(pub RegisteredFunctions);

impl AnalyzerRule for Concatenations {
    fn name(&self) -> &str {
        "concatenations"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let Some(function) = self.0.get(CONCATENATE) else {
            return Ok(plan);
        };
        if !plan_has_expression(&plan, is_concatenation)? {
            return Ok(plan);
        }
        let rewrite = |expr: Expr, _: &DFSchema| match expr {
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::StringConcat, right }) => {
                Ok(Transformed::yes(function.call(vec![*left, *right])))
            }
            expr => Ok(Transformed::no(expr)),
        };
        rewrite_expressions(plan, &rewrite, &|plan| Ok(Transformed::no(plan)))
    }
}

fn is_concatenation(expr: &Expr) -> bool {
    matches!(expr, Expr::BinaryExpr(BinaryExpr { op: Operator::StringConcat, .. }))
}

/// `$concatenate(a, b)` of two texts, or of two values of bytes.
#[derive(PartialEq, Eq, Hash, Debug)]
pub(crate) struct Concatenate {
    signature: Signature,
    bytes_max: u64,
}

impl Concatenate {
    /// The results for one batch take `bytes_max` together.
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self { signature: Signature::any(2, Volatility::Immutable), bytes_max }
    }
}

impl ScalarUDFImpl for Concatenate {
    fn name(&self) -> &str {
        CONCATENATE
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types {
            [left, right] => BinaryTypeCoercer::new(left, &Operator::StringConcat, right).get_result_type(),
            _ => exec_err!("{CONCATENATE} takes two values"),
        }
    }

    /// Null if one of the two is.
    fn is_strict(&self) -> bool {
        true
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let is_constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if is_constant { 1 } else { args.number_rows };
        let [left, right] = args.args.as_slice() else {
            return exec_err!("{CONCATENATE} takes two values");
        };
        let size = |value: &ColumnarValue| match value {
            ColumnarValue::Scalar(value) => (value.size() as u64).saturating_mul(rows as u64),
            ColumnarValue::Array(values) => value_bytes(values.as_ref()),
        };
        check_result("||", size(left).saturating_add(size(right)), self.bytes_max)?;
        let result = concat_elements_dyn(&left.to_array(rows)?, &right.to_array(rows)?)?;
        if !is_constant {
            return Ok(ColumnarValue::Array(result));
        }
        let constant = ScalarValue::try_from_array(&result, 0)?;
        check_constant(&constant, args.number_rows, self.bytes_max)?;
        Ok(ColumnarValue::Scalar(constant))
    }
}

/// Bytes of the values of an array. Views of one text share its bytes, of which results have a copy each.
fn value_bytes(values: &dyn Array) -> u64 {
    match values.data_type() {
        DataType::Utf8View => values.as_string_view().lengths().map(u64::from).sum(),
        DataType::BinaryView => values.as_binary_view().lengths().map(u64::from).sum(),
        _ => values.to_data().get_slice_memory_size().map_or(u64::MAX, |bytes| bytes as u64),
    }
}
