//! The messages of a distributed search. They are encoded with rkyv: the order of fields and variants is the
//! wire format.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow_schema::{DataType, Schema};
use datafusion::logical_expr::Expr;
use datafusion_proto::bytes::Serializeable;
use plexus_index::graph::Beam;
use plexus_index::text::{Analyzer, GlobalStatistics, ScoredTerm, TermForm, TextQuery};
use plexus_model::{
    Error, Metric, Result, RowSet, Segment, Shard, TableId, TableName, TableSchema, Version, decode_row_set,
    encode_row_set,
};
use plexus_storage::{inline, types};
use rkyv::{Archive, Deserialize, Serialize};

use crate::search::hit::Hit;
use crate::search::params::SearchParams;
use crate::search::snapshot::SearchSnapshot;
use crate::search::snapshot::selections::RowSelections;
use crate::search::snapshot::text_fields::{FieldGroup, TextFields};

/// Terms with the number of their rows.
pub(crate) type Terms = BTreeMap<String, u64>;

/// A request for some segments of a table, with all that is needed to answer it.
#[derive(Archive, Serialize, Deserialize)]
pub(crate) struct ShardTask {
    /// Id of the query, for logs.
    pub query_id: String,
    pub id: TableId,
    pub name: TableName,
    pub schema: TableSchema,
    pub schema_version: u32,
    pub shards: Vec<Shard>,
    pub version: Version,
    pub segments: Vec<Segment>,
    pub request: ShardRequest,
}

/// What to do with the segments of a [`ShardTask`]. Row sets are encoded, one per segment, in their order.
#[derive(Archive, Serialize, Deserialize)]
pub(crate) enum ShardRequest {
    /// The visible rows that satisfy all predicates, which are encoded expressions.
    Filter(Vec<Vec<u8>>),
    /// The rows that match a full-text query, including invisible rows.
    Matching { fields: WireTextFields, query: TextQuery },
    /// The statistics of the terms of a full-text query.
    Statistics { fields: WireTextFields, query: TextQuery },
    /// The best rows by BM25.
    FullText {
        fields: WireTextFields,
        query: TextQuery,
        /// The statistics of the whole table, not those of the segments of the task.
        statistics: WireStatistics,
        params: RetrievalParams,
    },
    /// The rows nearest to each of several vectors.
    Nearest { column: u32, metric: Metric, vectors: Vec<Vec<f32>>, params: RetrievalParams },
    /// Columns of rows.
    Rows { schema: TableSchema, rows: Vec<Vec<u8>> },
    /// The terms of a field that have a form.
    Terms { fields: WireTextFields, field: u32, form: TermForm },
}

/// [`TextFields`] on the wire.
#[derive(Archive, Serialize, Deserialize)]
pub(crate) struct WireTextFields {
    groups: Vec<WireFieldGroup>,
}

/// [`FieldGroup`] on the wire.
#[derive(Archive, Serialize, Deserialize)]
struct WireFieldGroup {
    columns: Vec<u32>,
    analyzer: String,
    index: Option<u32>,
}

/// [`GlobalStatistics`] on the wire.
#[derive(Archive, Serialize, Deserialize)]
pub(crate) struct WireStatistics {
    rows: u64,
    tokens: Vec<u64>,
    document_frequencies: Vec<(ScoredTerm, u64)>,
}

/// How many rows a retriever returns, from which rows, and how it searches.
#[derive(Archive, Serialize, Deserialize)]
pub(crate) struct RetrievalParams {
    k: u64,
    exact: bool,
    /// The beam width; zero for what the recall needs.
    ef: u64,
    recall: f32,
    /// The rows to search, one set per segment; `None` for all visible rows.
    wanted: Option<Vec<Vec<u8>>>,
}

/// The response to a [`ShardRequest`].
#[derive(Archive, Serialize, Deserialize)]
pub(crate) enum ShardResponse {
    /// Row sets, one per segment.
    Sets(Vec<Vec<u8>>),
    /// The statistics of all segments of the task together.
    Statistics(WireStatistics),
    /// For each query its hits: score, index of the segment in the task, and position of the row.
    Hits(Vec<Vec<(f32, u32, u32)>>),
    /// One encoded batch per segment, with rows in ascending order of position.
    Batches(Vec<Vec<u8>>),
    /// Terms with the number of their rows, of all segments of the task together.
    Terms(Vec<(String, u64)>),
}

impl From<&TextFields> for WireTextFields {
    fn from(fields: &TextFields) -> Self {
        let group = |group: &FieldGroup| WireFieldGroup {
            columns: group.columns.clone(),
            analyzer: group.analyzer.name().to_owned(),
            index: group.index,
        };
        Self { groups: fields.groups.iter().map(group).collect() }
    }
}

impl TryFrom<WireTextFields> for TextFields {
    type Error = Error;

    fn try_from(fields: WireTextFields) -> Result<Self> {
        let group = |group: WireFieldGroup| {
            let analyzer = Analyzer::named(&group.analyzer)?;
            Ok(FieldGroup { columns: group.columns, analyzer, index: group.index })
        };
        Ok(Self { groups: fields.groups.into_iter().map(group).collect::<Result<_>>()? })
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
    /// The parameters for a node that searches only `views`.
    pub(crate) fn new(k: usize, params: SearchParams, wanted: &RowSelections, views: &[u32]) -> Self {
        let wanted = wanted.filter().map(|sets| {
            let sets: Vec<&Arc<RowSet>> = sets.collect();
            views.iter().map(|view| encode_row_set(sets[*view as usize])).collect()
        });
        let (ef, recall) = match params.beam {
            Beam::Width(width) => (width as u64, 0.0),
            Beam::Recall(recall) => (0, recall),
        };
        Self { k: k as u64, exact: params.exact, ef, recall, wanted }
    }

    /// The rows to search, the number of hits, and the parameters of the search on this node.
    ///
    /// # Errors
    /// `InvalidArgument` when the row sets are not those of the segments of `snapshot`.
    pub(crate) fn into_local(
        self,
        snapshot: &SearchSnapshot,
        threads: usize,
    ) -> Result<(RowSelections, usize, SearchParams)> {
        let wanted = match self.wanted {
            None => RowSelections::all(snapshot),
            Some(sets) => {
                let sets = decode_sets(sets)?;
                if sets.len() != snapshot.views.len() {
                    return Err(Error::invalid("the request does not have one row set per segment"));
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
        let beam = match self.ef {
            0 => Beam::Recall(self.recall),
            width => Beam::Width(width as usize),
        };
        let params = SearchParams { threads, exact: self.exact, beam };
        Ok((wanted, self.k as usize, params))
    }
}

impl ShardRequest {
    /// A request for the rows that satisfy predicates; `None` when a predicate cannot be encoded.
    pub(crate) fn filter(predicates: &[Expr]) -> Option<Self> {
        let encoded: Option<_> = predicates.iter().map(|e| e.to_bytes().ok().map(Vec::from)).collect();
        encoded.map(Self::Filter)
    }
}

/// Decodes row sets.
///
/// # Errors
/// `Corrupt` when one of them is not a row set.
pub(crate) fn decode_sets(sets: Vec<Vec<u8>>) -> Result<Vec<Arc<RowSet>>> {
    sets.iter().map(|set| decode_row_set(set).map(Arc::new)).collect()
}

/// Whether the segment of a view has a row at this position.
fn has(snapshot: &SearchSnapshot, view: u32, row: u32) -> bool {
    u64::from(row) < snapshot.views[view as usize].segment.rows
}

/// The error for a response that does not fit its request.
fn unexpected() -> Error {
    Error::corrupt("the response of a node does not fit the search request")
}

impl ShardResponse {
    /// The row set of each of the requested views.
    ///
    /// # Errors
    /// `Corrupt` when the response does not fit the request.
    pub(crate) fn into_sets(
        self,
        snapshot: &SearchSnapshot,
        views: &[u32],
    ) -> Result<Vec<(u32, Arc<RowSet>)>> {
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

    /// Statistics over a number of fields.
    ///
    /// # Errors
    /// `Corrupt` when the response does not fit the request.
    pub(crate) fn into_statistics(self, fields: usize) -> Result<GlobalStatistics> {
        match self {
            Self::Statistics(all) if all.tokens.len() == fields => Ok(all.into()),
            _ => Err(unexpected()),
        }
    }

    /// Terms with the number of their rows.
    ///
    /// # Errors
    /// `Corrupt` when the response does not fit the request.
    pub(crate) fn into_terms(self) -> Result<Terms> {
        match self {
            Self::Terms(terms) => Ok(terms.into_iter().collect()),
            _ => Err(unexpected()),
        }
    }

    /// The hits of each query in the requested views.
    ///
    /// # Errors
    /// `Corrupt` when the response does not fit the request.
    pub(crate) fn into_hits(
        self,
        snapshot: &SearchSnapshot,
        views: &[u32],
        query_count: usize,
    ) -> Result<Vec<Vec<(f32, Hit)>>> {
        let Self::Hits(rankings) = self else {
            return Err(unexpected());
        };
        if rankings.len() != query_count {
            return Err(unexpected());
        }
        let hit = |(score, view, row): (f32, u32, u32)| {
            let view = views.get(view as usize).copied().filter(|view| has(snapshot, *view, row));
            Ok((score, Hit { view: view.ok_or_else(unexpected)?, row }))
        };
        rankings.into_iter().map(|hits| hits.into_iter().map(hit).collect()).collect()
    }

    /// A batch with the columns of `schema` for each of the requested views.
    ///
    /// # Errors
    /// `Corrupt` when the response does not fit the request.
    pub(crate) fn into_batches(self, schema: &TableSchema, views: &[u32]) -> Result<Vec<(u32, RecordBatch)>> {
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
