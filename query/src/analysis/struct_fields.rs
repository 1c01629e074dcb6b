//! A field of a struct that is null is null. DataFusion returns what the struct has below its null, for
//! example of `nullif(s, s)` (apache/datafusion#25293). Stored structs have nothing there.

use std::sync::Arc;

use arrow::compute::{is_null, nullif};
use arrow_schema::{DataType, FieldRef};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result, exec_err};
use datafusion::functions::core::get_field;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, LogicalPlan, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility,
};

/// The rule; runs when types are coerced.
pub(crate) fn rewrite(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let is_stored = plan.inputs().into_iter().all(is_stored);
    let schema = merge_schema(&plan.inputs());
    let preserver = NamePreserver::new(&plan);
    plan.map_expressions(|expr| {
        let name = preserver.save(&expr);
        let masked = expr.transform_up(|expr| masked(expr, &schema, is_stored))?;
        Ok(masked.update_data(|expr| name.restore(expr)))
    })
}

/// Whether the columns of a plan are those of tables.
fn is_stored(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::TableScan(_) => true,
        LogicalPlan::Filter(_)
        | LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::Sort(_)
        | LogicalPlan::Limit(_)
        | LogicalPlan::Join(_) => plan.inputs().into_iter().all(is_stored),
        _ => false,
    }
}

fn masked(expr: Expr, schema: &DFSchema, is_stored: bool) -> Result<Transformed<Expr>> {
    let Expr::ScalarFunction(mut call) = expr else {
        return Ok(Transformed::no(expr));
    };
    let is_computed = match (call.name(), call.args.as_slice()) {
        ("get_field", [base, ..]) => {
            let is_column = is_stored && matches!(base, Expr::Column(_));
            !is_column && matches!(base.get_type(schema)?, DataType::Struct(_))
        }
        _ => false,
    };
    if is_computed {
        call.func = Arc::new(ScalarUDF::from(MaskedField::default()));
    }
    Ok(Transformed::new_transformed(Expr::ScalarFunction(call), is_computed))
}

/// `$field(s, name)`: the field of a struct, which is null where the struct is.
#[derive(PartialEq, Eq, Hash, Debug)]
pub(crate) struct MaskedField {
    inner: Arc<ScalarUDF>,
    signature: Signature,
}

impl Default for MaskedField {
    fn default() -> Self {
        Self { inner: get_field(), signature: Signature::variadic_any(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for MaskedField {
    fn name(&self) -> &str {
        "$field"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let field = self.inner.return_field_from_args(args)?;
        Ok(Arc::new(field.as_ref().clone().with_nullable(true)))
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let Some(base) = args.args.first_mut() else {
            return exec_err!("{} takes a struct and a name", self.name());
        };
        let structs = base.to_array(rows)?;
        let missing = is_null(&structs)?;
        *base = ColumnarValue::Array(structs);
        let field = self.inner.invoke_with_args(args)?.into_array(rows)?;
        Ok(ColumnarValue::Array(nullif(&field, &missing)?))
    }
}
