//! For fuzzing: a statement from its text to its plan, without anything that runs it.

use std::sync::Arc;

use plexus_model::{Manifest, Result};
use plexus_query::{ClusterView, Engine, Pin, Relations, WorkerSlots, physical_plan};

use crate::errors::from_datafusion;
use crate::exec::context::find;
use crate::exec::dml::plan_change;
use crate::exec::plan_statement::plan_statement;
use crate::exec::planner::configure;
use crate::exec::session::Session;
use crate::sql::kind::{Parsed, StatementKind};
use crate::sql::names::object_name;
use crate::sql::{parse, rewrite};

/// Parses a text, and rewrites and plans its statements as a node would that has `manifest`.
///
/// # Errors
/// Those of the first statement that has one.
pub async fn plan(engine: &Engine, manifest: &Arc<Manifest>, text: &str) -> Result<()> {
    let session = Session::default();
    for statement in parse::statements(text)? {
        let parsed = Parsed::new(statement)?;
        let pin = Pin {
            manifest: manifest.clone(),
            view: ClusterView { leader: None, voters: vec![], queries: None },
            worker_slots: WorkerSlots { workers: vec![], task_bytes: u64::MAX },
            query_id: String::new(),
            relations: Relations::default(),
        };
        let state = configure(engine.session(pin), &session)?;
        let plan = match (parsed.kind, &parsed.statement) {
            (StatementKind::Query, statement) => plan_statement(&state, statement.clone()).await?,
            (StatementKind::Dml, datafusion::sql::parser::Statement::Statement(statement)) => {
                let Some(name) = rewrite::target(statement) else { continue };
                let table = find(manifest, &object_name(name, &session.schema())?)?;
                let rewritten = rewrite::rewrite(statement.as_ref().clone(), &table)?;
                plan_change(state.clone(), &session, &table, &rewritten).await?
            }
            _ => continue,
        };
        physical_plan(&state, &plan).await.map_err(from_datafusion)?;
    }
    Ok(())
}
