//! The legs of a search: each ranks the rows of a table by one question.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use arrow::array::RecordBatch;
use arrow::row::{RowConverter, SortField};
use datafusion::catalog::Session;
use futures::{StreamExt, TryStreamExt, stream};
use plexus_index::graph::{GraphSearchOptions, GraphSearcher, Strategy};
use plexus_index::text::{GlobalStatistics, TextIndex, TextQuery, TextSearch};
use plexus_index::{TopK, VectorQuery};
use plexus_model::{Error, Metric, Result, RowSelection, RowSet, TableSchema, encode_row_set};
use plexus_storage::{project, types};

use super::SearchOptions;
use super::source::{SearchCaches, Source, TextFields, blocking};
use super::spread::{Answer, Look, Question, spread};
use super::statistics::statistics;
use super::vectors::{OpenGraph, Vectors};

/// A row of a part, by its place among the parts of a [`Source`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Hit {
    pub part: u32,
    pub row: u32,
}

/// Hits with their scores, the best first.
pub type Ranking = Vec<(f32, Hit)>;

/// One question.
#[derive(Clone, Debug)]
pub enum Leg {
    Text {
        fields: TextFields,
        query: TextQuery,
    },
    /// `column` by its id.
    Vector {
        column: u32,
        query: VectorQuery,
        /// Candidates of a walk, unless it is as the session has it.
        ef: Option<usize>,
    },
}

/// How legs look for rows.
#[derive(Clone, Copy, Debug)]
pub struct Looks {
    pub threads: usize,
    /// Whether every vector is looked at.
    pub exact: bool,
    /// Candidates of a walk.
    pub ef: usize,
}

impl Looks {
    /// As a session has it.
    pub fn of(state: &dyn Session) -> Self {
        let options = state.config_options().extensions.get::<SearchOptions>().cloned().unwrap_or_default();
        Self { threads: state.config().target_partitions(), exact: options.exact, ef: options.ef }
    }

    fn with(self, ef: Option<usize>) -> Self {
        Self { ef: ef.unwrap_or(self.ef), ..self }
    }
}

/// Which rows of each part may be found: all that the version sees, or some of them.
#[derive(Clone, Debug)]
pub enum Wanted {
    All,
    Some(Vec<Arc<RowSet>>),
}

impl Wanted {
    fn of(&self, source: &Source, part: usize) -> RowSelection {
        match self {
            Self::All => RowSelection::AllExcept(source.parts[part].hidden.clone()),
            Self::Some(rows) => RowSelection::Only(rows[part].clone()),
        }
    }

    /// How the `k` nearest vectors of a part are found that has a graph.
    pub fn strategy(&self, source: &Source, part: usize, k: usize, ef: usize) -> Strategy {
        let rows = source.parts[part].segment.rows;
        Strategy::for_nearest(k, ef, self.of(source, part).len(rows), rows)
    }

    pub fn is_empty(&self, part: usize) -> bool {
        matches!(self, Self::Some(rows) if rows[part].is_empty())
    }
}

/// The best `k` rows, in an order that depends on the rows alone: equals by their primary keys where the table has
/// one, and otherwise by where they are.
pub async fn run(source: &Source, leg: &Leg, wanted: &Wanted, k: usize, looks: Looks) -> Result<Ranking> {
    settle(source, best(source, leg, wanted, k, looks).await?, k).await
}

/// The best `k` rows and those that are equal to the last of them, of vectors as far as a graph leads to them.
pub async fn best(source: &Source, leg: &Leg, wanted: &Wanted, k: usize, looks: Looks) -> Result<Ranking> {
    if k == 0 {
        return Ok(vec![]);
    }
    let found = match leg {
        Leg::Text { fields, query } => {
            let statistics = statistics(source, fields, query).await?;
            let asked = Asked::words(fields.clone(), query.clone(), statistics);
            look(source, &asked, wanted, k, looks).await?
        }
        Leg::Vector { column, query, ef } => {
            let asked = Asked::nearest(*column, vec![query.clone()]);
            look(source, &asked, wanted, k, looks.with(*ef)).await?
        }
    };
    Ok(found.into_iter().next().unwrap_or_default())
}

/// The best `k` rows by each of several legs, as [`run`] gives them for one. What is asked of vectors alone is looked for
/// together, so that it costs little more than the looks.
pub async fn run_all(
    source: &Source,
    legs: &[&Leg],
    wanted: &Wanted,
    k: usize,
    looks: Looks,
) -> Result<Vec<Ranking>> {
    let vector = |leg: &&Leg| match leg {
        Leg::Vector { column, query, ef } => Some((*column, *ef, query.metric(), query.clone())),
        Leg::Text { .. } => None,
    };
    let vectors: Option<Vec<_>> = legs.iter().map(vector).collect();
    let same = |all: &&Vec<(u32, Option<usize>, Metric, VectorQuery)>| {
        k > 0
            && all
                .windows(2)
                .all(|pair| (pair[0].0, pair[0].1, pair[0].2) == (pair[1].0, pair[1].1, pair[1].2))
    };
    let mut rankings = Vec::with_capacity(legs.len());
    match vectors.as_ref().filter(same) {
        Some(vectors) => {
            // A share of them for each thread.
            let shares = vectors.chunks(vectors.len().div_ceil(looks.threads.max(1)).max(1)).map(|share| {
                let queries = share.iter().map(|(.., query)| query.clone()).collect();
                let asked = Asked::nearest(share[0].0, queries);
                async move { look(source, &asked, wanted, k, looks.with(share[0].1)).await }
            });
            for found in futures::future::try_join_all(shares).await?.into_iter().flatten() {
                rankings.push(settle(source, found, k).await?);
            }
        }
        None => {
            for leg in legs {
                rankings.push(run(source, leg, wanted, k, looks).await?);
            }
        }
    }
    Ok(rankings)
}

/// What is asked of every part.
pub(super) enum Asked {
    Words {
        fields: TextFields,
        query: TextQuery,
        statistics: GlobalStatistics,
        search: Arc<TextSearch>,
    },
    /// Each query is a question of its own; they are of the same metric.
    Nearest {
        column: u32,
        queries: Arc<Vec<VectorQuery>>,
    },
}

impl Asked {
    pub fn words(fields: TextFields, query: TextQuery, statistics: GlobalStatistics) -> Self {
        let search = Arc::new(TextSearch::new(&query, fields.columns.len(), &statistics));
        Self::Words { fields, query, statistics, search }
    }

    pub fn nearest(column: u32, queries: Vec<VectorQuery>) -> Self {
        Self::Nearest { column, queries: Arc::new(queries) }
    }

    fn questions(&self) -> usize {
        match self {
            Self::Words { .. } => 1,
            Self::Nearest { queries, .. } => queries.len(),
        }
    }

    /// As others are asked.
    fn question(&self, look: Look) -> Option<Question> {
        match self {
            Self::Words { fields, query, statistics, .. } => Some(Question::Words {
                fields: fields.into(),
                query: query.clone(),
                statistics: statistics.into(),
                look,
            }),
            Self::Nearest { column, queries } => Some(Question::Nearest {
                column: *column,
                metric: queries.first()?.metric(),
                vectors: queries.iter().map(|query| query.vector().to_vec()).collect(),
                look,
            }),
        }
    }
}

/// The best `k` rows by each question and those that are equal to the last of them.
async fn look(
    source: &Source,
    asked: &Asked,
    wanted: &Wanted,
    k: usize,
    looks: Looks,
) -> Result<Vec<Ranking>> {
    let parts = (0..source.parts.len() as u32).filter(|part| !wanted.is_empty(*part as usize));
    let question = |parts: &[u32]| asked.question(Look::new(k, looks, wanted, parts));
    let here = |parts| look_here(source, parts, asked, wanted, k, looks);
    let read = |answer: Answer, parts: &[u32]| answer.into_hits(source, parts, asked.questions());
    let mut shares = spread(source, parts, question, here, read).await?;
    if shares.len() == 1 {
        return Ok(shares.swap_remove(0));
    }
    let mut best: Vec<TopK<Hit>> = (0..asked.questions()).map(|_| TopK::new(k)).collect();
    for share in shares {
        for (top, hits) in best.iter_mut().zip(share) {
            for (score, hit) in hits {
                top.push(score, hit);
            }
        }
    }
    Ok(best.into_iter().map(TopK::into_sorted).collect())
}

/// The same of some parts, by this node.
pub(super) async fn look_here(
    source: &Source,
    parts: Vec<u32>,
    asked: &Asked,
    wanted: &Wanted,
    k: usize,
    looks: Looks,
) -> Result<Vec<Ranking>> {
    let questions = asked.questions();
    match asked {
        Asked::Words { fields, search, .. } => {
            let read = |part: u32| async move { source.text(&source.parts[part as usize], fields).await };
            let search = search.clone();
            let look = move |index: TextIndex, accepted: &RowSelection, tops: &mut [TopK<Hit>], part: u32| {
                tops.iter_mut().try_for_each(|top| {
                    let threshold = top.threshold();
                    search.run(&index, accepted, k, threshold, &mut |hit| {
                        top.push(hit.score, Hit { part, row: hit.row })
                    })
                })
            };
            each_part(source, parts, wanted, (k, questions), looks, read, look).await
        }
        Asked::Nearest { column, queries } => {
            let Some(metric) = queries.first().map(VectorQuery::metric) else {
                return Ok(vec![]);
            };
            let column = *column;
            let read = |part: u32| async move {
                let strategy = wanted.strategy(source, part as usize, k, looks.ef);
                let exact = looks.exact || strategy == Strategy::BruteForce;
                let part = &source.parts[part as usize];
                let graph = if exact { None } else { source.graph(part, column, metric).await? };
                Ok((source.vectors(part, column).await?, graph))
            };
            let (caches, queries) = (source.context.caches.clone(), queries.clone());
            let look = move |(vectors, graph): VectorsOf,
                             accepted: &RowSelection,
                             tops: &mut [TopK<Hit>],
                             part: u32| {
                for (query, top) in queries.iter().zip(tops) {
                    let nearest = Nearest { vectors: &vectors, query, k, beam: looks.ef };
                    let found = |distance: f32, row: u32| {
                        top.push(-distance, Hit { part, row });
                    };
                    match &graph {
                        Some(graph) => nearest.walk(graph, accepted, &caches, found),
                        None => nearest.all(accepted, found),
                    }
                }
                Ok(())
            };
            each_part(source, parts, wanted, (k, questions), looks, read, look).await
        }
    }
}

/// Whether any of some rows may have no distance from a vector.
pub async fn any_nowhere(source: &Source, column: u32, query: &VectorQuery, wanted: &Wanted) -> Result<bool> {
    for (at, part) in source.parts.iter().enumerate().filter(|(at, _)| !wanted.is_empty(*at)) {
        let graph = source.graph(part, column, query.metric()).await?;
        let vectors = source.vectors(part, column).await?;
        let extent = blocking(move || Ok(vectors.extent(graph.as_ref().map(|graph| &*graph.graph)))).await?;
        let nowhere = match wanted.of(source, at) {
            RowSelection::AllExcept(hidden) => &extent.nowhere - &*hidden,
            RowSelection::Only(rows) => &extent.nowhere & &*rows,
        };
        if !nowhere.is_empty() || !extent.is_near(query.square()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The vectors of a segment, and their graph if they have one.
type VectorsOf = (Arc<Vectors>, Option<OpenGraph>);

/// A look for the nearest vectors of a segment.
struct Nearest<'a> {
    vectors: &'a Vectors,
    query: &'a VectorQuery,
    k: usize,
    beam: usize,
}

impl Nearest<'_> {
    /// The distance of a row, if it is somewhere: what has no finite one is nowhere.
    fn distance(&self, row: u32) -> Option<f32> {
        self.vectors.get(row).map(|vector| self.query.distance(vector)).filter(|d| d.is_finite())
    }

    /// Looks at every row that is accepted.
    fn all(&self, accepted: &RowSelection, mut found: impl FnMut(f32, u32)) {
        let mut look = |row: u32| {
            if let Some(distance) = self.distance(row) {
                found(distance, row);
            }
        };
        match accepted {
            RowSelection::Only(rows) => rows.iter().for_each(look),
            RowSelection::AllExcept(rows) if rows.is_empty() => (0..self.vectors.rows()).for_each(&mut look),
            RowSelection::AllExcept(rows) => {
                (0..self.vectors.rows()).filter(|row| !rows.contains(*row)).for_each(&mut look);
            }
        }
    }

    /// Looks where a graph leads to. As many are found as there are, up to `k`: when it leads to fewer, all are looked at.
    fn walk(
        &self,
        graph: &OpenGraph,
        accepted: &RowSelection,
        caches: &SearchCaches,
        mut found: impl FnMut(f32, u32),
    ) {
        let chosen = match accepted {
            RowSelection::Only(rows) => Some(caches.chosen(graph.file, &graph.graph, rows)),
            RowSelection::AllExcept(_) => None,
        };
        let distance = |row: u32| self.distance(row).unwrap_or(f32::INFINITY);
        let options = GraphSearchOptions { k: self.k, beam: self.beam };
        let vector = self.query.vector();
        let mut nearest = SEARCHER.with_borrow_mut(|searcher| {
            searcher.search(&graph.graph, vector, options, accepted, chosen.as_deref(), distance)
        });
        nearest.retain(|(distance, _)| distance.is_finite());
        // Vectors of zeros are in no graph by the cosine, and at a distance of one.
        let zeros = self.query.metric() == Metric::Cosine && graph.graph.len() < graph.graph.rows() as usize;
        let far = nearest.get(self.k - 1).is_none_or(|(distance, _)| *distance >= 1.0);
        let fewer = nearest.len() < self.k && chosen.is_none_or(|chosen| nearest.len() < chosen.len());
        if fewer || (zeros && far) {
            return self.all(accepted, found);
        }
        nearest.into_iter().for_each(|(distance, row)| found(distance, row));
    }
}

thread_local! {
    /// What walks of a thread use again.
    static SEARCHER: RefCell<GraphSearcher> = RefCell::default();
}

/// Reads what is needed of each part, looks for hits, and puts them together: the best `k` of each of some questions.
async fn each_part<T, R, F>(
    source: &Source,
    parts: Vec<u32>,
    wanted: &Wanted,
    (k, questions): (usize, usize),
    looks: Looks,
    read: impl Fn(u32) -> R,
    look: F,
) -> Result<Vec<Ranking>>
where
    T: Send + 'static,
    R: Future<Output = Result<T>>,
    F: Fn(T, &RowSelection, &mut [TopK<Hit>], u32) -> Result<()> + Clone + Send + 'static,
{
    let tops = move || -> Vec<TopK<Hit>> { (0..questions).map(|_| TopK::new(k)).collect() };
    // What is worse than the last that counts in one part counts in none.
    let thresholds = Arc::new(Mutex::new(vec![f32::NEG_INFINITY; questions]));
    let found = parts.into_iter().map(|part| {
        let (read, look, accepted) = (read(part), look.clone(), wanted.of(source, part as usize));
        let thresholds = thresholds.clone();
        async move {
            let read = read.await?;
            blocking(move || {
                let mut tops = tops();
                let lock = || thresholds.lock().expect("no code panics while it holds this lock");
                tops.iter_mut().zip(lock().iter()).for_each(|(top, least)| top.raise(*least));
                look(read, &accepted, &mut tops, part)?;
                lock().iter_mut().zip(&tops).for_each(|(least, top)| *least = least.max(top.threshold()));
                Ok(tops.into_iter().map(TopK::into_sorted).collect::<Vec<_>>())
            })
            .await
        }
    });
    // As many at once as there are threads: what they read is in memory as long as they look.
    let mut found = stream::iter(found).buffer_unordered(looks.threads.max(1));
    let mut best = tops();
    while let Some(hits) = found.try_next().await? {
        for (top, hits) in best.iter_mut().zip(hits) {
            for (score, hit) in hits {
                top.push(score, hit);
            }
        }
    }
    Ok(best.into_iter().map(TopK::into_sorted).collect())
}

/// The rows of some parts that match a query, whether the version sees them or not, by this node.
pub(super) async fn matching(
    source: &Source,
    parts: Vec<u32>,
    fields: &TextFields,
    query: &TextQuery,
) -> Result<Vec<Arc<RowSet>>> {
    let search = TextSearch::new(query, fields.columns.len(), &GlobalStatistics::default());
    let search = Arc::new(search);
    let mut rows = Vec::with_capacity(parts.len());
    for part in parts {
        let index = source.text(&source.parts[part as usize], fields).await?;
        let search = search.clone();
        rows.push(Arc::new(blocking(move || search.rows(&index)).await?));
    }
    Ok(rows)
}

/// Puts equals into an order, and takes the first `k`.
pub async fn settle(source: &Source, mut ranking: Ranking, k: usize) -> Result<Ranking> {
    let keys = keys_of_equals(source, &ranking, k).await?;
    ranking.sort_by(|(a, x), (b, y)| {
        b.total_cmp(a)
            .then_with(|| keys.get(x).cmp(&keys.get(y)))
            .then_with(|| place(source, *x).cmp(&place(source, *y)))
    });
    ranking.truncate(k);
    Ok(ranking)
}

/// Where a row is, whatever else is there.
fn place(source: &Source, hit: Hit) -> (plexus_model::SegmentId, u32) {
    (source.parts[hit.part as usize].segment.id, hit.row)
}

/// The primary keys, as bytes that compare as they do, of the hits that have the same score as another, as far as that
/// matters for the first `k`. Empty for a table without a key.
pub async fn keys_of_equals(
    source: &Source,
    ranking: &[(f32, Hit)],
    k: usize,
) -> Result<BTreeMap<Hit, Vec<u8>>> {
    let mut equals: BTreeMap<u32, RowSet> = BTreeMap::new();
    let mut start = 0;
    while start < ranking.len().min(k) {
        let same = ranking[start..].iter().take_while(|(score, _)| *score == ranking[start].0).count();
        if same > 1 {
            for (_, hit) in &ranking[start..start + same] {
                equals.entry(hit.part).or_default().insert(hit.row);
            }
        }
        start += same.max(1);
    }
    keys(source, equals).await
}

/// The primary keys of some rows of each part.
pub async fn keys(source: &Source, rows: BTreeMap<u32, RowSet>) -> Result<BTreeMap<Hit, Vec<u8>>> {
    let mut keys = BTreeMap::new();
    let places: Vec<usize> = source.table.schema.primary_key.iter().map(|&place| place as usize).collect();
    if places.is_empty() || rows.is_empty() {
        return Ok(keys);
    }
    let failed = |e: arrow::error::ArrowError| Error::internal(format!("comparing keys: {e}")).with_source(e);
    let schema = project(&source.table.schema, &places);
    let arrow = types::to_arrow(&schema);
    let sorts = arrow.fields().iter().map(|field| SortField::new(field.data_type().clone()));
    let converter = RowConverter::new(sorts.collect()).map_err(failed)?;
    for (part, rows, found) in rows_of(source, &schema, rows).await? {
        let encoded = converter.convert_columns(found.columns()).map_err(failed)?;
        for (row, key) in rows.iter().zip(encoded.iter()) {
            keys.insert(Hit { part, row }, key.as_ref().to_vec());
        }
    }
    Ok(keys)
}

/// Columns of some rows of each part, in ascending order.
pub async fn rows_of(
    source: &Source,
    schema: &TableSchema,
    rows: BTreeMap<u32, RowSet>,
) -> Result<Vec<(u32, RowSet, RecordBatch)>> {
    let question = |parts: &[u32]| {
        let rows = parts.iter().map(|part| encode_row_set(&rows[part])).collect();
        Some(Question::Rows { schema: schema.clone(), rows })
    };
    let here = |parts: Vec<u32>| {
        let rows = &rows;
        async move {
            let reads = parts.into_iter().map(|part| async move {
                let segment = &source.parts[part as usize].segment;
                let wanted = rows[&part].clone();
                let found = source.reads().rows_at(&source.table, segment, schema, wanted).await?;
                Ok::<_, Error>((part, found))
            });
            futures::future::try_join_all(reads).await
        }
    };
    let read = |answer: Answer, parts: &[u32]| {
        let found = answer.into_batches(schema, parts)?;
        match found.iter().all(|(part, batch)| batch.num_rows() as u64 == rows[part].len()) {
            true => Ok(found),
            false => Err(Error::corrupt("a node gave other rows than it was asked for")),
        }
    };
    let shares = spread(source, rows.keys().copied(), question, here, read).await?;
    Ok(shares.into_iter().flatten().map(|(part, found)| (part, rows[&part].clone(), found)).collect())
}
