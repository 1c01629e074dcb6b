//! Instants show the clock of the session's zone, as in PostgreSQL and DuckDB: where they are compared with
//! or cast to timestamps without a zone, and in functions like `extract`.
//!
//! DataFusion takes the zone of the type, which for a column is the one that the column was made with, and
//! casts to the clock of UTC. Here columns get the zone of the session.
//!
//! And `to_timestamp` with formats has the type that it announces: DataFusion forgets the zone for formats
//! that are columns.

use std::sync::Arc;

use arrow::datatypes::IntervalMonthDayNano;
use arrow_schema::{DataType, IntervalUnit};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Column, DFSchema, Result, ScalarValue};
use datafusion::config::ConfigOptions;
use datafusion::functions::datetime;
use datafusion::logical_expr::expr::TryCast;
use datafusion::logical_expr::{
    BinaryExpr, Cast, Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, Operator, ScalarUDF, Union, cast,
    lit,
};

use crate::analysis::typed::typed;
use crate::analysis::{has_expression, rewrite_expressions};
use crate::time_zones::{AtTimeZone, DEFAULT_ZONE};

/// What the rule for columns looks for.
pub(crate) fn concerns_columns(node: &LogicalPlan) -> bool {
    let is_instant = |data_type: &DataType| matches!(data_type, DataType::Timestamp(_, Some(_)));
    node.schema().fields().iter().any(|field| is_instant(field.data_type()))
        || has_expression(
            node,
            |expr| matches!(expr, Expr::OuterReferenceColumn(field, _) if is_instant(field.data_type())),
        )
}

/// The rule that gives columns the zone of the session; runs before types are coerced.
pub(crate) fn session_columns(plan: LogicalPlan, config: &ConfigOptions) -> Result<LogicalPlan> {
    let zone = zone_of(config);
    plan.transform_up_with_subqueries(|node| {
        if matches!(node, LogicalPlan::TableScan(_) | LogicalPlan::Extension(_)) {
            return in_zone(node, zone);
        }
        if let LogicalPlan::Union(union) = node {
            return union_in_zone(union, zone);
        }
        node.map_expressions(|expr| expr.transform_up(|expr| outer_in_zone(expr, zone)))?
            .map_data(LogicalPlan::recompute_schema)
    })
    .data()
}

/// Casts of the columns of a schema to instants in a zone, for an expression that was planned over
/// [`schema_in_zone`].
///
/// # Errors
/// Those of the tree, of which there are none.
pub(crate) fn read_in_zone(expr: Expr, schema: &DFSchema, zone: &str) -> Result<Expr> {
    let read = expr.transform_up(|expr| {
        let Expr::Column(column) = &expr else {
            return Ok(Transformed::no(expr));
        };
        Ok(match zoned(schema.qualified_field_from_column(column)?.1.data_type(), zone) {
            Some(zoned) => Transformed::yes(cast(expr, zoned)),
            None => Transformed::no(expr),
        })
    });
    read.data()
}

/// A schema whose instants are in a zone.
///
/// # Errors
/// Those of building a schema, which only a fault in the other one could cause.
pub(crate) fn schema_in_zone(schema: &DFSchema, zone: &str) -> Result<DFSchema> {
    let fields = schema.iter().map(|(relation, field)| {
        let field = match zoned(field.data_type(), zone) {
            Some(zoned) => Arc::new(field.as_ref().clone().with_data_type(zoned)),
            None => field.clone(),
        };
        (relation.cloned(), field)
    });
    DFSchema::new_with_metadata(fields.collect(), schema.metadata().clone())
}

/// A union keeps the types that it was planned with, also where those of its inputs change.
fn union_in_zone(mut union: Union, zone: &str) -> Result<Transformed<LogicalPlan>> {
    union.schema = Arc::new(schema_in_zone(&union.schema, zone)?);
    Ok(Transformed::yes(LogicalPlan::Union(union)))
}

pub(crate) fn zone_of(config: &ConfigOptions) -> &str {
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

/// What the rule for casts looks for.
pub(crate) fn concerns(node: &LogicalPlan) -> bool {
    has_expression(node, |expr| match expr {
        Expr::BinaryExpr(BinaryExpr { op, .. }) => matches!(op, Operator::Plus | Operator::Minus),
        Expr::ScalarFunction(call) => call.name().starts_with("to_timestamp"),
        expr => matches!(expr, Expr::Cast(_) | Expr::TryCast(_)),
    })
}

/// The rule that casts between clocks and instants; runs when types are coerced.
pub(crate) fn session_zone(plan: LogicalPlan, config: &ConfigOptions) -> Result<LogicalPlan> {
    let zone = zone_of(config);
    rewrite_expressions(plan, &|expr, schema| rewrite(expr, schema, zone), &|plan| Ok(Transformed::no(plan)))
}

fn rewrite(expr: Expr, schema: &DFSchema, zone: &str) -> Result<Transformed<Expr>> {
    match &expr {
        Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::Plus | Operator::Minus), right }) => {
            match (left.get_type(schema), right.as_literal().and_then(days_and_time)) {
                (Ok(DataType::Timestamp(_, Some(zone))), Some((days, time)))
                    if zone.as_ref() != DEFAULT_ZONE =>
                {
                    let apply = |value: Expr, interval| {
                        let right = Box::new(lit(ScalarValue::IntervalMonthDayNano(Some(interval))));
                        Expr::BinaryExpr(BinaryExpr { left: Box::new(value), op: *op, right })
                    };
                    let clock = apply(at_time_zone(left, &zone), days);
                    Ok(Transformed::yes(apply(at_time_zone(&clock, &zone), time)))
                }
                _ => Ok(Transformed::no(expr)),
            }
        }
        Expr::Cast(Cast { expr: value, field }) | Expr::TryCast(TryCast { expr: value, field }) => {
            if let (Ok(DataType::Date32 | DataType::Date64), DataType::Timestamp(unit, Some(zone))) =
                (value.get_type(schema), field.data_type())
            {
                // A zone may skip midnight.
                let midnight = cast(value.as_ref().clone(), DataType::Timestamp(*unit, None));
                let instant = cast(at_time_zone(&midnight, zone), field.data_type().clone());
                return Ok(Transformed::yes(instant));
            }
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
            Ok(Transformed::yes(typed(expr)))
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

/// The months and days of an interval, which move the clock of a zone, and its time, which passes everywhere.
/// `None` if there are no days: then nothing depends on the zone.
fn days_and_time(value: &ScalarValue) -> Option<(IntervalMonthDayNano, IntervalMonthDayNano)> {
    let ScalarValue::IntervalMonthDayNano(Some(interval)) =
        value.cast_to(&DataType::Interval(IntervalUnit::MonthDayNano)).ok()?
    else {
        return None;
    };
    let IntervalMonthDayNano { months, days, nanoseconds } = interval;
    let days = (months != 0 || days != 0).then(|| IntervalMonthDayNano::new(months, days, 0))?;
    Some((days, IntervalMonthDayNano::new(0, 0, nanoseconds)))
}

fn at_time_zone(value: &Expr, zone: &str) -> Expr {
    ScalarUDF::from(AtTimeZone::default()).call(vec![value.clone(), lit(zone)])
}
