//! Retries: queries after a worker failure, statements after a conflict.
//!
//! A query reads one pinned version, so it can be planned again on other replicas as long as no row has been
//! sent to the client. The first bytes of a result are held back to extend that window.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Instant;

use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use plexus_model::{Error, ErrorKind, Manifest, NodeId, Result};
use plexus_query::{PlacedWorker, WorkerSlots};
use url::Url;

use crate::errors::{from_datafusion, unavailable_worker};
use crate::exec::row_stream::RowStream;
use crate::exec::start::start;
use crate::limits::{QUERY_ATTEMPTS_MAX, SUSPECT_TIMEOUT};

/// Nodes that failed a request recently, before the leader has noticed. An entry expires by itself.
#[derive(Default)]
pub struct Suspects(Mutex<HashMap<NodeId, Instant>>);

impl Suspects {
    /// Marks a node as suspect from now on.
    pub fn add(&self, node: NodeId) {
        self.0.lock().expect("no code panics while it holds this lock").insert(node, Instant::now());
    }

    /// Whether a node failed a request recently.
    pub fn contains(&self, node: NodeId) -> bool {
        let suspects = self.0.lock().expect("no code panics while it holds this lock");
        suspects.get(&node).is_some_and(|since| since.elapsed() < SUSPECT_TIMEOUT)
    }
}

/// The workers of a query that node `this` coordinates: `this` first if it is a data node, then the other
/// live data nodes that are not suspects.
pub(crate) fn worker_slots(
    manifest: &Manifest,
    this: NodeId,
    suspects: &Suspects,
    task_bytes: u64,
) -> WorkerSlots {
    let mut nodes: Vec<_> = manifest
        .nodes
        .values()
        .filter(|n| n.roles.data && (n.id == this || (n.live && !suspects.contains(n.id))))
        .collect();
    nodes.sort_by_key(|n| (n.id != this, n.id));
    let workers = nodes
        .into_iter()
        .filter_map(|n| Some(PlacedWorker { node: n.id, url: worker_url(&n.peer)? }))
        .collect();
    WorkerSlots { workers, task_bytes }
}

/// The URL of the worker service of a node, from its peer address. The service listens on TCP at the address
/// where QUIC listens on UDP. `None` when the address does not form a URL.
pub fn worker_url(peer: &str) -> Option<Url> {
    Url::parse(&format!("https://{peer}/")).ok()
}

/// Runs `plan`, again without the failed worker when one becomes unavailable. `session` creates the engine
/// session of each attempt, with the workers that are left.
///
/// # Errors
/// `Unavailable` after too many failed attempts, otherwise the error of the query.
pub(crate) async fn run(
    plan: &LogicalPlan,
    suspects: &Suspects,
    manifest: &Manifest,
    session: impl Fn() -> Result<SessionState>,
) -> Result<RowStream> {
    let mut attempt = 1;
    loop {
        let error = match start(plan, &session()?).await {
            Ok(rows) => return Ok(rows),
            Err(error) => error,
        };
        let Some(url) = unavailable_worker(&error) else {
            return Err(from_datafusion(error));
        };
        let failed = manifest.nodes.values().find(|n| worker_url(&n.peer).is_some_and(|u| u.as_str() == url));
        tracing::warn!(%url, attempt, %error, "a worker failed; running the query again without it");
        match failed {
            Some(node) if attempt < QUERY_ATTEMPTS_MAX => suspects.add(node.id),
            _ => {
                return Err(Error::unavailable(format!("the query failed {attempt} times; last at {url}")));
            }
        }
        attempt += 1;
    }
}

/// Attempts to run a statement that conflicts with concurrent commits.
const CONFLICT_ATTEMPTS_MAX: usize = 10;

/// Runs a statement again while it conflicts with concurrent commits, up to [`CONFLICT_ATTEMPTS_MAX`] times.
///
/// # Errors
/// The error of the statement; `Conflict` when the last attempt conflicts too.
pub(crate) async fn until_no_conflict<T, F: Future<Output = Result<T>>>(
    attempt: impl Fn() -> F,
) -> Result<T> {
    for _ in 1..CONFLICT_ATTEMPTS_MAX {
        match attempt().await {
            Err(e) if e.kind() == ErrorKind::Conflict => {
                tracing::debug!(error = %e, "running the statement again after a conflict");
            }
            result => return result,
        }
    }
    attempt().await
}
