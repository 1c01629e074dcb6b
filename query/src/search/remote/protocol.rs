//! TODO module docs.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow_schema::{DataType, Schema};
use datafusion::logical_expr::Expr;
use datafusion_proto::bytes::Serializeable;
use plexus_index::text::{Analyzer, GlobalStatistics, ScoredTerm, TextQuery};
use plexus_model::{
    Error, Metric, Result, RowSet, Segment, Shard, TableId, TableName, TableSchema, Version, decode_row_set,
    encode_row_set,
};
use plexus_storage::{inline, types};
use rkyv::{Archive, Deserialize, Serialize};

use crate::search::hit::Hit;
use crate::search::params::SearchParams;
use crate::search::snapshot::selections::RowSelections;
use crate::search::snapshot::snapshot::SearchSnapshot;
use crate::search::snapshot::text_fields::TextFields;

/// A question about segments, with all that is needed to answer it.
#[derive(Archive, Serialize, Deserialize)]
pub struct ShardTask {
    /// For logs.
    pub query_id: String,
    pub id: TableId,
    pub name: TableName,
    pub schema: TableSchema,
    pub schema_version: u32,
    pub shards: Vec<Shard>,
    pub version: Version,
    pub segments: Vec<Segment>,
    pub question: ShardRequest,
}

/// Sets of rows are one a segment, in their order.
#[derive(Archive, Serialize, Deserialize)]
pub enum ShardRequest {
    /// The rows that the version sees and that fulfil all of some predicates.
    Filter(Vec<Vec<u8>>),
    /// The rows that match a query, whether the version sees them or not.
    Matching { fields: WireTextFields, query: TextQuery },
    /// What is known of the words of a query.
    Statistics { fields: WireTextFields, query: TextQuery },
    /// The best rows by their words.
    FullText { fields: WireTextFields, query: TextQuery, statistics: WireStatistics, look: RetrievalParams },
    /// The rows nearest to each of some vectors.
    Nearest { column: u32, metric: Metric, vectors: Vec<Vec<f32>>, look: RetrievalParams },
    /// Columns of rows.
    Rows { schema: TableSchema, rows: Vec<Vec<u8>> },
}

/// How words are found.
#[derive(Archive, Serialize, Deserialize)]
pub struct WireTextFields {
    columns: Vec<u32>,
    analyzer: String,
    index: Option<u32>,
}

#[derive(Archive, Serialize, Deserialize)]
pub struct WireStatistics {
    rows: u64,
    tokens: Vec<u64>,
    document_frequencies: Vec<(ScoredTerm, u64)>,
}

/// How many rows are wanted, of which, and how they are looked for.
#[derive(Archive, Serialize, Deserialize)]
pub struct RetrievalParams {
    k: u64,
    exact: bool,
    ef: u64,
    wanted: Option<Vec<Vec<u8>>>,
}

/// One kind for several kinds of questions.
#[derive(Archive, Serialize, Deserialize)]
pub enum ShardResponse {
    /// Sets of rows, one a segment.
    Sets(Vec<Vec<u8>>),
    Statistics(WireStatistics),
    /// Of each question the score, the segment by its place, and the row.
    Hits(Vec<Vec<(f32, u32, u32)>>),
    /// Rows, of each segment in ascending order.
    Batches(Vec<Vec<u8>>),
}

impl From<&TextFields> for WireTextFields {
    fn from(fields: &TextFields) -> Self {
        let analyzer = fields.analyzer.name().to_owned();
        Self { columns: fields.columns.clone(), analyzer, index: fields.index }
    }
}

impl TryFrom<WireTextFields> for TextFields {
    type Error = Error;

    fn try_from(fields: WireTextFields) -> Result<Self> {
        let analyzer = Analyzer::named(&fields.analyzer)?;
        Ok(Self { columns: fields.columns, analyzer, index: fields.index })
    }
}

impl From<&GlobalStatistics> for WireStatistics {
    fn from(all: &GlobalStatistics) -> Self {
        let document_frequencies =
            all.document_frequencies.iter().map(|(term, rows)| (term.clone(), *rows)).collect();
        Self { rows: all.rows, tokens: all.tokens.clone(), document_frequencies }
    }
}

impl From<WireStatistics> for GlobalStatistics {
    fn from(all: WireStatistics) -> Self {
        Self {
            rows: all.rows,
            tokens: all.tokens,
            document_frequencies: all.document_frequencies.into_iter().collect(),
        }
    }
}

impl RetrievalParams {
    pub fn new(k: usize, params: SearchParams, wanted: &RowSelections, views: &[u32]) -> Self {
        let wanted = wanted.filter().map(|sets| {
            let sets: Vec<&Arc<RowSet>> = sets.collect();
            views.iter().map(|view| encode_row_set(sets[*view as usize])).collect()
        });
        Self { k: k as u64, exact: params.exact, ef: params.ef as u64, wanted }
    }

    /// What is wanted, of how many, and how it is looked for here.
    ///
    /// # Errors
    /// `InvalidArgument` when the sets are not those of the segments of `snapshot`.
    pub fn into_local(
        self,
        snapshot: &SearchSnapshot,
        threads: usize,
    ) -> Result<(RowSelections, usize, SearchParams)> {
        let wanted = match self.wanted {
            None => RowSelections::all(snapshot),
            Some(sets) => {
                let sets = decode_sets(sets)?;
                if sets.len() != snapshot.views.len() {
                    return Err(Error::invalid("a set of rows for each segment is needed"));
                }
                let beyond = |(view, set): (u32, &Arc<RowSet>)| {
                    Some((view, set.max().filter(|row| !has(snapshot, view, *row))?))
                };
                if let Some((view, row)) = (0..).zip(&sets).find_map(beyond) {
                    let segment = snapshot.views[view as usize].segment.id;
                    return Err(Error::invalid(format!("segment {segment} has no row {row}")));
                }
                RowSelections::only(sets)
            }
        };
        let params = SearchParams { threads, exact: self.exact, ef: self.ef as usize };
        Ok((wanted, self.k as usize, params))
    }
}

impl ShardRequest {
    /// `None` when a predicate cannot be told to others.
    pub fn filter(predicates: &[Expr]) -> Option<Self> {
        let encoded: Option<_> = predicates.iter().map(|e| e.to_bytes().ok().map(Vec::from)).collect();
        encoded.map(Self::Filter)
    }
}

pub fn decode_sets(sets: Vec<Vec<u8>>) -> Result<Vec<Arc<RowSet>>> {
    sets.iter().map(|set| decode_row_set(set).map(Arc::new)).collect()
}

/// Whether a view has a row.
pub fn has(snapshot: &SearchSnapshot, view: u32, row: u32) -> bool {
    u64::from(row) < snapshot.views[view as usize].segment.rows
}

pub fn unexpected() -> Error {
    Error::corrupt("a node answered another question than it was asked")
}

impl ShardResponse {
    /// A set of rows of each of some views.
    pub fn into_sets(self, snapshot: &SearchSnapshot, views: &[u32]) -> Result<Vec<(u32, Arc<RowSet>)>> {
        let Self::Sets(sets) = self else {
            return Err(unexpected());
        };
        let sets = decode_sets(sets)?;
        let fits = |(view, set): (&u32, &Arc<RowSet>)| set.max().is_none_or(|row| has(snapshot, *view, row));
        match sets.len() == views.len() && views.iter().zip(&sets).all(fits) {
            true => Ok(views.iter().copied().zip(sets).collect()),
            false => Err(unexpected()),
        }
    }

    /// TermStatisticsCache of words in so many fields.
    pub fn into_statistics(self, fields: usize) -> Result<GlobalStatistics> {
        match self {
            Self::Statistics(all) if all.tokens.len() == fields => Ok(all.into()),
            _ => Err(unexpected()),
        }
    }

    /// Hits in some views, of each of so many questions.
    pub fn into_hits(
        self,
        snapshot: &SearchSnapshot,
        views: &[u32],
        questions: usize,
    ) -> Result<Vec<Vec<(f32, Hit)>>> {
        let Self::Hits(answers) = self else {
            return Err(unexpected());
        };
        if answers.len() != questions {
            return Err(unexpected());
        }
        let hit = |(score, view, row): (f32, u32, u32)| {
            let view = views.get(view as usize).copied().filter(|view| has(snapshot, *view, row));
            Ok((score, Hit { view: view.ok_or_else(unexpected)?, row }))
        };
        answers.into_iter().map(|hits| hits.into_iter().map(hit).collect()).collect()
    }

    /// Rows of each of some views, with the columns of a schema.
    pub fn into_batches(self, schema: &TableSchema, views: &[u32]) -> Result<Vec<(u32, RecordBatch)>> {
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
        match batches.len() == views.len() {
            true => Ok(views.iter().copied().zip(batches).collect()),
            false => Err(unexpected()),
        }
    }
}
