//! Plain SQL that is a search: `ORDER BY cosine_distance(v, ...) LIMIT k`, `WHERE text_match(...)`.
//!
//! The plan stays as it is, but its scan reads only the rows that can be in the result: the nearest, or those that match.
//! What stands above the scan computes the same over fewer rows, so the answer is that of the plain plan, as far as an
//! index of vectors leads to the nearest.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_schema::{DataType, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, Result};
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{
    Expr, Filter, LogicalPlan, SortExpr, TableProviderFilterPushDown, TableScan, TableType,
};
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};
use datafusion::physical_plan::ExecutionPlan;
use plexus_index::VectorQuery;
use plexus_model::{RowSelection, RowSet, SegmentId};

use crate::context::query_id;
use crate::search::exec::local;
use crate::search::exec::nearest::any_without_distance;
use crate::search::exec::report::{note_retriever, note_rows};
use crate::search::exec::retriever::{self, Retriever};
use crate::search::exec::search::select_rows;
use crate::search::exec::text_binding::TextBinding;
use crate::search::params::SearchParams;
use crate::search::remote::protocol::{ShardRequest, ShardResponse};
use crate::search::remote::scatter_gather::scatter_gather;
use crate::search::snapshot::selections::RowSelections;
use crate::search::snapshot::snapshot::SearchSnapshot;
use crate::search::sql::arguments::K_MAX;
use crate::search::sql::binding::text_call;
use crate::search::sql::functions::{DistanceFunction, as_function, vector_of};
use crate::search::sql::relation::external;
use crate::tables::pinned::PinnedTable;

/// Has scans read what a search leaves.
#[derive(Debug)]
pub struct SearchRule;

impl OptimizerRule for SearchRule {
    fn name(&self) -> &str {
        "search"
    }

    fn rewrite(&self, plan: LogicalPlan, _: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        plan.transform_down_with_subqueries(|node| match Chain::of(&node)? {
            Some(chain) => Ok(Transformed::new(chain.rewrite(node)?, true, TreeNodeRecursion::Jump)),
            None => Ok(Transformed::no(node)),
        })
    }
}

/// A plan of one table: sorted, projected and filtered.
struct Chain {
    table: Arc<dyn TableProvider>,
    selection: Selection,
}

/// What of a table's rows is read.
#[derive(Debug, Clone, Default)]
struct Selection {
    /// Predicates on the columns of the table.
    filters: Vec<Expr>,
    /// Queries that all rows match.
    matches: Vec<Arc<TextBinding>>,
    /// Of those rows the best, as many as count, and their equals.
    top: Option<(TopOf, usize)>,
}

#[derive(Debug, Clone)]
enum TopOf {
    Vector { column: u32, query: VectorQuery, nulls_first: bool },
    Text(Arc<TextBinding>),
}

/// The nodes that a chain may have above its scan.
fn below(node: &LogicalPlan) -> Option<&Arc<LogicalPlan>> {
    match node {
        LogicalPlan::Sort(sort) => Some(&sort.input),
        LogicalPlan::Projection(projection) => Some(&projection.input),
        LogicalPlan::Filter(filter) => Some(&filter.input),
        LogicalPlan::SubqueryAlias(alias) => Some(&alias.input),
        _ => None,
    }
}

/// The nodes from one down to a scan of a whole table, if there is nothing else between. What is filtered, or taken the
/// first of, above where the first were taken already is another plan's.
fn nodes_of(top: &LogicalPlan) -> Option<(Vec<&LogicalPlan>, &TableScan)> {
    let (mut nodes, mut node) = (Vec::new(), top);
    let (mut filtered, mut limited) = (false, false);
    loop {
        match node {
            LogicalPlan::TableScan(scan) => return scan.fetch.is_none().then_some((nodes, scan)),
            LogicalPlan::Filter(_) => filtered = true,
            LogicalPlan::Sort(sort) if sort.fetch.is_some() => {
                if filtered || limited {
                    return None;
                }
                limited = true;
            }
            _ => {}
        }
        nodes.push(node);
        node = below(node)?;
    }
}

impl Chain {
    /// The chain that begins at a node, if there is one and it is a search.
    fn of(top: &LogicalPlan) -> Result<Option<Self>> {
        let Some((nodes, scan)) = nodes_of(top) else {
            return Ok(None);
        };
        let provider = source_as_provider(&scan.source)?;
        let Some(pinned) = provider.downcast_ref::<PinnedTable>() else {
            return Ok(None);
        };
        // From the scan upwards, so that columns of projections can be followed down to it.
        let mut defined: HashMap<String, Expr> = HashMap::new();
        let mut filters = Vec::new();
        for filter in &scan.filters {
            filters.push(followed(filter, &defined)?);
        }
        let mut top = None;
        for node in nodes.into_iter().rev() {
            match node {
                LogicalPlan::Filter(filter) => {
                    filters.extend(split_conjunction_owned(followed(&filter.predicate, &defined)?));
                }
                LogicalPlan::Projection(projection) => {
                    let mut next = HashMap::new();
                    for expr in &projection.expr {
                        let (_, name) = expr.qualified_name();
                        next.insert(name, followed(expr, &defined)?.unalias());
                    }
                    defined = next;
                }
                LogicalPlan::Sort(sort) => {
                    if let (Some(fetch), Some(by)) = (sort.fetch, sort.expr.first()) {
                        let by = SortExpr { expr: followed(&by.expr, &defined)?, ..by.clone() };
                        top = top_of(pinned, &by).map(|top| (top, fetch));
                    }
                }
                _ => {}
            }
        }
        let selection = Selection::new(pinned, filters, top.filter(|(_, k)| *k <= K_MAX));
        let searches = selection.top.is_some() || !selection.matches.is_empty();
        Ok(searches.then(|| Self { table: provider.clone(), selection }))
    }

    /// The plan with its scan reading what is selected.
    fn rewrite(&self, plan: LogicalPlan) -> Result<LogicalPlan> {
        let rewritten = plan.transform_up(|node| match node {
            LogicalPlan::TableScan(scan) => {
                let selected = SelectedTable { inner: self.table.clone(), selection: self.selection.clone() };
                let filters = scan.filters.iter().filter(|f| !self.is_match(f)).cloned().collect();
                let source = provider_as_source(Arc::new(selected));
                Ok(Transformed::yes(LogicalPlan::TableScan(TableScan { source, filters, ..scan })))
            }
            LogicalPlan::Filter(filter) => {
                // What the scan leaves matches already.
                let left =
                    split_conjunction_owned(filter.predicate).into_iter().filter(|f| !self.is_match(f));
                match conjunction(left) {
                    Some(predicate) => {
                        Ok(Transformed::yes(LogicalPlan::Filter(Filter::try_new(predicate, filter.input)?)))
                    }
                    None => Ok(Transformed::yes(Arc::unwrap_or_clone(filter.input))),
                }
            }
            other => Ok(Transformed::no(other)),
        })?;
        Ok(rewritten.data)
    }

    fn is_match(&self, filter: &Expr) -> bool {
        let of = |binding: &Arc<TextBinding>| self.selection.matches.iter().any(|m| Arc::ptr_eq(m, binding));
        text_call(filter)
            .is_some_and(|(function, _)| !function.scores && function.binding.as_ref().is_some_and(of))
    }
}

impl Selection {
    /// What filters over the columns of a table select, and the first of that where it can be told.
    fn new(pinned: &PinnedTable, filters: Vec<Expr>, top: Option<(TopOf, usize)>) -> Self {
        let mut selection = Self { top, ..Self::default() };
        for filter in filters {
            if let Some(binding) = match_of(pinned, &filter) {
                if !selection.matches.iter().any(|m| Arc::ptr_eq(m, &binding)) {
                    selection.matches.push(binding);
                }
            } else if is_of_the_row_alone(&filter) {
                if !selection.filters.contains(&filter) {
                    selection.filters.push(filter);
                }
            } else {
                // It stays above the scan, and no top of what it leaves can be told.
                selection.top = None;
            }
        }
        if let Some((TopOf::Text(binding), _)) = &selection.top
            && !selection.matches.iter().any(|m| Arc::ptr_eq(m, binding))
        {
            // Rows that do not match have no score, and may be among the first.
            selection.top = None;
        }
        selection
    }
}

/// Whether a predicate can be evaluated for a row of a table, and always has the same value for it.
fn is_of_the_row_alone(expr: &Expr) -> bool {
    let other = |e: &Expr| {
        text_call(e).is_some()
            || matches!(
                e,
                Expr::ScalarSubquery(_)
                    | Expr::InSubquery(_)
                    | Expr::Exists(_)
                    | Expr::SetComparison(_)
                    | Expr::OuterReferenceColumn(..)
                    | Expr::Placeholder(_)
            )
    };
    !expr.is_volatile() && !expr.exists(|e| Ok(other(e))).unwrap_or(true)
}

/// The query of a condition that is nothing but a match of a table's own columns.
fn match_of(pinned: &PinnedTable, filter: &Expr) -> Option<Arc<TextBinding>> {
    let (function, args) = text_call(filter)?;
    let binding =
        function.binding.as_ref().filter(|binding| !function.scores && is_of(pinned, binding, args))?;
    Some(binding.clone())
}

/// Whether a binding is of a table, and its function called with the columns that it is bound to.
fn is_of(pinned: &PinnedTable, binding: &Arc<TextBinding>, args: &[Expr]) -> bool {
    let schema = &pinned.table().schema;
    let id = |arg: &Expr| match arg {
        Expr::Column(column) => schema.column_index(&column.name).map(|place| schema.columns[place].id),
        _ => None,
    };
    let called = args.iter().take(args.len().saturating_sub(1)).map(id);
    pinned.bindings().has(binding) && called.eq(binding.called.iter().map(|id| Some(*id)))
}

/// What an order puts first, if that is a search.
fn top_of(pinned: &PinnedTable, by: &SortExpr) -> Option<TopOf> {
    // What was simplified keeps its name, once for each time.
    let mut expr = &by.expr;
    while let Expr::Alias(alias) = expr {
        expr = &alias.expr;
    }
    if let Some((function, args)) = text_call(expr) {
        let binding = function.binding.as_ref().filter(|binding| is_of(pinned, binding, args))?;
        return (function.scores && !by.asc).then(|| TopOf::Text(binding.clone()));
    }
    let Expr::ScalarFunction(call) = expr else {
        return None;
    };
    let function = as_function::<DistanceFunction>(&call.func)?;
    if by.asc == function.similarity {
        return None;
    }
    let (column, vector) = match (single_precision(&call.args[0]), single_precision(&call.args[1])) {
        (Expr::Column(column), Expr::Literal(value, _)) | (Expr::Literal(value, _), Expr::Column(column)) => {
            (column, value)
        }
        _ => return None,
    };
    let schema = &pinned.table().schema;
    let column = &schema.columns[schema.column_index(&column.name)?];
    let vector = vector_of(vector)?;
    if Some(vector.len()) != column.data_type.vector_dimensions().map(|length| length as usize) {
        return None;
    }
    // What has no distance is left to the function.
    let query = VectorQuery::new(function.metric, vector).ok()?;
    Some(TopOf::Vector { column: column.id, query, nulls_first: by.nulls_first })
}

/// A vector as distances see it: they take components in single precision.
fn single_precision(expr: &Expr) -> &Expr {
    let floats = |to: &DataType| match to {
        DataType::FixedSizeList(item, _) | DataType::List(item) => *item.data_type() == DataType::Float32,
        _ => false,
    };
    match expr {
        Expr::Cast(cast) if floats(cast.field.data_type()) => &cast.expr,
        Expr::Alias(alias) => single_precision(&alias.expr),
        other => other,
    }
}

/// An expression over the columns of the scan, whose names are then enough.
fn followed(expr: &Expr, defined: &HashMap<String, Expr>) -> Result<Expr> {
    let followed = expr.clone().transform_up(|e| match e {
        Expr::Column(column) => Ok(Transformed::yes(match defined.get(&column.name) {
            Some(expr) => expr.clone(),
            None => Expr::Column(Column::new_unqualified(column.name)),
        })),
        e => Ok(Transformed::no(e)),
    })?;
    Ok(followed.data)
}

/// A table of which a scan reads what a search leaves.
#[derive(Debug)]
struct SelectedTable {
    inner: Arc<dyn TableProvider>,
    selection: Selection,
}

#[async_trait]
impl TableProvider for SelectedTable {
    fn schema(&self) -> SchemaRef {
        self.inner.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        self.inner.supports_filters_pushdown(filters)
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let Some(pinned) = self.inner.downcast_ref::<PinnedTable>() else {
            return self.inner.scan(state, projection, filters, limit).await;
        };
        let snapshot = pinned.search_snapshot().await?.for_query(query_id(state));
        let Selection { filters: own, matches, top } = &self.selection;
        let mut left = select_rows(&snapshot, state, own).await?;
        for binding in matches {
            let retriever = Retriever::Text { fields: binding.fields.clone(), query: binding.query.clone() };
            note_retriever(state, &snapshot, &retriever, &left, 0, SearchParams::of(state));
            left = matching(&snapshot, binding, left).await.map_err(external)?;
        }
        if let Some((of, k)) = top {
            note_rows(state, &snapshot, &left);
            left = best(&snapshot, of, *k, left, state).await.map_err(external)?;
        }
        let Some(sets) = left.filter() else {
            return self.inner.scan(state, projection, filters, limit).await;
        };
        let picked: HashMap<SegmentId, Arc<RowSet>> =
            snapshot.views.iter().zip(sets).map(|(view, rows)| (view.segment.id, rows.clone())).collect();
        pinned.scan_rows(state, projection, filters, limit, Some(&picked)).await
    }
}

/// The best of some rows and all that are equal to the last of them; all where they are too few.
async fn best(
    snapshot: &SearchSnapshot,
    of: &TopOf,
    k: usize,
    selections: RowSelections,
    state: &dyn Session,
) -> plexus_model::Result<RowSelections> {
    let params = SearchParams::of(state);
    let retriever = match of {
        TopOf::Vector { column, query, nulls_first } => {
            if *nulls_first && any_without_distance(snapshot, *column, query, &selections).await? {
                return Ok(selections);
            }
            Retriever::Vector { column: *column, query: query.clone(), ef: None }
        }
        TopOf::Text(binding) => {
            Retriever::Text { fields: binding.fields.clone(), query: binding.query.clone() }
        }
    };
    note_retriever(state, snapshot, &retriever, &selections, k, params);
    let found = retriever::best(snapshot, &retriever, &selections, k, params).await?;
    if found.len() < k {
        // Rows without a vector come after all others, but they come.
        return Ok(selections);
    }
    let mut rows = vec![RowSet::new(); snapshot.views.len()];
    for (_, hit) in found {
        rows[hit.view as usize].insert(hit.row);
    }
    Ok(RowSelections::only(rows.into_iter().map(Arc::new).collect()))
}

/// The rows among some that match a query.
async fn matching(
    snapshot: &SearchSnapshot,
    binding: &TextBinding,
    selections: RowSelections,
) -> plexus_model::Result<RowSelections> {
    let (fields, query) = (&binding.fields, &binding.query);
    let question = |_: &[u32]| Some(ShardRequest::Matching { fields: fields.into(), query: query.clone() });
    let here = |views: Vec<u32>| async move {
        let found = local::matching(snapshot, views.clone(), fields, query).await?;
        Ok(views.into_iter().zip(found).collect::<Vec<_>>())
    };
    let read = |answer: ShardResponse, views: &[u32]| answer.into_sets(snapshot, views);
    let left = (0..snapshot.views.len() as u32).filter(|view| !selections.is_empty(*view as usize));
    let mut rows = vec![Arc::default(); snapshot.views.len()];
    for (view, matches) in scatter_gather(snapshot, left, question, here, read).await?.into_iter().flatten() {
        let at = view as usize;
        rows[at] = Arc::new(match selections.get(at) {
            RowSelection::AllExcept(invisible) => &*matches - &**invisible,
            RowSelection::Only(some) => &*matches & &**some,
        });
    }
    Ok(RowSelections::only(rows))
}
