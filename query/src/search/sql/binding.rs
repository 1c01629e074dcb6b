//! An analyzer rule that lowers searches to relations, and binds full-text functions to the table whose
//! columns they name. It runs before the optimizer moves expressions away from their tables.

use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, Result, ScalarValue, plan_err};
use datafusion::datasource::source_as_provider;
use datafusion::logical_expr::{Expr, LogicalPlan, ScalarUDF, ScalarUDFImpl, TableSource, lit};
use datafusion::optimizer::AnalyzerRule;
use plexus_model::Table;

use crate::context::external;
use crate::search::exec::text_binding::{Bindings, IndexChoice, TextBinding};
use crate::search::sql::relation::SearchNode;
use crate::search::sql::rule::pinned_table;
use crate::search::sql::scalar_functions::{NAMED_ARGUMENT, TextFunction, as_function};

/// Lowers searches and binds full-text functions.
#[derive(Debug)]
pub(crate) struct BindRule;

impl AnalyzerRule for BindRule {
    fn name(&self) -> &str {
        "bind_searches"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let lowered = plan.transform_down_with_subqueries(|node| {
            let LogicalPlan::Extension(extension) = &node else {
                return Ok(Transformed::no(node));
            };
            match extension.node.as_any().downcast_ref::<SearchNode>() {
                Some(search) => Ok(Transformed::new(search.lower()?, true, TreeNodeRecursion::Jump)),
                None => Ok(Transformed::no(node)),
            }
        })?;
        let bound = lowered.data.transform_up_with_subqueries(|node| {
            let mut calls = false;
            node.apply_expressions(|expr| {
                calls |= expr.exists(|e| Ok(unbound(e).is_some()))?;
                Ok(TreeNodeRecursion::Continue)
            })?;
            if !calls {
                return Ok(Transformed::no(node));
            }
            let inputs: Vec<LogicalPlan> = node.inputs().into_iter().cloned().collect();
            node.map_expressions(|expr| expr.transform_up(|e| bind(e, &inputs)))
        })?;
        Ok(bound.data)
    }
}

/// A call of a full-text function that is not bound yet.
fn unbound(expr: &Expr) -> Option<(&TextFunction, &[Expr])> {
    let (function, args) = text_call(expr)?;
    function.binding.is_none().then_some((function, args))
}

/// A call of a full-text function, bound or not.
pub(crate) fn text_call(expr: &Expr) -> Option<(&TextFunction, &[Expr])> {
    let Expr::ScalarFunction(call) = expr else {
        return None;
    };
    Some((as_function::<TextFunction>(&call.func)?, &call.args))
}

/// Binds a call over columns of one table with a constant query. Other calls stay unbound and fail when they
/// run.
fn bind(expr: Expr, inputs: &[LogicalPlan]) -> Result<Transformed<Expr>> {
    let Some((function, args)) = unbound(&expr) else {
        return Ok(Transformed::no(expr));
    };
    let (scores, (args, choice)) = (function.scores, with_choice(function, args)?);
    if args.last().is_some_and(is_null) {
        // As all functions of a null.
        let null = if scores { ScalarValue::Float32(None) } else { ScalarValue::Boolean(None) };
        let name = expr.schema_name().to_string();
        return Ok(Transformed::yes(lit(null).alias(name)));
    }
    let count = args.len();
    let Some(binding) = binding_of(args, choice, inputs)? else {
        return Ok(Transformed::no(expr));
    };
    match expr {
        Expr::ScalarFunction(mut call) => {
            call.args.truncate(count);
            call.func = Arc::new(ScalarUDF::from(TextFunction::new(scores, Some(binding))));
            Ok(Transformed::yes(Expr::ScalarFunction(call)))
        }
        other => Ok(Transformed::no(other)),
    }
}

/// The columns and the query of a call, and what its named arguments say.
pub(super) fn with_choice<'a>(
    function: &TextFunction,
    args: &'a [Expr],
) -> Result<(&'a [Expr], IndexChoice)> {
    let named = |arg: &Expr| match unaliased(arg) {
        Expr::ScalarFunction(call) if call.name() == NAMED_ARGUMENT => {
            let text = |at: usize| match call.args.get(at).map(unaliased) {
                Some(Expr::Literal(value, _)) => value.try_as_str().flatten().map(str::to_owned),
                _ => None,
            };
            Some((text(0).unwrap_or_default(), text(1)))
        }
        _ => None,
    };
    let mut choice = IndexChoice::default();
    let columns = args.iter().take_while(|arg| named(arg).is_none()).count();
    for arg in &args[columns..] {
        match named(arg) {
            Some((name, Some(value))) if name == "index" => choice.index = Some(value),
            Some((name, Some(value))) if name == "tokenizer" => choice.tokenizer = Some(value),
            Some((name, None)) if name == "index" || name == "tokenizer" => {
                return plan_err!("{}: {name} takes a constant text", function.name());
            }
            Some((name, _)) => {
                return plan_err!("{} has no argument {name}; it takes index and tokenizer", function.name());
            }
            None => return plan_err!("{}: named arguments come last", function.name()),
        }
    }
    Ok((&args[..columns], choice))
}

/// The binding for the arguments of a call, if all columns belong to one table and the query is constant.
fn binding_of(
    args: &[Expr],
    choice: IndexChoice,
    inputs: &[LogicalPlan],
) -> Result<Option<Arc<TextBinding>>> {
    let Some((Expr::Literal(query, _), columns)) =
        args.split_last().map(|(q, columns)| (unaliased(q), columns))
    else {
        return Ok(None);
    };
    let Some(text) = query.try_as_str().flatten() else {
        return Ok(None);
    };
    let mut table: Option<Arc<dyn TableSource>> = None;
    let mut names = Vec::new();
    for column in columns {
        let Expr::Column(column) = unaliased(column) else {
            return Ok(None);
        };
        let Some((source, name)) = inputs.iter().find_map(|input| origin(input, column)) else {
            return Ok(None);
        };
        if table.as_ref().is_some_and(|table| !Arc::ptr_eq(table, &source)) {
            return Ok(None);
        }
        table = Some(source);
        names.push(name);
    }
    let Some(source) = table else {
        return Ok(None);
    };
    let provider = source_as_provider(&source)?;
    match bindings_of(&*provider) {
        Some((table, bindings)) => bindings.bind(table, &names, text, choice).map(Some).map_err(external),
        None => Ok(None),
    }
}

/// Whether an expression is a null, of any type.
fn is_null(expr: &Expr) -> bool {
    match unaliased(expr) {
        Expr::Literal(value, _) => value.is_null(),
        Expr::Cast(cast) => is_null(&cast.expr),
        _ => false,
    }
}

/// The expression under all aliases.
fn unaliased(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => unaliased(&alias.expr),
        other => other,
    }
}

/// The table behind a provider and its bindings, if full text can be searched in it.
fn bindings_of(provider: &dyn TableProvider) -> Option<(&Table, &Bindings)> {
    pinned_table(provider).map(|pinned| (pinned.table().as_ref(), pinned.bindings()))
}

/// The table that a column of a plan comes from, and the name of the column there.
fn origin(plan: &LogicalPlan, column: &Column) -> Option<(Arc<dyn TableSource>, String)> {
    let same = |input: &LogicalPlan| origin(input, column);
    match plan {
        LogicalPlan::TableScan(scan) => {
            scan.projected_schema.has_column(column).then(|| (scan.source.clone(), column.name.clone()))
        }
        LogicalPlan::Projection(projection) => {
            let at = projection.schema.maybe_index_of_column(column)?;
            match unaliased(&projection.expr[at]) {
                Expr::Column(inner) => origin(&projection.input, inner),
                _ => None,
            }
        }
        LogicalPlan::SubqueryAlias(alias) => {
            let at = alias.schema.maybe_index_of_column(column)?;
            let (qualifier, field) = alias.input.schema().qualified_field(at);
            origin(&alias.input, &Column::new(qualifier.cloned(), field.name()))
        }
        LogicalPlan::Join(join) => {
            let side = if join.left.schema().has_column(column) { &join.left } else { &join.right };
            same(side)
        }
        LogicalPlan::Filter(filter) => same(&filter.input),
        LogicalPlan::Sort(sort) => same(&sort.input),
        LogicalPlan::Limit(limit) => same(&limit.input),
        _ => None,
    }
}
