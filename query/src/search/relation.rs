//! What a search finds, as a relation.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Float32Array, Float64Array, RecordBatch, StringArray, UInt32Array,
};
use arrow::compute;
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::memory::MemorySourceConfig;
use datafusion::catalog::{Session, TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::tree_node::TreeNode;
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
use plexus_index::text::snippet;
use plexus_model::{Error, TableId, Version};

use super::arguments::{Arguments, Function};
use super::bind::text_call;
use super::functions::NAMED_ARGUMENT;
use super::legs::Leg;
use super::request::{Cursor, Found, Highlight, Request, fetch, search_all};
use super::source::Source;
use crate::engine::query_id;
use crate::table::PinnedTable;

pub const SCORE: &str = "_score";
const HIGHLIGHT: &str = "_highlight";
const CURSOR: &str = "_cursor";
const QUERY: &str = "_query";

/// An error of ours inside the engine's.
pub fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// A table function.
#[derive(Debug)]
pub struct SearchFunction(pub Function);

impl TableFunctionImpl for SearchFunction {
    fn call_with_args(&self, args: TableFunctionArgs) -> Result<Arc<dyn TableProvider>> {
        let Some(state) = args.session().as_any().downcast_ref::<SessionState>() else {
            return plan_err!("{} needs a session of its own kind", self.0.name());
        };
        let (names, values) = named(self.0, args.exprs())?;
        let call = Arc::new(Call::new(self.0, names, &values, state)?);
        Ok(Arc::new(CallTable { node: SearchNode { call, values } }))
    }
}

/// The arguments of a call with their names.
fn named(function: Function, exprs: &[Expr]) -> Result<(Vec<String>, Vec<Expr>)> {
    let (mut names, mut values): (Vec<String>, Vec<Expr>) = (vec![], vec![]);
    for expr in exprs {
        let (name, value) = match expr {
            Expr::ScalarFunction(call) if call.func.name() == NAMED_ARGUMENT => match call.args.as_slice() {
                [Expr::Literal(ScalarValue::Utf8(Some(name)), _), value] => (name.clone(), value.clone()),
                _ => return plan_err!("{}: an argument without its name", function.name()),
            },
            value => match function.positional().get(values.len()) {
                Some(name) => ((*name).to_owned(), value.clone()),
                None => {
                    return plan_err!(
                        "{} takes {} by their places; the others by name, as filter => '...'",
                        function.name(),
                        function.positional().join(", ")
                    );
                }
            },
        };
        let known = function.positional().iter().chain(function.named()).any(|known| *known == name);
        if !known {
            return plan_err!(
                "{} has no argument {name:?}; there are {} and {}",
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

/// A call of a search as far as it is known when a statement is planned: the table and the columns of its result.
#[derive(Debug)]
struct Call {
    function: Function,
    names: Vec<String>,
    table: Arc<plexus_model::Table>,
    version: Version,
    context: crate::scan::ScanContext,
    schema: SchemaRef,
    qualified: DFSchemaRef,
}

impl Call {
    fn new(function: Function, names: Vec<String>, values: &[Expr], state: &SessionState) -> Result<Self> {
        let known = constants(function, &names, values);
        let Some(name) = known.text("table").map_err(external)? else {
            return plan_err!("{} needs the name of a table first", function.name());
        };
        let provider = find(state, name)?;
        let Some(pinned) = provider.downcast_ref::<PinnedTable>() else {
            return plan_err!("{}: {name} is not a table that can be searched", function.name());
        };
        let (table, version) = of_cursor(pinned.table(), pinned.version(), &known)?;
        let schema = result_schema(&table, &known)?;
        let qualified = Arc::new(DFSchema::try_from(schema.clone())?);
        let context = pinned.context().clone();
        Ok(Self { function, names, table, version, context, schema, qualified })
    }
}

/// The table at the version that a cursor among the arguments names: pages are of the version that the first was of.
fn of_cursor(
    table: &Arc<plexus_model::Table>,
    version: Version,
    known: &Arguments,
) -> Result<(Arc<plexus_model::Table>, Version)> {
    let Some(text) = known.text("after").map_err(external)?.filter(|text| !text.is_empty()) else {
        return Ok((table.clone(), version));
    };
    let then = Version(Cursor::from_text(text).map_err(external)?.version);
    if then > version {
        return plan_err!("{}: the cursor is of version {then}, yet to come", known.function.name());
    }
    Ok((table.as_of(then).map_err(external)?, then))
}

/// The table that a name in a call stands for.
fn find(state: &SessionState, name: &str) -> Result<Arc<dyn TableProvider>> {
    let reference = TableReference::parse_str(name);
    let not_found = || DataFusionError::Plan(format!("table '{reference}' not found"));
    let schema = state.schema_for_ref(reference.clone()).map_err(|_| not_found())?;
    // The catalog of a pinned session knows its tables without waiting.
    let found = futures::FutureExt::now_or_never(schema.table(reference.table()));
    found.transpose()?.flatten().ok_or_else(not_found)
}

/// The arguments that are constants.
fn constants(function: Function, names: &[String], values: &[Expr]) -> Arguments {
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

/// The columns of the table, and what the search says of each row.
fn result_schema(table: &plexus_model::Table, known: &Arguments) -> Result<SchemaRef> {
    let mut fields: Vec<Field> = plexus_storage::types::to_arrow(&table.schema)
        .fields()
        .iter()
        .map(|field| field.as_ref().clone())
        .collect();
    fields.push(Field::new(SCORE, DataType::Float64, false));
    let kinds: &[bool] = match known.function {
        Function::Text => &[true],
        Function::Vector => &[false],
        Function::Hybrid => &[true, false],
    };
    for text in kinds {
        let (rank, value) = leg_columns(*text);
        fields.push(Field::new(rank, DataType::UInt32, true));
        fields.push(Field::new(value, DataType::Float32, true));
    }
    if known.names.iter().any(|name| name == "highlight") {
        fields.push(Field::new(HIGHLIGHT, DataType::Utf8, true));
    }
    if known.names.iter().any(|name| name == "queries") {
        fields.push(Field::new(QUERY, DataType::UInt32, false));
    }
    if known.names.iter().any(|name| name == "after") {
        fields.push(Field::new(CURSOR, DataType::Utf8, false));
    }
    if let Some(field) =
        fields.iter().find(|f| table.schema.column_index(f.name()).is_some() && f.name().starts_with('_'))
    {
        return plan_err!(
            "column {:?} of table {} is called as one of a search's own",
            field.name(),
            table.name
        );
    }
    Ok(Arc::new(Schema::new(fields)))
}

fn leg_columns(text: bool) -> (&'static str, &'static str) {
    if text { ("_text_rank", "_text_score") } else { ("_vector_rank", "_vector_distance") }
}

/// A search in a plan. Its arguments are expressions, so that parameters can be among them.
#[derive(Debug, Clone)]
pub struct SearchNode {
    call: Arc<Call>,
    values: Vec<Expr>,
}

impl SearchNode {
    fn key(&self) -> (Function, u64, u64, &[String]) {
        (self.call.function, self.call.table.id.0, self.call.version.0, &self.call.names)
    }

    /// The search as a relation that can be read, once its arguments are values.
    pub fn lower(&self) -> Result<LogicalPlan> {
        let table = self.found_rows()?;
        LogicalPlanBuilder::scan(self.call.function.name(), provider_as_source(Arc::new(table)), None)?
            .project(self.call.schema.fields().iter().map(|f| Expr::Column(f.name().as_str().into())))?
            .build()
    }

    /// Whether all of its arguments are values.
    pub fn is_known(&self) -> bool {
        self.values.iter().all(is_known)
    }

    /// The same with parameters, by their numbers, in the places that are theirs.
    pub fn with_parameters(&self, parameters: &[ScalarValue]) -> Self {
        let bound = |value: &Expr| match value {
            Expr::Placeholder(place) => {
                let number = place.id.strip_prefix('$').and_then(|n| n.parse::<usize>().ok());
                let value = number.and_then(|n| parameters.get(n.checked_sub(1)?));
                value.map_or_else(|| Expr::Placeholder(place.clone()), |v| Expr::Literal(v.clone(), None))
            }
            value => value.clone(),
        };
        Self { call: self.call.clone(), values: self.values.iter().map(bound).collect() }
    }

    /// What it finds, some columns of it by their places.
    pub async fn rows(&self, state: &dyn Session, columns: &[usize]) -> Result<RecordBatch> {
        self.found_rows()?.rows(state, columns).await
    }

    fn found_rows(&self) -> Result<FoundRows> {
        let function = self.call.function;
        for (name, value) in self.call.names.iter().zip(&self.values) {
            if !is_known(value) {
                return plan_err!("{}: argument {name} is {value}: a constant is needed", function.name());
            }
        }
        let arguments = constants(function, &self.call.names, &self.values);
        // The cursor may be a parameter, and known only now.
        let (table, version) = of_cursor(&self.call.table, self.call.version, &arguments)?;
        if table.schema.columns != self.call.table.schema.columns {
            return plan_err!(
                "{}: the columns of {} have changed since the first page",
                function.name(),
                table.name
            );
        }
        let requests = arguments.requests(&table).map_err(external)?;
        Ok(FoundRows { call: self.call.clone(), table, version, requests })
    }
}

/// Whether an argument is a value.
fn is_known(value: &Expr) -> bool {
    matches!(value, Expr::Literal(..))
}

/// The table that a node of a plan searches, if it is a search.
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
        // What is known is nobody else's business: every rewrite would write vectors out as the names of their columns.
        self.values.iter().filter(|value| !is_known(value)).cloned().collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Search: {} of {}", self.call.function.name(), self.call.table.name)
    }

    fn with_exprs_and_inputs(&self, exprs: Vec<Expr>, _: Vec<LogicalPlan>) -> Result<Self> {
        // A parameter that was bound is called by its number still.
        let mut exprs = exprs.into_iter().map(Expr::unalias);
        let values = self.values.iter().map(|value| match is_known(value) {
            true => Ok(value.clone()),
            false => exprs.next().ok_or_else(|| plan_datafusion_err!("an argument of a search is gone")),
        });
        Ok(Self { call: self.call.clone(), values: values.collect::<Result<_>>()? })
    }
}

/// What the planner is given for a call: a relation that stands for its [`SearchNode`].
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

/// The rows that a search finds, the best first. They are found when the plan is made.
#[derive(Debug)]
struct FoundRows {
    call: Arc<Call>,
    table: Arc<plexus_model::Table>,
    version: Version,
    /// One, or one for each query of a batch.
    requests: Vec<Request>,
}

#[async_trait]
impl TableProvider for FoundRows {
    fn schema(&self) -> SchemaRef {
        self.call.schema.clone()
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
        let all: Vec<usize> = (0..self.call.schema.fields().len()).collect();
        let batch = self.rows(state, projection.unwrap_or(&all)).await?;
        let schema = batch.schema();
        Ok(MemorySourceConfig::try_new_exec(&[vec![batch]], schema, None)?)
    }
}

impl FoundRows {
    /// Searches, and reads some columns of what is found.
    async fn rows(&self, state: &dyn Session, columns: &[usize]) -> Result<RecordBatch> {
        let context = &self.call.context;
        let (table, version) = (&self.table, &self.version);
        let filters = match &self.request().filter {
            Some(sql) => vec![predicate(state, table, sql)?],
            None => vec![],
        };
        let source = Source::open(table.clone(), *version, context.clone()).await.map_err(external)?;
        let source = source.for_query(query_id(state));
        let (mut found, mut queries) = (Vec::new(), Vec::new());
        let all = search_all(&source, state, &self.requests, &filters).await?;
        for (query, of_query) in (1..).zip(all) {
            queries.extend(std::iter::repeat_n(query, of_query.len()));
            found.extend(of_query);
        }
        self.assemble(&source, &found, &queries, columns).await
    }

    /// What all requests have in common is as in the first.
    fn request(&self) -> &Request {
        &self.requests[0]
    }

    async fn assemble(
        &self,
        source: &Source,
        found: &[Found],
        queries: &[u32],
        columns: &[usize],
    ) -> Result<RecordBatch> {
        let request = self.request();
        let own = source.table.schema.columns.len();
        let schema = Arc::new(self.call.schema.project(columns)?);
        let hits: Vec<_> = found.iter().map(|f| f.hit).collect();
        let mut read: Vec<usize> = columns.iter().copied().filter(|c| *c < own).collect();
        read.sort_unstable();
        read.dedup();
        let wants_highlight = columns.iter().any(|c| self.call.schema.field(*c).name() == HIGHLIGHT);
        let highlight = request.highlight.as_ref().filter(|_| wants_highlight);
        read.extend(highlight.map(|h| h.column).filter(|column| !read.contains(column)));
        let rows = fetch(source, &hits, &read).await.map_err(external)?;
        let arrays = columns.iter().map(|column| -> Result<ArrayRef> {
            if let Some(place) = read.iter().position(|c| c == column).filter(|_| *column < own) {
                return Ok(rows.column(place).clone());
            }
            let place = |text: bool| {
                let leg = request.legs.iter().position(|(leg, _)| matches!(leg, Leg::Text { .. }) == text);
                move |found: &Found| leg.and_then(|leg| found.places[leg])
            };
            let field = self.call.schema.field(*column);
            Ok(match field.name().as_str() {
                SCORE => Arc::new(Float64Array::from_iter_values(found.iter().map(|f| f.score))),
                "_text_rank" => {
                    Arc::new(found.iter().map(|f| place(true)(f).map(|p| p.rank)).collect::<UInt32Array>())
                }
                "_vector_rank" => {
                    Arc::new(found.iter().map(|f| place(false)(f).map(|p| p.rank)).collect::<UInt32Array>())
                }
                "_text_score" => {
                    Arc::new(found.iter().map(|f| place(true)(f).map(|p| p.score)).collect::<Float32Array>())
                }
                "_vector_distance" => Arc::new(
                    found.iter().map(|f| place(false)(f).map(|p| -p.score)).collect::<Float32Array>(),
                ),
                HIGHLIGHT => match highlight {
                    Some(highlight) => {
                        let place = read.iter().position(|c| *c == highlight.column);
                        highlighted(rows.column(place.unwrap_or_default()), highlight)?
                    }
                    None => Arc::new(StringArray::new_null(found.len())),
                },
                QUERY => Arc::new(UInt32Array::from_iter_values(queries.iter().copied())),
                CURSOR => {
                    let seen = request.offset + request.after.map_or(0, |cursor| cursor.seen);
                    let (version, candidates) = (source.version.0, request.fused());
                    let cursors =
                        (1..=found.len()).map(|at| Cursor { version, seen: seen + at, candidates }.to_text());
                    Arc::new(StringArray::from_iter_values(cursors))
                }
                other => return plan_err!("a search has no column {other:?}"),
            })
        });
        let arrays = arrays.collect::<Result<Vec<_>>>()?;
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(found.len()));
        Ok(RecordBatch::try_new_with_options(schema, arrays, &options)?)
    }
}

/// The part of each text that shows what was looked for.
fn highlighted(texts: &ArrayRef, highlight: &Highlight) -> Result<ArrayRef> {
    let texts = compute::cast(texts, &DataType::LargeUtf8)?;
    let part = |text: &str| {
        highlight.marks.iter().find_map(|(query, field, analyzer)| {
            snippet(query, *field, analyzer, text, highlight.length).map(|part| part.to_html(text))
        })
    };
    let parts: StringArray = texts.as_string::<i64>().iter().map(|text| text.and_then(part)).collect();
    debug_assert_eq!(parts.len(), texts.len());
    Ok(Arc::new(parts))
}

/// A predicate over the columns of a table.
///
/// # Errors
/// What is wrong with it, or that it is none.
fn predicate(state: &dyn Session, table: &plexus_model::Table, sql: &str) -> Result<Expr> {
    use datafusion::logical_expr::ExprSchemable;
    let Some(state) = state.as_any().downcast_ref::<SessionState>() else {
        return plan_err!("a filter needs a session of its own kind");
    };
    let fail =
        |e: DataFusionError| external(Error::invalid(format!("filter {sql:.200?}: {}", e.strip_backtrace())));
    let schema = DFSchema::try_from(plexus_storage::types::to_arrow(&table.schema))?;
    let expr = state.create_logical_expr(sql, &schema).map_err(fail)?;
    let expr = crate::engine::simplify(expr, schema.clone(), state).map_err(fail)?;
    if expr.get_type(&schema).map_err(fail)? != DataType::Boolean {
        return Err(external(Error::invalid(format!("filter {sql:.200?} is not true or false"))));
    }
    if TreeNode::exists(&expr, |e| Ok(text_call(e).is_some()))? {
        return Err(external(Error::invalid(format!(
            "filter {sql:.200?}: words are the query's, not the filter's"
        ))));
    }
    if expr.is_volatile() {
        return Err(external(Error::invalid(format!(
            "filter {sql:.200?} is another each time that it is asked"
        ))));
    }
    Ok(expr)
}
