//! TODO module docs.

use std::collections::BTreeMap;

use futures::future::{try_join, try_join_all};
use plexus_model::{ErrorKind, NodeId, Result, Segment, decode, encode};
use plexus_storage::SegmentRef;

use crate::search::remote::protocol::{ShardRequest, ShardResponse, ShardTask};
use crate::search::snapshot::snapshot::{SearchSnapshot, SegmentView};

/// Parts that the same node is asked for.
pub struct Share {
    views: Vec<u32>,
    /// Who keeps them, in the order in which they are asked.
    nodes: Vec<NodeId>,
}

/// Which of some views this node works on, and which others do.
pub fn shares(snapshot: &SearchSnapshot, views: impl IntoIterator<Item = u32>) -> (Vec<u32>, Vec<Share>) {
    let (mut here, mut there) = (Vec::new(), BTreeMap::<&[NodeId], Vec<u32>>::new());
    let remote = remote_replicas(snapshot);
    for view in views {
        match &remote[view as usize] {
            Some(nodes) => there.entry(nodes).or_default().push(view),
            None => here.push(view),
        }
    }
    let share = |(nodes, views): (&[NodeId], _)| Share { views, nodes: nodes.to_vec() };
    (here, there.into_iter().map(share).collect())
}

/// Of each view the nodes that keep it, if this one does not. They are looked up once.
pub fn remote_replicas(snapshot: &SearchSnapshot) -> &[Option<Vec<NodeId>>] {
    snapshot.remote_replicas.get_or_init(|| {
        let keepers = |view: &SegmentView| {
            let file = SegmentRef::data_file(&snapshot.table, &view.segment)?;
            if snapshot.reads().has(&file) {
                return None;
            }
            Some(snapshot.reads().order(&file)).filter(|nodes| !nodes.is_empty())
        };
        snapshot.views.iter().map(keepers).collect()
    })
}

/// How many views are worked on by other nodes.
pub fn remote_segments(snapshot: &SearchSnapshot) -> usize {
    remote_replicas(snapshot).iter().flatten().count()
}

/// Work on some views: here on those that are here, and on others where they are. `question` tells it for some views,
/// `None` when it cannot be told; `here` does it.
pub async fn scatter_gather<T, W: Future<Output = Result<T>>>(
    snapshot: &SearchSnapshot,
    views: impl IntoIterator<Item = u32>,
    question: impl Fn(&[u32]) -> Option<ShardRequest>,
    here: impl Fn(Vec<u32>) -> W,
    read: impl Fn(ShardResponse, &[u32]) -> Result<T>,
) -> Result<Vec<T>> {
    let (own, shares) = shares(snapshot, views);
    let there = shares.iter().map(|share| async {
        let asked = match question(&share.views) {
            Some(question) => ask(snapshot, share, question).await,
            None => None,
        };
        match asked.map(|answer| read(answer, &share.views)) {
            Some(Ok(found)) => Ok(found),
            Some(Err(error)) => {
                tracing::warn!(%error, "an answer cannot be used; working on its segments here");
                here(share.views.clone()).await
            }
            None => here(share.views.clone()).await,
        }
    });
    let own = async {
        match own.is_empty() && !shares.is_empty() {
            true => Ok(None),
            false => here(own).await.map(Some),
        }
    };
    let (own, mut found) = try_join(own, try_join_all(there)).await?;
    found.extend(own);
    Ok(found)
}

/// The answer of one of those who keep some views; `None` when none gave any.
pub async fn ask(snapshot: &SearchSnapshot, share: &Share, question: ShardRequest) -> Option<ShardResponse> {
    let table = &snapshot.table;
    let segments: Vec<Segment> =
        share.views.iter().map(|view| snapshot.views[*view as usize].segment.as_ref().clone()).collect();
    let task = encode(&ShardTask {
        query_id: snapshot.query_id.clone(),
        id: table.id,
        name: table.name.clone(),
        schema: table.schema.as_ref().clone(),
        schema_version: table.schema_version,
        shards: table.shards.as_ref().clone(),
        version: snapshot.version,
        segments,
        question,
    });
    for node in &share.nodes {
        let answer = snapshot.context.transport.send(*node, task.clone()).await;
        match answer.and_then(|bytes| decode::<ShardResponse>("answer to a search", &bytes)) {
            Ok(answer) => return Some(answer),
            Err(error) => {
                let (query_id, version) = (&snapshot.query_id, snapshot.version.0);
                tracing::warn!(query_id, version, %node, %error, "a node did not answer a search");
                // Others would not answer this either; the work here tells what is wrong.
                let may_others =
                    matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::NotFound | ErrorKind::Corrupt);
                if !may_others {
                    return None;
                }
            }
        }
    }
    None
}
