//! A decimal that meets a float becomes a float, also in lists and structs. Decimals are divided and averaged
//! as doubles, as in DuckDB.
//!
//! DataFusion makes the float a decimal of 30 digits, 15 of them behind the point: `x > 0.0` is then false
//! for 1e-20, and 1e300 fails. Its quotients have four digits more than the dividend: `2.0 / 3` is 0.66666.
//! See apache/datafusion#12817 and #16406.

use std::sync::Arc;

use arrow_schema::{DataType, FieldRef};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::expr::{InList, ScalarFunction};
use datafusion::logical_expr::type_coercion::binary::type_union_coercion;
use datafusion::logical_expr::{
    Between, BinaryExpr, Case, Cast, Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, Operator,
    Subquery, Union, cast,
};

use crate::analysis::checked_arithmetic::divide;
use crate::analysis::{cast_columns, cast_union_columns, has_expression, rewrite_expressions};

/// What the rule looks for.
pub(crate) fn concerns(node: &LogicalPlan) -> bool {
    matches!(node, LogicalPlan::Union(_) | LogicalPlan::Values(_) | LogicalPlan::Join(_))
        || has_expression(node, |expr| match expr {
            Expr::BinaryExpr(BinaryExpr { op, .. }) => is_numeric(*op),
            Expr::AggregateFunction(aggregate) => aggregate.func.name() == "avg",
            Expr::WindowFunction(window) => window.fun.name() == "avg",
            expr => matches!(
                expr,
                Expr::Between(_)
                    | Expr::InList(_)
                    | Expr::Case(_)
                    | Expr::ScalarFunction(_)
                    | Expr::InSubquery(_)
                    | Expr::SetComparison(_)
            ),
        })
}

/// The rule; runs before DataFusion coerces types.
pub(crate) fn analyze(plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
    rewrite_expressions(plan, &rewrite, &|plan| match plan {
        LogicalPlan::Union(union) => unify_union(union),
        LogicalPlan::Values(values) => unify_values(values),
        LogicalPlan::Join(mut join) => {
            for (left, right) in &mut join.on {
                let types = [left.get_type(join.left.schema())?, right.get_type(join.right.schema())?];
                cast_to(vec![left, right], &types, with_floats(&types));
            }
            Ok(Transformed::yes(LogicalPlan::Join(join)))
        }
        plan => Ok(Transformed::no(plan)),
    })
}

/// Functions whose arguments keep their types.
const MIXED: [&str; 8] =
    ["concat", "concat_ws", "named_struct", "struct", "arrow_typeof", "arrays_zip", "list_zip", "map"];

/// Applies the rule to an expression whose parts it has been applied to.
pub(crate) fn rewrite(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    Ok(Transformed::yes(match expr {
        Expr::BinaryExpr(BinaryExpr { mut left, op, mut right }) if is_numeric(op) => {
            let types = types_of([left.as_ref(), right.as_ref()], schema);
            let float = float_of(&types);
            let divides = op == Operator::Divide
                && types.iter().any(DataType::is_decimal)
                && types.iter().all(DataType::is_numeric);
            if divides && float.is_none() {
                return Ok(Transformed::yes(divide(*left, *right)));
            }
            cast_to(vec![left.as_mut(), right.as_mut()], &types, with_floats(&types));
            Expr::BinaryExpr(BinaryExpr { left, op, right })
        }
        Expr::Between(mut between) => {
            let Between { expr, low, high, .. } = &mut between;
            unify([expr.as_mut(), low.as_mut(), high.as_mut()], schema);
            Expr::Between(between)
        }
        Expr::InList(mut in_list) => {
            let InList { expr, list, .. } = &mut in_list;
            unify(std::iter::once(expr.as_mut()).chain(list), schema);
            Expr::InList(in_list)
        }
        Expr::Case(mut case) => {
            let Case { expr, when_then_expr, else_expr } = &mut case;
            let (whens, thens): (Vec<&mut Expr>, Vec<&mut Expr>) =
                when_then_expr.iter_mut().map(|(when, then)| (when.as_mut(), then.as_mut())).unzip();
            if let Some(expr) = expr {
                unify(whens.into_iter().chain([expr.as_mut()]), schema);
            }
            let branches = thens.into_iter().chain(else_expr.iter_mut().map(Box::as_mut));
            unify_numbers(branches.collect(), schema);
            Expr::Case(case)
        }
        Expr::ScalarFunction(ScalarFunction { func, mut args }) if !MIXED.contains(&func.name()) => {
            unify(args.iter_mut(), schema);
            Expr::ScalarFunction(ScalarFunction { func, args })
        }
        Expr::AggregateFunction(mut aggregate) if aggregate.func.name() == "avg" => {
            make_doubles(&mut aggregate.params.args, schema);
            Expr::AggregateFunction(aggregate)
        }
        Expr::WindowFunction(mut window) if window.fun.name() == "avg" => {
            make_doubles(&mut window.params.args, schema);
            Expr::WindowFunction(window)
        }
        Expr::InSubquery(mut in_subquery) => {
            unify_subquery(&mut in_subquery.expr, &mut in_subquery.subquery, schema)?;
            Expr::InSubquery(in_subquery)
        }
        Expr::SetComparison(mut comparison) => {
            unify_subquery(&mut comparison.expr, &mut comparison.subquery, schema)?;
            Expr::SetComparison(comparison)
        }
        other => return Ok(Transformed::no(other)),
    }))
}

/// Makes floats of an expression and a subquery that it is compared with, if one of them has decimals and the
/// other has floats.
fn unify_subquery(expr: &mut Expr, subquery: &mut Subquery, schema: &DFSchema) -> Result<()> {
    let [field] = subquery.subquery.schema().fields().as_ref() else {
        return Ok(());
    };
    let types = [expr.get_type(schema)?, field.data_type().clone()];
    if let [of_expr, of_rows] = with_floats(&types).as_slice() {
        if *of_expr != types[0] {
            *expr = cast(std::mem::take(expr), of_expr.clone());
        }
        if *of_rows != types[1] {
            let plan = subquery.subquery.as_ref().clone();
            subquery.subquery = Arc::new(cast_columns(plan, &[Some(of_rows.clone())])?);
        }
    }
    Ok(())
}

/// Makes the decimals among arguments doubles.
fn make_doubles(arguments: &mut [Expr], schema: &DFSchema) {
    for argument in arguments {
        let data_type = argument.get_type(schema).unwrap_or(DataType::Null);
        make_float(argument, &data_type, &DataType::Float64);
    }
}

/// Whether an operator brings its operands to one numeric type.
fn is_numeric(op: Operator) -> bool {
    use Operator::*;
    matches!(
        op,
        Eq | NotEq
            | Lt
            | LtEq
            | Gt
            | GtEq
            | IsDistinctFrom
            | IsNotDistinctFrom
            | Plus
            | Minus
            | Multiply
            | Divide
            | Modulo
    )
}

/// The types of expressions. A type that is not known yet counts as null; DataFusion reports it later.
fn types_of<'a>(exprs: impl IntoIterator<Item = &'a Expr>, schema: &DFSchema) -> Vec<DataType> {
    exprs.into_iter().map(|expr| type_of(expr, schema)).collect()
}

fn type_of(expr: &Expr, schema: &DFSchema) -> DataType {
    let Expr::Case(case) = expr else {
        return expr.get_type(schema).unwrap_or(DataType::Null);
    };
    // DataFusion takes the type of the first branch until types are coerced.
    let branches = case.when_then_expr.iter().map(|(_, then)| then.as_ref());
    let types = types_of(branches.chain(case.else_expr.as_deref()), schema);
    let decimal = types.iter().find(|data_type| data_type.is_decimal());
    types
        .iter()
        .find(|data_type| data_type.is_floating())
        .or(decimal)
        .or(types.first())
        .cloned()
        .unwrap_or(DataType::Null)
}

/// The type of the floats among types that have decimals too: the widest of them.
fn float_of(types: &[DataType]) -> Option<DataType> {
    if !types.iter().any(DataType::is_decimal) {
        return None;
    }
    let floats = types.iter().filter(|t| t.is_floating());
    let widest = floats.max_by_key(|t| t.primitive_width())?;
    // Decimals have more digits than a half float; DataFusion has no arithmetic for those anyway.
    Some(if *widest == DataType::Float16 { DataType::Float32 } else { widest.clone() })
}

/// Makes the decimals among expressions floats if there are floats among them.
fn unify<'a>(exprs: impl IntoIterator<Item = &'a mut Expr>, schema: &DFSchema) {
    let exprs: Vec<&mut Expr> = exprs.into_iter().collect();
    let types = types_of(exprs.iter().map(|expr| &**expr), schema);
    cast_to(exprs, &types, with_floats(&types));
}

/// Casts expressions to the types that they get.
fn cast_to(exprs: Vec<&mut Expr>, types: &[DataType], wanted: Vec<DataType>) {
    for ((expr, data_type), wanted) in exprs.into_iter().zip(types).zip(wanted) {
        if *data_type != wanted {
            *expr = cast(std::mem::take(expr), wanted);
        }
    }
}

/// Types that are brought to one, with floats for the decimals that meet floats: also in lists and structs
/// that meet lists and structs.
fn with_floats(types: &[DataType]) -> Vec<DataType> {
    if let Some(float) = float_of(types) {
        let is_decimal = |data_type: &DataType| data_type.is_decimal();
        return types.iter().map(|t| if is_decimal(t) { float.clone() } else { t.clone() }).collect();
    }
    let nested: Vec<Vec<FieldRef>> = types.iter().map(fields_of).collect();
    let count = nested.iter().map(Vec::len).max().unwrap_or(0);
    // What has no fields is null, or an error that the engine reports.
    let fits = |fields: &Vec<FieldRef>| fields.is_empty() || fields.len() == count;
    if count == 0 || !nested.iter().all(fits) {
        return types.to_vec();
    }
    let mut nested = nested;
    for position in 0..count {
        let of_field: Vec<DataType> =
            nested.iter().filter_map(|fields| Some(fields.get(position)?.data_type().clone())).collect();
        let mut wanted = with_floats(&of_field).into_iter();
        for field in nested.iter_mut().filter_map(|fields| fields.get_mut(position)) {
            if let Some(wanted) = wanted.next()
                && *field.data_type() != wanted
            {
                *field = Arc::new(field.as_ref().clone().with_data_type(wanted));
            }
        }
    }
    types.iter().zip(nested).map(|(data_type, fields)| with_fields(data_type, fields)).collect()
}

/// The fields of a nested type: the items of a list, the entries of a map.
fn fields_of(data_type: &DataType) -> Vec<FieldRef> {
    match data_type {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            vec![item.clone()]
        }
        DataType::Map(entries, _) => vec![entries.clone()],
        DataType::Struct(fields) => fields.to_vec(),
        _ => vec![],
    }
}

/// The same type with other fields.
fn with_fields(data_type: &DataType, fields: Vec<FieldRef>) -> DataType {
    let first = fields.first().cloned();
    match (data_type, first) {
        (DataType::List(_), Some(item)) => DataType::List(item),
        (DataType::LargeList(_), Some(item)) => DataType::LargeList(item),
        (DataType::FixedSizeList(_, length), Some(item)) => DataType::FixedSizeList(item, *length),
        (DataType::Map(_, sorted), Some(entries)) => DataType::Map(entries, *sorted),
        (DataType::Struct(_), Some(_)) => DataType::Struct(fields.into()),
        (other, _) => other.clone(),
    }
}

/// Gives numbers one type, which DataFusion does later: until then it takes the first for the type of all.
fn unify_numbers(exprs: Vec<&mut Expr>, schema: &DFSchema) {
    let types = types_of(exprs.iter().map(|expr| &**expr), schema);
    let Some(common) = common_number(&types) else {
        return cast_to(exprs, &types, with_floats(&types));
    };
    for (expr, data_type) in exprs.into_iter().zip(types) {
        if data_type != common && !data_type.is_null() {
            *expr = cast(std::mem::take(expr), common.clone());
        }
    }
}

/// The type that holds numbers of several types; `None` for other types.
fn common_number(types: &[DataType]) -> Option<DataType> {
    if let Some(float) = float_of(types) {
        return Some(float);
    }
    let mut numbers = types.iter().filter(|data_type| !data_type.is_null());
    let first = numbers.next().filter(|data_type| data_type.is_numeric())?.clone();
    numbers.try_fold(first, |common, next| type_union_coercion(&common, next).filter(|_| next.is_numeric()))
}

/// Casts an expression of type `data_type` to `float` if it is a decimal.
fn make_float(expr: &mut Expr, data_type: &DataType, float: &DataType) {
    if data_type.is_decimal() {
        *expr = cast(std::mem::take(expr), float.clone());
    }
}

/// Gives the columns of a union that are numbers one type.
fn unify_union(union: Union) -> Result<Transformed<LogicalPlan>> {
    cast_union_columns(union, |types| {
        let wanted = match common_number(types) {
            Some(common) => vec![common; types.len()],
            None => with_floats(types),
        };
        let to = |(data_type, wanted): (&DataType, DataType)| (*data_type != wanted).then_some(wanted);
        Some(types.iter().zip(wanted).map(to).collect())
    })
}

/// Makes the columns of literal rows floats that hold floats and decimals. DataFusion has cast their values
/// to decimals already.
fn unify_values(mut values: datafusion::logical_expr::Values) -> Result<Transformed<LogicalPlan>> {
    let empty = DFSchema::empty();
    let mut changed = false;
    for column in 0..values.schema.fields().len() {
        if !values.schema.field(column).data_type().is_decimal() {
            continue;
        }
        let original = |expr: &Expr| match expr {
            Expr::Cast(Cast { expr, .. }) => expr.as_ref().clone(),
            other => other.clone(),
        };
        let cells: Vec<Expr> = values.values.iter().map(|row| original(&row[column])).collect();
        let mut types = types_of(&cells, &empty);
        types.push(values.schema.field(column).data_type().clone());
        let Some(float) = float_of(&types) else {
            continue;
        };
        changed = true;
        for (row, cell) in values.values.iter_mut().zip(cells) {
            row[column] = cast(cell, float.clone());
        }
    }
    if !changed {
        return Ok(Transformed::no(LogicalPlan::Values(values)));
    }
    LogicalPlanBuilder::values(values.values)?.build().map(Transformed::yes)
}
