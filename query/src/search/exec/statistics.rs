//! The statistics that BM25 scores depend on, over all visible rows of a version.

use std::collections::BTreeMap;

use plexus_index::text::{GlobalStatistics, TextQuery};
use plexus_model::Result;

use crate::search::remote::protocol::ShardRequest;
use crate::search::remote::scatter_gather::scatter_gather;
use crate::search::snapshot::text_fields::TextFields;
use crate::search::snapshot::{SearchSnapshot, blocking};

/// The number of rows and tokens, and the document frequency of each term of a query. `snapshot` must have
/// all segments of the version. Known terms come from a cache; the others are counted where the segments are.
///
/// # Errors
/// When a segment or its text index cannot be read.
pub(crate) async fn statistics(
    snapshot: &SearchSnapshot,
    fields: &TextFields,
    query: &TextQuery,
) -> Result<GlobalStatistics> {
    let (cache, mut missing) =
        (snapshot.context.caches.term_statistics.of(snapshot, fields), query.scored_terms());
    let known = cache.known(&missing);
    if let Some(known) = &known {
        missing.retain(|term| !known.document_frequencies.contains_key(term));
    }
    match known {
        Some(known) if missing.is_empty() => Ok(known),
        known => {
            let should = missing.into_iter().map(|term| TextQuery::Term { term, boost: 1.0 }).collect();
            let missing = TextQuery::Bool { must: vec![], should, must_not: vec![] };
            let mut counted = count(snapshot, fields, &missing).await?;
            cache.add(&counted);
            counted
                .document_frequencies
                .extend(known.into_iter().flat_map(|known| known.document_frequencies));
            Ok(counted)
        }
    }
}

/// Counts in all segments, each where it is.
async fn count(
    snapshot: &SearchSnapshot,
    fields: &TextFields,
    query: &TextQuery,
) -> Result<GlobalStatistics> {
    let request = |_: &[u32]| Some(ShardRequest::Statistics { fields: fields.into(), query: query.clone() });
    let local = |views| statistics_of(snapshot, views, fields, query);
    let all = 0..snapshot.views.len() as u32;
    let counts =
        scatter_gather(snapshot, all, request, local, |response, _| response.into_statistics(fields.count()))
            .await?;
    Ok(counts.into_iter().fold(no_statistics(fields, query), add))
}

/// The statistics of no rows.
fn no_statistics(fields: &TextFields, query: &TextQuery) -> GlobalStatistics {
    let document_frequencies =
        query.scored_terms().into_iter().map(|term| (term, 0)).collect::<BTreeMap<_, _>>();
    GlobalStatistics { rows: 0, tokens: vec![0; fields.count()], document_frequencies }
}

/// The statistics of the rows of both.
fn add(mut all: GlobalStatistics, more: GlobalStatistics) -> GlobalStatistics {
    all.rows += more.rows;
    all.tokens.iter_mut().zip(more.tokens).for_each(|(sum, tokens)| *sum += tokens);
    for (term, rows) in more.document_frequencies {
        *all.document_frequencies.entry(term).or_default() += rows;
    }
    all
}

/// The statistics of some segments, read on this node.
///
/// # Errors
/// When a segment or its text index cannot be read.
pub(crate) async fn statistics_of(
    snapshot: &SearchSnapshot,
    views: Vec<u32>,
    fields: &TextFields,
    query: &TextQuery,
) -> Result<GlobalStatistics> {
    let mut all = no_statistics(fields, query);
    for view in views {
        let view = &snapshot.views[view as usize];
        let index = snapshot.text(view, fields).await?;
        let (invisible, terms) = (view.invisible.clone(), query.scored_terms());
        let counted = blocking(move || {
            let known = index.statistics(&invisible);
            let counts = terms.into_iter().map(|term| {
                let rows = index.document_frequency(term.field, &term.term, &invisible)?;
                Ok((term, rows))
            });
            let document_frequencies = counts.collect::<Result<_>>()?;
            Ok(GlobalStatistics { rows: known.rows, tokens: known.tokens, document_frequencies })
        });
        all = add(all, counted.await?);
    }
    Ok(all)
}
