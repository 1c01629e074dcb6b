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
    ColumnarValue, Expr, ExprSchemable, LogicalPlan, Projection, ReturnFieldArgs, ScalarFunctionArgs,
    ScalarUDF, ScalarUDFImpl, Signature, Unnest, Volatility,
};
use plexus_storage::without_hidden_values;

use crate::analysis::{has_expression, is_call};

/// What the rule looks for.
pub(crate) fn concerns(node: &LogicalPlan) -> bool {
    matches!(node, LogicalPlan::Unnest(_)) || has_expression(node, |expr| is_call(expr, &["get_field"]))
}

/// The rule; runs when types are coerced.
pub(crate) fn rewrite(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let is_stored = plan.inputs().into_iter().all(is_stored);
    if let LogicalPlan::Unnest(unnest) = plan {
        return unnested(unnest);
    }
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

/// Unnests structs without what they have below their nulls.
fn unnested(mut unnest: Unnest) -> Result<Transformed<LogicalPlan>> {
    if unnest.struct_type_columns.is_empty() {
        return Ok(Transformed::no(LogicalPlan::Unnest(unnest)));
    }
    let shown = Arc::new(ScalarUDF::from(ShownStruct::default()));
    let columns = unnest.input.schema().iter().enumerate().map(|(index, (qualifier, field))| {
        let column = Expr::from((qualifier, field));
        if unnest.struct_type_columns.contains(&index) {
            shown.call(vec![column]).alias_qualified(qualifier.cloned(), field.name())
        } else {
            column
        }
    });
    let columns = columns.collect();
    unnest.input = Arc::new(LogicalPlan::Projection(Projection::try_new(columns, unnest.input)?));
    Ok(Transformed::yes(LogicalPlan::Unnest(unnest)))
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

/// `$shown(s)`: the struct, with nulls in its fields where it is null.
#[derive(PartialEq, Eq, Hash, Debug)]
pub(crate) struct ShownStruct {
    signature: Signature,
}

impl Default for ShownStruct {
    fn default() -> Self {
        Self { signature: Signature::any(1, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for ShownStruct {
    fn name(&self) -> &str {
        "$shown"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        types.first().cloned().map_or_else(|| exec_err!("{} takes a struct", self.name()), Ok)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [value] = args.args.as_slice() else {
            return exec_err!("{} takes a struct", self.name());
        };
        Ok(ColumnarValue::Array(without_hidden_values(&value.to_array(args.number_rows)?)))
    }
}
