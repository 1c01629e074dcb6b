//! What is known of words in all rows that a version of a table sees: scores need it of all segments.
//!
//! It is counted once a version, and kept.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use plexus_index::text::{GlobalStatistics, ScoredTerm, TextQuery};
use plexus_model::{Result, Table, Version};

use super::source::{Source, TextFields, blocking};
use super::spread::{Question, spread};

/// Versions of which counts are kept, and words of each: at about 80 bytes a word, 20 MB in all.
const VERSIONS_MAX: u64 = 64;
const WORDS_MAX: usize = 4_096;
const IDLE_MAX: Duration = Duration::from_secs(10 * 60);

/// A table by its place in memory, a version, how many files were found to be damaged, the columns, and the name of the
/// analyzer.
type CountsKey = (usize, Version, u64, Vec<u32>, String);

/// Counts of versions. Cheap to clone.
#[derive(Clone)]
pub(super) struct Counts(Cache<CountsKey, Arc<CountsOf>>);

impl Default for Counts {
    fn default() -> Self {
        // Versions pass: what was asked for often is not what will be.
        let cache = Cache::builder().max_capacity(VERSIONS_MAX).eviction_policy(EvictionPolicy::lru());
        Self(cache.time_to_idle(IDLE_MAX).build())
    }
}

impl Counts {
    fn of(&self, source: &Source, fields: &TextFields) -> Arc<CountsOf> {
        let (place, lost_files) = (Arc::as_ptr(&source.table) as usize, source.reads().lost_files());
        let key =
            (place, source.version, lost_files, fields.columns.clone(), fields.analyzer.name().to_owned());
        self.0.get_with(key, || {
            Arc::new(CountsOf { _table: Arc::downgrade(&source.table), known: Mutex::default() })
        })
    }

    pub fn forget_idle(&self) {
        self.0.run_pending_tasks();
    }
}

/// What is known of one version so far.
#[derive(Default)]
struct CountsOf {
    /// As long as this is here, no other table is at its place.
    _table: Weak<Table>,
    known: Mutex<Option<Known>>,
}

struct Known {
    rows: u64,
    tokens: Vec<u64>,
    frequencies: HashMap<ScoredTerm, u64>,
}

impl CountsOf {
    /// The statistics of those terms that are known. `None` when not even the rows are.
    fn known(&self, terms: &BTreeSet<ScoredTerm>) -> Option<GlobalStatistics> {
        let known = self.known.lock().expect("no code panics while it holds this lock");
        let known = known.as_ref()?;
        let count = |term: &ScoredTerm| Some((term.clone(), *known.frequencies.get(term)?));
        let frequencies = terms.iter().filter_map(count).collect();
        Some(GlobalStatistics { rows: known.rows, tokens: known.tokens.clone(), frequencies })
    }

    fn add(&self, counted: &GlobalStatistics) {
        let mut known = self.known.lock().expect("no code panics while it holds this lock");
        let known = known.get_or_insert_with(|| Known {
            rows: counted.rows,
            tokens: counted.tokens.clone(),
            frequencies: HashMap::new(),
        });
        if known.frequencies.len() + counted.frequencies.len() > WORDS_MAX {
            known.frequencies.clear();
        }
        let counted = counted.frequencies.iter().map(|(term, rows)| (term.clone(), *rows));
        known.frequencies.extend(counted.take(WORDS_MAX));
    }
}

/// What is known of the words of a query in all rows that the version sees; `source` has all of its segments.
pub async fn statistics(source: &Source, fields: &TextFields, query: &TextQuery) -> Result<GlobalStatistics> {
    let (counts, mut missing) = (source.context.caches.counts.of(source, fields), query.scored_terms());
    let known = counts.known(&missing);
    if let Some(known) = &known {
        missing.retain(|term| !known.frequencies.contains_key(term));
    }
    match known {
        Some(known) if missing.is_empty() => Ok(known),
        known => {
            let should = missing.into_iter().map(|term| TextQuery::Term { term, boost: 1.0 }).collect();
            let missing = TextQuery::Bool { must: vec![], should, not: vec![] };
            let mut counted = count(source, fields, &missing).await?;
            counts.add(&counted);
            counted.frequencies.extend(known.into_iter().flat_map(|known| known.frequencies));
            Ok(counted)
        }
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

    fn counted(words: &[(&str, u64)]) -> GlobalStatistics {
        let frequencies = words.iter().map(|(word, rows)| (term(word), *rows)).collect();
        GlobalStatistics { rows: 7, tokens: vec![90], frequencies }
    }

    #[test]
    fn words_that_were_counted_are_known() {
        let (counts, both) = (CountsOf::default(), BTreeSet::from([term("a"), term("b")]));
        assert_eq!(counts.known(&both), None, "not even how many rows there are");
        counts.add(&counted(&[("a", 3), ("other", 5)]));
        assert_eq!(counts.known(&both), Some(counted(&[("a", 3)])));
        counts.add(&counted(&[("b", 0)]));
        assert_eq!(counts.known(&both), Some(counted(&[("a", 3), ("b", 0)])));
    }

    #[test]
    fn no_more_words_are_kept_than_may_be() {
        let counts = CountsOf::default();
        for word in 0..2 * WORDS_MAX {
            counts.add(&counted(&[(&word.to_string(), 1)]));
        }
        let known = counts.known.lock().unwrap();
        assert!(known.as_ref().is_some_and(|known| known.frequencies.len() <= WORDS_MAX));
    }
}
