//! Large constants. DataFusion copies a constant for each row of a batch where an operator wants an array,
//! and puts its text into the names of columns: of a megabyte, that is eight gigabytes, or a panic.

use std::cell::Cell;
use std::sync::Arc;

use arrow_schema::{DataType, FieldRef};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, ScalarValue, exec_err, resources_err};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{
    ColumnarValue, Expr, LogicalPlan, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, Volatility,
};

/// Bytes of a constant that is repeated without a look at how often.
const SMALL_BYTES: usize = 16 * 1024;

/// Bytes of a constant that planning makes of an expression at most. Queries of searches are constants, and
/// have half a megabyte.
const FOLDED_BYTES_MAX: usize = 1024 * 1024;

thread_local! {
    static IS_PLANNING: Cell<bool> = const { Cell::new(false) };
}

/// Optimizes a plan. Expressions that would become large constants stay as they are.
pub(crate) fn while_planning<T>(optimize: impl FnOnce() -> T) -> T {
    /// Restores what was before, also after a panic.
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            IS_PLANNING.set(self.0);
        }
    }
    let _restore = Restore(IS_PLANNING.replace(true));
    optimize()
}

/// Checks a constant that a function returned for `rows` rows.
///
/// # Errors
/// When its copies would take more than `bytes_max`, or when it would become a part of a plan.
pub(crate) fn check_constant(value: &ScalarValue, rows: usize, bytes_max: u64) -> Result<()> {
    let bytes = value.size();
    if bytes <= SMALL_BYTES {
        return Ok(());
    }
    if IS_PLANNING.get() && bytes > FOLDED_BYTES_MAX {
        return exec_err!("a constant of {bytes} bytes is not made while a statement is planned");
    }
    if !is_vector(&value.data_type()) && (bytes as u64).saturating_mul(rows as u64) > bytes_max {
        return resources_err!(
            "a constant of {bytes} bytes is repeated for {rows} rows of a batch; {bytes_max} bytes are \
             possible, which depends on --query-memory of the node"
        );
    }
    Ok(())
}

/// Vectors are compared as they are.
fn is_vector(data_type: &DataType) -> bool {
    matches!(data_type, DataType::FixedSizeList(..))
}

/// A plan whose large constants are looked at when they are evaluated, wherever that is. `function` is
/// [`Constant`].
///
/// # Errors
/// Those of rewriting plans.
pub(crate) fn watch(plan: LogicalPlan, function: &Arc<ScalarUDF>) -> Result<LogicalPlan> {
    if !has_large(&plan)? {
        return Ok(plan);
    }
    let watched = plan.transform_up_with_subqueries(|node| {
        if !repeats_large(&node)? {
            return Ok(Transformed::no(node));
        }
        let preserver = NamePreserver::new(&node);
        node.map_expressions(|expr| {
            let name = preserver.save(&expr);
            let watched = expr.transform_up(|expr| match is_large(&expr) {
                true => Ok(Transformed::yes(function.call(vec![expr]))),
                false => Ok(Transformed::no(expr)),
            })?;
            Ok(watched.update_data(|expr| name.restore(expr)))
        })?
        .map_data(LogicalPlan::recompute_schema)
    })?;
    Ok(watched.data)
}

fn has_large(plan: &LogicalPlan) -> Result<bool> {
    let mut found = false;
    plan.apply_with_subqueries(|node| {
        found |= repeats_large(node)?;
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}

/// Whether a node has large constants. Those in filters of scans are for the scan to read, and their
/// operators stay above it.
fn repeats_large(node: &LogicalPlan) -> Result<bool> {
    if matches!(node, LogicalPlan::TableScan(_)) {
        return Ok(false);
    }
    let mut found = false;
    node.apply_expressions(|expr| {
        found |= expr.exists(|expr| Ok(is_large(expr)))?;
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}

/// Whether an expression is a constant that is large, or may be.
fn is_large(expr: &Expr) -> bool {
    match expr {
        Expr::ScalarFunction(call) => is_unfolded(call),
        expr => expr
            .as_literal()
            .is_some_and(|value| value.size() > SMALL_BYTES && !is_vector(&value.data_type())),
    }
}

/// Whether a call is a constant that was not made one when the plan was optimized, as its value is large or
/// an error. Scans would make one of it, and copy it for each of their rows.
fn is_unfolded(call: &ScalarFunction) -> bool {
    !call.args.is_empty()
        && call.args.iter().all(|arg| arg.as_literal().is_some())
        && call.name() != Constant::NAME
        && call.func.signature().volatility != Volatility::Volatile
}

/// `$constant(x)`: the constant, or an error if its copies would be too large.
#[derive(PartialEq, Eq, Hash, Debug)]
pub(crate) struct Constant {
    signature: Signature,
    bytes_max: u64,
}

impl Constant {
    pub(crate) const NAME: &str = "$constant";

    /// Copies for one batch take `bytes_max` together.
    pub(crate) fn new(bytes_max: u64) -> Self {
        // Volatile, so that no rule makes a constant of it again.
        Self { signature: Signature::any(1, Volatility::Volatile), bytes_max }
    }
}

impl ScalarUDFImpl for Constant {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types {
            [data_type] => Ok(data_type.clone()),
            _ => exec_err!("{} takes one value", Self::NAME),
        }
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        match args.arg_fields {
            [field] => Ok(field.clone()),
            _ => exec_err!("{} takes one value", Self::NAME),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let Some(value) = args.args.into_iter().next() else {
            return exec_err!("{} takes one value", Self::NAME);
        };
        if let ColumnarValue::Scalar(constant) = &value {
            check_constant(constant, args.number_rows, self.bytes_max)?;
        }
        Ok(value)
    }
}
