//! Plain SQL that is a search: `ORDER BY cosine_distance(v, ...) LIMIT k`, `WHERE text_match(...)`.
//!
//! The plan stays as it is, but its scan reads only the rows that can be in the result: the nearest, or those that match.
//! What stands above the scan computes the same over fewer rows, so the answer is that of the plain plan.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_schema::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DataFusionError, Result};
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{
    Expr, Filter, LogicalPlan, ScalarUDF, SortExpr, TableProviderFilterPushDown, TableScan, TableType,
};
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};
use datafusion::physical_plan::ExecutionPlan;
use plexus_index::Query;
use plexus_model::{Error, Rows, SegmentId};
use tokio::sync::OnceCell;

use super::arguments::{K_MAX, text_fields};
use super::functions::{DistanceFunction, TextBinding, TextFunction, as_function, vector_of};
use super::legs::{self, Leg, Wanted};
use super::relation::SearchNode;
use super::report::{note_leg, note_rows};
use super::request::wanted;
use super::source::Source;
use crate::table::PinnedTable;

/// Lowers searches, and has scans read what a search leaves.
#[derive(Debug)]
pub struct SearchRule;

impl OptimizerRule for SearchRule {
    fn name(&self) -> &str {
        "search"
    }

    fn rewrite(&self, plan: LogicalPlan, _: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        plan.transform_down(|node| {
            if let LogicalPlan::Extension(extension) = &node
                && let Some(search) = extension.node.as_any().downcast_ref::<SearchNode>()
            {
                return Ok(Transformed::new(search.lower()?, true, TreeNodeRecursion::Jump));
            }
            match Chain::of(&node)? {
                Some(chain) => Ok(Transformed::new(chain.rewrite(node)?, true, TreeNodeRecursion::Jump)),
                None => Ok(Transformed::no(node)),
            }
        })
    }
}

/// A plan of one table: sorted, projected and filtered.
struct Chain {
    table: Arc<dyn TableProvider>,
    selection: Selection,
    /// Queries over texts, each once, by what the functions are called with.
    bindings: HashMap<(Vec<String>, String), Arc<TextBinding>>,
}

/// What of a table's rows is read.
#[derive(Debug, Clone, Default)]
struct Selection {
    /// Predicates on the columns of the table.
    filters: Vec<Expr>,
    /// Queries that all rows match.
    matches: Vec<Arc<TextBinding>>,
    /// Queries whose scores are asked for.
    scored: Vec<Arc<TextBinding>>,
    /// Of those rows the best, as many as count, and their equals.
    top: Option<(TopOf, usize)>,
}

#[derive(Debug, Clone)]
enum TopOf {
    Vector { column: u32, query: Query, nulls_first: bool },
    Text(Arc<TextBinding>),
}

fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
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

impl Chain {
    /// The chain that begins at a node, if there is one and it is a search.
    fn of(top: &LogicalPlan) -> Result<Option<Self>> {
        let mut nodes = vec![top];
        let mut node = top;
        let mut filtered = false;
        let scan = loop {
            match node {
                LogicalPlan::Filter(_) => filtered = true,
                // What is filtered after the first were taken is another plan's.
                LogicalPlan::Sort(sort) if sort.fetch.is_some() && filtered => return Ok(None),
                _ => {}
            }
            match (node, below(node)) {
                (LogicalPlan::TableScan(scan), _) => break scan,
                (_, Some(input)) => node = input,
                _ => return Ok(None),
            }
            nodes.push(node);
        };
        let provider = source_as_provider(&scan.source)?;
        let Some(pinned) = provider.downcast_ref::<PinnedTable>() else {
            return Ok(None);
        };
        let mut chain =
            Self { table: provider.clone(), selection: Selection::default(), bindings: HashMap::new() };
        // From the scan upwards, so that columns of projections can be followed down to it.
        let mut defined: HashMap<String, Expr> = HashMap::new();
        let mut filters: Vec<Expr> = scan.filters.iter().cloned().map(unqualified).collect::<Result<_>>()?;
        for node in nodes.iter().rev() {
            match node {
                LogicalPlan::Filter(filter) => {
                    filters.extend(split_conjunction_owned(followed(&filter.predicate, &defined)?));
                }
                LogicalPlan::Projection(projection) => {
                    let mut next = HashMap::new();
                    for expr in &projection.expr {
                        let (_, name) = expr.qualified_name();
                        let expr = followed(expr, &defined)?;
                        chain.bind_all(pinned, &expr)?;
                        next.insert(name, expr.unalias());
                    }
                    defined = next;
                }
                LogicalPlan::Sort(sort) => {
                    for by in &sort.expr {
                        let expr = followed(&by.expr, &defined)?;
                        chain.bind_all(pinned, &expr)?;
                    }
                    if let (Some(fetch), Some(by), None) =
                        (sort.fetch, sort.expr.first(), &chain.selection.top)
                    {
                        let by = SortExpr { expr: followed(&by.expr, &defined)?, ..by.clone() };
                        chain.selection.top = chain.top(pinned, &by)?.map(|top| (top, fetch));
                    }
                }
                _ => {}
            }
        }
        let mut seen = std::collections::HashSet::new();
        for filter in filters.into_iter().filter(|f| seen.insert(f.clone())) {
            match chain.match_of(pinned, &filter)? {
                Some(binding) => chain.selection.matches.push(binding),
                None => {
                    chain.bind_all(pinned, &filter)?;
                    chain.selection.filters.push(filter);
                }
            }
        }
        // What the table cannot evaluate by itself stays above it, and no top of what is left can be told.
        let unbound = |expr: &Expr| expr.exists(|e| Ok(text_call(e).is_some())).unwrap_or(true);
        if chain.selection.filters.iter().any(unbound) {
            chain.selection.top = None;
        }
        chain.selection.filters.retain(|expr| !unbound(expr));
        if let Some((TopOf::Text(binding), _)) = &chain.selection.top
            && !chain.selection.matches.iter().any(|m| Arc::ptr_eq(m, binding))
        {
            // Rows that do not match have no score, and may be among the first.
            chain.selection.top = None;
        }
        if chain.selection.top.as_ref().is_some_and(|(_, k)| *k > K_MAX) {
            chain.selection.top = None;
        }
        let searches = chain.selection.top.is_some() || !chain.bindings.is_empty();
        Ok(searches.then_some(chain))
    }

    /// The binding of a condition that is nothing but a match.
    fn match_of(&mut self, pinned: &PinnedTable, filter: &Expr) -> Result<Option<Arc<TextBinding>>> {
        match text_call(filter) {
            Some((function, args)) if !function.scores => self.bind(pinned, args),
            _ => Ok(None),
        }
    }

    /// Binds all functions over texts in an expression.
    fn bind_all(&mut self, pinned: &PinnedTable, expr: &Expr) -> Result<()> {
        let mut calls = Vec::new();
        expr.apply(|e| {
            if let Some((function, args)) = text_call(e) {
                calls.push((function.scores, args.to_vec()));
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        for (scores, args) in calls {
            if let Some(binding) = self.bind(pinned, &args)?
                && scores
                && !self.selection.scored.iter().any(|b| Arc::ptr_eq(b, &binding))
            {
                self.selection.scored.push(binding);
            }
        }
        Ok(())
    }

    /// The binding of a call over columns of the table and a constant query.
    fn bind(&mut self, pinned: &PinnedTable, args: &[Expr]) -> Result<Option<Arc<TextBinding>>> {
        let Some((query, columns)) = args.split_last() else {
            return Ok(None);
        };
        let text = match uncast(query) {
            Expr::Literal(value, _) => value.try_as_str().flatten().map(str::to_owned),
            _ => None,
        };
        let names: Option<Vec<String>> = columns
            .iter()
            .map(|column| match uncast(column) {
                Expr::Column(column) => Some(column.name.clone()),
                _ => None,
            })
            .collect();
        let (Some(text), Some(names)) = (text, names) else {
            return Ok(None);
        };
        let key = (names, text);
        if let Some(known) = self.bindings.get(&key) {
            return Ok(Some(known.clone()));
        }
        let schema = &pinned.table().schema;
        let ids: Option<Vec<u32>> =
            key.0.iter().map(|name| Some(schema.columns[schema.column_index(name)?].id)).collect();
        let Some(ids) = ids else {
            return Ok(None);
        };
        // The columns that are named, in that order, by the analyzer of an index that has them.
        let found = text_fields(pinned.table(), None, &ids, None).map_err(external)?;
        let fields: Vec<String> = found
            .columns
            .iter()
            .filter_map(|id| schema.columns.iter().find(|c| c.id == *id).map(|c| c.name.clone()))
            .collect();
        let query = TextBinding::parse(&found, &fields, &ids, &key.1).map_err(external)?;
        let binding = TextBinding {
            fields: found,
            names: fields,
            called: ids,
            text: key.1.clone(),
            query,
            statistics: OnceCell::new(),
        };
        let binding = Arc::new(binding);
        self.bindings.insert(key, binding.clone());
        Ok(Some(binding))
    }

    /// What an order puts first, if that is a search.
    fn top(&mut self, pinned: &PinnedTable, by: &SortExpr) -> Result<Option<TopOf>> {
        let Expr::ScalarFunction(call) = &by.expr else {
            return Ok(None);
        };
        if let Some((function, args)) = text_call(&by.expr) {
            let best_first = function.scores && !by.asc;
            return Ok(if best_first { self.bind(pinned, args)?.map(TopOf::Text) } else { None });
        }
        let Some(function) = as_function::<DistanceFunction>(&call.func) else {
            return Ok(None);
        };
        if by.asc == function.similarity {
            return Ok(None);
        }
        let (column, vector) = match (uncast(&call.args[0]), uncast(&call.args[1])) {
            (Expr::Column(column), Expr::Literal(value, _))
            | (Expr::Literal(value, _), Expr::Column(column)) => (column, value),
            _ => return Ok(None),
        };
        let schema = &pinned.table().schema;
        let column = schema.column_index(&column.name).map(|place| &schema.columns[place]);
        let (Some(column), Some(vector)) = (column, vector_of(vector)) else {
            return Ok(None);
        };
        let Some(length) = column.data_type.vector_length() else {
            return Ok(None);
        };
        if vector.len() != length as usize {
            return Err(external(Error::invalid(format!(
                "{}: the vector has {} components; column {:?} has {length}",
                call.func.name(),
                vector.len(),
                column.name
            ))));
        }
        let query = Query::new(function.metric, vector).map_err(external)?;
        Ok(Some(TopOf::Vector { column: column.id, query, nulls_first: by.nulls_first }))
    }

    /// The plan with its scan reading what is selected, and its functions bound.
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
                        let predicate = self.bound(predicate)?;
                        Ok(Transformed::yes(LogicalPlan::Filter(Filter::try_new(predicate, filter.input)?)))
                    }
                    None => Ok(Transformed::yes(Arc::unwrap_or_clone(filter.input))),
                }
            }
            LogicalPlan::Projection(mut projection) => {
                for expr in &mut projection.expr {
                    *expr = self.bound(std::mem::take(expr))?;
                }
                Ok(Transformed::yes(LogicalPlan::Projection(projection)))
            }
            LogicalPlan::Sort(mut sort) => {
                for by in &mut sort.expr {
                    by.expr = self.bound(std::mem::take(&mut by.expr))?;
                }
                Ok(Transformed::yes(LogicalPlan::Sort(sort)))
            }
            other => Ok(Transformed::no(other)),
        })?;
        Ok(rewritten.data)
    }

    fn known(&self, args: &[Expr]) -> Option<&Arc<TextBinding>> {
        let (query, columns) = args.split_last()?;
        let text = match uncast(query) {
            Expr::Literal(value, _) => value.try_as_str().flatten()?.to_owned(),
            _ => return None,
        };
        let name = |column: &Expr| match uncast(column) {
            Expr::Column(column) => Some(column.name.clone()),
            _ => None,
        };
        self.bindings.get(&(columns.iter().map(name).collect::<Option<Vec<_>>>()?, text))
    }

    fn is_match(&self, filter: &Expr) -> bool {
        text_call(filter).is_some_and(|(function, args)| !function.scores && self.known(args).is_some())
    }

    /// The expression with its functions over texts bound.
    fn bound(&self, expr: Expr) -> Result<Expr> {
        let bound = expr.transform_up(|e| {
            let binding = text_call(&e).and_then(|(f, args)| Some((f.scores, self.known(args)?.clone())));
            match (e, binding) {
                (Expr::ScalarFunction(mut call), Some((scores, binding))) => {
                    call.func = Arc::new(ScalarUDF::from(TextFunction::new(scores, Some(binding))));
                    Ok(Transformed::yes(Expr::ScalarFunction(call)))
                }
                (e, _) => Ok(Transformed::no(e)),
            }
        })?;
        Ok(bound.data)
    }
}

/// A call of a function over texts that is not bound yet.
fn text_call(expr: &Expr) -> Option<(&TextFunction, &[Expr])> {
    let Expr::ScalarFunction(call) = expr else {
        return None;
    };
    let function = as_function::<TextFunction>(&call.func).filter(|f| f.binding.is_none())?;
    Some((function, &call.args))
}

fn uncast(expr: &Expr) -> &Expr {
    match expr {
        Expr::Cast(cast) => uncast(&cast.expr),
        Expr::TryCast(cast) => uncast(&cast.expr),
        Expr::Alias(alias) => uncast(&alias.expr),
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

fn unqualified(expr: Expr) -> Result<Expr> {
    followed(&expr, &HashMap::new())
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
        let (table, context) = (pinned.table().clone(), pinned.context().clone());
        let source = Source::open(table, pinned.version(), context).await.map_err(external)?;
        let Selection { filters: own, matches, scored, top } = &self.selection;
        for binding in scored {
            let statistics =
                legs::statistics(&source, &binding.fields, &binding.query).await.map_err(external)?;
            // Whoever was first has set the same.
            let _ = binding.statistics.set(statistics);
        }
        let mut left = wanted(&source, state, own).await?;
        for binding in matches {
            note_leg(
                state,
                &source,
                &Leg::Text { fields: binding.fields.clone(), query: binding.query.clone() },
            );
            left = matching(&source, binding, left).await.map_err(external)?;
        }
        if let Some((of, k)) = top {
            note_rows(state, &source, &left);
            left = self.best(&source, of, *k, left, state).await.map_err(external)?;
        }
        let Wanted::Some(rows) = left else {
            return self.inner.scan(state, projection, filters, limit).await;
        };
        let picked: HashMap<SegmentId, Arc<Rows>> =
            source.parts.iter().zip(rows).map(|(part, rows)| (part.segment.id, rows)).collect();
        pinned.scan_rows(state, projection, filters, limit, Some(&picked)).await
    }
}

impl SelectedTable {
    /// The best of some rows and all that are equal to the last of them; all where they are too few.
    async fn best(
        &self,
        source: &Source,
        of: &TopOf,
        k: usize,
        wanted: Wanted,
        state: &dyn Session,
    ) -> plexus_model::Result<Wanted> {
        let leg = match of {
            TopOf::Vector { column, query, nulls_first } => {
                if *nulls_first && legs::any_null(source, *column, &wanted).await? {
                    return Ok(wanted);
                }
                Leg::Vector { column: *column, query: query.clone() }
            }
            TopOf::Text(binding) => {
                Leg::Text { fields: binding.fields.clone(), query: binding.query.clone() }
            }
        };
        note_leg(state, source, &leg);
        let threads = state.config().target_partitions();
        let found = legs::best(source, &leg, &wanted, k, threads).await?;
        if found.len() < k {
            // Rows without a vector come after all others, but they come.
            return Ok(wanted);
        }
        let mut rows = vec![Rows::new(); source.parts.len()];
        for (_, hit) in found {
            rows[hit.part as usize].insert(hit.row);
        }
        Ok(Wanted::Some(rows.into_iter().map(Arc::new).collect()))
    }
}

/// The rows among some that match a query.
async fn matching(source: &Source, binding: &TextBinding, wanted: Wanted) -> plexus_model::Result<Wanted> {
    use plexus_index::text::{GlobalStatistics, TextSearch};
    let search = TextSearch::new(&binding.query, binding.fields.columns.len(), &GlobalStatistics::default());
    let search = Arc::new(search);
    let mut rows = Vec::with_capacity(source.parts.len());
    for (at, part) in source.parts.iter().enumerate() {
        let index = source.text(part, &binding.fields).await?;
        let search = search.clone();
        let matches = super::source::blocking(move || search.rows(&index)).await?;
        rows.push(Arc::new(match &wanted {
            Wanted::All => matches - &*part.hidden,
            Wanted::Some(some) => matches & &*some[at],
        }));
    }
    Ok(Wanted::Some(rows))
}
