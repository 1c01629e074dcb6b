//! A long list of constants in a filter, `x IN (1, 2, ...)`, becomes a table in memory: `x IN (SELECT ...)`.
//!
//! DataFusion keeps a list as so many expressions, which each of its rules visits, copies and prints: a list
//! of fifty thousand numbers took half a minute to plan. A join with a table of them is planned without
//! delay.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};
use datafusion::catalog::MemTable;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::datasource::provider_as_source;
use datafusion::logical_expr::expr::{self, InList};
use datafusion::logical_expr::utils::{conjunction, split_conjunction, split_conjunction_owned};
use datafusion::logical_expr::{Expr, ExprSchemable, Filter, LogicalPlan, LogicalPlanBuilder, cast, ident};

use crate::analysis::subquery_predicates::{outer, subquery};

/// Shorter lists stay as they are. They tell which segments a scan can leave out.
const ITEMS_MIN: usize = 200;

/// The name of the table and of its column in plans.
const NAME: &str = "$list";

/// What the rule looks for.
pub(crate) fn concerns(node: &LogicalPlan) -> bool {
    match node {
        LogicalPlan::Filter(filter) => split_conjunction(&filter.predicate).into_iter().any(is_long),
        _ => false,
    }
}

fn is_long(condition: &Expr) -> bool {
    matches!(condition, Expr::InList(list) if list.list.len() >= ITEMS_MIN)
}

/// The rule; runs before those for subqueries.
pub(crate) fn rewrite(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let LogicalPlan::Filter(Filter { predicate, input, .. }) = plan else {
        return Ok(Transformed::no(plan));
    };
    let mut is_changed = false;
    let conditions = split_conjunction_owned(predicate).into_iter().map(|condition| match condition {
        Expr::InList(list) if list.list.len() >= ITEMS_MIN => match items(&list, input.schema()) {
            Some(items) => {
                is_changed = true;
                in_table(list, items, input.schema())
            }
            None => Ok(Expr::InList(list)),
        },
        condition => Ok(condition),
    });
    let conditions = conditions.collect::<Result<Vec<_>>>()?;
    let filter = Filter::try_new(conjunction(conditions).unwrap_or_default(), input)?;
    Ok(Transformed::new_transformed(LogicalPlan::Filter(filter), is_changed))
}

/// The items of a list that compares whole numbers or texts with constants of that kind, none of them null.
fn items(list: &InList, schema: &DFSchema) -> Option<ArrayRef> {
    let values = list.list.iter().map(|item| match item {
        Expr::Literal(value, _) => Some(value),
        _ => None,
    });
    // The value moves into a subquery, and may be evaluated twice.
    let is_movable = |expr: &Expr| {
        use Expr::{Exists, InSubquery, OuterReferenceColumn, ScalarSubquery};
        !matches!(expr, ScalarSubquery(_) | Exists(_) | InSubquery(_) | OuterReferenceColumn(..))
    };
    let is_plain = list.expr.apply(|expr| {
        Ok(if is_movable(expr) { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    });
    if list.expr.is_volatile() || !matches!(is_plain, Ok(TreeNodeRecursion::Continue)) {
        return None;
    }
    let data_type = list.expr.get_type(schema).ok()?;
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            let texts = values.map(|value| value?.try_as_str().flatten());
            Some(Arc::new(texts.collect::<Option<Vec<_>>>().map(StringArray::from)?))
        }
        data_type if data_type.is_integer() && data_type != DataType::UInt64 => {
            let numbers = values.map(|value| match value? {
                ScalarValue::Int64(number) => *number,
                _ => None,
            });
            Some(Arc::new(numbers.collect::<Option<Vec<_>>>().map(Int64Array::from)?))
        }
        _ => None,
    }
}

/// The condition that the value is among the items, or is not.
fn in_table(list: InList, items: ArrayRef, of: &DFSchema) -> Result<Expr> {
    let value = match items.data_type() {
        DataType::Int64 if list.expr.get_type(of)? != DataType::Int64 => cast(*list.expr, DataType::Int64),
        _ => *list.expr,
    };
    let schema = Arc::new(Schema::new(vec![Field::new(NAME, items.data_type().clone(), false)]));
    let table = MemTable::try_new(schema.clone(), vec![vec![RecordBatch::try_new(schema, vec![items])?]])?;
    let scan = LogicalPlanBuilder::scan(NAME, provider_as_source(Arc::new(table)), None)?.build()?;
    if !list.negated {
        return Ok(Expr::InSubquery(expr::InSubquery::new(Box::new(value), subquery(scan)?, false)));
    }
    // No item is null, so that a join may look for a row that is equal. That for `NOT IN` of any subquery
    // holds all rows of the filter in memory.
    let equal = LogicalPlanBuilder::from(scan).filter(ident(NAME).eq(outer(&value, of)?))?.build()?;
    let is_missing = Expr::Exists(expr::Exists { subquery: subquery(equal)?, negated: true });
    Ok(value.is_not_null().and(is_missing))
}
