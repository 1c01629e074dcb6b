//! How a starting node enters its cluster: founds it, joins it, or returns to it.

use std::sync::Arc;
use std::time::Duration;

use plexus_flight::peer::PeerNetwork;
use plexus_model::{ClusterId, Error, ErrorKind, NodeId, NodeRecord, Result};
use plexus_raft::Meta;

use crate::config::{Config, Membership};
use crate::data_dir::{DataDir, mark_member};

/// How long a node tries to join a cluster.
const JOIN_TIMEOUT: Duration = Duration::from_secs(60);
/// Pause between attempts of a restarted node to return to its cluster.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// What the cluster records about a node.
pub(crate) fn node_record(config: &Config, id: NodeId) -> NodeRecord {
    NodeRecord {
        id,
        roles: config.roles,
        flight: config.advertised(config.flight),
        peer: config.advertised(config.peer),
        http: config.advertised(config.http),
        live: true,
    }
}

/// Founds a cluster, joins one, or starts the return to one.
///
/// The return may have to wait for other nodes that are still starting. It is therefore not awaited here but
/// returned as a future, which fails if the cluster rejects this node.
pub(crate) async fn enter_cluster(
    config: &Config,
    meta: &Arc<Meta>,
    data: &DataDir,
    record: NodeRecord,
    network: &PeerNetwork,
) -> Result<Option<impl Future<Output = Result<()>> + Send + use<>>> {
    let cluster = data.authority.cluster;
    check_founding(config, meta, data)?;
    match (&config.membership, meta.is_pristine()) {
        (Membership::Join { address, .. }, true) => meta.join(address, record, JOIN_TIMEOUT).await?,
        (Membership::Bootstrap | Membership::Resume, true) => {
            if !config.roles.meta {
                return Err(Error::invalid(format!(
                    "roles = {}: the first node of a cluster needs the meta role; \
                     to join a cluster, use --join",
                    config.roles
                )));
            }
            meta.bootstrap(cluster, record).await?;
            tracing::info!(
                token_file = %data.token_path().display(),
                "founded a cluster; other nodes join with its join token"
            );
        }
        (membership, false) => {
            let was_member = data.was_member();
            if let Some(address) = network.answers_elsewhere(&record.peer).await {
                return Err(Error::conflict(format!(
                    "node {} runs at {address} already, and {} is a copy of its data directory: stop one of \
                     the two. A new node has an empty directory, and starts with --join",
                    record.id,
                    data.path().display()
                )));
            }
            return Ok(Some(return_to_cluster(
                meta.clone(),
                cluster,
                record,
                membership.clone(),
                was_member,
            )));
        }
    }
    mark_member(data.path())?;
    Ok(None)
}

/// Checks that a node founds a cluster only when it is told to, and only once. A second cluster under the
/// same name would take writes, and nobody would find the rows of the first.
///
/// # Errors
/// `InvalidArgument` when a member is to found a cluster, or a new node is to return to one; `Corrupt` when a
/// member has lost its metadata.
fn check_founding(config: &Config, meta: &Meta, data: &DataDir) -> Result<()> {
    let (node, path, cluster) = (data.node(), data.path().display(), data.authority.cluster);
    match (&config.membership, meta.is_pristine(), data.was_member()) {
        (Membership::Bootstrap, _, true) => Err(Error::invalid(format!(
            "data directory {path} belongs to node {node} of cluster {cluster}: start without --bootstrap"
        ))),
        (Membership::Resume, true, true) => Err(Error::corrupt(format!(
            "the metadata of node {node} is lost: {path}/meta has no log. Restore it. If other nodes are \
             left, remove this one with CALL plexus.remove_node({node}), and start it as a new node with an \
             empty directory and --join"
        ))),
        (Membership::Resume, true, false) => Err(Error::invalid(format!(
            "node {node} of data directory {path} has not entered a cluster yet: start it with \
             --bootstrap or --join, as the first time"
        ))),
        _ => Ok(()),
    }
}

/// Announces the restarted node until the cluster has recorded it. Also completes a bootstrap or a join that
/// an earlier start began and did not finish.
async fn return_to_cluster(
    meta: Arc<Meta>,
    cluster: ClusterId,
    record: NodeRecord,
    membership: Membership,
    was_member: bool,
) -> Result<()> {
    loop {
        let entered = async {
            // A leader whose manifest has no nodes was interrupted while it founded the cluster.
            if meta.is_leader() && meta.manifest().nodes.is_empty() {
                return meta.bootstrap(cluster, record.clone()).await;
            }
            match (meta.rejoin(record.clone()).await, &membership) {
                // The node has never been a member: its first start was interrupted while it joined.
                (Err(e), Membership::Join { address, .. })
                    if e.kind() == ErrorKind::NotFound && !was_member =>
                {
                    meta.join(address, record.clone(), JOIN_TIMEOUT).await
                }
                (rejoined, _) => rejoined,
            }
        };
        match entered.await {
            Ok(()) => return Ok(()),
            // The cluster rejects this node. All other errors may be temporary.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::AlreadyExists) => {
                return Err(error);
            }
            Err(error) => tracing::warn!(%error, "could not return to the cluster yet"),
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}
