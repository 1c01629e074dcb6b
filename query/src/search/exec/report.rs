//! What the searches of a statement did, for `EXPLAIN`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use datafusion::catalog::Session;
use plexus_index::graph::Strategy;

use crate::search::exec::retriever::Retriever;
use crate::search::params::SearchParams;
use crate::search::remote::scatter_gather::remote_segments;
use crate::search::snapshot::SearchSnapshot;
use crate::search::snapshot::selections::RowSelections;
use crate::search::snapshot::vectors::has_graph;

/// Notes on the searches of one statement. Searches run while the plan is made, so the notes are an extension
/// of the session.
#[derive(Debug, Default)]
pub(crate) struct SearchReport(Mutex<Vec<String>>);

impl SearchReport {
    fn note(state: &dyn Session, line: String) {
        if let Some(report) = state.config().get_extension::<Self>()
            && let Ok(mut lines) = report.0.lock()
            && !lines.contains(&line)
        {
            lines.push(line);
        }
    }

    /// Returns the notes and clears them.
    pub(crate) fn take(&self) -> Vec<String> {
        self.0.lock().map(|mut lines| std::mem::take(&mut *lines)).unwrap_or_default()
    }

    /// An empty report, to be set as an extension of a session.
    pub(crate) fn extension() -> Arc<Self> {
        Arc::default()
    }
}

/// Notes how many rows a filter left, and how many segments are searched by other nodes.
pub(crate) fn note_rows(state: &dyn Session, snapshot: &SearchSnapshot, selections: &RowSelections) {
    let (views, all) = (snapshot.views.len(), snapshot.views.iter().map(|view| view.live()).sum::<u64>());
    let rows = match selections.filter() {
        None => format!("all {all} rows"),
        Some(sets) => format!("{} of {all} rows", sets.map(|rows| rows.len()).sum::<u64>()),
    };
    let remote = match remote_segments(snapshot) {
        0 => String::new(),
        views => format!(", {views} remote"),
    };
    let line = format!("search on {}: {rows} in {views} segments{remote}", snapshot.table.name);
    SearchReport::note(state, line);
}

/// Notes how a retriever finds its rows: by which index, or by which strategy on how many segments.
pub(crate) fn note_retriever(
    state: &dyn Session,
    snapshot: &SearchSnapshot,
    retriever: &Retriever,
    selections: &RowSelections,
    k: usize,
    params: SearchParams,
) {
    let name = |id: u32| {
        let column = snapshot.table.schema.columns.iter().find(|column| column.id == id);
        column.map_or("", |column| column.name.as_str())
    };
    let views = snapshot.views.len();
    let line = match retriever {
        Retriever::Text { fields, .. } => {
            let indexed = |id: u32| {
                snapshot
                    .views
                    .iter()
                    .filter(|view| view.segment.indexes.iter().any(|i| i.index == id))
                    .count()
            };
            let groups = fields.groups.iter().map(|group| {
                let columns: Vec<&str> = group.columns.iter().map(|id| name(*id)).collect();
                let indexed = group.index.map_or(0, indexed);
                let (columns, analyzer) = (columns.join(", "), group.analyzer.name());
                format!("{columns} ({analyzer}): inverted index on {indexed} of {views} segments")
            });
            format!("full text on {}", groups.collect::<Vec<_>>().join("; "))
        }
        Retriever::Vector { column, query, ef } => {
            let (metric, beam) = (query.metric(), params.with(*ef).beam);
            let mut strategies: BTreeMap<&str, usize> = BTreeMap::new();
            for (at, view) in snapshot.views.iter().enumerate().filter(|(at, _)| !selections.is_empty(*at)) {
                let indexed = !params.exact && has_graph(&snapshot.table, &view.segment, *column, metric);
                let strategy = if indexed {
                    selections.strategy(snapshot, at, k, beam.estimate())
                } else {
                    Strategy::BruteForce
                };
                *strategies.entry(strategy.name()).or_default() += 1;
            }
            let mut strategies = strategies.iter().map(|(strategy, count)| format!("{strategy} on {count}"));
            let first = strategies
                .next()
                .map_or_else(|| "no segment".to_owned(), |strategy| format!("{strategy} segments"));
            let strategies: Vec<String> = std::iter::once(first).chain(strategies).collect();
            let metric = metric.name();
            format!("vectors of {} ({metric}, {beam}): {}", name(*column), strategies.join(", "))
        }
    };
    SearchReport::note(state, line);
}
