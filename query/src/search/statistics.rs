//! What is known of words in all rows that a version of a table sees: scores need it of all segments.
//!
//! It is counted once a version, and kept.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use moka::sync::Cache;
use plexus_index::text::{GlobalStatistics, ScoredTerm, TextQuery};
use plexus_model::{Result, Table, Version};

use super::source::{Source, TextFields, blocking};
use super::spread::{Question, spread};

/// Versions of which counts are kept.
const VERSIONS_MAX: u64 = 64;
/// Words of a version whose counts are kept. With more all are counted again.
const WORDS_MAX: usize = 4_096;
const KEPT: Duration = Duration::from_secs(10 * 60);

/// A table by its place in memory, a version, the columns and the name of the analyzer.
type CountsKey = (usize, Version, Vec<u32>, String);

/// Counts of versions. Cheap to clone.
#[derive(Clone)]
pub(super) struct Counts(Cache<CountsKey, Arc<CountsOf>>);

impl Default for Counts {
    fn default() -> Self {
        Self(Cache::builder().max_capacity(VERSIONS_MAX).time_to_idle(KEPT).build())
    }
}

impl Counts {
    fn of(&self, source: &Source, fields: &TextFields) -> Arc<CountsOf> {
        let place = Arc::as_ptr(&source.table) as usize;
        let key = (place, source.version, fields.columns.clone(), fields.analyzer.name().to_owned());
        // As long as somebody knows the table, no other is at its place.
        if let Some(counts) = self.0.get(&key)
            && counts.table.upgrade().is_some_and(|table| Arc::ptr_eq(&table, &source.table))
        {
            return counts;
        }
        let counts = Arc::new(CountsOf { table: Arc::downgrade(&source.table), known: Mutex::default() });
        self.0.insert(key, counts.clone());
        counts
    }
}

/// What is known of one version so far.
struct CountsOf {
    table: Weak<Table>,
    known: Mutex<Option<Known>>,
}

struct Known {
    rows: u64,
    tokens: Vec<u64>,
    frequencies: HashMap<ScoredTerm, u64>,
}

impl CountsOf {
    /// The statistics of a query, or a query of those of its words that are not known yet.
    fn of(&self, query: &TextQuery) -> Result<GlobalStatistics, TextQuery> {
        let terms = query.scored_terms();
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = &*known else {
            return Err(any_of(terms));
        };
        let (mut frequencies, mut missing) = (BTreeMap::new(), Vec::new());
        for term in terms {
            match known.frequencies.get(&term) {
                Some(rows) => drop(frequencies.insert(term, *rows)),
                None => missing.push(term),
            }
        }
        match missing.is_empty() {
            true => Ok(GlobalStatistics { rows: known.rows, tokens: known.tokens.clone(), frequencies }),
            false => Err(any_of(missing)),
        }
    }

    fn add(&self, counted: &GlobalStatistics) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.get_or_insert_with(|| Known {
            rows: counted.rows,
            tokens: counted.tokens.clone(),
            frequencies: HashMap::new(),
        });
        if known.frequencies.len() + counted.frequencies.len() > WORDS_MAX {
            known.frequencies.clear();
        }
        known.frequencies.extend(counted.frequencies.iter().map(|(term, rows)| (term.clone(), *rows)));
    }
}

fn any_of(terms: impl IntoIterator<Item = ScoredTerm>) -> TextQuery {
    let should = terms.into_iter().map(|term| TextQuery::Term { term, boost: 1.0 }).collect();
    TextQuery::Bool { must: vec![], should, not: vec![] }
}

/// What is known of the words of a query in all rows that the version sees.
pub async fn statistics(source: &Source, fields: &TextFields, query: &TextQuery) -> Result<GlobalStatistics> {
    let counts = source.context.caches.counts.of(source, fields);
    let missing = match counts.of(query) {
        Ok(known) => return Ok(known),
        Err(missing) => missing,
    };
    let counted = count(source, fields, &missing).await?;
    counts.add(&counted);
    match counts.of(query) {
        Ok(known) => Ok(known),
        // Others have filled what is kept meanwhile.
        Err(_) => count(source, fields, query).await,
    }
}

async fn count(source: &Source, fields: &TextFields, query: &TextQuery) -> Result<GlobalStatistics> {
    let question = |_: &[u32]| Some(Question::Statistics { fields: fields.into(), query: query.clone() });
    let here = |parts| statistics_of(source, parts, fields, query);
    let all = 0..source.parts.len() as u32;
    let shares =
        spread(source, all, question, here, |answer, _| answer.into_statistics(fields.columns.len())).await?;
    Ok(shares.into_iter().fold(no_statistics(fields, query), add))
}

fn no_statistics(fields: &TextFields, query: &TextQuery) -> GlobalStatistics {
    let frequencies = query.scored_terms().into_iter().map(|term| (term, 0)).collect::<BTreeMap<_, _>>();
    GlobalStatistics { rows: 0, tokens: vec![0; fields.columns.len()], frequencies }
}

fn add(mut all: GlobalStatistics, more: GlobalStatistics) -> GlobalStatistics {
    all.rows += more.rows;
    all.tokens.iter_mut().zip(more.tokens).for_each(|(sum, tokens)| *sum += tokens);
    for (term, rows) in more.frequencies {
        *all.frequencies.entry(term).or_default() += rows;
    }
    all
}

/// The same of some parts, by this node.
pub(super) async fn statistics_of(
    source: &Source,
    parts: Vec<u32>,
    fields: &TextFields,
    query: &TextQuery,
) -> Result<GlobalStatistics> {
    let mut all = no_statistics(fields, query);
    for part in parts {
        let part = &source.parts[part as usize];
        let index = source.text(part, fields).await?;
        let (hidden, terms) = (part.hidden.clone(), query.scored_terms());
        let counted = blocking(move || {
            let known = index.statistics(&hidden);
            let counts = terms.into_iter().map(|term| {
                let rows = index.frequency(term.field, &term.term, &hidden)?;
                Ok((term, rows))
            });
            let frequencies = counts.collect::<Result<_>>()?;
            Ok(GlobalStatistics { rows: known.rows, tokens: known.tokens, frequencies })
        });
        all = add(all, counted.await?);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn term(term: &str) -> ScoredTerm {
        ScoredTerm { field: 0, term: term.to_owned() }
    }

    #[test]
    fn words_are_counted_once() {
        let counts = CountsOf { table: Weak::new(), known: Mutex::default() };
        let counted = |words: &[(&str, u64)]| GlobalStatistics {
            rows: 7,
            tokens: vec![90],
            frequencies: words.iter().map(|(word, rows)| (term(word), *rows)).collect(),
        };
        let both = any_of([term("a"), term("b")]);
        assert_eq!(counts.of(&both), Err(both.clone()), "nothing is known, not even how many rows there are");
        counts.add(&counted(&[("a", 3)]));
        assert_eq!(counts.of(&both), Err(any_of([term("b")])));
        counts.add(&counted(&[("b", 2)]));
        assert_eq!(counts.of(&both), Ok(counted(&[("a", 3), ("b", 2)])));
        assert_eq!(counts.of(&any_of([])), Ok(counted(&[])));
    }

    #[test]
    fn no_more_words_are_kept_than_may_be() {
        let counts = CountsOf { table: Weak::new(), known: Mutex::default() };
        for word in 0..2 * WORDS_MAX {
            let frequencies = BTreeMap::from([(term(&word.to_string()), 1)]);
            counts.add(&GlobalStatistics { rows: 1, tokens: vec![1], frequencies });
        }
        let known = counts.known.lock().unwrap();
        assert!(known.as_ref().is_some_and(|known| known.frequencies.len() <= WORDS_MAX));
    }
}
