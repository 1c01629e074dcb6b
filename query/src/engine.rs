//! The engine: makes sessions that are pinned to a manifest, runs tasks of other nodes' queries, and answers
//! their searches.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow_schema::DataType;
use datafusion::common::{DFSchema, Result, plan_err};
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::object_store::{DefaultObjectStoreRegistry, ObjectStoreRegistry, ObjectStoreUrl};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::{FunctionRegistry, SessionState, SessionStateBuilder};
use datafusion::functions::math;
use datafusion::logical_expr::ExprSchemable;
use datafusion::optimizer::AnalyzerRule;
use datafusion::prelude::SessionConfig;
use datafusion::sql::sqlparser::ast;
use datafusion_distributed::{
    ChannelResolver, DistributedExt, SessionStateBuilderExt, Worker, WorkerQueryContext,
};
use object_store::memory::InMemory;
use plexus_model::{Manifest, Segment, SegmentId, Table, Version};
use plexus_storage::{SegmentReader, vortex_session};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use url::Url;

use crate::accounts::inherit_accounts;
use crate::adjusted_functions::adjusted_functions;
use crate::analysis;
use crate::analysis::concatenations::Concatenate;
use crate::analysis::registered::RegisteredFunctions;
use crate::bounded_functions::{bounded_functions, result_bytes_max};
use crate::codec::ScanCodec;
use crate::constants::Constant;
use crate::context::{ExpressionParsers, QueryContext, plan_parsed, simplify};
use crate::interrupts::{Interruptible, Interrupts};
use crate::lane::LongLane;
use crate::list_functions::list_functions;
use crate::logical_rules::fence::FencePlanner;
use crate::logical_rules::optimizer_rules;
use crate::named_value::NamedValue;
use crate::nested_keys::{MapAccess, nested_key_functions};
use crate::physical_rules::physical_rules;
use crate::pool::QueryPool;
use crate::scan::distribution::{WorkerSlots, desired_tasks, route, scale_up};
use crate::scan::files::STORE_URL;
use crate::scan::leaf::ScanContext;
use crate::search::{
    self, BindRule, SearchCaches, SearchContext, SearchOptions, SearchReport, SearchTransport,
};
use crate::tables::catalog::{PinnedCatalog, Relations};
use crate::tables::context::TableContext;
use crate::tables::information_schema::TableFunctions;
use crate::tables::pinned::PinnedTable;
use crate::tables::system::ClusterView;
use crate::time_zones::{AtTimeZone, DEFAULT_ZONE};
use crate::type_limits::{CheckedLiterals, checked_functions};
use crate::{CATALOG, DEFAULT_SCHEMA};

/// What an [`Engine`] is built from.
pub struct EngineOptions<C> {
    /// Reads segments, from the local disk or from a replica.
    pub reader: SegmentReader,
    /// Sends search requests to other nodes.
    pub transport: Arc<dyn SearchTransport>,
    /// Opens channels to the workers of distributed plans.
    pub channels: C,
    /// URL of the worker service of this node.
    pub self_url: Url,
    /// Memory that operators may use before they spill or fail.
    pub memory_bytes: usize,
    /// Where they spill; the temporary directory of the system if `None`.
    pub spill_dir: Option<PathBuf>,
    /// Number of partitions of a plan on one node.
    pub partitions: usize,
    /// The runtime of long queries.
    pub long: Handle,
    /// How expressions in texts are parsed.
    pub parsers: ExpressionParsers,
}

/// What a session is pinned to.
#[derive(Clone)]
pub struct Pin {
    /// The version that the session reads.
    pub manifest: Arc<Manifest>,
    /// What the system tables show beside the manifest.
    pub view: ClusterView,
    /// The nodes that run distributed plans.
    pub worker_slots: WorkerSlots,
    /// Id of the query in logs and spans.
    pub query_id: String,
    /// Relations of the statement, in the schema [`crate::STATEMENT_SCHEMA`].
    pub relations: Relations,
}

/// Makes pinned sessions, runs tasks of distributed plans, and answers the searches of other nodes.
pub struct Engine {
    base: SessionState,
    /// Table functions of sessions.
    functions: Arc<TableFunctions>,
    /// Has no optimizer rules. Literal rows in a statement leave nothing to optimize.
    literal: SessionState,
    worker: Worker,
    tables: TableContext,
    interrupts: Arc<Interrupts>,
    /// Memory that operators may use.
    memory_bytes: usize,
    /// The runtime of short queries.
    runtime: Handle,
    /// Bounds the searches that run for other nodes.
    search_permits: Semaphore,
    /// Number of searches that were answered for other nodes.
    remote_search_requests: AtomicU64,
}

/// Searches for other nodes that run at the same time. Others wait, so that their memory is bounded.
const REMOTE_SEARCHES_MAX: usize = 32;

impl Engine {
    /// Builds an engine. Must be called on the runtime that short queries are to run on.
    ///
    /// # Errors
    /// When DataFusion rejects the configuration.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn new<C>(options: EngineOptions<C>) -> Result<Self>
    where
        C: ChannelResolver + Clone + Send + Sync + 'static,
    {
        let EngineOptions {
            reader,
            transport,
            channels,
            self_url,
            memory_bytes,
            spill_dir,
            partitions,
            long,
            parsers,
        } = options;
        inherit_accounts();
        let interrupts = Arc::new(Interrupts::default());
        let runtime = runtime(memory_bytes, spill_dir)?;
        let scans = ScanContext {
            vortex: vortex_session(),
            reader: reader.clone(),
            footers: runtime.cache_manager.get_file_metadata_cache(),
        };
        let search = SearchContext {
            reader: scans.reader.clone(),
            caches: SearchCaches::new(memory_bytes),
            transport,
        };

        let worker = worker(
            without_files(&runtime)?,
            scans.clone(),
            channels.clone(),
            interrupts.clone(),
            memory_bytes,
        );
        let registered = RegisteredFunctions::default();
        let rules = || analysis::analyzer_rules(&interrupts, &registered);
        let mut base = session_builder(partitions, runtime.clone(), memory_bytes, rules())
            .with_distributed_planner()
            .with_distributed_worker_resolver(WorkerSlots { workers: vec![], task_bytes: 0 })
            .with_distributed_channel_resolver(channels)
            .with_distributed_local_worker_context(worker.to_local_worker_context(self_url))
            .with_distributed_user_codec(ScanCodec { context: scans.clone() })
            .with_distributed_desired_task_count_handler(desired_tasks)
            .with_distributed_scale_up_leaf_node_handler(scale_up)
            .with_distributed_route_tasks_handler(route)
            // A union of files and inline rows must run in every slot of its stage.
            .with_distributed_children_isolator_unions(false)?
            // On a fast network, compression costs more time than it saves.
            .with_distributed_compression(None)?
            .with_distributed_metrics_collection(false)?
            .with_analyzer_rule(Arc::new(BindRule))
            .with_optimizer_rules(optimizer_rules(&interrupts))
            .with_physical_optimizer_rules(physical_rules(&interrupts))
            .build();
        add_functions(&mut base, &interrupts, memory_bytes)?;
        registered.note(&base);
        let lane = Arc::new(LongLane::new(long));
        base.config_mut().set_extension(lane.clone());
        base.config_mut().set_extension(Arc::new(parsers));
        for function in search::table_functions() {
            base.register_udtf(function.name(), function.function().clone());
        }
        let functions = Arc::new(base.table_functions().clone());
        let mut literal = session_builder(partitions, runtime, memory_bytes, rules())
            .with_optimizer_rules(vec![])
            .with_physical_optimizer_rules(vec![])
            .build();
        add_functions(&mut literal, &interrupts, memory_bytes)?;
        literal.config_mut().set_extension(lane);
        literal.config_mut().set_extension(Arc::new(parsers));
        let (runtime, search_permits) = (Handle::current(), Semaphore::new(REMOTE_SEARCHES_MAX));
        let tables = TableContext { scans, search };
        Ok(Self {
            base,
            functions,
            literal,
            worker,
            tables,
            interrupts,
            memory_bytes,
            runtime,
            search_permits,
            remote_search_requests: AtomicU64::new(0),
        })
    }

    /// The service that runs tasks of other nodes' queries.
    pub fn worker(&self) -> Worker {
        self.worker.clone()
    }

    /// A session that sees what `pin` names and nothing else.
    pub fn session(&self, pin: Pin) -> SessionState {
        self.pinned(&self.base, pin)
    }

    /// The same for statements that read no table. Planning is several times faster.
    pub fn table_free_session(&self, pin: Pin) -> SessionState {
        self.pinned(&self.literal, pin)
    }

    /// The segments of a table that may have rows that satisfy a predicate, by the statistics in the
    /// manifest.
    ///
    /// # Errors
    /// When the predicate is invalid.
    pub fn matching_segments(
        &self,
        state: &SessionState,
        table: &Arc<Table>,
        version: Version,
        predicate: &ast::Expr,
    ) -> Result<Vec<SegmentId>> {
        let pinned = PinnedTable::new(table.clone(), version, self.tables.clone());
        let schema = DFSchema::try_from(pinned.arrow_schema().clone())?;
        let expr = plan_parsed(predicate.clone(), &schema, state)?;
        if expr.get_type(&schema)? != DataType::Boolean {
            return plan_err!("{predicate} is not true or false");
        }
        let expr = simplify(expr, schema, state)?;
        Ok(pinned.segments(state, &[expr])?.into_iter().map(|(segment, _)| segment.id).collect())
    }

    /// A snapshot of one segment of a table with all of its rows, to build indexes from.
    pub fn search_snapshot(
        &self,
        table: Arc<Table>,
        version: Version,
        segment: Arc<Segment>,
    ) -> search::SearchSnapshot {
        let view = search::SegmentView { segment, invisible: Arc::default() };
        search::SearchSnapshot::of(table, version, self.tables.search.clone(), vec![view])
    }

    /// Answers an encoded search request of another node with an encoded response. The search runs on the
    /// runtime of queries. `manifest` is the latest that this node knows.
    ///
    /// # Errors
    /// `Unavailable` when the node is shutting down; otherwise what the search fails with. The caller tries
    /// another replica or searches itself.
    pub async fn handle_search(
        self: &Arc<Self>,
        task: Vec<u8>,
        manifest: Arc<Manifest>,
    ) -> plexus_model::Result<Vec<u8>> {
        let stopping = |_| plexus_model::Error::unavailable("the node is shutting down");
        let _permit = self.search_permits.acquire().await.map_err(stopping)?;
        let this = self.clone();
        // Dropping the set aborts the search, for example when the caller disconnects.
        let mut tasks = JoinSet::new();
        let answer = async move {
            search::exec::respond::handle(&task, &manifest, &this.tables.search, &this.base).await
        };
        tasks.spawn_on(answer, &self.runtime);
        match tasks.join_next().await {
            Some(Ok(answer)) => {
                self.remote_search_requests.fetch_add(u64::from(answer.is_ok()), Ordering::Relaxed);
                answer
            }
            Some(Err(e)) => Err(plexus_model::Error::internal(format!("a search was interrupted: {e}"))),
            None => Err(plexus_model::Error::internal("a search task returned nothing")),
        }
    }

    /// Memory that operators may use before they spill or fail, in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    /// Sets how many more bytes queries may spill. One that needs more fails.
    ///
    /// # Errors
    /// Never on a node that has a directory for it.
    pub fn set_room_for_spills(&self, bytes: u64) -> Result<()> {
        let disk = &self.base.runtime_env().disk_manager;
        disk.set_max_temp_directory_size(disk.used_disk_space().saturating_add(bytes))
    }

    /// Ends the work of queries on this node.
    pub fn interrupts(&self) -> &Arc<Interrupts> {
        &self.interrupts
    }

    /// How many searches of other nodes were answered.
    pub fn remote_search_requests(&self) -> u64 {
        self.remote_search_requests.load(Ordering::Relaxed)
    }

    /// Drops idle cache entries and closes idle files. Call it periodically.
    pub fn evict_idle(&self) {
        self.tables.search.caches.evict_idle();
        self.tables.scans.reader.close_idle();
    }

    /// A session that sees no tables.
    pub fn table_free_state(&self) -> &SessionState {
        &self.literal
    }

    /// A session based on `base` that is pinned.
    fn pinned(&self, base: &SessionState, pin: Pin) -> SessionState {
        let Pin { manifest, view, worker_slots, query_id, relations } = pin;
        let mut state = base.clone();
        // Fixes the value of `now()` for the whole statement.
        state.mark_start_execution();
        let distributed = worker_slots.workers.len() > 1;
        let context =
            QueryContext { query_id, version: manifest.version.0, distributed, planning_deadline: 0 };
        state.set_distributed_worker_resolver(worker_slots.clone());
        state.set_distributed_option_extension(context);
        state.config_mut().set_extension(Arc::new(worker_slots));
        state.config_mut().set_extension(SearchReport::extension());
        let (context, functions) = (self.tables.clone(), self.functions.clone());
        let catalog = PinnedCatalog { manifest, view: Arc::new(view), context, relations, functions };
        state.register_catalog_list(Arc::new(catalog));
        state
    }
}

/// What the sessions have in common that plan with some analyzer rules.
fn session_builder(
    partitions: usize,
    runtime: Arc<RuntimeEnv>,
    memory_bytes: usize,
    rules: Vec<Arc<dyn AnalyzerRule + Send + Sync>>,
) -> SessionStateBuilder {
    let vectors = search::VectorOperators::new(result_bytes_max(memory_bytes));
    SessionStateBuilder::new()
        .with_expr_planners(vec![Arc::new(CheckedLiterals), Arc::new(MapAccess), Arc::new(vectors)])
        .with_default_features()
        .with_config(config(partitions))
        .with_runtime_env(runtime)
        .with_query_planner(Arc::new(FencePlanner))
        .with_analyzer_rules(rules)
}

/// Registers our own functions. They replace DataFusion's functions of the same name.
fn add_functions(state: &mut SessionState, interrupts: &Arc<Interrupts>, memory_bytes: usize) -> Result<()> {
    for function in search::scalar_functions(result_bytes_max(memory_bytes)) {
        state.register_udf(function)?;
    }
    for function in search::aggregate_functions() {
        state.register_udaf(function)?;
    }
    // The name of other databases.
    state.register_udf(Arc::new(math::signum().as_ref().clone().with_aliases(["sign"])))?;
    state.register_udf(Arc::new(AtTimeZone::default().into()))?;
    state.register_udf(Arc::new(NamedValue::default().into()))?;
    state.register_udf(Arc::new(Interruptible::new(interrupts.clone()).into()))?;
    state.register_udf(Arc::new(Constant::new(result_bytes_max(memory_bytes)).into()))?;
    state.register_udf(Arc::new(Concatenate::new(result_bytes_max(memory_bytes)).into()))?;
    for function in checked_functions(state) {
        state.register_udf(function)?;
    }
    for function in list_functions(state) {
        state.register_udf(function)?;
    }
    for function in nested_key_functions(state) {
        state.register_udf(function)?;
    }
    for function in adjusted_functions(state) {
        state.register_udf(function)?;
    }
    for function in bounded_functions(state, memory_bytes) {
        state.register_udf(function)?;
    }
    analysis::register_functions(state)
}

/// The resources that the queries of a node share.
fn runtime(memory_bytes: usize, spill_dir: Option<PathBuf>) -> Result<Arc<RuntimeEnv>> {
    let spill = match spill_dir {
        Some(dir) => DiskManagerMode::Directories(vec![dir]),
        None => DiskManagerMode::OsTmpDirectory,
    };
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(QueryPool::new(memory_bytes)))
        .with_disk_manager_builder(DiskManagerBuilder::default().with_mode(spill))
        .build_arc()?;
    // Scans look up their object store by URL before they ask for a reader, although the readers never use
    // it.
    let url = ObjectStoreUrl::parse(STORE_URL)?;
    runtime.register_object_store(url.as_ref(), Arc::new(InMemory::new()));
    Ok(runtime)
}

/// The same resources without the file system, for plans of other nodes. A plan can name any file, to read it
/// or to write it; those of queries name none.
fn without_files(runtime: &RuntimeEnv) -> Result<Arc<RuntimeEnv>> {
    let segments = ObjectStoreUrl::parse(STORE_URL)?;
    let stores = DefaultObjectStoreRegistry::new();
    stores.deregister_store(ObjectStoreUrl::local_filesystem().as_ref())?;
    stores.register_store(segments.as_ref(), runtime.object_store(&segments)?);
    Ok(Arc::new(RuntimeEnv {
        memory_pool: runtime.memory_pool.clone(),
        disk_manager: runtime.disk_manager.clone(),
        cache_manager: runtime.cache_manager.clone(),
        object_store_registry: Arc::new(stores),
    }))
}

/// The configuration of sessions.
fn config(partitions: usize) -> SessionConfig {
    // Plans with a single partition are never distributed.
    let mut config = SessionConfig::new()
        .with_target_partitions(partitions.max(2))
        // The catalog has one of its own.
        .with_information_schema(false)
        .with_create_default_catalog_and_schema(false)
        .with_default_catalog_and_schema(CATALOG, DEFAULT_SCHEMA)
        .with_option_extension(QueryContext::default())
        .with_option_extension(SearchOptions::default());
    let options = config.options_mut();
    options.sql_parser.collect_spans = true;
    // As in the SQL standard, 0.1 is a decimal and not the nearest binary fraction.
    options.sql_parser.parse_float_as_decimal = true;
    // `TIMESTAMP WITH TIME ZONE` has a zone in every session.
    options.execution.time_zone = Some(DEFAULT_ZONE.to_owned());
    // Physical plans of unions are less exact about nulls than logical ones. See apache/datafusion#24096.
    options.execution.skip_physical_aggregate_schema_check = true;
    // It takes a column that a subquery computes for one of the table (apache/datafusion#25414).
    options.optimizer.enable_leaf_expression_pushdown = false;
    // It drops groups that a window between the groups and the limit looks at (apache/datafusion#25066).
    options.optimizer.enable_topk_aggregation = false;
    config
}

/// The worker that runs tasks of distributed plans.
fn worker<C>(
    runtime: Arc<RuntimeEnv>,
    scans: ScanContext,
    channels: C,
    interrupts: Arc<Interrupts>,
    memory_bytes: usize,
) -> Worker
where
    C: ChannelResolver + Clone + Send + Sync + 'static,
{
    Worker::from_session_builder(move |context: WorkerQueryContext| {
        let (scans, channels, interrupts) = (scans.clone(), channels.clone(), interrupts.clone());
        async move {
            let WorkerQueryContext { builder, headers } = context;
            let mut state = builder
                .with_distributed_option_extension_from_headers::<QueryContext>(&headers)?
                .with_distributed_user_codec(ScanCodec { context: scans })
                .with_distributed_channel_resolver(channels)
                .build();
            add_functions(&mut state, &interrupts, memory_bytes)?;
            if let Some(query) = state.config().options().extensions.get::<QueryContext>() {
                tracing::debug!(
                    query_id = query.query_id,
                    version = query.version,
                    batch_rows = state.config().batch_size(),
                    "running a task of a distributed query"
                );
            }
            Ok(state)
        }
    })
    .with_runtime_env(runtime)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_of_other_nodes_reach_no_file() {
        let own = runtime(1 << 20, None).unwrap();
        let theirs = without_files(&own).unwrap();
        let files = ObjectStoreUrl::local_filesystem();
        assert!(own.object_store(&files).is_ok());
        assert!(theirs.object_store(&files).is_err());
        assert!(theirs.object_store(ObjectStoreUrl::parse(STORE_URL).unwrap()).is_ok());
    }
}
