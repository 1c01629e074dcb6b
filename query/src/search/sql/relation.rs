//! Searches as relations: the table functions, the columns of their results, and the plan node of a search.

use crate::context::external;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::memory::MemorySourceConfig;
use datafusion::catalog::{Session, TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{
    DFSchema, DFSchemaRef, DataFusionError, Result, ScalarValue, TableReference, plan_datafusion_err,
    plan_err,
};
use datafusion::datasource::provider_as_source;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{
    Expr, Extension, LogicalPlan, LogicalPlanBuilder, TableType, UserDefinedLogicalNodeCore,
};
use datafusion::physical_plan::ExecutionPlan;
use plexus_model::{TableId, Version};

use crate::search::exec::cursor::Cursor;
use crate::search::snapshot::context::SearchContext;
use crate::search::sql::arguments::Arguments;
use crate::search::sql::scalar_functions::NAMED_ARGUMENT;
use crate::search::sql::search_function::SearchFunction;
use crate::search::sql::search_results::SearchResults;
use crate::search::sql::suggestions::{self, Suggestions};
use crate::tables::pinned::PinnedTable;

/// Result column: the score of the search, where higher is better.
pub(crate) const SCORE: &str = "_score";
/// Result column: the excerpt, if `highlight` is given.
pub(crate) const HIGHLIGHT: &str = "_highlight";
/// Result column: the cursor after the row, if `search_after` is given.
pub(crate) const CURSOR: &str = "_cursor";
/// Result column: the number of the query in a batch, from 1, if `queries` is given.
pub(crate) const QUERY: &str = "_query";

/// A search function as a table function of DataFusion.
#[derive(Debug)]
pub(crate) struct SearchTableFunction(pub SearchFunction);

impl TableFunctionImpl for SearchTableFunction {
    fn call_with_args(&self, args: TableFunctionArgs) -> Result<Arc<dyn TableProvider>> {
        let Some(state) = args.session().as_any().downcast_ref::<SessionState>() else {
            return plan_err!("{} cannot be planned in this session", self.0.name());
        };
        let (names, values) = named(self.0, args.exprs())?;
        let call = Arc::new(SearchCall::new(self.0, names, &values, state)?);
        Ok(Arc::new(CallTable { node: SearchNode { call, values } }))
    }
}

/// The names and values of the arguments of a call.
fn named(function: SearchFunction, exprs: &[Expr]) -> Result<(Vec<String>, Vec<Expr>)> {
    let (mut names, mut values): (Vec<String>, Vec<Expr>) = (vec![], vec![]);
    for expr in exprs {
        let (name, value) = match expr {
            Expr::ScalarFunction(call) if call.func.name() == NAMED_ARGUMENT => match call.args.as_slice() {
                [Expr::Literal(ScalarValue::Utf8(Some(name)), _), value] => (name.clone(), value.clone()),
                _ => return plan_err!("{}: a named argument has no name", function.name()),
            },
            value => match function.positional().get(values.len()) {
                Some(name) => ((*name).to_owned(), value.clone()),
                None => {
                    return plan_err!(
                        "{} takes the positional arguments {}; others need a name, as in filter => '...'",
                        function.name(),
                        function.positional().join(", ")
                    );
                }
            },
        };
        let known = function.positional().iter().chain(function.named()).any(|known| *known == name);
        if !known {
            return plan_err!(
                "{} has no argument {name:?}; its arguments are {}, {}",
                function.name(),
                function.positional().join(", "),
                function.named().join(", ")
            );
        }
        if names.contains(&name) {
            return plan_err!("{}: argument {name} is given twice", function.name());
        }
        names.push(name);
        values.push(value);
    }
    Ok((names, values))
}

/// What is known of a search call when a statement is planned: the table and the columns of the result.
#[derive(Debug)]
pub(crate) struct SearchCall {
    /// The function that is called.
    pub function: SearchFunction,
    /// Names of the arguments.
    pub names: Vec<String>,
    /// The table at `version`.
    pub table: Arc<plexus_model::Table>,
    /// The version of the cursor if it is a constant, otherwise that of the session.
    pub version: Version,
    /// What the node offers to searches.
    pub context: SearchContext,
    /// The columns of the result.
    pub schema: SchemaRef,
    /// The same for the planner.
    pub qualified: DFSchemaRef,
}

impl SearchCall {
    fn new(
        function: SearchFunction,
        names: Vec<String>,
        values: &[Expr],
        state: &SessionState,
    ) -> Result<Self> {
        let known = constants(function, &names, values);
        let Some(name) = known.text("table").map_err(external)? else {
            return plan_err!("{} needs the name of a table as its first argument", function.name());
        };
        let provider = find(state, name)?;
        let Some(pinned) = provider.downcast_ref::<PinnedTable>() else {
            return plan_err!("{}: {name} cannot be searched", function.name());
        };
        let (table, version) = at_cursor_version(pinned.table(), pinned.version(), &known)?;
        let schema = result_schema(&table, &known)?;
        let qualified = Arc::new(DFSchema::try_from(schema.clone())?);
        let context = pinned.context().search.clone();
        Ok(Self { function, names, table, version, context, schema, qualified })
    }
}

/// The table at the version of the cursor, if the arguments have one. All pages of a search read the same
/// version.
fn at_cursor_version(
    table: &Arc<plexus_model::Table>,
    version: Version,
    known: &Arguments,
) -> Result<(Arc<plexus_model::Table>, Version)> {
    let Some(text) = known.text("search_after").map_err(external)?.filter(|text| !text.is_empty()) else {
        return Ok((table.clone(), version));
    };
    let cursor_version = Version(Cursor::from_text(text).map_err(external)?.version);
    if cursor_version > version {
        return plan_err!(
            "{}: the cursor is of version {cursor_version}, which does not exist yet",
            known.function.name()
        );
    }
    Ok((table.as_of(cursor_version).map_err(external)?, cursor_version))
}

/// The table with a name in the session.
fn find(state: &SessionState, name: &str) -> Result<Arc<dyn TableProvider>> {
    let reference = TableReference::parse_str(name);
    let not_found = || DataFusionError::Plan(format!("table '{reference}' not found"));
    let schema = state.schema_for_ref(reference.clone()).map_err(|_| not_found())?;
    // The catalog of a pinned session is in memory and never waits.
    let found = futures::FutureExt::now_or_never(schema.table(reference.table()));
    found.transpose()?.flatten().ok_or_else(not_found)
}

/// The arguments that are constants.
fn constants(function: SearchFunction, names: &[String], values: &[Expr]) -> Arguments {
    let constant = |(name, value): (&String, &Expr)| match value {
        Expr::Literal(value, _) => Some((name.clone(), value.clone())),
        _ => None,
    };
    Arguments {
        function,
        names: names.to_vec(),
        values: names.iter().zip(values).filter_map(constant).collect(),
    }
}

/// The columns of the table, and after them those that the search adds.
fn result_schema(table: &plexus_model::Table, known: &Arguments) -> Result<SchemaRef> {
    if known.function == SearchFunction::Suggest {
        return Ok(Arc::new(Schema::new(suggestions::result_fields())));
    }
    let mut fields: Vec<Field> = plexus_storage::types::to_arrow(&table.schema)
        .fields()
        .iter()
        .map(|field| field.as_ref().clone())
        .collect();
    fields.push(Field::new(SCORE, DataType::Float64, false));
    let kinds: &[bool] = match known.function {
        SearchFunction::Text => &[true],
        SearchFunction::Vector => &[false],
        SearchFunction::Hybrid => &[true, false],
        SearchFunction::Suggest => &[],
    };
    for text in kinds {
        let (rank, value) = retriever_columns(*text);
        fields.push(Field::new(rank, DataType::UInt32, true));
        fields.push(Field::new(value, DataType::Float32, true));
    }
    if known.names.iter().any(|name| name == "highlight") {
        fields.push(Field::new(HIGHLIGHT, DataType::Utf8, true));
    }
    if known.names.iter().any(|name| name == "queries") {
        fields.push(Field::new(QUERY, DataType::UInt32, false));
    }
    if known.names.iter().any(|name| name == "search_after") {
        fields.push(Field::new(CURSOR, DataType::Utf8, false));
    }
    if let Some(field) =
        fields.iter().find(|f| table.schema.column_index(f.name()).is_some() && f.name().starts_with('_'))
    {
        return plan_err!(
            "column {:?} of table {} has the name of a result column of a search",
            field.name(),
            table.name
        );
    }
    Ok(Arc::new(Schema::new(fields)))
}

/// The result columns with the rank and the score, for the first text or the first vector retriever.
fn retriever_columns(text: bool) -> (&'static str, &'static str) {
    if text { ("_text_rank", "_text_score") } else { ("_vector_rank", "_vector_distance") }
}

/// A search as a node of a logical plan. Its arguments are expressions, so that they can contain parameters.
#[derive(Debug, Clone)]
pub(crate) struct SearchNode {
    call: Arc<SearchCall>,
    values: Vec<Expr>,
}

impl SearchNode {
    fn key(&self) -> (SearchFunction, u64, u64, &[String]) {
        (self.call.function, self.call.table.id.0, self.call.version.0, &self.call.names)
    }

    /// The search as a table that can be scanned.
    ///
    /// # Errors
    /// When an argument is not a constant or is invalid.
    pub(crate) fn lower(&self) -> Result<LogicalPlan> {
        let table = ResultTable { schema: self.call.schema.clone(), results: self.results()? };
        LogicalPlanBuilder::scan(self.call.function.name(), provider_as_source(Arc::new(table)), None)?
            .project(
                self.call
                    .schema
                    .fields()
                    .iter()
                    .map(|f| Expr::Column(datafusion::common::Column::from_name(f.name()))),
            )?
            .build()
    }

    /// Whether all arguments are constants.
    pub(crate) fn is_known(&self) -> bool {
        self.values.iter().all(is_known)
    }

    /// Whether the search ranks or returns so many rows, or has so large a filter, that it may take long.
    fn is_long(&self) -> bool {
        let mut arguments = self.call.names.iter().zip(&self.values);
        arguments.any(|(name, value)| {
            let most = match name.as_str() {
                "k" | "offset" => ROWS_OF_LONG,
                "num_candidates" | "ef" => CANDIDATES_OF_LONG,
                "filter" => return text_bytes(value) > FILTER_BYTES_OF_LONG,
                _ => return false,
            };
            let number = match value {
                Expr::Literal(value, _) => value.cast_to(&DataType::UInt64),
                _ => return true,
            };
            !matches!(number, Ok(ScalarValue::UInt64(number)) if number.is_none_or(|number| number <= most))
        })
    }

    /// The same search with parameters, given by position, in place of arguments that are placeholders.
    pub(crate) fn with_parameters(&self, parameters: &[ScalarValue]) -> Self {
        let bound = |value: &Expr| match value {
            Expr::Placeholder(placeholder) => {
                let number = placeholder.id.strip_prefix('$').and_then(|n| n.parse::<usize>().ok());
                let value = number.and_then(|n| parameters.get(n.checked_sub(1)?));
                value.map_or_else(
                    || Expr::Placeholder(placeholder.clone()),
                    |v| Expr::Literal(v.clone(), None),
                )
            }
            value => value.clone(),
        };
        Self { call: self.call.clone(), values: self.values.iter().map(bound).collect() }
    }

    /// Runs the search, and returns columns of its result by their positions.
    ///
    /// # Errors
    /// When an argument is not a constant or is invalid, and what the search fails with.
    pub(crate) async fn rows(&self, state: &dyn Session, columns: &[usize]) -> Result<RecordBatch> {
        self.results()?.rows(state, columns).await
    }

    /// The search with its arguments resolved.
    fn results(&self) -> Result<Results> {
        let function = self.call.function;
        for (name, value) in self.call.names.iter().zip(&self.values) {
            if !is_known(value) {
                return plan_err!("{}: argument {name} is {value}: a constant is needed", function.name());
            }
        }
        let arguments = constants(function, &self.call.names, &self.values);
        // A cursor that is a parameter was not known when the call was planned.
        let (table, version) = at_cursor_version(&self.call.table, self.call.version, &arguments)?;
        if table.schema.columns != self.call.table.schema.columns {
            return plan_err!(
                "{}: the columns of {} have changed since the first page",
                function.name(),
                table.name
            );
        }
        let call = self.call.clone();
        if function == SearchFunction::Suggest {
            let suggestion = arguments.suggestion(&table).map_err(external)?;
            return Ok(Results::Terms(Suggestions { call, table, version, suggestion }));
        }
        let requests = arguments.requests(&table).map_err(external)?;
        Ok(Results::Rows(SearchResults { call, table, version, requests }))
    }
}

/// The result of a search.
#[derive(Debug)]
enum Results {
    Rows(SearchResults),
    Terms(Suggestions),
}

impl Results {
    async fn rows(&self, state: &dyn Session, columns: &[usize]) -> Result<RecordBatch> {
        match self {
            Self::Rows(results) => results.rows(state, columns).await,
            Self::Terms(suggestions) => suggestions.rows(state, columns).await,
        }
    }
}

/// The result of a search as a table. The search runs during physical planning.
#[derive(Debug)]
struct ResultTable {
    schema: SchemaRef,
    results: Results,
}

#[async_trait]
impl TableProvider for ResultTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Temporary
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let all: Vec<usize> = (0..self.schema.fields().len()).collect();
        let batch = self.results.rows(state, projection.unwrap_or(&all)).await?;
        let schema = batch.schema();
        Ok(MemorySourceConfig::try_new_exec(&[vec![batch]], schema, None)?)
    }
}

/// Whether an argument is a constant.
fn is_known(value: &Expr) -> bool {
    matches!(value, Expr::Literal(..))
}

/// Rows that a search returns or skips from which on it may take long: they are read, and marked.
const ROWS_OF_LONG: u64 = 2_000;

/// Bytes of a filter from which on it may take long to plan.
const FILTER_BYTES_OF_LONG: usize = 2_000;

/// Bytes of an argument that is a text.
fn text_bytes(value: &Expr) -> usize {
    let text = value.as_literal().and_then(|value| value.try_as_str().flatten());
    text.map_or(0, str::len)
}

/// Rows that a retriever ranks from which on a search may take long.
const CANDIDATES_OF_LONG: u64 = 20_000;

/// Whether a plan, not yet optimized, has a search that may take long.
pub fn searches_long(plan: &LogicalPlan) -> bool {
    let mut is_long = false;
    let visited = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::Extension(extension) = node
            && let Some(search) = extension.node.as_any().downcast_ref::<SearchNode>()
        {
            is_long |= search.is_long();
        }
        Ok(if is_long { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    is_long || visited.is_err()
}

/// The table that a plan node searches, if the node is a search.
pub fn searched_table(node: &LogicalPlan) -> Option<TableId> {
    let LogicalPlan::Extension(extension) = node else {
        return None;
    };
    extension.node.as_any().downcast_ref::<SearchNode>().map(|search| search.call.table.id)
}

impl PartialEq for SearchNode {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key() && self.values == other.values
    }
}

impl Eq for SearchNode {}

impl Hash for SearchNode {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
        self.values.hash(state);
    }
}

impl PartialOrd for SearchNode {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.key().partial_cmp(&other.key())
    }
}

impl UserDefinedLogicalNodeCore for SearchNode {
    fn name(&self) -> &str {
        "Search"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.call.qualified
    }

    fn expressions(&self) -> Vec<Expr> {
        // Constants are hidden from the planner: every rewrite would print whole vectors as column names.
        self.values.iter().filter(|value| !is_known(value)).cloned().collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Search: {} of {}", self.call.function.name(), self.call.table.name)
    }

    fn with_exprs_and_inputs(&self, exprs: Vec<Expr>, _: Vec<LogicalPlan>) -> Result<Self> {
        // Binding a parameter leaves an alias with its number.
        let mut exprs = exprs.into_iter().map(Expr::unalias);
        let values = self.values.iter().map(|value| match is_known(value) {
            true => Ok(value.clone()),
            false => exprs.next().ok_or_else(|| plan_datafusion_err!("an argument of a search is missing")),
        });
        Ok(Self { call: self.call.clone(), values: values.collect::<Result<_>>()? })
    }
}

/// The table that a call returns to the planner. Its logical plan is the [`SearchNode`].
#[derive(Debug)]
struct CallTable {
    node: SearchNode,
}

#[async_trait]
impl TableProvider for CallTable {
    fn schema(&self) -> SchemaRef {
        self.node.call.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    fn get_logical_plan(&self) -> Option<std::borrow::Cow<'_, LogicalPlan>> {
        let node = Arc::new(self.node.clone());
        Some(std::borrow::Cow::Owned(LogicalPlan::Extension(Extension { node })))
    }

    async fn scan(
        &self,
        _: &dyn Session,
        _: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        plan_err!("{} was not planned", self.node.call.function.name())
    }
}
