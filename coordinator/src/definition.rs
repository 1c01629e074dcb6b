//! Statements that define things, and those that change tables as a whole.

use std::time::Instant;

use datafusion::common::TableReference;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{self, ObjectType};
use plexus_model::{ChangeKind, Command, Error, Result, TableChange};

use crate::call::{self, Procedure};
use crate::coordinator::{Coordinator, Executed, Scope, find};
use crate::ddl;
use crate::keys::OnDuplicate;
use crate::limits::{COMMIT_TIMEOUT, READ_INDEX_TIMEOUT};
use crate::load::{IngestMode, IngestTarget};
use crate::removal;
use crate::rewrite::identifier;
use crate::session::Session;
use crate::statement::unsupported;

impl Coordinator {
    /// Statements that define things, which need no plan.
    pub(crate) async fn define(
        &self,
        session: &Session,
        statement: &Statement,
        query_id: &str,
    ) -> Result<Option<Executed>> {
        if let Some(call) = call::procedure(statement)? {
            return self.call(call).await.map(|()| Some(Executed::Affected(0)));
        }
        let scope = |manifest| Scope { session, manifest, values: &[], query_id };
        let command = match statement {
            Statement::CreateExternalTable(_) | Statement::CopyTo(_) => {
                return Err(unsupported(&statement.to_string()));
            }
            Statement::Statement(statement) => match statement.as_ref() {
                ast::Statement::CreateTable(create) => {
                    let scope = scope(self.pin().await?);
                    if let Some(query) = &create.query {
                        let rows = self.create_table_as(&scope, create, query).await?;
                        return Ok(Some(Executed::Affected(rows)));
                    }
                    let state = self.state(&scope)?;
                    let create = create.clone();
                    let create =
                        ddl::create_table(create, &state, &scope.manifest, &session.schema()).await?;
                    // What cannot be evaluated is said now, and not by the first insert.
                    self.writer().engine.checks(&create.schema)?;
                    Command::CreateTable(create)
                }
                ast::Statement::CreateSchema { schema_name, if_not_exists, .. } => Command::CreateSchema {
                    name: ddl::free_schema_name(identifier(&schema_name.to_string()))?,
                    if_not_exists: *if_not_exists,
                },
                ast::Statement::Drop { object_type, if_exists, names, .. } => {
                    let [name] = names.as_slice() else {
                        return Err(Error::unsupported("DROP takes one name at a time"));
                    };
                    let name = name.to_string();
                    match object_type {
                        ObjectType::Table => {
                            let reference = TableReference::parse_str(&name);
                            let name = ddl::table_name(&reference, &session.schema())?;
                            Command::DropTable { name, if_exists: *if_exists }
                        }
                        ObjectType::Schema => Command::DropSchema {
                            name: ddl::free_schema_name(identifier(&name))?,
                            if_exists: *if_exists,
                        },
                        _ => return Err(unsupported(&statement.to_string())),
                    }
                }
                ast::Statement::AlterTable(alter) => {
                    let scope = scope(self.pin().await?);
                    self.alter_table(&scope, alter).await?
                }
                ast::Statement::Truncate(truncate) => {
                    let scope = scope(self.pin().await?);
                    return self.truncate(&scope, truncate).await.map(|rows| Some(Executed::Affected(rows)));
                }
                ast::Statement::CreateIndex(_) | ast::Statement::CreateView(_) => {
                    return Err(unsupported(&statement.to_string()));
                }
                _ => return Ok(None),
            },
            _ => return Ok(None),
        };
        let applied = self.meta().propose(command, COMMIT_TIMEOUT).await?;
        // The next statement of this client may plan against what this node knows.
        self.meta().wait_version(applied.version, READ_INDEX_TIMEOUT).await?;
        Ok(Some(Executed::Affected(0)))
    }

    async fn call(&self, procedure: Procedure) -> Result<()> {
        match procedure {
            Procedure::RemoveNode(node) => removal::remove_node(self.meta(), self.peers(), node).await,
        }
    }

    /// Runs the query and puts its rows into a new table, which appears with all of them.
    async fn create_table_as(
        &self,
        scope: &Scope<'_>,
        create: &ast::CreateTable,
        query: &ast::Query,
    ) -> Result<u64> {
        if !create.columns.is_empty() || !create.constraints.is_empty() {
            return Err(Error::unsupported(
                "CREATE TABLE AS takes its columns from the query: name and cast them there",
            ));
        }
        let reference = TableReference::parse_str(&create.name.to_string());
        let name = ddl::table_name(&reference, &scope.session.schema())?;
        if create.if_not_exists && scope.manifest.table(&name).is_some() {
            return Ok(0);
        }
        let mut statement = ast::Statement::Query(Box::new(query.clone()));
        self.resolve_versions(&mut statement, scope)?;
        let plan = self.state(scope)?.statement_to_plan(Statement::Statement(Box::new(statement))).await;
        let rows = self.query(scope, &plan.map_err(crate::errors::from_datafusion)?).await?;
        let options = ddl::table_options(create.table_options.clone())?;
        let target = IngestTarget {
            schema: Some(name.schema),
            table: name.table,
            mode: if create.or_replace { IngestMode::Replace } else { IngestMode::Create },
            shards: options.shards,
            replicas: options.replicas,
            on_duplicate: OnDuplicate::Fail,
            primary_key: vec![],
        };
        let written = self.ingest(scope.session, target, rows.schema.clone(), rows.stream).await?;
        Ok(written.rows)
    }

    /// Takes all rows that the statement sees out of a table; those that are written meanwhile stay.
    async fn truncate(&self, scope: &Scope<'_>, truncate: &ast::Truncate) -> Result<u64> {
        let [target] = truncate.table_names.as_slice() else {
            return Err(Error::unsupported("TRUNCATE takes one table at a time"));
        };
        let reference = TableReference::parse_str(&target.name.to_string());
        let name = ddl::table_name(&reference, &scope.session.schema())?;
        if truncate.if_exists && scope.manifest.table(&name).is_none() {
            return Ok(0);
        }
        let table = find(&scope.manifest, &name)?;
        let version = scope.manifest.version;
        let rows = table.rows(version);
        let change = TableChange::new(table.id, table.schema_version, version, ChangeKind::Write);
        let remove: Vec<_> = table.visible(version).map(|s| s.id).collect();
        if !remove.is_empty() {
            let change = TableChange { remove, ..change };
            self.writer().commit(vec![change], "truncate", Instant::now()).await?;
        }
        Ok(rows)
    }
}
