//! TODO module docs.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use plexus_index::text::{GlobalStatistics, ScoredTerm};
use plexus_model::{Table, Version};

use crate::search::snapshot::snapshot::SearchSnapshot;
use crate::search::snapshot::text_fields::TextFields;

/// Versions of which counts are kept, and words of each: at about 80 bytes a word, 20 MB in all.
pub const VERSIONS_MAX: u64 = 64;

pub const TERMS_MAX: usize = 4_096;

pub const IDLE_MAX: Duration = Duration::from_secs(10 * 60);

/// A table by its place in memory, a version, how many files were found to be damaged, the columns, and the name of the
/// analyzer.
pub type StatisticsKey = (usize, Version, u64, Vec<u32>, String);

/// TermStatisticsCache of versions. Cheap to clone.
#[derive(Clone)]
pub struct TermStatisticsCache(Cache<StatisticsKey, Arc<VersionStatistics>>);

impl Default for TermStatisticsCache {
    fn default() -> Self {
        // Versions pass: what was asked for often is not what will be.
        let cache = Cache::builder().max_capacity(VERSIONS_MAX).eviction_policy(EvictionPolicy::lru());
        Self(cache.time_to_idle(IDLE_MAX).build())
    }
}

impl TermStatisticsCache {
    pub fn of(&self, snapshot: &SearchSnapshot, fields: &TextFields) -> Arc<VersionStatistics> {
        let (place, lost_file_count) =
            (Arc::as_ptr(&snapshot.table) as usize, snapshot.reads().lost_file_count());
        let key = (
            place,
            snapshot.version,
            lost_file_count,
            fields.columns.clone(),
            fields.analyzer.name().to_owned(),
        );
        self.0.get_with(key, || {
            Arc::new(VersionStatistics { _table: Arc::downgrade(&snapshot.table), known: Mutex::default() })
        })
    }

    pub fn forget_idle(&self) {
        self.0.run_pending_tasks();
    }
}

/// What is known of one version so far.
#[derive(Default)]
pub struct VersionStatistics {
    /// As long as this is here, no other table is at its place.
    _table: Weak<Table>,
    known: Mutex<Option<Known>>,
}

pub struct Known {
    rows: u64,
    tokens: Vec<u64>,
    document_frequencies: HashMap<ScoredTerm, u64>,
}

impl VersionStatistics {
    /// The statistics of those terms that are known. `None` when not even the rows are.
    pub fn known(&self, terms: &BTreeSet<ScoredTerm>) -> Option<GlobalStatistics> {
        let known = self.known.lock().expect("no code panics while it holds this lock");
        let known = known.as_ref()?;
        let count = |term: &ScoredTerm| Some((term.clone(), *known.document_frequencies.get(term)?));
        let document_frequencies = terms.iter().filter_map(count).collect();
        Some(GlobalStatistics { rows: known.rows, tokens: known.tokens.clone(), document_frequencies })
    }

    pub fn add(&self, counted: &GlobalStatistics) {
        let mut known = self.known.lock().expect("no code panics while it holds this lock");
        let known = known.get_or_insert_with(|| Known {
            rows: counted.rows,
            tokens: counted.tokens.clone(),
            document_frequencies: HashMap::new(),
        });
        if known.document_frequencies.len() + counted.document_frequencies.len() > TERMS_MAX {
            known.document_frequencies.clear();
        }
        let counted = counted.document_frequencies.iter().map(|(term, rows)| (term.clone(), *rows));
        known.document_frequencies.extend(counted.take(TERMS_MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn term(term: &str) -> ScoredTerm {
        ScoredTerm { field: 0, term: term.to_owned() }
    }

    fn counted(words: &[(&str, u64)]) -> GlobalStatistics {
        let document_frequencies = words.iter().map(|(word, rows)| (term(word), *rows)).collect();
        GlobalStatistics { rows: 7, tokens: vec![90], document_frequencies }
    }

    #[test]
    fn words_that_were_counted_are_known() {
        let (counts, both) = (VersionStatistics::default(), BTreeSet::from([term("a"), term("b")]));
        assert_eq!(counts.known(&both), None, "not even how many rows there are");
        counts.add(&counted(&[("a", 3), ("other", 5)]));
        assert_eq!(counts.known(&both), Some(counted(&[("a", 3)])));
        counts.add(&counted(&[("b", 0)]));
        assert_eq!(counts.known(&both), Some(counted(&[("a", 3), ("b", 0)])));
    }

    #[test]
    fn no_more_words_are_kept_than_may_be() {
        let counts = VersionStatistics::default();
        for word in 0..2 * TERMS_MAX {
            counts.add(&counted(&[(&word.to_string(), 1)]));
        }
        let known = counts.known.lock().unwrap();
        assert!(known.as_ref().is_some_and(|known| known.document_frequencies.len() <= TERMS_MAX));
    }
}
