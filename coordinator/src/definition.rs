//! Statements that define things, and those that change tables as a whole.

use std::time::Instant;

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{self, ObjectType};
use plexus_model::{Command, Error, Result};

use crate::call;
use crate::changes::RowChanges;
use crate::coordinator::{Coordinator, Executed, Scope, find};
use crate::ddl;
use crate::keys::OnDuplicate;
use crate::limits::{COMMIT_TIMEOUT, READ_INDEX_TIMEOUT};
use crate::load::{IngestMode, IngestTarget};
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
        let scope = |manifest| Scope { session, manifest, values: &[], query_id };
        if let Some(procedure) = call::procedure(statement)? {
            return self.call(&scope(self.pin().await?), procedure).await.map(Some);
        }
        let command = match statement {
            Statement::CreateExternalTable(_) => {
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
                    match object_type {
                        ObjectType::Table => {
                            let name = ddl::object_name(name, &session.schema())?;
                            Command::DropTable { name, if_exists: *if_exists }
                        }
                        ObjectType::Index => {
                            let scope = scope(self.pin().await?);
                            match self.drop_index(&scope, name, *if_exists)? {
                                Some(command) => command,
                                None => return Ok(Some(Executed::Affected(0))),
                            }
                        }
                        ObjectType::Schema => Command::DropSchema {
                            name: ddl::free_schema_name(identifier(&name.to_string()))?,
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
                ast::Statement::CreateIndex(create) => {
                    let scope = scope(self.pin().await?);
                    match self.create_index(&scope, create)? {
                        Some(command) => command,
                        None => return Ok(Some(Executed::Affected(0))),
                    }
                }
                ast::Statement::CreateView(_) => {
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
        let name = ddl::object_name(&create.name, &scope.session.schema())?;
        if create.if_not_exists && scope.manifest.table(&name).is_some() {
            return Ok(0);
        }
        let mut statement = ast::Statement::Query(Box::new(query.clone()));
        self.resolve(&mut statement, scope).await?;
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

    /// Takes all rows that the statement sees out of a table; those that are written meanwhile stay. Returns
    /// the change and how many rows go; `None` when the table need not exist and does not.
    pub(crate) fn truncated(
        &self,
        scope: &Scope<'_>,
        truncate: &ast::Truncate,
    ) -> Result<Option<(RowChanges, u64)>> {
        scope.session.check_writable()?;
        let [target] = truncate.table_names.as_slice() else {
            return Err(Error::unsupported("TRUNCATE takes one table at a time"));
        };
        let name = ddl::object_name(&target.name, &scope.session.schema())?;
        if truncate.if_exists && scope.manifest.table(&name).is_none() {
            return Ok(None);
        }
        let table = find(&scope.manifest, &name)?;
        let mut changes = RowChanges::new(table.clone());
        changes.removed = table.visible(scope.manifest.version).map(|s| s.id).collect();
        Ok(Some((changes, table.rows(scope.manifest.version))))
    }

    async fn truncate(&self, scope: &Scope<'_>, truncate: &ast::Truncate) -> Result<u64> {
        let Some((changes, rows)) = self.truncated(scope, truncate)? else {
            return Ok(0);
        };
        if !changes.is_empty() {
            let table = changes.table.clone();
            let change = changes.into_change(self.writer(), &table, scope.manifest.version).await?;
            self.writer().commit(vec![change], "truncate", Instant::now()).await?;
        }
        Ok(rows)
    }
}
