//! An instant that is cast to a timestamp without a zone becomes the clock of the session's zone, as in
//! PostgreSQL and DuckDB. DataFusion takes the clock of UTC.
//!
//! And `to_timestamp` with formats has the type that it announces: DataFusion forgets the zone for formats
//! that are columns.

use arrow_schema::DataType;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result, exec_err};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::{
    Cast, ColumnarValue, Expr, ExprSchemable, LogicalPlan, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, Volatility, cast, lit,
};
use datafusion::optimizer::AnalyzerRule;

use crate::analysis::rewrite_expressions;
use crate::time_zones::{AtTimeZone, DEFAULT_ZONE};

/// The rule; runs when types are coerced.
#[derive(Debug)]
pub(crate) struct SessionZone;

impl AnalyzerRule for SessionZone {
    fn name(&self) -> &str {
        "session_zone"
    }

    fn analyze(&self, plan: LogicalPlan, config: &ConfigOptions) -> Result<LogicalPlan> {
        let zone = config.execution.time_zone.as_deref().unwrap_or(DEFAULT_ZONE);
        rewrite_expressions(plan, &|expr, schema| rewrite(expr, schema, zone), &|plan| {
            Ok(Transformed::no(plan))
        })
    }
}

fn rewrite(expr: Expr, schema: &DFSchema, zone: &str) -> Result<Transformed<Expr>> {
    match &expr {
        Expr::Cast(Cast { expr: instant, field }) if zone != DEFAULT_ZONE => {
            let is_instant = matches!(instant.get_type(schema), Ok(DataType::Timestamp(_, Some(_))));
            if !is_instant || !matches!(field.data_type(), DataType::Timestamp(_, None)) {
                return Ok(Transformed::no(expr));
            }
            let clock =
                ScalarUDF::from(AtTimeZone::default()).call(vec![instant.as_ref().clone(), lit(zone)]);
            Ok(Transformed::yes(cast(clock, field.data_type().clone())))
        }
        Expr::ScalarFunction(call) if call.name().starts_with("to_timestamp") && call.args.len() > 1 => {
            Ok(Transformed::yes(ScalarUDF::from(Announced::default()).call(vec![expr])))
        }
        _ => Ok(Transformed::no(expr)),
    }
}

/// `$announced(x)`: the values of a call, with the type that the call announced.
#[derive(PartialEq, Eq, Hash, Debug)]
pub(crate) struct Announced(Signature);

impl Default for Announced {
    fn default() -> Self {
        Self(Signature::any(1, Volatility::Immutable))
    }
}

impl ScalarUDFImpl for Announced {
    fn name(&self) -> &str {
        "$announced"
    }

    fn signature(&self) -> &Signature {
        &self.0
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types {
            [data_type] => Ok(data_type.clone()),
            _ => exec_err!("{} takes one value", self.name()),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match args.args.as_slice() {
            [value] => value.cast_to(args.return_field.data_type(), None),
            _ => exec_err!("{} takes one value", self.name()),
        }
    }
}
