//! Work on the parts of a table where they are kept.
//!
//! A node that keeps the file of a segment asks it itself. Of others it asks a replica, whose answer is small: scores,
//! sets of rows, the rows that were found. The question carries the records of the segments, so whoever answers needs to
//! know nothing of the version that it is about. When no replica answers, the node reads what it lacks and does the work.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow_schema::{DataType, Schema};
use async_trait::async_trait;
use datafusion::common::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::logical_expr::Expr;
use datafusion_proto::bytes::Serializeable;
use futures::future::{try_join, try_join_all};
use plexus_index::VectorQuery;
use plexus_index::text::{Analyzer, GlobalStatistics, ScoredTerm, TextQuery};
use plexus_model::{
    Error, ErrorKind, Manifest, Metric, NodeId, Result, RowSet, Segment, SegmentData, Shard, Table, TableId,
    TableName, TableSchema, Version, decode, decode_row_set, encode, encode_row_set,
};
use plexus_storage::{SegmentRef, inline, types};
use rkyv::{Archive, Deserialize, Serialize};

use super::filter::Filter;
use super::legs::{self, Asked, Hit, Looks, Wanted};
use super::source::{Part, Source, TextFields};
use super::statistics::statistics_of;
use crate::scan::ScanContext;

/// Asks other nodes to work on segments that they keep.
#[async_trait]
pub trait RemoteSearches: Send + Sync + 'static {
    async fn ask(&self, node: NodeId, task: Vec<u8>) -> Result<Vec<u8>>;
}

/// A question about segments, with all that is needed to answer it.
#[derive(Archive, Serialize, Deserialize)]
struct Task {
    /// For logs.
    query_id: String,
    id: TableId,
    name: TableName,
    schema: TableSchema,
    schema_version: u32,
    shards: Vec<Shard>,
    version: Version,
    segments: Vec<Segment>,
    question: Question,
}

/// Sets of rows are one a segment, in their order.
#[derive(Archive, Serialize, Deserialize)]
pub(super) enum Question {
    /// The rows that the version sees and that fulfil all of some predicates.
    Filter(Vec<Vec<u8>>),
    /// The rows that match a query, whether the version sees them or not.
    Matching { fields: Fields, query: TextQuery },
    /// What is known of the words of a query.
    Statistics { fields: Fields, query: TextQuery },
    /// The best rows by their words.
    Words { fields: Fields, query: TextQuery, statistics: Statistics, look: Look },
    /// The rows nearest to each of some vectors.
    Nearest { column: u32, metric: Metric, vectors: Vec<Vec<f32>>, look: Look },
    /// Columns of rows.
    Rows { schema: TableSchema, rows: Vec<Vec<u8>> },
}

/// How words are found.
#[derive(Archive, Serialize, Deserialize)]
pub(super) struct Fields {
    columns: Vec<u32>,
    analyzer: String,
    index: Option<u32>,
}

#[derive(Archive, Serialize, Deserialize)]
pub(super) struct Statistics {
    rows: u64,
    tokens: Vec<u64>,
    frequencies: Vec<(ScoredTerm, u64)>,
}

/// How many rows are wanted, of which, and how they are looked for.
#[derive(Archive, Serialize, Deserialize)]
pub(super) struct Look {
    k: u64,
    exact: bool,
    ef: u64,
    wanted: Option<Vec<Vec<u8>>>,
}

/// One kind for several kinds of questions.
#[derive(Archive, Serialize, Deserialize)]
pub(super) enum Answer {
    /// Sets of rows, one a segment.
    Sets(Vec<Vec<u8>>),
    Statistics(Statistics),
    /// Of each question the score, the segment by its place, and the row.
    Hits(Vec<Vec<(f32, u32, u32)>>),
    /// Rows, of each segment in ascending order.
    Batches(Vec<Vec<u8>>),
}

impl From<&TextFields> for Fields {
    fn from(fields: &TextFields) -> Self {
        let analyzer = fields.analyzer.name().to_owned();
        Self { columns: fields.columns.clone(), analyzer, index: fields.index }
    }
}

impl TryFrom<Fields> for TextFields {
    type Error = Error;

    fn try_from(fields: Fields) -> Result<Self> {
        let analyzer = Analyzer::named(&fields.analyzer)?;
        Ok(Self { columns: fields.columns, analyzer, index: fields.index })
    }
}

impl From<&GlobalStatistics> for Statistics {
    fn from(all: &GlobalStatistics) -> Self {
        let frequencies = all.frequencies.iter().map(|(term, rows)| (term.clone(), *rows)).collect();
        Self { rows: all.rows, tokens: all.tokens.clone(), frequencies }
    }
}

impl From<Statistics> for GlobalStatistics {
    fn from(all: Statistics) -> Self {
        Self { rows: all.rows, tokens: all.tokens, frequencies: all.frequencies.into_iter().collect() }
    }
}

impl Look {
    pub fn new(k: usize, looks: Looks, wanted: &Wanted, parts: &[u32]) -> Self {
        let wanted = match wanted {
            Wanted::All => None,
            Wanted::Some(rows) => {
                Some(parts.iter().map(|part| encode_row_set(&rows[*part as usize])).collect())
            }
        };
        Self { k: k as u64, exact: looks.exact, ef: looks.ef as u64, wanted }
    }

    /// What is wanted, of how many, and how it is looked for here.
    fn here(self, threads: usize) -> Result<(Wanted, usize, Looks)> {
        let wanted = match self.wanted {
            None => Wanted::All,
            Some(sets) => Wanted::Some(decode_sets(sets)?),
        };
        let looks = Looks { threads, exact: self.exact, ef: self.ef as usize };
        Ok((wanted, self.k as usize, looks))
    }
}

impl Question {
    /// `None` when a predicate cannot be told to others.
    pub fn filter(predicates: &[Expr]) -> Option<Self> {
        let encoded: Option<_> = predicates.iter().map(|e| e.to_bytes().ok().map(Vec::from)).collect();
        encoded.map(Self::Filter)
    }
}

fn decode_sets(sets: Vec<Vec<u8>>) -> Result<Vec<Arc<RowSet>>> {
    sets.iter().map(|set| decode_row_set(set).map(Arc::new)).collect()
}

/// Whether a part has a row.
fn has(source: &Source, part: u32, row: u32) -> bool {
    u64::from(row) < source.parts[part as usize].segment.rows
}

fn unexpected() -> Error {
    Error::corrupt("a node answered another question than it was asked")
}

impl Answer {
    /// A set of rows of each of some parts.
    pub fn into_sets(self, source: &Source, parts: &[u32]) -> Result<Vec<(u32, Arc<RowSet>)>> {
        let Self::Sets(sets) = self else {
            return Err(unexpected());
        };
        let sets = decode_sets(sets)?;
        let fits = |(part, set): (&u32, &Arc<RowSet>)| set.max().is_none_or(|row| has(source, *part, row));
        match sets.len() == parts.len() && parts.iter().zip(&sets).all(fits) {
            true => Ok(parts.iter().copied().zip(sets).collect()),
            false => Err(unexpected()),
        }
    }

    /// Counts of words in so many fields.
    pub fn into_statistics(self, fields: usize) -> Result<GlobalStatistics> {
        match self {
            Self::Statistics(all) if all.tokens.len() == fields => Ok(all.into()),
            _ => Err(unexpected()),
        }
    }

    /// Hits in some parts, of each of so many questions.
    pub fn into_hits(self, source: &Source, parts: &[u32], questions: usize) -> Result<Vec<Vec<(f32, Hit)>>> {
        let Self::Hits(answers) = self else {
            return Err(unexpected());
        };
        if answers.len() != questions {
            return Err(unexpected());
        }
        let hit = |(score, part, row): (f32, u32, u32)| {
            let part = parts.get(part as usize).copied().filter(|part| has(source, *part, row));
            Ok((score, Hit { part: part.ok_or_else(unexpected)?, row }))
        };
        answers.into_iter().map(|hits| hits.into_iter().map(hit).collect()).collect()
    }

    /// Rows of each of some parts, with the columns of a schema.
    pub fn into_batches(self, schema: &TableSchema, parts: &[u32]) -> Result<Vec<(u32, RecordBatch)>> {
        let Self::Batches(batches) = self else {
            return Err(unexpected());
        };
        let arrow = types::to_arrow(schema);
        let one = |bytes: Vec<u8>| {
            let batch = inline::decode(&bytes)?.into_iter().next().ok_or_else(unexpected)?;
            let types = |schema: &Schema| -> Vec<DataType> {
                schema.fields().iter().map(|field| field.data_type().clone()).collect()
            };
            match types(&batch.schema()) == types(&arrow) {
                true => Ok(batch),
                false => Err(unexpected()),
            }
        };
        let batches = batches.into_iter().map(one).collect::<Result<Vec<_>>>()?;
        match batches.len() == parts.len() {
            true => Ok(parts.iter().copied().zip(batches).collect()),
            false => Err(unexpected()),
        }
    }
}

/// Parts that the same node is asked for.
struct Share {
    parts: Vec<u32>,
    /// Who keeps them, in the order in which they are asked.
    nodes: Vec<NodeId>,
}

/// Which of some parts this node works on, and which others do.
fn shares(source: &Source, parts: impl IntoIterator<Item = u32>) -> (Vec<u32>, Vec<Share>) {
    let (mut here, mut there) = (Vec::new(), BTreeMap::<&[NodeId], Vec<u32>>::new());
    let elsewhere = elsewhere(source);
    for part in parts {
        match &elsewhere[part as usize] {
            Some(nodes) => there.entry(nodes).or_default().push(part),
            None => here.push(part),
        }
    }
    let share = |(nodes, parts): (&[NodeId], _)| Share { parts, nodes: nodes.to_vec() };
    (here, there.into_iter().map(share).collect())
}

/// Of each part the nodes that keep it, if this one does not. They are looked up once.
fn elsewhere(source: &Source) -> &[Option<Vec<NodeId>>] {
    source.elsewhere.get_or_init(|| {
        let keepers = |part: &Part| {
            let file = SegmentRef::of(&source.table, &part.segment)?;
            if source.reads().has(&file) {
                return None;
            }
            Some(source.reads().order(&file)).filter(|nodes| !nodes.is_empty())
        };
        source.parts.iter().map(keepers).collect()
    })
}

/// How many parts are worked on by other nodes.
pub(super) fn remote_parts(source: &Source) -> usize {
    elsewhere(source).iter().flatten().count()
}

/// Work on some parts: here on those that are here, and on others where they are. `question` tells it for some parts,
/// `None` when it cannot be told; `here` does it.
pub(super) async fn spread<T, W: Future<Output = Result<T>>>(
    source: &Source,
    parts: impl IntoIterator<Item = u32>,
    question: impl Fn(&[u32]) -> Option<Question>,
    here: impl Fn(Vec<u32>) -> W,
    read: impl Fn(Answer, &[u32]) -> Result<T>,
) -> Result<Vec<T>> {
    let (own, shares) = shares(source, parts);
    let there = shares.iter().map(|share| async {
        let asked = match question(&share.parts) {
            Some(question) => ask(source, share, question).await,
            None => None,
        };
        match asked.map(|answer| read(answer, &share.parts)) {
            Some(Ok(found)) => Ok(found),
            Some(Err(error)) => {
                tracing::warn!(%error, "an answer cannot be used; working on its segments here");
                here(share.parts.clone()).await
            }
            None => here(share.parts.clone()).await,
        }
    });
    let own = async {
        match own.is_empty() && !shares.is_empty() {
            true => Ok(None),
            false => here(own).await.map(Some),
        }
    };
    let (own, mut found) = try_join(own, try_join_all(there)).await?;
    found.extend(own);
    Ok(found)
}

/// The answer of one of those who keep some parts; `None` when none gave any.
async fn ask(source: &Source, share: &Share, question: Question) -> Option<Answer> {
    let table = &source.table;
    let segments: Vec<Segment> =
        share.parts.iter().map(|part| source.parts[*part as usize].segment.as_ref().clone()).collect();
    let task = encode(&Task {
        query_id: source.query_id.clone(),
        id: table.id,
        name: table.name.clone(),
        schema: table.schema.as_ref().clone(),
        schema_version: table.schema_version,
        shards: table.shards.as_ref().clone(),
        version: source.version,
        segments,
        question,
    });
    for node in &share.nodes {
        let answer = source.context.peers.ask(*node, task.clone()).await;
        match answer.and_then(|bytes| decode::<Answer>("answer to a search", &bytes)) {
            Ok(answer) => return Some(answer),
            Err(error) => {
                let (query_id, version) = (&source.query_id, source.version.0);
                tracing::warn!(query_id, version, %node, %error, "a node did not answer a search");
                // Others would not answer this either; the work here tells what is wrong.
                let may_others =
                    matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::NotFound | ErrorKind::Corrupt);
                if !may_others {
                    return None;
                }
            }
        }
    }
    None
}

/// Answers what another node has asked.
///
/// # Errors
/// What went wrong; whoever asked then asks another.
pub(crate) async fn answer(
    task: &[u8],
    manifest: &Manifest,
    context: &ScanContext,
    state: &SessionState,
) -> Result<Vec<u8>> {
    let task: Task = decode("search", task)?;
    for segment in &task.segments {
        check_files(segment, manifest)?;
    }
    let segments = task.segments.into_iter().map(Arc::new).collect::<Vec<_>>();
    let table = Arc::new(Table {
        id: task.id,
        name: task.name,
        schema: Arc::new(task.schema),
        schema_version: task.schema_version,
        replicas: 0,
        shards: Arc::new(task.shards),
        created: Version(0),
        created_time_us: 0,
        dropped: None,
        dropped_time_us: 0,
        segments: segments.iter().map(|segment| (segment.id, segment.clone())).collect(),
        inline_bytes: 0,
        history: vec![],
        oldest: Version(0),
        changed: task.version,
        relocations: Default::default(),
    });
    let mut parts = Vec::with_capacity(segments.len());
    for segment in segments {
        let hidden = context.reads.hidden_rows(&table, &segment, task.version).await?;
        parts.push(Part { segment, hidden });
    }
    let source = Source::of(table, task.version, context.clone(), parts).for_query(task.query_id);
    tracing::debug!(query_id = source.query_id, version = source.version.0, "search of another node");
    Ok(encode(&respond(&source, task.question, state).await?))
}

/// Fails when a segment has other files than this node knows it to have: a whole file would be taken for a damaged one.
fn check_files(segment: &Segment, manifest: &Manifest) -> Result<()> {
    let Some(known) = manifest.segment(segment.id) else {
        // Of a version that is yet to come here.
        return Ok(());
    };
    let same_data = match (&segment.data, &known.data) {
        (SegmentData::File(asked), SegmentData::File(known)) => asked == known,
        _ => true,
    };
    let same_indexes = segment.indexes.iter().all(|asked| {
        known.indexes.iter().filter(|known| known.file == asked.file).all(|known| known.data == asked.data)
    });
    match same_data && same_indexes {
        true => Ok(()),
        false => {
            Err(Error::invalid(format!("segment {} has other files than it is said to have", segment.id)))
        }
    }
}

/// An error of the engine: ours inside of it as it is.
fn of_engine(error: DataFusionError) -> Error {
    match error {
        DataFusionError::External(inner) => match inner.downcast::<Error>() {
            Ok(error) => *error,
            Err(other) => Error::internal(format!("a predicate: {other}")),
        },
        other => Error::internal(format!("a predicate: {}", other.strip_backtrace())).with_source(other),
    }
}

async fn respond(source: &Source, question: Question, state: &SessionState) -> Result<Answer> {
    let threads = state.config().target_partitions();
    let all: Vec<u32> = (0..source.parts.len() as u32).collect();
    let sets = |sets: Vec<Arc<RowSet>>| Answer::Sets(sets.iter().map(|set| encode_row_set(set)).collect());
    Ok(match question {
        Question::Filter(predicates) => {
            let context = state.task_ctx();
            let read = |bytes: &Vec<u8>| Expr::from_bytes_with_ctx(bytes, &context).map_err(of_engine);
            let predicates = predicates.iter().map(read).collect::<Result<Vec<_>>>()?;
            let filter = Filter::new(source, state, &predicates).map_err(of_engine)?;
            let filter = filter.ok_or_else(|| Error::invalid("a filter without predicates"))?;
            let mut found = Vec::with_capacity(all.len());
            for part in source.parts.iter() {
                found.push(filter.rows(source, part).await.map_err(of_engine)?);
            }
            sets(found)
        }
        Question::Matching { fields, query } => {
            sets(legs::matching(source, all, &fields.try_into()?, &query).await?)
        }
        Question::Statistics { fields, query } => {
            let known = statistics_of(source, all, &fields.try_into()?, &query).await?;
            Answer::Statistics((&known).into())
        }
        Question::Words { fields, query, statistics, look } => {
            let (fields, statistics) = (TextFields::try_from(fields)?, statistics.into());
            hits(source, all, Asked::words(fields, query, statistics), look, threads).await?
        }
        Question::Nearest { column, metric, vectors, look } => {
            let queries = vectors.into_iter().map(|vector| VectorQuery::new(metric, vector));
            let queries = queries.collect::<Result<Vec<_>>>()?;
            hits(source, all, Asked::nearest(column, queries), look, threads).await?
        }
        Question::Rows { schema, rows } => {
            let wanted = decode_sets(rows)?;
            if wanted.len() != all.len() {
                return Err(Error::invalid(format!(
                    "{} sets of rows of {} segments",
                    wanted.len(),
                    all.len()
                )));
            }
            let mut batches = Vec::with_capacity(all.len());
            for (part, rows) in source.parts.iter().zip(wanted) {
                let rows = Arc::unwrap_or_clone(rows);
                let found = source.reads().rows_at(&source.table, &part.segment, &schema, rows).await?;
                batches.push(inline::encode_batch(&found)?);
            }
            Answer::Batches(batches)
        }
    })
}

async fn hits(source: &Source, parts: Vec<u32>, asked: Asked, look: Look, threads: usize) -> Result<Answer> {
    let (wanted, k, looks) = look.here(threads)?;
    if matches!(&wanted, Wanted::Some(sets) if sets.len() != source.parts.len()) {
        return Err(Error::invalid("a set of rows for each segment is needed"));
    }
    if let Wanted::Some(sets) = &wanted
        && let Some((part, row)) = (0..)
            .zip(sets)
            .find_map(|(part, set)| Some((part, set.max().filter(|row| !has(source, part, *row))?)))
    {
        let segment = source.parts[part as usize].segment.id;
        return Err(Error::invalid(format!("segment {segment} has no row {row}")));
    }
    let found = legs::look_here(source, parts, &asked, &wanted, k, looks).await?;
    let flat =
        |hits: Vec<(f32, Hit)>| hits.into_iter().map(|(score, hit)| (score, hit.part, hit.row)).collect();
    Ok(Answer::Hits(found.into_iter().map(flat).collect()))
}
