//! Answers search requests of other nodes with the segments of this node.

use std::sync::Arc;

use datafusion::common::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::logical_expr::Expr;
use datafusion_proto::bytes::Serializeable;
use plexus_index::VectorQuery;
use plexus_model::{Error, Manifest, Result, RowSet, encode, encode_row_set};
use plexus_storage::inline;

use crate::search::exec::bound_retriever::BoundRetriever;
use crate::search::exec::filter::Filter;
use crate::search::exec::local::{matching, search_local};
use crate::search::exec::statistics::statistics_of;
use crate::search::exec::terms::local_terms;
use crate::search::hit::Hit;
use crate::search::remote::protocol::{RetrievalParams, ShardRequest, ShardResponse, decode_sets};
use crate::search::remote::server;
use crate::search::snapshot::SearchSnapshot;
use crate::search::snapshot::context::SearchContext;
use crate::search::snapshot::text_fields::TextFields;

/// Answers an encoded search request of another node. `manifest` is the latest that this node knows.
///
/// # Errors
/// What the search fails with. The caller then tries another replica or searches itself.
pub(crate) async fn handle(
    task: &[u8],
    manifest: &Manifest,
    context: &SearchContext,
    state: &SessionState,
) -> Result<Vec<u8>> {
    let (snapshot, request) = server::open(task, manifest, context).await?;
    Ok(encode(&respond(&snapshot, request, state).await?))
}

/// Converts an error of DataFusion. An error of this project inside of it stays as it is.
fn of_engine(error: DataFusionError) -> Error {
    match error {
        DataFusionError::External(inner) => match inner.downcast::<Error>() {
            Ok(error) => *error,
            Err(other) => Error::internal(format!("evaluating a predicate: {other}")),
        },
        other => {
            Error::internal(format!("evaluating a predicate: {}", other.strip_backtrace())).with_source(other)
        }
    }
}

/// Runs a request over the segments of `snapshot`, which are those that the request names.
///
/// # Errors
/// `InvalidArgument` when the request does not fit the segments; otherwise what reading them fails with.
async fn respond(
    snapshot: &SearchSnapshot,
    request: ShardRequest,
    state: &SessionState,
) -> Result<ShardResponse> {
    let threads = state.config().target_partitions();
    let all: Vec<u32> = (0..snapshot.views.len() as u32).collect();
    let sets =
        |sets: Vec<Arc<RowSet>>| ShardResponse::Sets(sets.iter().map(|set| encode_row_set(set)).collect());
    Ok(match request {
        ShardRequest::Filter(predicates) => {
            let context = state.task_ctx();
            let decode = |bytes: &Vec<u8>| Expr::from_bytes_with_ctx(bytes, &context).map_err(of_engine);
            let predicates = predicates.iter().map(decode).collect::<Result<Vec<_>>>()?;
            let filter = Filter::new(snapshot, state, &predicates).map_err(of_engine)?;
            let filter = filter.ok_or_else(|| Error::invalid("a filter without predicates"))?;
            let mut found = Vec::with_capacity(all.len());
            for view in snapshot.views.iter() {
                found.push(filter.rows(snapshot, view).await.map_err(of_engine)?);
            }
            sets(found)
        }
        ShardRequest::Matching { fields, query } => {
            sets(matching(snapshot, all, &fields.try_into()?, &query).await?)
        }
        ShardRequest::Statistics { fields, query } => {
            let known = statistics_of(snapshot, all, &fields.try_into()?, &query).await?;
            ShardResponse::Statistics((&known).into())
        }
        ShardRequest::Terms { fields, field, form } => {
            let found = local_terms(snapshot, all, &fields.try_into()?, field as usize, &form).await?;
            ShardResponse::Terms(found.into_iter().collect())
        }
        ShardRequest::FullText { fields, query, statistics, params } => {
            let (fields, statistics) = (TextFields::try_from(fields)?, statistics.into());
            hits(snapshot, all, BoundRetriever::full_text(fields, query, statistics), params, threads).await?
        }
        ShardRequest::Nearest { column, metric, vectors, params } => {
            let queries = vectors.into_iter().map(|vector| VectorQuery::new(metric, vector));
            let queries = queries.collect::<Result<Vec<_>>>()?;
            hits(snapshot, all, BoundRetriever::nearest(column, queries), params, threads).await?
        }
        ShardRequest::Rows { schema, rows } => {
            let selections = decode_sets(rows)?;
            if selections.len() != all.len() {
                return Err(Error::invalid(format!(
                    "{} row sets for {} segments",
                    selections.len(),
                    all.len()
                )));
            }
            let mut batches = Vec::with_capacity(all.len());
            for (view, rows) in snapshot.views.iter().zip(selections) {
                let rows = Arc::unwrap_or_clone(rows);
                let found =
                    snapshot.reads().lookup_rows(&snapshot.table, &view.segment, &schema, rows).await?;
                batches.push(inline::encode_batch(&found)?);
            }
            ShardResponse::Batches(batches)
        }
    })
}

/// The best rows of each query of a retriever.
async fn hits(
    snapshot: &SearchSnapshot,
    views: Vec<u32>,
    retriever: BoundRetriever,
    params: RetrievalParams,
    threads: usize,
) -> Result<ShardResponse> {
    let (selections, k, params) = params.into_local(snapshot, threads)?;
    let found = search_local(snapshot, views, &retriever, &selections, k, params).await?;
    let flat =
        |hits: Vec<(f32, Hit)>| hits.into_iter().map(|(score, hit)| (score, hit.view, hit.row)).collect();
    Ok(ShardResponse::Hits(found.into_iter().map(flat).collect()))
}
