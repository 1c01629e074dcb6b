//! A cache of term statistics, so that a repeated term is not counted again in all segments of a version.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use plexus_index::text::{GlobalStatistics, ScoredTerm};
use plexus_model::{Table, Version};

use crate::search::snapshot::SearchSnapshot;
use crate::search::snapshot::text_fields::{FieldsKey, TextFields};

/// Number of versions in the cache. At about 80 bytes a term, it takes 20 MB in all.
const VERSIONS_MAX: u64 = 64;

/// Number of terms per version.
const TERMS_MAX: usize = 4_096;

/// Versions that are not searched for this long are dropped.
const IDLE_MAX: Duration = Duration::from_secs(10 * 60);

/// The address of the table in memory, the version, the number of lost files, and the fields.
pub(crate) type StatisticsKey = (usize, Version, u64, FieldsKey);

/// The statistics of recent versions. Cheap to clone.
#[derive(Clone)]
pub(crate) struct TermStatisticsCache(Cache<StatisticsKey, Arc<VersionStatistics>>);

impl Default for TermStatisticsCache {
    fn default() -> Self {
        // Least recently used: how often a version was searched says nothing, since newer versions replace
        // it.
        let cache = Cache::builder().max_capacity(VERSIONS_MAX).eviction_policy(EvictionPolicy::lru());
        Self(cache.time_to_idle(IDLE_MAX).build())
    }
}

impl TermStatisticsCache {
    /// The entry of the version that a snapshot reads. It is created if there is none.
    pub(crate) fn of(&self, snapshot: &SearchSnapshot, fields: &TextFields) -> Arc<VersionStatistics> {
        let (address, lost_file_count) =
            (Arc::as_ptr(&snapshot.table) as usize, snapshot.reads().lost_file_count());
        let key = (address, snapshot.version, lost_file_count, fields.key());
        self.0.get_with(key, || {
            Arc::new(VersionStatistics { _table: Arc::downgrade(&snapshot.table), known: Mutex::default() })
        })
    }

    /// Drops idle entries. The cache expires entries lazily, so without searches nothing else would.
    pub(crate) fn evict_idle(&self) {
        self.0.run_pending_tasks();
    }
}

/// The statistics of one version that are known so far.
#[derive(Default)]
pub(crate) struct VersionStatistics {
    /// Keeps the address of the table from being reused for another table.
    _table: Weak<Table>,
    known: Mutex<Option<KnownStatistics>>,
}

struct KnownStatistics {
    rows: u64,
    tokens: Vec<u64>,
    document_frequencies: HashMap<ScoredTerm, u64>,
}

impl VersionStatistics {
    /// The statistics of those terms that are known; `None` when not even the number of rows is known.
    pub(crate) fn known(&self, terms: &BTreeSet<ScoredTerm>) -> Option<GlobalStatistics> {
        let known = self.known.lock().expect("no code panics while it holds this lock");
        let known = known.as_ref()?;
        let count = |term: &ScoredTerm| Some((term.clone(), *known.document_frequencies.get(term)?));
        let document_frequencies = terms.iter().filter_map(count).collect();
        Some(GlobalStatistics { rows: known.rows, tokens: known.tokens.clone(), document_frequencies })
    }

    /// Adds counted terms. A full entry is cleared first.
    pub(crate) fn add(&self, counted: &GlobalStatistics) {
        let mut known = self.known.lock().expect("no code panics while it holds this lock");
        let known = known.get_or_insert_with(|| KnownStatistics {
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

    fn counted(terms: &[(&str, u64)]) -> GlobalStatistics {
        let document_frequencies = terms.iter().map(|(name, rows)| (term(name), *rows)).collect();
        GlobalStatistics { rows: 7, tokens: vec![90], document_frequencies }
    }

    #[test]
    fn counted_terms_are_known() {
        let (statistics, both) = (VersionStatistics::default(), BTreeSet::from([term("a"), term("b")]));
        assert_eq!(statistics.known(&both), None, "the number of rows is unknown");
        statistics.add(&counted(&[("a", 3), ("other", 5)]));
        assert_eq!(statistics.known(&both), Some(counted(&[("a", 3)])));
        statistics.add(&counted(&[("b", 0)]));
        assert_eq!(statistics.known(&both), Some(counted(&[("a", 3), ("b", 0)])));
    }

    #[test]
    fn the_number_of_terms_is_bounded() {
        let statistics = VersionStatistics::default();
        for n in 0..2 * TERMS_MAX {
            statistics.add(&counted(&[(&n.to_string(), 1)]));
        }
        let known = statistics.known.lock().unwrap();
        assert!(known.as_ref().is_some_and(|known| known.document_frequencies.len() <= TERMS_MAX));
    }
}
