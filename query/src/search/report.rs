//! What searches did, for `EXPLAIN`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use datafusion::catalog::Session;
use plexus_index::graph::Strategy;

use super::legs::{Leg, Looks, Wanted};
use super::source::Source;
use super::spread::remote_parts;
use super::vectors::has_graph;

/// Notes of the searches of one statement, which run when its plan is made. An extension of its session.
#[derive(Debug, Default)]
pub struct SearchReport(Mutex<Vec<String>>);

impl SearchReport {
    fn note(state: &dyn Session, line: String) {
        if let Some(report) = state.config().get_extension::<Self>()
            && let Ok(mut lines) = report.0.lock()
            && !lines.contains(&line)
        {
            lines.push(line);
        }
    }

    /// All that was noted, and forgets it.
    pub fn take(&self) -> Vec<String> {
        self.0.lock().map(|mut lines| std::mem::take(&mut *lines)).unwrap_or_default()
    }

    /// The extension of a session.
    pub fn extension() -> Arc<Self> {
        Arc::default()
    }
}

/// Notes which rows a filter left.
pub fn note_rows(state: &dyn Session, source: &Source, wanted: &Wanted) {
    let (parts, all) = (source.parts.len(), source.parts.iter().map(|part| part.live()).sum::<u64>());
    let rows = match wanted {
        Wanted::All => format!("all {all} rows"),
        Wanted::Some(rows) => {
            let left: u64 = rows.iter().map(|rows| rows.len()).sum();
            format!("{left} of {all} rows")
        }
    };
    let elsewhere = match remote_parts(source) {
        0 => String::new(),
        parts => format!(", {parts} on other nodes"),
    };
    let line = format!("search of {}: {rows} in {parts} segments{elsewhere}", source.table.name);
    SearchReport::note(state, line);
}

/// Notes how a leg found its rows.
pub fn note_leg(state: &dyn Session, source: &Source, leg: &Leg, wanted: &Wanted, k: usize, looks: Looks) {
    let name = |id: u32| {
        let column = source.table.schema.columns.iter().find(|column| column.id == id);
        column.map_or("", |column| column.name.as_str())
    };
    let parts = source.parts.len();
    let line = match leg {
        Leg::Text { fields, .. } => {
            let indexed = |id: u32| {
                source.parts.iter().filter(|part| part.segment.indexes.iter().any(|i| i.index == id)).count()
            };
            let columns: Vec<&str> = fields.columns.iter().map(|id| name(*id)).collect();
            let indexed = fields.index.map_or(0, indexed);
            let (columns, analyzer) = (columns.join(", "), fields.analyzer.name());
            format!(
                "words of {columns} by {analyzer}: {indexed} of {parts} segments by the files of an index"
            )
        }
        Leg::Vector { column, query, ef } => {
            let (metric, ef) = (query.metric(), ef.unwrap_or(looks.ef));
            let mut ways: BTreeMap<&str, usize> = BTreeMap::new();
            for (at, part) in source.parts.iter().enumerate().filter(|(at, _)| !wanted.is_empty(*at)) {
                let indexed = !looks.exact && has_graph(&source.table, &part.segment, *column, metric);
                let way = if indexed { wanted.strategy(source, at, k, ef) } else { Strategy::BruteForce };
                *ways.entry(way.name()).or_default() += 1;
            }
            let ways: Vec<String> = ways.iter().map(|(way, count)| format!("{count} {way}")).collect();
            let metric = metric.name();
            format!("vectors of {} by {metric}: segments {}; ef {ef}", name(*column), ways.join(", "))
        }
    };
    SearchReport::note(state, line);
}
