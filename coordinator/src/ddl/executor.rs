//! Runs DDL: turns a statement into one command of the metadata log and proposes it.

use std::sync::Arc;

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{self, ObjectType, SchemaName};
use futures::FutureExt;
use plexus_model::{Command, Error, Result};

use crate::ddl::create_table;
use crate::ddl::index::{create_index, drop_index};
use crate::errors::{from_datafusion, unsupported};
use crate::exec::context::{Executed, StatementContext, find};
use crate::exec::load::{IngestMode, IngestTarget, Loader};
use crate::exec::planner::Planner;
use crate::exec::session::Session;
use crate::limits::{COMMIT_TIMEOUT, READ_INDEX_TIMEOUT};
use crate::running::committing;
use crate::sql::names::{free_schema_name, object_name, unqualified};
use crate::sql::result_names::ResultNames;
use crate::write::keys::OnDuplicate;
use crate::write::writer::Writer;

/// Runs DDL statements.
pub(crate) struct DdlExecutor {
    planner: Planner,
    writer: Writer,
    loader: Arc<Loader>,
}

impl DdlExecutor {
    /// An executor that loads the rows of `CREATE TABLE AS` with `loader`.
    pub(crate) fn new(planner: Planner, writer: Writer, loader: Arc<Loader>) -> Self {
        Self { planner, writer, loader }
    }

    /// Plans statements.
    pub(super) fn planner(&self) -> &Planner {
        &self.planner
    }

    /// Commits rows.
    pub(super) fn writer(&self) -> &Writer {
        &self.writer
    }

    /// Runs one DDL statement.
    ///
    /// # Errors
    /// `InvalidArgument`, `Unsupported`, `NotFound` or `AlreadyExists` for a wrong statement; `Conflict` when
    /// the schema changed concurrently.
    pub(crate) async fn execute(
        &self,
        session: &Session,
        statement: &Statement,
        query_id: &str,
    ) -> Result<Executed> {
        let Statement::Statement(statement) = statement else {
            return Err(unsupported(&statement.to_string()));
        };
        if let ast::Statement::CreateTable(create) = statement.as_ref()
            && create.query.is_some()
        {
            let rows = self.create_table_as(&self.context(session, query_id).await?, create).await?;
            return Ok(Executed::Affected(rows));
        }
        // Boxed to limit the depth of the nested future.
        let command = self.command(session, statement, query_id).boxed().await?;
        if let Some(command) = command {
            let applied = committing(self.planner.meta.propose(command, COMMIT_TIMEOUT).boxed()).await?;
            // The next statement of this client may plan against the local manifest without a read index.
            self.planner.meta.wait_version(applied.version, READ_INDEX_TIMEOUT).await?;
        }
        Ok(Executed::Affected(0))
    }

    /// The command for a statement; `None` when it has nothing to do.
    async fn command(
        &self,
        session: &Session,
        statement: &ast::Statement,
        query_id: &str,
    ) -> Result<Option<Command>> {
        let pin = || self.context(session, query_id);
        Ok(match statement {
            ast::Statement::CreateTable(create) => Some(self.create_table(&pin().await?, create).await?),
            ast::Statement::CreateSchema { schema_name, if_not_exists, .. } => {
                let SchemaName::Simple(name) = schema_name else {
                    return Err(Error::unsupported("CREATE SCHEMA takes no AUTHORIZATION"));
                };
                Some(Command::CreateSchema {
                    name: free_schema_name(unqualified(name)?)?,
                    if_not_exists: *if_not_exists,
                })
            }
            ast::Statement::Drop { object_type, if_exists, names, .. } => {
                let [name] = names.as_slice() else {
                    return Err(Error::unsupported("DROP takes one name at a time"));
                };
                match object_type {
                    ObjectType::Table => {
                        let name = object_name(name, &session.schema())?;
                        if !if_exists {
                            find(&pin().await?.manifest, &name)?;
                        }
                        Some(Command::DropTable { name, if_exists: *if_exists })
                    }
                    ObjectType::Index => drop_index(&pin().await?, name, *if_exists)?,
                    ObjectType::Schema => Some(Command::DropSchema {
                        name: free_schema_name(unqualified(name)?)?,
                        if_exists: *if_exists,
                    }),
                    _ => return Err(unsupported(&statement.to_string())),
                }
            }
            ast::Statement::AlterTable(alter) => Some(self.alter_table(&pin().await?, alter).await?),
            ast::Statement::CreateIndex(create) => create_index(&pin().await?, create)?,
            _ => return Err(unsupported(&statement.to_string())),
        })
    }

    /// A context at the newest version.
    async fn context<'a>(&self, session: &'a Session, query_id: &'a str) -> Result<StatementContext<'a>> {
        let manifest = self.planner.pin().await?;
        Ok(StatementContext { session, manifest, values: &[], query_id })
    }

    /// The command for `CREATE TABLE`.
    async fn create_table(
        &self,
        context: &StatementContext<'_>,
        create: &ast::CreateTable,
    ) -> Result<Command> {
        let state = self.planner.state(context)?;
        let schema = context.session.schema();
        let engine = &self.writer.engine;
        let create =
            create_table::create_table(create.clone(), &state, engine, &context.manifest, &schema).await?;
        // Reports checks that cannot be evaluated now, and not at the first insert.
        self.writer.engine.row_checks(&create.schema)?;
        Ok(Command::CreateTable(create))
    }

    /// Runs `CREATE TABLE AS`. The table becomes visible with all its rows. Returns their number.
    async fn create_table_as(
        &self,
        context: &StatementContext<'_>,
        create: &ast::CreateTable,
    ) -> Result<u64> {
        let Some(query) = &create.query else {
            return Err(Error::internal("CREATE TABLE AS without a query"));
        };
        if !create.columns.is_empty() || !create.constraints.is_empty() {
            return Err(Error::unsupported(
                "CREATE TABLE AS takes its columns from the query: name and cast them there",
            ));
        }
        let name = object_name(&create.name, &context.session.schema())?;
        if create.if_not_exists && context.manifest.table(&name).is_some() {
            return Ok(0);
        }
        let mut statement = ast::Statement::Query(query.clone());
        self.planner.resolve(&mut statement, context).await?;
        let plan =
            self.planner.state(context)?.statement_to_plan(Statement::Statement(Box::new(statement))).await;
        let rows = self.planner.query(context, &plan.map_err(from_datafusion)?).await?;
        let options = create_table::table_options(create.table_options.clone())?;
        let target = IngestTarget {
            schema: Some(name.schema),
            table: name.table,
            mode: if create.or_replace { IngestMode::Replace } else { IngestMode::Create },
            shards: options.shards,
            replicas: options.replicas,
            on_duplicate: OnDuplicate::Fail,
            primary_key: vec![],
        };
        let schema = ResultNames::of(query).apply(&rows.schema);
        let written = self.loader.ingest(context.session, target, schema, rows.stream).await?;
        Ok(written.rows)
    }
}
