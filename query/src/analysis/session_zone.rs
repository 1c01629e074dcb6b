//! Instants show the clock of the session's zone, as in PostgreSQL and DuckDB: where they are compared with
//! or cast to timestamps without a zone, and in functions like `extract`.
//!
//! DataFusion takes the zone of the type, which for a column is the one that the column was made with, and
//! casts to the clock of UTC. Here columns get the zone of the session.
//!
//! And `to_timestamp` with formats has the type that it announces: DataFusion forgets the zone for formats
//! that are columns.

use std::sync::Arc;

use arrow_schema::DataType;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Column, DFSchema, Result, exec_err};
use datafusion::config::ConfigOptions;
use datafusion::functions::datetime;
use datafusion::logical_expr::expr::TryCast;
use datafusion::logical_expr::{
    Cast, ColumnarValue, Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility, cast, lit,
};
use datafusion::optimizer::AnalyzerRule;

use crate::analysis::rewrite_expressions;
use crate::time_zones::{AtTimeZone, DEFAULT_ZONE};

/// The rule that gives columns the zone of the session; runs before types are coerced.
#[derive(Debug)]
pub(crate) struct SessionColumns;

impl AnalyzerRule for SessionColumns {
    fn name(&self) -> &str {
        "session_columns"
    }

    fn analyze(&self, plan: LogicalPlan, config: &ConfigOptions) -> Result<LogicalPlan> {
        let zone = zone_of(config);
        if zone == DEFAULT_ZONE {
            return Ok(plan);
        }
        plan.transform_up_with_subqueries(|node| {
            if matches!(node, LogicalPlan::TableScan(_) | LogicalPlan::Extension(_)) {
                return in_zone(node, zone);
            }
            node.map_expressions(|expr| expr.transform_up(|expr| outer_in_zone(expr, zone)))?
                .map_data(LogicalPlan::recompute_schema)
        })
        .data()
    }
}

fn zone_of(config: &ConfigOptions) -> &str {
    config.execution.time_zone.as_deref().unwrap_or(DEFAULT_ZONE)
}

/// The type of instants in a zone, if a type is one of instants in another.
fn zoned(data_type: &DataType, zone: &str) -> Option<DataType> {
    match data_type {
        DataType::Timestamp(unit, Some(other)) if other.as_ref() != zone => {
            Some(DataType::Timestamp(*unit, Some(zone.into())))
        }
        _ => None,
    }
}

/// A plan whose instants are in a zone.
fn in_zone(plan: LogicalPlan, zone: &str) -> Result<Transformed<LogicalPlan>> {
    let mut is_changed = false;
    let columns = plan.schema().iter().map(|(relation, field)| {
        let column = Expr::Column(Column::from((relation, field)));
        match zoned(field.data_type(), zone) {
            Some(zoned) => {
                is_changed = true;
                cast(column, zoned).alias_qualified(relation.cloned(), field.name())
            }
            None => column,
        }
    });
    let columns: Vec<Expr> = columns.collect();
    match is_changed {
        true => LogicalPlanBuilder::from(plan).project(columns)?.build().map(Transformed::yes),
        false => Ok(Transformed::no(plan)),
    }
}

fn outer_in_zone(expr: Expr, zone: &str) -> Result<Transformed<Expr>> {
    let Expr::OuterReferenceColumn(field, column) = &expr else {
        return Ok(Transformed::no(expr));
    };
    Ok(match zoned(field.data_type(), zone) {
        Some(zoned) => {
            let field = field.as_ref().clone().with_data_type(zoned);
            Transformed::yes(Expr::OuterReferenceColumn(Arc::new(field), column.clone()))
        }
        None => Transformed::no(expr),
    })
}

/// The rule that casts between clocks and instants; runs when types are coerced.
#[derive(Debug)]
pub(crate) struct SessionZone;

impl AnalyzerRule for SessionZone {
    fn name(&self) -> &str {
        "session_zone"
    }

    fn analyze(&self, plan: LogicalPlan, config: &ConfigOptions) -> Result<LogicalPlan> {
        let zone = zone_of(config);
        rewrite_expressions(plan, &|expr, schema| rewrite(expr, schema, zone), &|plan| {
            Ok(Transformed::no(plan))
        })
    }
}

fn rewrite(expr: Expr, schema: &DFSchema, zone: &str) -> Result<Transformed<Expr>> {
    match &expr {
        Expr::Cast(Cast { expr: value, field }) | Expr::TryCast(TryCast { expr: value, field }) => {
            let zone = match (value.get_type(schema), field.data_type()) {
                (Ok(DataType::Timestamp(_, Some(zone))), DataType::Timestamp(_, None)) => zone,
                (Ok(DataType::Timestamp(_, None)), DataType::Timestamp(_, Some(zone))) => zone.clone(),
                _ => return Ok(Transformed::no(expr)),
            };
            if zone.as_ref() == DEFAULT_ZONE {
                return Ok(Transformed::no(expr));
            }
            let local = at_time_zone(value, &zone);
            Ok(Transformed::yes(match &expr {
                Expr::TryCast(_) => Expr::TryCast(TryCast::new_from_field(Box::new(local), field.clone())),
                _ => cast(local, field.data_type().clone()),
            }))
        }
        Expr::ScalarFunction(call)
            if zone != DEFAULT_ZONE && call.name().starts_with("to_timestamp") && call.args.len() == 1 =>
        {
            let is_number = call.args[0].get_type(schema).is_ok_and(|data_type| data_type.is_numeric());
            match in_utc(call.name()).filter(|_| is_number) {
                Some(function) => {
                    let instant = function.call(call.args.clone());
                    let DataType::Timestamp(unit, _) = instant.get_type(schema)? else {
                        return Ok(Transformed::no(expr));
                    };
                    let of = |zone: &str| DataType::Timestamp(unit, Some(zone.into()));
                    Ok(Transformed::yes(cast(cast(instant, of(DEFAULT_ZONE)), of(zone))))
                }
                None => Ok(Transformed::no(expr)),
            }
        }
        Expr::ScalarFunction(call) if call.name().starts_with("to_timestamp") && call.args.len() > 1 => {
            Ok(Transformed::yes(ScalarUDF::from(Announced::default()).call(vec![expr])))
        }
        _ => Ok(Transformed::no(expr)),
    }
}

/// The function of that name that knows no zone. In another one, DataFusion takes numbers for clocks.
fn in_utc(name: &str) -> Option<Arc<ScalarUDF>> {
    let config = ConfigOptions::default();
    let all = [
        datetime::to_timestamp(&config),
        datetime::to_timestamp_seconds(&config),
        datetime::to_timestamp_millis(&config),
        datetime::to_timestamp_micros(&config),
        datetime::to_timestamp_nanos(&config),
    ];
    all.into_iter().find(|function| function.name() == name)
}

fn at_time_zone(value: &Expr, zone: &str) -> Expr {
    ScalarUDF::from(AtTimeZone::default()).call(vec![value.clone(), lit(zone)])
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
