//! The result of a search: it runs the requests and reads the columns of the found rows.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Float32Array, Float64Array, RecordBatch, StringArray, UInt32Array,
};
use arrow::compute;
use arrow_schema::DataType;
use datafusion::catalog::Session;
use datafusion::common::{Result, plan_err};
use plexus_index::text::snippet;
use plexus_model::{Error, Version};

use crate::context::external;
use crate::context::query_id;
use crate::search::exec::cursor::Cursor;
use crate::search::exec::fetch::fetch;
use crate::search::exec::request::{Highlight, Request};
use crate::search::exec::retriever::Retriever;
use crate::search::exec::search::{ScoredRow, search_all};
use crate::search::snapshot::selections::RowSelections;
use crate::search::snapshot::{SearchSnapshot, blocking};
use crate::search::sql::relation::{CURSOR, HIGHLIGHT, QUERY, SCORE, SearchCall};
use crate::search::sql::row_filter::RowFilter;

/// The rows that a search finds, the best first.
#[derive(Debug)]
pub(crate) struct SearchResults {
    /// The call.
    pub call: Arc<SearchCall>,
    /// The table at `version`.
    pub table: Arc<plexus_model::Table>,
    /// The version of the cursor if there is one, otherwise that of the session.
    pub version: Version,
    /// One request, or one for each query of a batch.
    pub requests: Vec<Request>,
}

impl SearchResults {
    /// Runs the search, and reads columns of the found rows, by their positions in the result.
    ///
    /// # Errors
    /// What the search fails with.
    pub(crate) async fn rows(&self, state: &dyn Session, columns: &[usize]) -> Result<RecordBatch> {
        let context = &self.call.context;
        let (table, version) = (&self.table, &self.version);
        let filter = match &self.request().filter {
            Some(sql) => Some(RowFilter::parse(state, table, sql)?),
            None => None,
        };
        let snapshot =
            SearchSnapshot::open(table.clone(), *version, context.clone()).await.map_err(external)?;
        let snapshot = snapshot.for_query(query_id(state));
        let (mut found, mut queries) = (Vec::new(), Vec::new());
        let selections = match filter {
            Some(filter) => filter.select(&snapshot, state).await?,
            None => RowSelections::all(&snapshot),
        };
        let all = search_all(&snapshot, state, &self.requests, &selections).await?;
        for (query, of_query) in (1..).zip(all) {
            queries.extend(std::iter::repeat_n(query, of_query.len()));
            found.extend(of_query);
        }
        self.assemble(&snapshot, state, (&found, &queries), columns).await
    }

    /// The first request. It stands for all requests in what they have in common.
    fn request(&self) -> &Request {
        &self.requests[0]
    }

    /// Builds the columns of the result: those of the table are read, the others computed.
    async fn assemble(
        &self,
        snapshot: &SearchSnapshot,
        state: &dyn Session,
        (found, queries): (&[ScoredRow], &[u32]),
        columns: &[usize],
    ) -> Result<RecordBatch> {
        let request = self.request();
        let own = snapshot.table.schema.columns.len();
        let schema = Arc::new(self.call.schema.project(columns)?);
        let hits: Vec<_> = found.iter().map(|f| f.hit).collect();
        let mut read: Vec<usize> = columns.iter().copied().filter(|c| *c < own).collect();
        read.sort_unstable();
        read.dedup();
        let wants_highlight = columns.iter().any(|c| self.call.schema.field(*c).name() == HIGHLIGHT);
        let highlight = request.highlight.as_ref().filter(|_| wants_highlight);
        read.extend(highlight.map(|h| h.column).filter(|column| !read.contains(column)));
        let pool = &state.runtime_env().memory_pool;
        let rows = fetch(snapshot, pool, &hits, &read).await.map_err(external)?;
        let excerpts = match highlight {
            Some(highlight) => {
                let position = read.iter().position(|c| *c == highlight.column);
                let texts = rows.column(position.unwrap_or_default()).clone();
                let highlight = highlight.clone();
                Some(blocking(move || highlighted(&texts, &highlight)).await.map_err(external)?)
            }
            None => None,
        };
        let arrays = columns.iter().map(|column| -> Result<ArrayRef> {
            if let Some(position) = read.iter().position(|c| c == column).filter(|_| *column < own) {
                return Ok(rows.column(position).clone());
            }
            let rank = |text: bool| {
                let retriever = request
                    .retrievers
                    .iter()
                    .position(|(retriever, _)| matches!(retriever, Retriever::Text { .. }) == text);
                move |found: &ScoredRow| retriever.and_then(|retriever| found.ranks[retriever])
            };
            let field = self.call.schema.field(*column);
            Ok(match field.name().as_str() {
                SCORE => Arc::new(Float64Array::from_iter_values(found.iter().map(|f| f.score))),
                "_text_rank" => {
                    Arc::new(found.iter().map(|f| rank(true)(f).map(|p| p.rank)).collect::<UInt32Array>())
                }
                "_vector_rank" => {
                    Arc::new(found.iter().map(|f| rank(false)(f).map(|p| p.rank)).collect::<UInt32Array>())
                }
                "_text_score" => {
                    Arc::new(found.iter().map(|f| rank(true)(f).map(|p| p.score)).collect::<Float32Array>())
                }
                "_vector_distance" => {
                    Arc::new(found.iter().map(|f| rank(false)(f).map(|p| -p.score)).collect::<Float32Array>())
                }
                HIGHLIGHT => match &excerpts {
                    Some(excerpts) => excerpts.clone(),
                    None => Arc::new(StringArray::new_null(found.len())),
                },
                QUERY => Arc::new(UInt32Array::from_iter_values(queries.iter().copied())),
                CURSOR => {
                    let seen = request.offset + request.search_after.map_or(0, |cursor| cursor.seen);
                    let (version, candidates) = (snapshot.version.0, request.fused());
                    let ranking = request.ranking(snapshot.table.id);
                    let cursor = |at| Cursor { version, seen: seen + at, candidates, ranking }.to_text();
                    Arc::new(StringArray::from_iter_values((1..=found.len()).map(cursor)))
                }
                other => return plan_err!("a search has no column {other:?}"),
            })
        });
        let arrays = arrays.collect::<Result<Vec<_>>>()?;
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(found.len()));
        Ok(RecordBatch::try_new_with_options(schema, arrays, &options)?)
    }
}

/// The excerpt of each text around its matching terms, as HTML.
fn highlighted(texts: &ArrayRef, highlight: &Highlight) -> plexus_model::Result<ArrayRef> {
    let texts = compute::cast(texts, &DataType::LargeUtf8)
        .map_err(|e| Error::internal(format!("reading texts: {e}")).with_source(e))?;
    let excerpt = |text: &str| {
        highlight.marks.iter().find_map(|(query, field, analyzer)| {
            snippet(query, *field, analyzer, text, highlight.length).map(|snippet| snippet.to_html(text))
        })
    };
    let excerpts: StringArray = texts.as_string::<i64>().iter().map(|text| text.and_then(excerpt)).collect();
    debug_assert_eq!(excerpts.len(), texts.len());
    Ok(Arc::new(excerpts))
}
