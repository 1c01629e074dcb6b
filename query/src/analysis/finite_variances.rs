//! A variance or a standard deviation that is no number is an error: of values near the largest double, whose
//! squares are infinite, or of infinities. DataFusion returns NaN or infinity.

use arrow::array::AsArray;
use arrow::datatypes::Float64Type;
use arrow_schema::DataType;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{Result, exec_err};
use datafusion::logical_expr::{
    Aggregate, ColumnarValue, Expr, LogicalPlan, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility, Window, WindowFunctionDefinition,
};

use crate::analysis::{change_results, has_expression};

const FUNCTIONS: [&str; 4] = ["stddev", "stddev_pop", "var", "var_pop"];

/// What the rule looks for.
pub(crate) fn concerns(node: &LogicalPlan) -> bool {
    matches!(node, LogicalPlan::Aggregate(_) | LogicalPlan::Window(_)) && has_expression(node, is_variance)
}

/// Whether an expression is a variance, under a name or not.
fn is_variance(expr: &Expr) -> bool {
    match expr {
        Expr::Alias(alias) => is_variance(&alias.expr),
        Expr::AggregateFunction(call) => FUNCTIONS.contains(&call.func.name()),
        Expr::WindowFunction(call) => {
            matches!(&call.fun, WindowFunctionDefinition::AggregateUDF(f) if FUNCTIONS.contains(&f.name()))
        }
        _ => false,
    }
}

/// The rule; runs when types are coerced.
pub(crate) fn rewrite(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let (calls, before) = match &plan {
        LogicalPlan::Aggregate(Aggregate { aggr_expr, schema, .. }) => {
            (aggr_expr, schema.fields().len() - aggr_expr.len())
        }
        LogicalPlan::Window(Window { window_expr, schema, .. }) => {
            (window_expr, schema.fields().len() - window_expr.len())
        }
        _ => return Ok(Transformed::no(plan)),
    };
    let is_checked: Vec<bool> = calls.iter().map(is_variance).collect();
    if !is_checked.contains(&true) {
        return Ok(Transformed::no(plan));
    }
    let checked = change_results(plan, before, |index, column| match is_checked[index] {
        true => Some(ScalarUDF::from(Finite::default()).call(vec![column])),
        false => None,
    });
    checked.map(Transformed::yes)
}

/// `$finite(x)`: the value, or an error if it is no number.
#[derive(PartialEq, Eq, Hash, Debug)]
pub(crate) struct Finite {
    signature: Signature,
}

impl Default for Finite {
    fn default() -> Self {
        Self { signature: Signature::exact(vec![DataType::Float64], Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for Finite {
    fn name(&self) -> &str {
        "$finite"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [value] = args.args.as_slice() else {
            return exec_err!("{} takes one value", self.name());
        };
        let array = value.to_array(1)?;
        if array.as_primitive::<Float64Type>().iter().flatten().any(|value| !value.is_finite()) {
            return exec_err!(
                "a variance or standard deviation is out of range: the values are too large, or not finite"
            );
        }
        Ok(value.clone())
    }
}
