//! An optimizer rule for plain SQL that is a search, such as `ORDER BY cosine_distance(v, ...) LIMIT k` and
//! `WHERE text_match(...)`.
//!
//! The plan keeps its shape, but the scan reads only rows that can be in the result: the nearest, or those
//! that match. The operators above the scan compute the same over fewer rows, so the result is that of the
//! plain plan. It is approximate only where a vector index is.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_schema::{DataType, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, Result};
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{
    Expr, FetchType, Filter, Limit, LogicalPlan, SkipType, SortExpr, TableProviderFilterPushDown, TableScan,
    TableType,
};
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};
use datafusion::physical_plan::ExecutionPlan;
use plexus_index::VectorQuery;
use plexus_model::{RowSelection, RowSet, SegmentId};

use crate::analysis::fallible::can_fail;
use crate::context::external;
use crate::context::query_id;
use crate::search::exec::local::matching as matching_rows;
use crate::search::exec::nearest::any_without_distance;
use crate::search::exec::pages::sorted_pages;
use crate::search::exec::report::{note_retriever, note_rows};
use crate::search::exec::retriever::{self, Retriever};
use crate::search::exec::search::select_rows;
use crate::search::exec::text_binding::TextBinding;
use crate::search::hit::Hit;
use crate::search::params::SearchParams;
use crate::search::remote::protocol::{ShardRequest, ShardResponse};
use crate::search::remote::scatter_gather::scatter_gather;
use crate::search::snapshot::SearchSnapshot;
use crate::search::snapshot::selections::RowSelections;
use crate::search::sql::arguments::K_MAX;
use crate::search::sql::binding::text_call;
use crate::search::sql::monotonic::{monotonic_in, rounds, value_for};
use crate::search::sql::scalar_functions::{DistanceFunction, as_function, vector_of};
use crate::search::sql::text_conditions::{TextCondition, sets};
use crate::search::sql::tie_break_keys::break_ties;
use crate::tables::dml_target::TargetTable;
use crate::tables::pinned::PinnedTable;

/// Restricts table scans to the rows that a search selects.
#[derive(Debug)]
pub(crate) struct SearchRule;

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

/// Sorts, projections and filters over the scan of one table.
struct Chain {
    table: Arc<dyn TableProvider>,
    selection: Selection,
    /// The filters, as they stand in the plan, that the conditions of the selection apply.
    applied: Vec<Expr>,
}

/// The rows of a table that are read.
#[derive(Debug, Clone, Default)]
struct Selection {
    /// Predicates over the columns of the table that fail for no row.
    filters: Vec<Expr>,
    /// Those that may fail for rows which the others leave out.
    fallible: Vec<Expr>,
    /// Full-text queries that all rows match.
    matches: Vec<Arc<TextBinding>>,
    /// Other conditions with full-text matches in them.
    conditions: Vec<TextCondition>,
    /// The first rows of an order, with all that tie with the last of them.
    top: Option<Top>,
}

/// The rows that a limit leaves.
#[derive(Debug, Clone)]
struct Top {
    of: TopOf,
    /// The expression of the order, which is monotonic in the distance or score.
    by: Expr,
    /// How many rows are read.
    depth: usize,
    /// How many of the last of them are returned, if an offset skips the others.
    page: Option<usize>,
}

/// An order in which a search can find the first rows.
#[derive(Debug, Clone)]
enum TopOf {
    Vector {
        column: u32,
        query: VectorQuery,
        /// Whether the order is one of similarities, which fall with the distance.
        similarity: bool,
        nulls_first: bool,
    },
    Text(Arc<TextBinding>),
}

/// The input of a node that a chain may have above its scan.
fn below(node: &LogicalPlan) -> Option<&Arc<LogicalPlan>> {
    match node {
        LogicalPlan::Sort(sort) => Some(&sort.input),
        LogicalPlan::Projection(projection) => Some(&projection.input),
        LogicalPlan::Filter(filter) => Some(&filter.input),
        LogicalPlan::SubqueryAlias(alias) => Some(&alias.input),
        _ => None,
    }
}

/// The rows that a limit with an offset returns.
fn page_of(limit: &Limit) -> Option<usize> {
    match (limit.get_skip_type().ok()?, limit.get_fetch_type().ok()?) {
        (SkipType::Literal(1..), FetchType::Literal(page)) => page,
        _ => None,
    }
}

/// The nodes from `top` down to the scan of a whole table, if all of them can be in a chain. A filter or a
/// second limit above a limit ends the search for a chain: it applies to the limited rows, not to the table.
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
    /// The chain that starts at a node, if there is one and it is a search.
    fn of(top: &LogicalPlan) -> Result<Option<Self>> {
        let (page, top) = match top {
            LogicalPlan::Limit(limit) => match page_of(limit) {
                Some(page) => (Some(page), limit.input.as_ref()),
                None => return Ok(None),
            },
            top => (None, top),
        };
        let Some((nodes, scan)) = nodes_of(top) else {
            return Ok(None);
        };
        let provider = source_as_provider(&scan.source)?;
        let Some(pinned) = provider.downcast_ref::<PinnedTable>() else {
            return Ok(None);
        };
        // From the scan upwards, so that columns of projections can be resolved to columns of the table.
        let mut defined: HashMap<String, Expr> = HashMap::new();
        let mut filters = Vec::new();
        for filter in &scan.filters {
            filters.push((filter.clone(), resolved(filter, &defined)?));
        }
        let mut top = None;
        for node in nodes.into_iter().rev() {
            match node {
                LogicalPlan::Filter(filter) => {
                    for filter in split_conjunction_owned(filter.predicate.clone()) {
                        let of_table = resolved(&filter, &defined)?;
                        filters.push((filter, of_table));
                    }
                }
                LogicalPlan::Projection(projection) => {
                    let mut next = HashMap::new();
                    for expr in &projection.expr {
                        let (_, name) = expr.qualified_name();
                        next.insert(name, resolved(expr, &defined)?.unalias());
                    }
                    defined = next;
                }
                LogicalPlan::Sort(sort) => {
                    if let (Some(depth), Some(by)) = (sort.fetch, sort.expr.first()) {
                        let by = SortExpr { expr: resolved(&by.expr, &defined)?, ..by.clone() };
                        top = top_of(pinned, &by).map(|of| Top { of, by: by.expr, depth, page });
                    }
                }
                _ => {}
            }
        }
        let (selection, applied) = Selection::new(pinned, filters, top.filter(|top| top.depth <= K_MAX))?;
        let searches =
            selection.top.is_some() || !selection.matches.is_empty() || !selection.conditions.is_empty();
        Ok(searches.then(|| Self { table: provider.clone(), selection, applied }))
    }

    /// The plan with a scan that reads only the selected rows.
    fn rewrite(&self, plan: LogicalPlan) -> Result<LogicalPlan> {
        let rewritten = plan.transform_up(|node| match node {
            LogicalPlan::TableScan(scan) => {
                let selected = SelectedTable { inner: self.table.clone(), selection: self.selection.clone() };
                let filters = scan.filters.iter().filter(|f| !self.is_applied(f)).cloned().collect();
                let source = provider_as_source(Arc::new(selected));
                Ok(Transformed::yes(LogicalPlan::TableScan(TableScan { source, filters, ..scan })))
            }
            LogicalPlan::Filter(filter) => {
                // The scan returns only rows that match.
                let left =
                    split_conjunction_owned(filter.predicate).into_iter().filter(|f| !self.is_applied(f));
                match conjunction(left) {
                    Some(predicate) => {
                        Ok(Transformed::yes(LogicalPlan::Filter(Filter::try_new(predicate, filter.input)?)))
                    }
                    None => Ok(Transformed::yes(Arc::unwrap_or_clone(filter.input))),
                }
            }
            other => Ok(Transformed::no(other)),
        })?;
        match (&self.selection.top, pinned_table(&*self.table)) {
            (Some(_), Some(pinned)) => {
                let schema = &pinned.table().schema;
                let name =
                    |position: &u32| schema.columns.get(*position as usize).map(|column| column.name.clone());
                let key: Vec<String> = schema.primary_key.iter().filter_map(name).collect();
                break_ties(rewritten.data, &key)
            }
            _ => Ok(rewritten.data),
        }
    }

    /// Whether the scan applies a filter, which is one of its full-text queries or conditions with them.
    fn is_applied(&self, filter: &Expr) -> bool {
        if self.applied.contains(filter) {
            return true;
        }
        let is_selected =
            |binding: &Arc<TextBinding>| self.selection.matches.iter().any(|m| Arc::ptr_eq(m, binding));
        text_call(filter).is_some_and(|(function, _)| {
            !function.scores && function.binding.as_ref().is_some_and(is_selected)
        })
    }
}

impl Selection {
    /// The selection of filters over the columns of a table, each beside itself as it stands in the plan.
    /// `top` is dropped if a filter cannot be applied before it. Returns the filters in the plan that the
    /// conditions apply, too.
    fn new(pinned: &PinnedTable, filters: Vec<(Expr, Expr)>, top: Option<Top>) -> Result<(Self, Vec<Expr>)> {
        let schema = DFSchema::try_from(pinned.arrow_schema().clone())?;
        let mut selection = Self { top, ..Self::default() };
        let (mut applied, mut others): (Vec<Expr>, Vec<Expr>) = (vec![], vec![]);
        for (in_plan, filter) in filters {
            if let Some(binding) = match_of(pinned, &filter) {
                if !selection.matches.iter().any(|m| Arc::ptr_eq(m, &binding)) {
                    selection.matches.push(binding);
                }
            } else if depends_on_row_only(&filter) {
                others.push(in_plan);
                let filters = match can_fail(&filter, &schema) {
                    true => &mut selection.fallible,
                    false => &mut selection.filters,
                };
                if !filters.contains(&filter) {
                    filters.push(filter);
                }
            } else if let Some(condition) =
                TextCondition::of(&|expr| match_of(pinned, expr), &schema, &filter)
            {
                applied.push(in_plan);
                selection.conditions.push(condition);
            } else {
                others.push(in_plan);
                // The filter stays above the scan, so the first rows before it are not the first rows after
                // it.
                selection.top = None;
            }
        }
        if let Some(Top { of: TopOf::Text(binding), .. }) = &selection.top
            && !selection.matches.iter().any(|m| Arc::ptr_eq(m, binding))
        {
            // Rows that do not match have no score, and can be among the first rows.
            selection.top = None;
        }
        // The same words may mean another thing in another place.
        applied.retain(|filter| !others.contains(filter));
        Ok((selection, applied))
    }
}

/// Whether a predicate depends on the columns of a row alone and always gives the same value for them.
pub(super) fn depends_on_row_only(expr: &Expr) -> bool {
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

/// The query of a condition that is exactly a match of columns of this table.
fn match_of(pinned: &PinnedTable, filter: &Expr) -> Option<Arc<TextBinding>> {
    let (function, args) = text_call(filter)?;
    let binding =
        function.binding.as_ref().filter(|binding| !function.scores && is_of(pinned, binding, args))?;
    Some(binding.clone())
}

/// Whether a binding belongs to a table and is called with the columns that it is bound to.
fn is_of(pinned: &PinnedTable, binding: &Arc<TextBinding>, args: &[Expr]) -> bool {
    let schema = &pinned.table().schema;
    let id = |arg: &Expr| match arg {
        Expr::Column(column) => schema.column_index(&column.name).map(|index| schema.columns[index].id),
        _ => None,
    };
    let called = args.iter().take(args.len().saturating_sub(1)).map(id);
    pinned.bindings().has(binding) && called.eq(binding.called.iter().map(|id| Some(*id)))
}

/// The search that finds the first rows of an order, if there is one.
fn top_of(pinned: &PinnedTable, by: &SortExpr) -> Option<TopOf> {
    let (expr, ascending) = monotonic_in(&by.expr, by.asc);
    if let Some((function, args)) = text_call(expr) {
        let binding = function.binding.as_ref().filter(|binding| is_of(pinned, binding, args))?;
        return (function.scores && !ascending).then(|| TopOf::Text(binding.clone()));
    }
    let Expr::ScalarFunction(call) = expr else {
        return None;
    };
    let function = as_function::<DistanceFunction>(&call.func)?;
    if ascending == function.similarity {
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
    if Some(vector.len()) != column.data_type.vector_dimensions().map(|dimensions| dimensions as usize) {
        return None;
    }
    // A vector without distances is left to the function.
    let query = VectorQuery::new(function.metric, vector).ok()?;
    let similarity = function.similarity;
    Some(TopOf::Vector { column: column.id, query, similarity, nulls_first: by.nulls_first })
}

/// The expression under casts to single-precision vectors, which is the precision that distances are computed
/// in.
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

/// An expression over the columns of the scan, by unqualified names.
fn resolved(expr: &Expr, defined: &HashMap<String, Expr>) -> Result<Expr> {
    let resolved = expr.clone().transform_up(|e| match e {
        Expr::Column(column) => Ok(Transformed::yes(match defined.get(&column.name) {
            Some(expr) => expr.clone(),
            None => Expr::Column(Column::new_unqualified(column.name)),
        })),
        e => Ok(Transformed::no(e)),
    })?;
    Ok(resolved.data)
}

/// A table whose scan reads only the rows that a search selects.
#[derive(Debug)]
struct SelectedTable {
    inner: Arc<dyn TableProvider>,
    selection: Selection,
}

/// The table that a provider scans, if full text can be searched in it.
pub(crate) fn pinned_table(provider: &dyn TableProvider) -> Option<&PinnedTable> {
    if let Some(selected) = provider.downcast_ref::<SelectedTable>() {
        return pinned_table(&*selected.inner);
    }
    match provider.downcast_ref::<TargetTable>() {
        Some(target) => Some(target.pinned()),
        None => provider.downcast_ref::<PinnedTable>(),
    }
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
        let Selection { filters: own, fallible, matches, conditions, top } = &self.selection;
        let mut left = select_rows(&snapshot, state, own).await?;
        for condition in conditions {
            let rows = condition.rows(&snapshot, state).await?;
            left = left.within(rows);
        }
        for binding in matches {
            let retriever = Retriever::Text { fields: binding.fields.clone(), query: binding.query.clone() };
            note_retriever(state, &snapshot, &retriever, &left, 0, SearchParams::of(state));
            left = matching(&snapshot, binding, left).await.map_err(external)?;
        }
        // They stay above the scan, where they are evaluated only for the rows that are left. If one fails
        // for another row, those above decide which rows are the first.
        let mut top = top.as_ref();
        if top.is_some() && !fallible.is_empty() {
            match select_rows(&snapshot, state, fallible).await {
                Ok(rows) => left = left.within(sets(&snapshot, &rows)),
                Err(_) => top = None,
            }
        }
        if let Some(top) = top {
            note_rows(state, &snapshot, &left);
            left = best(&snapshot, top, left, state).await.map_err(external)?;
        }
        let Some(sets) = left.filter() else {
            return self.inner.scan(state, projection, filters, limit).await;
        };
        let selected_rows: HashMap<SegmentId, Arc<RowSet>> =
            snapshot.views.iter().zip(sets).map(|(view, rows)| (view.segment.id, rows.clone())).collect();
        pinned.scan_rows(state, projection, filters, limit, Some(&selected_rows)).await
    }
}

/// Rows read beyond a limit at first, to see whether they tie with its last one.
const TIES_READ_MIN: usize = 8;

/// The first of the selected rows in an order, with all that tie with the last of them. If fewer are found,
/// all selected rows.
async fn best(
    snapshot: &SearchSnapshot,
    top: &Top,
    selections: RowSelections,
    state: &dyn Session,
) -> plexus_model::Result<RowSelections> {
    let params = SearchParams::of(state);
    let retriever = match &top.of {
        TopOf::Vector { column, query, nulls_first, .. } => {
            if *nulls_first && any_without_distance(snapshot, *column, query, &selections).await? {
                return Ok(selections);
            }
            Retriever::Vector { column: *column, query: query.clone(), ef: None }
        }
        TopOf::Text(binding) => {
            Retriever::Text { fields: binding.fields.clone(), query: binding.query.clone() }
        }
    };
    note_retriever(state, snapshot, &retriever, &selections, top.depth, params);
    let value = |score: f32| match &top.of {
        TopOf::Vector { similarity: false, .. } => value_for(&top.by, -score),
        _ => value_for(&top.by, score),
    };
    let rounds = rounds(&top.by);
    let mut depth = if rounds { top.depth + TIES_READ_MIN } else { top.depth };
    let found = loop {
        let found = match top.page {
            Some(page) => sorted_pages(snapshot, &retriever, &selections, (page, depth), params).await?,
            None => retriever::best(snapshot, &retriever, &selections, depth, params).await?,
        };
        if found.len() < top.depth {
            // Rows without a vector sort after all others, but they are part of the result.
            return Ok(selections);
        }
        // Rows further down may have the value of the last one, which a second key of the order tells apart.
        let is_tied = |(score, _): &(f32, Hit)| value(*score) == value(found[top.depth - 1].0);
        if !rounds || found.len() < depth || !found.last().is_some_and(is_tied) {
            break found;
        }
        depth = depth.saturating_mul(2);
    };
    let mut rows = vec![RowSet::new(); snapshot.views.len()];
    for (_, hit) in found {
        rows[hit.view as usize].insert(hit.row);
    }
    Ok(RowSelections::only(rows.into_iter().map(Arc::new).collect()))
}

/// The selected rows that match a full-text query.
pub(super) async fn matching(
    snapshot: &SearchSnapshot,
    binding: &TextBinding,
    selections: RowSelections,
) -> plexus_model::Result<RowSelections> {
    let (fields, query) = (&binding.fields, &binding.query);
    let request = |_: &[u32]| Some(ShardRequest::Matching { fields: fields.into(), query: query.clone() });
    let local = |views: Vec<u32>| async move {
        let found = matching_rows(snapshot, views.clone(), fields, query).await?;
        Ok(views.into_iter().zip(found).collect::<Vec<_>>())
    };
    let decode = |response: ShardResponse, views: &[u32]| response.into_sets(snapshot, views);
    let left = (0..snapshot.views.len() as u32).filter(|view| !selections.is_empty(*view as usize));
    let mut rows = vec![Arc::default(); snapshot.views.len()];
    for (view, matches) in scatter_gather(snapshot, left, request, local, decode).await?.into_iter().flatten()
    {
        let index = view as usize;
        rows[index] = Arc::new(match selections.get(index) {
            RowSelection::AllExcept(invisible) => &*matches - &**invisible,
            RowSelection::Only(some) => &*matches & &**some,
        });
    }
    Ok(RowSelections::only(rows))
}
