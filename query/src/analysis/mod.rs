//! Rules that give statements the meaning that SQL and other databases give them, where DataFusion's own
//! differs. One module for each rule, with the reference to DataFusion's issue if there is one.
//!
//! All of them run before DataFusion optimizes, so that constant folding follows the same rules.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, tree_node::TreeNode};
use datafusion::execution::FunctionRegistry;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{AggregateUDF, Expr, LogicalPlan, ScalarUDF};
use datafusion::optimizer::{Analyzer, AnalyzerRule};

pub(crate) mod array_has;
pub(crate) mod checked_arithmetic;
pub(crate) mod checked_sum;
pub(crate) mod correlations;
pub(crate) mod float_operands;
pub(crate) mod float_zeros;
pub(crate) mod in_lists;
pub(crate) mod interval_order;
pub(crate) mod literals;
pub(crate) mod session_zone;
pub(crate) mod single_row;
pub(crate) mod subquery_columns;
pub(crate) mod subquery_predicates;

/// The analyzer rules of a session: ours around those of DataFusion.
pub(crate) fn analyzer_rules() -> Vec<Arc<dyn AnalyzerRule + Send + Sync>> {
    let mut rules: Vec<Arc<dyn AnalyzerRule + Send + Sync>> = vec![
        Arc::new(correlations::Correlations),
        Arc::new(subquery_predicates::SubqueryPredicates),
        Arc::new(single_row::SingleRowSubqueries),
        Arc::new(subquery_columns::SubqueryColumns),
        Arc::new(in_lists::InLists),
        Arc::new(float_operands::FloatOperands),
    ];
    rules.extend(Analyzer::new().rules);
    // These look at types, which are known after coercion.
    rules.push(Arc::new(float_zeros::WindowZeros));
    rules.push(Arc::new(session_zone::SessionZone));
    rules.push(Arc::new(interval_order::IntervalOrder));
    rules.push(Arc::new(array_has::ArrayHas));
    rules.push(Arc::new(checked_sum::CheckedSum));
    rules.push(Arc::new(checked_arithmetic::CheckedArithmetic));
    rules
}

/// Registers the functions that the rules put into plans.
pub(crate) fn register_functions(registry: &mut dyn FunctionRegistry) -> Result<()> {
    for function in checked_arithmetic::functions() {
        registry.register_udf(function)?;
    }
    registry.register_udf(Arc::new(ScalarUDF::from(session_zone::Announced::default())))?;
    registry.register_udf(Arc::new(ScalarUDF::from(interval_order::IntervalLength::default())))?;
    registry.register_udaf(Arc::new(AggregateUDF::from(single_row::SingleRow::default())))?;
    Ok(())
}

/// Rewrites every expression of a plan and of its subqueries, from the leaves up. `rewrite` gets an
/// expression with the schema of its inputs. Names of columns stay.
fn rewrite_expressions(
    plan: LogicalPlan,
    rewrite: &impl Fn(Expr, &DFSchema) -> Result<Transformed<Expr>>,
    finish: &impl Fn(LogicalPlan) -> Result<Transformed<LogicalPlan>>,
) -> Result<LogicalPlan> {
    let whole = |expr: Expr, schema: &DFSchema| expr.transform_up(|expr| rewrite(expr, schema));
    rewrite_whole_expressions(plan, &whole, finish)
}

/// The same, but `rewrite` gets whole expressions.
fn rewrite_whole_expressions(
    plan: LogicalPlan,
    rewrite: &impl Fn(Expr, &DFSchema) -> Result<Transformed<Expr>>,
    finish: &impl Fn(LogicalPlan) -> Result<Transformed<LogicalPlan>>,
) -> Result<LogicalPlan> {
    let transformed = plan.transform_up_with_subqueries(|plan| {
        let mut schema = merge_schema(&plan.inputs());
        if let LogicalPlan::TableScan(scan) = &plan {
            schema
                .merge(&DFSchema::try_from_qualified_schema(scan.table_name.clone(), &scan.source.schema())?);
        }
        let preserver = NamePreserver::new(&plan);
        plan.map_expressions(|expr| {
            let name = preserver.save(&expr);
            Ok(rewrite(expr, &schema)?.update_data(|expr| name.restore(expr)))
        })?
        .transform_data(finish)?
        .map_data(LogicalPlan::recompute_schema)
    })?;
    Ok(transformed.data)
}
