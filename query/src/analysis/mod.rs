//! Rules that give statements the meaning that SQL and other databases give them, where DataFusion's own
//! differs. One module for each rule, with the reference to DataFusion's issue if there is one.
//!
//! All of them run before DataFusion optimizes, so that constant folding follows the same rules.

use std::sync::Arc;

use arrow_schema::DataType;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, NullEquality, Result};
use datafusion::config::ConfigOptions;
use datafusion::execution::FunctionRegistry;
use datafusion::logical_expr::expr::Alias;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    AggregateUDF, Expr, LogicalPlan, LogicalPlanBuilder, Operator, ScalarUDF, Union, cast,
};
use datafusion::optimizer::{Analyzer, AnalyzerRule};

use crate::analysis::concatenations::Concatenations;
use crate::canonical_float::CanonicalFloat;
use crate::clock_texts::Completed;
use crate::interrupts::Interrupts;
use crate::interval_products::IntervalTimes;
use crate::logical_rules::planning_limits::PlanningLimits;

pub(crate) mod aggregate_arguments;
pub(crate) mod any_text;
pub(crate) mod canonical_floats;
pub(crate) mod casts;
pub(crate) mod checked_arithmetic;
pub(crate) mod checked_sum;
pub(crate) mod concatenations;
pub(crate) mod correlations;
pub(crate) mod date_times;
pub(crate) mod date_trunc;
pub(crate) mod decimal_rounding;
pub(crate) mod dependent_joins;
pub(crate) mod fallible;
pub(crate) mod finite_variances;
pub(crate) mod float_extremes;
pub(crate) mod float_operands;
pub(crate) mod grouping_columns;
pub(crate) mod in_lists;
pub(crate) mod interval_order;
pub(crate) mod large_lists;
pub(crate) mod literals;
pub(crate) mod nested_extremes;
pub(crate) mod nested_order;
pub(crate) mod null_if;
pub(crate) mod opaque_operators;
pub(crate) mod ordered_sets;
pub(crate) mod outer_aggregates;
pub(crate) mod percentiles;
pub(crate) mod recursive_terms;
pub(crate) mod registered;
pub(crate) mod related_types;
pub(crate) mod replacements;
pub(crate) mod session_zone;
pub(crate) mod similar_patterns;
pub(crate) mod single_row;
pub(crate) mod sliding_floats;
pub(crate) mod struct_fields;
pub(crate) mod subquery_columns;
pub(crate) mod subquery_items;
pub(crate) mod subquery_predicates;
pub(crate) mod timestamp_units;
pub(crate) mod typed;
pub(crate) mod unknown_items;
pub(crate) mod volatile_groups;
pub(crate) mod wide_decimals;
pub(crate) mod window_frames;
pub(crate) mod window_lists;
pub(crate) mod window_percentiles;

/// The methods that an aggregate function has from its `inner` one: what it takes, returns and keeps.
macro_rules! inner_aggregate {
    () => {
        fn signature(&self) -> &Signature {
            self.inner.signature()
        }

        fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
            self.inner.coerce_types(types)
        }

        fn return_type(&self, types: &[DataType]) -> Result<DataType> {
            self.inner.return_type(types)
        }

        fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
            self.inner.state_fields(args)
        }
    };
}
use inner_aggregate;

/// The analyzer rules of a session: ours around those of DataFusion.
pub(crate) fn analyzer_rules(
    interrupts: &Arc<Interrupts>,
    registered: &registered::RegisteredFunctions,
) -> Vec<Arc<dyn AnalyzerRule + Send + Sync>> {
    let before_coercion = [
        // Makes subqueries of lists, which the others then need not visit.
        Rule::Node("large_lists", large_lists::concerns, large_lists::rewrite),
        Rule::Node("recursive_terms", recursive_terms::concerns, recursive_terms::rewrite),
        Rule::Node("grouping_columns", grouping_columns::concerns, grouping_columns::rewrite),
        Rule::Node("outer_aggregates", outer_aggregates::concerns, outer_aggregates::rewrite),
        Rule::Plan("session_columns", session_zone::concerns_columns, session_zone::session_columns),
        Rule::Plan("correlations", correlations::concerns, correlations::analyze),
        Rule::Plan("related_types", related_types::concerns, related_types::analyze),
        Rule::Expr("null_if", null_if::concerns, null_if::rewrite),
        Rule::Expr("aggregate_arguments", aggregate_arguments::concerns, aggregate_arguments::rewrite),
        Rule::Expr("any_text", any_text::concerns, any_text::rewrite),
        Rule::Expr("decimal_rounding", decimal_rounding::concerns, decimal_rounding::rewrite),
        Rule::Expr("window_frames", window_frames::concerns, window_frames::rewrite),
        Rule::Expr("replacements", replacements::concerns, replacements::rewrite),
        Rule::Node("volatile_groups", volatile_groups::concerns, volatile_groups::rewrite),
        Rule::Node("ordered_sets", ordered_sets::concerns, ordered_sets::rewrite),
        Rule::Node("percentiles", percentiles::concerns, percentiles::rewrite),
        // Makes scalar subqueries.
        Rule::Node("subquery_predicates", subquery_predicates::concerns, subquery_predicates::rewrite_node),
        Rule::Plan("single_row_subqueries", single_row::concerns, single_row::analyze),
        Rule::Node("subquery_columns", subquery_columns::concerns, subquery_columns::rewrite),
        // Wants scalar subqueries in filters and projections only, with at most one row.
        Rule::Plan("dependent_joins", dependent_joins::concerns, dependent_joins::analyze),
        Rule::Node("in_lists", in_lists::concerns, in_lists::rewrite),
        Rule::Expr("wide_decimals", wide_decimals::concerns, wide_decimals::rewrite),
        Rule::Plan("float_operands", float_operands::concerns, float_operands::analyze),
        Rule::Expr("date_times", date_times::concerns, date_times::rewrite),
        Rule::Expr("wide_date_trunc", date_trunc::concerns, date_trunc::widen),
        Rule::Plan("timestamp_units", timestamp_units::concerns, timestamp_units::analyze),
    ];
    // These look at types, which are known after coercion.
    let after_coercion = [
        Rule::Expr("subquery_items", subquery_items::concerns, subquery_items::rewrite),
        Rule::Node("struct_fields", struct_fields::concerns, struct_fields::rewrite),
        Rule::Expr("casts", casts::concerns, casts::rewrite),
        Rule::Plan("canonical_floats", canonical_floats::concerns, canonical_floats::analyze),
        Rule::Expr("float_extremes", float_extremes::concerns, float_extremes::rewrite),
        Rule::Node("finite_variances", finite_variances::concerns, finite_variances::rewrite),
        Rule::Expr("window_percentiles", window_percentiles::concerns, window_percentiles::rewrite),
        Rule::Expr("window_lists", window_lists::concerns, window_lists::rewrite),
        Rule::Plan("sliding_floats", sliding_floats::concerns, sliding_floats::analyze),
        Rule::Plan("session_zone", session_zone::concerns, session_zone::session_zone),
        Rule::Expr("date_trunc", date_trunc::concerns, date_trunc::rewrite),
        Rule::Expr("interval_order", interval_order::concerns, interval_order::rewrite),
        Rule::Node("interval_sorts", interval_order::concerns_sort, interval_order::rewrite_sort),
        Rule::Expr("nested_order", nested_order::concerns, nested_order::rewrite),
        Rule::Expr("nested_extremes", nested_extremes::concerns, nested_extremes::rewrite),
        Rule::Node("nested_sorts", interval_order::concerns_sort, nested_order::rewrite_sort),
        Rule::Plan("checked_sum", checked_sum::concerns, checked_sum::analyze),
        Rule::Plan("checked_arithmetic", checked_arithmetic::concerns, checked_arithmetic::analyze),
        Rule::Expr("opaque_operators", opaque_operators::concerns, opaque_operators::rewrite),
        Rule::Expr("filtered_arguments", fallible::concerns, fallible::rewrite),
    ];
    let own = |rule| Arc::new(rule) as Arc<dyn AnalyzerRule + Send + Sync>;
    let theirs = Analyzer::new().rules;
    let limits = PlanningLimits { counts: true, interrupts: interrupts.clone() };
    let limits = || [Arc::new(limits.clone()) as Arc<dyn AnalyzerRule + Send + Sync>];
    let concatenations = Concatenations(registered.clone());
    let concatenations = Arc::new(concatenations) as Arc<dyn AnalyzerRule + Send + Sync>;
    let registered = Arc::new(registered.clone()) as Arc<dyn AnalyzerRule + Send + Sync>;
    let first = limits().into_iter().chain([registered]);
    let before_coercion = first.chain(before_coercion.into_iter().map(own)).chain(limits());
    let after_coercion = after_coercion.into_iter().map(own).chain([concatenations]);
    before_coercion.chain(theirs).chain(after_coercion).chain(limits()).collect()
}

/// A rule by its name, by what it looks for, and by what it rewrites: whole plans, each node of a plan and of
/// its subqueries, or each expression, with the schema of the inputs of its node.
///
/// Most plans have nothing of what most rules look for. Passing over such a plan is cheap, rewriting it is
/// not: each node and its schema would be made anew by each rule.
#[derive(Debug)]
enum Rule {
    Plan(&'static str, fn(&LogicalPlan) -> bool, fn(LogicalPlan, &ConfigOptions) -> Result<LogicalPlan>),
    Node(&'static str, fn(&LogicalPlan) -> bool, fn(LogicalPlan) -> Result<Transformed<LogicalPlan>>),
    Expr(&'static str, fn(&Expr) -> bool, fn(Expr, &DFSchema) -> Result<Transformed<Expr>>),
}

impl Rule {
    /// Whether the rule has to look at a node of a plan.
    fn concerns(&self, node: &LogicalPlan) -> bool {
        match self {
            Self::Plan(_, concerns, _) | Self::Node(_, concerns, _) => concerns(node),
            Self::Expr(_, concerns, _) => has_expression(node, concerns),
        }
    }
}

impl AnalyzerRule for Rule {
    fn name(&self) -> &str {
        match self {
            Self::Plan(name, ..) | Self::Node(name, ..) | Self::Expr(name, ..) => name,
        }
    }

    fn analyze(&self, plan: LogicalPlan, config: &ConfigOptions) -> Result<LogicalPlan> {
        let mut is_concerned = false;
        plan.apply_with_subqueries(|node| {
            is_concerned |= self.concerns(node);
            Ok(if is_concerned { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
        })?;
        if !is_concerned {
            return Ok(plan);
        }
        match self {
            Self::Plan(_, _, rewrite) => rewrite(plan, config),
            Self::Node(_, _, rewrite) => {
                let rewritten = plan.transform_up_with_subqueries(rewrite)?;
                match rewritten.transformed {
                    true => recompute_schemas(rewritten.data),
                    false => Ok(rewritten.data),
                }
            }
            Self::Expr(_, _, rewrite) => {
                rewrite_expressions(plan, rewrite, &|plan| Ok(Transformed::no(plan)))
            }
        }
    }
}

/// Gives the nodes above what a rule has changed the schemas that follow from it.
fn recompute_schemas(plan: LogicalPlan) -> Result<LogicalPlan> {
    plan.transform_up_with_subqueries(|node| node.recompute_schema().map(Transformed::yes)).data()
}

/// Whether an expression of a plan, or a part of one, is wanted, also in subqueries.
fn plan_has_expression(plan: &LogicalPlan, wanted: impl Fn(&Expr) -> bool) -> Result<bool> {
    let mut found = false;
    plan.apply_with_subqueries(|node| {
        found |= has_expression(node, &wanted);
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}

/// Whether an expression of a node, or a part of one, is wanted. Subqueries are not looked into.
fn has_expression(node: &LogicalPlan, wanted: impl Fn(&Expr) -> bool) -> bool {
    let mut found = false;
    let mut look = |expr: &Expr| {
        found |= wanted(expr);
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    };
    // Nothing in it fails.
    let _ = node.apply_expressions(|expr| expr.apply(&mut look));
    found
}

/// Whether an expression calls one of the functions.
fn is_call(expr: &Expr, functions: &[&str]) -> bool {
    matches!(expr, Expr::ScalarFunction(call) if functions.contains(&call.name()))
}

/// Registers the functions that the rules put into plans.
pub(crate) fn register_functions(registry: &mut dyn FunctionRegistry) -> Result<()> {
    for function in checked_arithmetic::functions() {
        registry.register_udf(function)?;
    }
    registry.register_udf(Arc::new(ScalarUDF::from(struct_fields::MaskedField::default())))?;
    registry.register_udf(Arc::new(ScalarUDF::from(struct_fields::ShownStruct::default())))?;
    registry.register_udf(Arc::new(ScalarUDF::from(date_trunc::DateTrunc::default())))?;
    registry.register_udf(Arc::new(ScalarUDF::from(similar_patterns::SimilarPattern::default())))?;
    registry.register_udf(Arc::new(ScalarUDF::from(replacements::GroupReferences::default())))?;
    registry.register_udf(Arc::new(ScalarUDF::from(nested_order::OrderKey::default())))?;
    registry.register_udf(Arc::new(ScalarUDF::from(IntervalTimes::default())))?;
    registry.register_udf(Arc::new(ScalarUDF::from(Completed::default())))?;
    for is_descending in [false, true] {
        registry.register_udf(Arc::new(ScalarUDF::from(percentiles::Percentile::new(is_descending))))?;
    }
    for function in opaque_operators::functions() {
        registry.register_udf(function)?;
    }
    for function in casts::functions().into_iter().chain(nested_extremes::functions()) {
        registry.register_udf(function)?;
    }
    registry.register_udf(Arc::new(ScalarUDF::from(CanonicalFloat::default())))?;
    registry.register_udf(Arc::new(ScalarUDF::from(typed::Typed::default())))?;
    registry.register_udf(Arc::new(ScalarUDF::from(unknown_items::HasUnknownItem::default())))?;
    registry.register_udf(Arc::new(ScalarUDF::from(finite_variances::Finite::default())))?;
    registry.register_udf(Arc::new(ScalarUDF::from(date_times::DurationInterval::default())))?;
    let aggregates = float_extremes::functions().into_iter().chain(sliding_floats::functions());
    let aggregates = aggregates.chain(window_lists::functions()).chain(nested_extremes::windows());
    let aggregates = aggregates.chain([window_percentiles::function()]);
    for function in aggregates {
        registry.register_udaf(function)?;
    }
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

/// The columns of a schema from a plan that has others beside them.
fn select_columns(plan: LogicalPlan, schema: &DFSchema) -> Result<LogicalPlan> {
    LogicalPlanBuilder::from(plan).project(schema.columns().into_iter().map(Expr::Column))?.build()
}

/// Changes the columns of a plan behind the first `before`. `change` gets the position among these, and
/// returns what the column becomes, if anything else. Names stay.
fn change_results(
    plan: LogicalPlan,
    before: usize,
    change: impl Fn(usize, Expr) -> Option<Expr>,
) -> Result<LogicalPlan> {
    let schema = Arc::clone(plan.schema());
    let exprs = schema.iter().enumerate().map(|(index, (qualifier, field))| {
        let column = Expr::Column(Column::from((qualifier, field)));
        match index.checked_sub(before).and_then(|index| change(index, column.clone())) {
            Some(changed) => changed.alias_qualified(qualifier.cloned(), field.name()),
            None => column,
        }
    });
    LogicalPlanBuilder::from(plan).project(exprs)?.build()
}

/// The operator by which a join compares its keys.
fn key_operator(null_equality: NullEquality) -> Operator {
    match null_equality {
        NullEquality::NullEqualsNothing => Operator::Eq,
        NullEquality::NullEqualsNull => Operator::IsNotDistinctFrom,
    }
}

/// Casts columns of a plan to the given types. Names stay.
fn cast_columns(plan: LogicalPlan, types: &[Option<DataType>]) -> Result<LogicalPlan> {
    let exprs: Vec<Expr> = plan
        .schema()
        .iter()
        .zip(types)
        .map(|((qualifier, field), to)| {
            let column = Expr::Column(Column::from((qualifier, field)));
            match to {
                Some(to) => {
                    let value = cast(column, to.clone());
                    Expr::Alias(Alias::new(value, qualifier.cloned(), field.name()))
                }
                None => column,
            }
        })
        .collect();
    LogicalPlanBuilder::from(plan).project(exprs)?.build()
}

/// Casts the columns of the inputs of a union. `casts` gets the types of one column in all inputs, and
/// returns to what each is cast; `None` to leave all of them.
fn cast_union_columns(
    union: Union,
    casts: impl Fn(&[DataType]) -> Option<Vec<Option<DataType>>>,
) -> Result<Transformed<LogicalPlan>> {
    let columns = union.schema.fields().len();
    let types_of = |column: usize| -> Vec<DataType> {
        union.inputs.iter().map(|input| input.schema().field(column).data_type().clone()).collect()
    };
    let casts: Vec<_> = (0..columns).map(|column| casts(&types_of(column))).collect();
    if casts.iter().flatten().flatten().all(Option::is_none) {
        return Ok(Transformed::no(LogicalPlan::Union(union)));
    }
    let Union { inputs, schema } = union;
    let inputs = inputs.into_iter().enumerate().map(|(input, plan)| {
        let own: Vec<Option<DataType>> =
            casts.iter().map(|casts| casts.as_ref().and_then(|casts| casts.get(input)?.clone())).collect();
        cast_columns(Arc::unwrap_or_clone(plan), &own).map(Arc::new)
    });
    let inputs = inputs.collect::<Result<Vec<_>>>()?;
    // The union keeps its names, and gets the types of its first input until types are coerced.
    let types = inputs.first().map(|input| input.schema().clone()).unwrap_or_else(|| schema.clone());
    let fields = schema.iter().zip(types.fields()).map(|((relation, field), typed)| {
        (relation.cloned(), Arc::new(field.as_ref().clone().with_data_type(typed.data_type().clone())))
    });
    let schema = DFSchema::new_with_metadata(fields.collect(), schema.metadata().clone())?;
    Ok(Transformed::yes(LogicalPlan::Union(Union { inputs, schema: Arc::new(schema) })))
}
