//! A search from its legs to its rows.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use arrow::array::{RecordBatch, UInt64Array};
use arrow::compute;
use arrow::row::{RowConverter, SortField};
use datafusion::catalog::Session;
use datafusion::common::DataFusionError;
use datafusion::logical_expr::Expr;
use plexus_index::text::{Analyzer, TextQuery};
use plexus_model::{Error, Result, RowSet};
use plexus_storage::{project, types};

use super::filter::Filter;
use super::fusion::{Fusion, Place, fuse};
use super::legs::{self, Hit, Leg, Looks, Ranking, Wanted};
use super::relation::external;
use super::report::{note_leg, note_rows};
use super::source::Source;
use super::spread::{Answer, Question, spread};

/// What is searched for, and how what is found is put together.
#[derive(Clone, Debug)]
pub struct Request {
    /// Each with its weight.
    pub legs: Vec<(Leg, f64)>,
    /// How several become one; with one leg its own scores count.
    pub fusion: Fusion,
    pub k: usize,
    /// So many of the best are left out.
    pub offset: usize,
    /// How many rows of each leg are fused.
    pub candidates: usize,
    /// Column, by its place, of whose values only the best row each is found.
    pub group_by: Option<usize>,
    pub highlight: Option<Highlight>,
    /// A predicate in SQL that rows fulfil to be found.
    pub filter: Option<String>,
    pub after: Option<Cursor>,
    /// Whether its rows are read page by page.
    pub paged: bool,
}

impl Request {
    /// How many rows of each leg are fused: of all pages as of the first.
    pub fn fused(&self) -> usize {
        match self.after {
            Some(cursor) => cursor.candidates,
            None => self.candidates.max(self.offset + self.k),
        }
    }
}

/// A column of which the part is shown that was found.
#[derive(Clone, Debug)]
pub struct Highlight {
    /// Place in the table.
    pub column: usize,
    /// Bytes of the text.
    pub length: usize,
    /// What to mark: a query, the place of the column among its fields, and its analyzer.
    pub marks: Vec<(TextQuery, usize, Analyzer)>,
}

/// Where a page ends: the next begins after it. At one version the same search always finds the same, so that it is
/// enough to know how far it was read; with how many rows of each leg were fused, on which that depends.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Cursor {
    pub version: u64,
    /// How many rows came up to it.
    pub seen: usize,
    pub candidates: usize,
}

/// Rows that can be paged through.
pub const SEEN_MAX: usize = 1_000_000;

impl Cursor {
    pub fn to_text(self) -> String {
        format!("{}.{}.{}", self.version, self.seen, self.candidates)
    }

    /// # Errors
    /// `InvalidArgument` when it is none.
    pub fn from_text(text: &str) -> Result<Self> {
        let wrong = || Error::invalid(format!("{text:.80?} is not a cursor that a search gave"));
        let parts: Vec<&str> = text.split('.').collect();
        let [version, seen, candidates] = parts.as_slice() else {
            return Err(wrong());
        };
        let version = version.parse().map_err(|_| wrong())?;
        let seen = seen.parse().ok().filter(|seen| *seen <= SEEN_MAX).ok_or_else(wrong)?;
        let candidates = candidates.parse().ok().filter(|n| *n <= SEEN_MAX).ok_or_else(wrong)?;
        Ok(Self { version, seen, candidates })
    }
}

/// A row that was found, with its place in each leg that found it.
#[derive(Clone, PartialEq, Debug)]
pub struct Found {
    pub hit: Hit,
    pub score: f64,
    pub places: Vec<Option<Place>>,
}

/// The rows that each of some searches finds, the best first. They are of one call, and differ in what is looked for.
pub async fn search_all(
    source: &Source,
    state: &dyn Session,
    requests: &[Request],
    filters: &[Expr],
) -> Result<Vec<Vec<Found>>, DataFusionError> {
    let wanted = wanted(source, state, filters).await?;
    note_rows(state, source, &wanted);
    let legs: Option<Vec<&Leg>> = requests
        .iter()
        .map(|request| match request.legs.as_slice() {
            [(leg, _)] if request.group_by.is_none() => Some(leg),
            _ => None,
        })
        .collect();
    let mut found = Vec::with_capacity(requests.len());
    match (legs, requests) {
        (Some(legs), [first, _, ..]) => {
            let (looks, page) = (looks(state, first), Page::new(first));
            note_leg(state, source, legs[0], &wanted, page.end, looks);
            let rankings = legs::run_all(source, &legs, &wanted, page.end, looks).await.map_err(external)?;
            found.extend(legs.into_iter().zip(rankings).map(|(leg, ranking)| page.cut(ranked(leg, ranking))));
        }
        _ => {
            // One after the other: each takes the threads that there are.
            for request in requests {
                found.push(search(source, state, request, &wanted).await?);
            }
        }
    }
    Ok(found)
}

fn looks(state: &dyn Session, request: &Request) -> Looks {
    let mut looks = Looks::of(state);
    // What is found by an index depends on how many are asked for and on when it was made: pages would not fit.
    looks.exact |= request.paged;
    looks
}

async fn search(
    source: &Source,
    state: &dyn Session,
    request: &Request,
    wanted: &Wanted,
) -> Result<Vec<Found>, DataFusionError> {
    let looks = looks(state, request);
    let page = Page::new(request);
    let depth = if request.legs.len() == 1 { page.end } else { request.fused() };
    request.legs.iter().for_each(|(leg, _)| note_leg(state, source, leg, wanted, depth, looks));
    let mut depth = page.end;
    loop {
        let ranked = rank(source, request, wanted, depth, looks).await.map_err(external)?;
        let enough = ranked.len() < depth;
        let found = match request.group_by {
            Some(column) => best_of_groups(source, ranked, column).await.map_err(external)?,
            None => ranked,
        };
        // With fewer groups than asked for, and rows left that may be of others, look further.
        if found.len() >= page.end || enough || request.legs.len() > 1 || depth >= SEEN_MAX {
            return Ok(page.cut(found));
        }
        depth = depth.saturating_mul(4);
    }
}

/// The rows of each part that a predicate leaves.
pub async fn wanted(
    source: &Source,
    state: &dyn Session,
    filters: &[Expr],
) -> Result<Wanted, DataFusionError> {
    let Some(filter) = Filter::new(source, state, filters)? else {
        return Ok(Wanted::All);
    };
    let mut rows: Vec<Option<Arc<RowSet>>> =
        source.parts.iter().map(|part| filter.known(source, part)).collect();
    let unknown: Vec<u32> = (0..).zip(&rows).filter(|(_, rows)| rows.is_none()).map(|(at, _)| at).collect();
    let here = |parts: Vec<u32>| {
        let filter = &filter;
        async move {
            let mut found = Vec::with_capacity(parts.len());
            for part in parts {
                // The engine's error goes through as it is.
                let rows = filter.rows(source, &source.parts[part as usize]).await;
                found.push((part, rows));
            }
            Ok(found)
        }
    };
    let read = |answer: Answer, parts: &[u32]| {
        let sets = answer.into_sets(source, parts)?;
        Ok(sets.into_iter().map(|(part, rows)| (part, Ok(rows))).collect())
    };
    let shares = spread(source, unknown, |_| Question::filter(filters), here, read).await;
    for (part, found) in shares.map_err(external)?.into_iter().flatten() {
        let found = found?;
        filter.remember(source, &source.parts[part as usize], &found);
        rows[part as usize] = Some(found);
    }
    let rows = rows.into_iter().map(Option::unwrap_or_default).collect();
    Ok(Wanted::Some(rows))
}

/// Which of the rows that are found are given.
struct Page {
    start: usize,
    end: usize,
}

impl Page {
    fn new(request: &Request) -> Self {
        let start = request.offset + request.after.map_or(0, |cursor| cursor.seen);
        Self { start, end: start + request.k }
    }

    fn cut(&self, found: Vec<Found>) -> Vec<Found> {
        found.into_iter().skip(self.start).take(self.end - self.start).collect()
    }
}

/// Ranks at least the best `depth` rows, as far as there are so many.
async fn rank(
    source: &Source,
    request: &Request,
    wanted: &Wanted,
    depth: usize,
    looks: Looks,
) -> Result<Vec<Found>> {
    if let [(leg, _)] = request.legs.as_slice() {
        let ranking = legs::run(source, leg, wanted, depth, looks).await?;
        return Ok(ranked(leg, ranking));
    }
    let candidates = request.fused();
    let runs = request.legs.iter().map(|(leg, _)| legs::run(source, leg, wanted, candidates, looks));
    let rankings: Vec<Ranking> = futures::future::try_join_all(runs).await?;
    let weights: Vec<f64> = request.legs.iter().map(|(_, weight)| *weight).collect();
    let comparable = |leg: usize, score| own_score(&request.legs[leg].0, score);
    let mut fused: Vec<Found> = fuse(&rankings, &weights, request.fusion, comparable)
        .into_iter()
        .map(|fused| Found { hit: fused.item, score: fused.score, places: fused.places })
        .collect();
    let mut equals: BTreeMap<u32, RowSet> = BTreeMap::new();
    fused.sort_by(|a, b| b.score.total_cmp(&a.score));
    // Of groups every row may count, otherwise those up to the last that is asked for and its equals.
    let end = if request.group_by.is_some() { usize::MAX } else { Page::new(request).end };
    let last = end.checked_sub(1).and_then(|last| fused.get(last)).map(|last| last.score);
    let counts = |found: &Found| last.is_none_or(|last| found.score >= last);
    for pair in
        fused.windows(2).take_while(|pair| counts(&pair[0])).filter(|pair| pair[0].score == pair[1].score)
    {
        for found in pair {
            equals.entry(found.hit.part).or_default().insert(found.hit.row);
        }
    }
    let keys = legs::keys(source, equals).await?;
    let place = |hit: Hit| (source.parts[hit.part as usize].segment.id, hit.row);
    fused.sort_by(|a, b| {
        b.score
            .total_cmp(&a.score)
            .then_with(|| keys.get(&a.hit).cmp(&keys.get(&b.hit)))
            .then_with(|| place(a.hit).cmp(&place(b.hit)))
    });
    Ok(fused)
}

/// What one leg finds, as it is found by a search of that leg alone.
fn ranked(leg: &Leg, ranking: Ranking) -> Vec<Found> {
    let place = |(rank, (score, hit)): (u32, (f32, Hit))| Found {
        hit,
        score: own_score(leg, score),
        places: vec![Some(Place { rank, score })],
    };
    (1..).zip(ranking).map(place).collect()
}

/// What a row scores in a leg, of which more is better: of a text as it is; of a vector the cosine, the inner product,
/// or one by one more than the distance.
fn own_score(leg: &Leg, score: f32) -> f64 {
    use plexus_model::Metric;
    let score = f64::from(score);
    match leg {
        Leg::Text { .. } => score,
        Leg::Vector { query, .. } => match query.metric() {
            Metric::Cosine => 1.0 + score,
            Metric::Dot => score,
            Metric::L2 => 1.0 / (1.0 - score),
        },
    }
}

/// Of each value of a column the first row.
async fn best_of_groups(source: &Source, found: Vec<Found>, column: usize) -> Result<Vec<Found>> {
    let failed = |e: arrow::error::ArrowError| Error::internal(format!("grouping: {e}")).with_source(e);
    let hits: Vec<Hit> = found.iter().map(|f| f.hit).collect();
    let values = fetch(source, &hits, &[column]).await?;
    let sort = SortField::new(values.column(0).data_type().clone());
    let converter = RowConverter::new(vec![sort]).map_err(failed)?;
    let rows = converter.convert_columns(values.columns()).map_err(failed)?;
    let mut seen = HashSet::new();
    let first: Vec<bool> = rows.iter().map(|row| seen.insert(row.as_ref().to_vec())).collect();
    Ok(found.into_iter().zip(first).filter_map(|(found, first)| first.then_some(found)).collect())
}

/// Columns of rows, by their places in the table, in the order of the hits.
pub async fn fetch(source: &Source, hits: &[Hit], columns: &[usize]) -> Result<RecordBatch> {
    let failed = |e: arrow::error::ArrowError| Error::internal(format!("fetching rows: {e}")).with_source(e);
    let schema = project(&source.table.schema, columns);
    let arrow = types::to_arrow(&schema);
    let mut of_parts: BTreeMap<u32, RowSet> = BTreeMap::new();
    for hit in hits {
        of_parts.entry(hit.part).or_default().insert(hit.row);
    }
    if columns.is_empty() {
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(hits.len()));
        return RecordBatch::try_new_with_options(arrow, vec![], &options).map_err(failed);
    }
    let mut batches = Vec::new();
    let mut places: BTreeMap<Hit, u64> = BTreeMap::new();
    for (part, rows, found) in legs::rows_of(source, &schema, of_parts).await? {
        for row in rows {
            let place = places.len() as u64;
            places.insert(Hit { part, row }, place);
        }
        batches.push(found);
    }
    let all = compute::concat_batches(&arrow, &batches).map_err(failed)?;
    let order = hits.iter().map(|hit| places.get(hit).copied());
    let order =
        order.collect::<Option<Vec<u64>>>().ok_or_else(|| Error::internal("a row that was found is gone"))?;
    compute::take_record_batch(&all, &UInt64Array::from(order)).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_read_as_they_are_written() {
        let cursor = Cursor { version: 7, seen: 10, candidates: 100 };
        assert_eq!(Cursor::from_text(&cursor.to_text()).unwrap(), cursor);
        for wrong in ["", "1.2", "x.2.3", "1.2.3.4", "1.99999999.3", "1.2.-3"] {
            assert!(Cursor::from_text(wrong).is_err(), "{wrong}");
        }
    }
}
