//! TODO module docs.

use std::collections::BTreeMap;

use plexus_index::text::{GlobalStatistics, TextQuery};
use plexus_model::Result;

use crate::search::remote::protocol::ShardRequest;
use crate::search::remote::scatter_gather::scatter_gather;
use crate::search::snapshot::snapshot::{SearchSnapshot, blocking};
use crate::search::snapshot::text_fields::TextFields;

/// What is known of the words of a query in all rows that the version sees; `snapshot` has all of its segments.
pub async fn statistics(
    snapshot: &SearchSnapshot,
    fields: &TextFields,
    query: &TextQuery,
) -> Result<GlobalStatistics> {
    let (counts, mut missing) =
        (snapshot.context.caches.term_statistics.of(snapshot, fields), query.scored_terms());
    let known = counts.known(&missing);
    if let Some(known) = &known {
        missing.retain(|term| !known.document_frequencies.contains_key(term));
    }
    match known {
        Some(known) if missing.is_empty() => Ok(known),
        known => {
            let should = missing.into_iter().map(|term| TextQuery::Term { term, boost: 1.0 }).collect();
            let missing = TextQuery::Bool { must: vec![], should, must_not: vec![] };
            let mut counted = count(snapshot, fields, &missing).await?;
            counts.add(&counted);
            counted
                .document_frequencies
                .extend(known.into_iter().flat_map(|known| known.document_frequencies));
            Ok(counted)
        }
    }
}

pub async fn count(
    snapshot: &SearchSnapshot,
    fields: &TextFields,
    query: &TextQuery,
) -> Result<GlobalStatistics> {
    let question = |_: &[u32]| Some(ShardRequest::Statistics { fields: fields.into(), query: query.clone() });
    let here = |views| statistics_of(snapshot, views, fields, query);
    let all = 0..snapshot.views.len() as u32;
    let shares = scatter_gather(snapshot, all, question, here, |answer, _| {
        answer.into_statistics(fields.columns.len())
    })
    .await?;
    Ok(shares.into_iter().fold(no_statistics(fields, query), add))
}

pub fn no_statistics(fields: &TextFields, query: &TextQuery) -> GlobalStatistics {
    let document_frequencies =
        query.scored_terms().into_iter().map(|term| (term, 0)).collect::<BTreeMap<_, _>>();
    GlobalStatistics { rows: 0, tokens: vec![0; fields.columns.len()], document_frequencies }
}

pub fn add(mut all: GlobalStatistics, more: GlobalStatistics) -> GlobalStatistics {
    all.rows += more.rows;
    all.tokens.iter_mut().zip(more.tokens).for_each(|(sum, tokens)| *sum += tokens);
    for (term, rows) in more.document_frequencies {
        *all.document_frequencies.entry(term).or_default() += rows;
    }
    all
}

/// The same of some views, by this node.
pub async fn statistics_of(
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
