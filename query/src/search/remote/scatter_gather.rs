//! Scatter-gather: sends a request to the nodes that hold the segments, and falls back to this node.

use std::collections::BTreeMap;

use futures::future::{try_join, try_join_all};
use plexus_model::{ErrorKind, NodeId, Result, Segment, decode, encode};
use plexus_storage::SegmentRef;

use crate::search::remote::protocol::{ShardRequest, ShardResponse, ShardTask};
use crate::search::snapshot::{SearchSnapshot, SegmentView};

/// Views whose segments are on the same nodes.
struct RemoteViews {
    views: Vec<u32>,
    /// The replicas, in the order in which they are tried.
    nodes: Vec<NodeId>,
}

/// Splits views into those that this node searches and those that others search.
fn assign(snapshot: &SearchSnapshot, views: impl IntoIterator<Item = u32>) -> (Vec<u32>, Vec<RemoteViews>) {
    let (mut local, mut by_replicas) = (Vec::new(), BTreeMap::<&[NodeId], Vec<u32>>::new());
    let remote = remote_replicas(snapshot);
    for view in views {
        match &remote[view as usize] {
            Some(nodes) => by_replicas.entry(nodes).or_default().push(view),
            None => local.push(view),
        }
    }
    let remote_views = |(nodes, views): (&[NodeId], _)| RemoteViews { views, nodes: nodes.to_vec() };
    (local, by_replicas.into_iter().map(remote_views).collect())
}

/// For each view the nodes that hold its segment, if this node does not. They are looked up once per
/// snapshot.
fn remote_replicas(snapshot: &SearchSnapshot) -> &[Option<Vec<NodeId>>] {
    snapshot.remote_replicas.get_or_init(|| {
        let replicas = |view: &SegmentView| {
            let file = SegmentRef::data_file(&snapshot.table, &view.segment)?;
            if snapshot.reads().has(&file) {
                return None;
            }
            Some(snapshot.reads().order(&file)).filter(|nodes| !nodes.is_empty())
        };
        snapshot.views.iter().map(replicas).collect()
    })
}

/// How many segments are searched by other nodes.
pub(crate) fn remote_segments(snapshot: &SearchSnapshot) -> usize {
    remote_replicas(snapshot).iter().flatten().count()
}

/// Searches views where their segments are. Returns one result for each group of views; their order is not
/// defined.
///
/// `request` makes the request for some views, or `None` if it cannot be encoded. `local` does the same work
/// on this node. `decode` reads a response. If no replica gives a usable response, this node does the work
/// and reads the segments from a replica.
///
/// # Errors
/// What `local` fails with.
pub(crate) async fn scatter_gather<T, W: Future<Output = Result<T>>>(
    snapshot: &SearchSnapshot,
    views: impl IntoIterator<Item = u32>,
    request: impl Fn(&[u32]) -> Option<ShardRequest>,
    local: impl Fn(Vec<u32>) -> W,
    decode: impl Fn(ShardResponse, &[u32]) -> Result<T>,
) -> Result<Vec<T>> {
    let (own, remote) = assign(snapshot, views);
    let responses = remote.iter().map(|remote| async {
        let response = match request(&remote.views) {
            Some(request) => send(snapshot, remote, request).await,
            None => None,
        };
        match response.map(|response| decode(response, &remote.views)) {
            Some(Ok(found)) => Ok(found),
            Some(Err(error)) => {
                tracing::warn!(%error, "a search response is unusable; searching its segments on this node");
                local(remote.views.clone()).await
            }
            None => local(remote.views.clone()).await,
        }
    });
    let own = async {
        match own.is_empty() && !remote.is_empty() {
            true => Ok(None),
            false => local(own).await.map(Some),
        }
    };
    let (own, mut found) = try_join(own, try_join_all(responses)).await?;
    found.extend(own);
    Ok(found)
}

/// The response of the first replica that gives one.
async fn send(
    snapshot: &SearchSnapshot,
    remote: &RemoteViews,
    request: ShardRequest,
) -> Option<ShardResponse> {
    let table = &snapshot.table;
    let segments: Vec<Segment> =
        remote.views.iter().map(|view| snapshot.views[*view as usize].segment.as_ref().clone()).collect();
    let task = encode(&ShardTask {
        query_id: snapshot.query_id.clone(),
        id: table.id,
        name: table.name.clone(),
        schema: table.schema.as_ref().clone(),
        schema_version: table.schema_version,
        shards: table.shards.as_ref().clone(),
        version: snapshot.version,
        segments,
        request,
    });
    for node in &remote.nodes {
        let response = snapshot.context.transport.send(*node, task.clone()).await;
        match response.and_then(|bytes| decode::<ShardResponse>("search response", &bytes)) {
            Ok(response) => return Some(response),
            Err(error) => {
                let (query_id, version) = (&snapshot.query_id, snapshot.version.0);
                tracing::warn!(query_id, version, %node, %error, "a search request failed");
                // Other replicas would fail in the same way. The local search reports the error.
                let try_next =
                    matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::NotFound | ErrorKind::Corrupt);
                if !try_next {
                    return None;
                }
            }
        }
    }
    None
}
