//! Rows that are near to the query and unlike each other, by maximal marginal relevance (Carbonell and
//! Goldstein: "The Use of MMR, Diversity-Based Reranking for Reordering Documents and Producing Summaries",
//! 1998).

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::Float32Type;
use arrow_schema::DataType;
use datafusion::execution::memory_pool::MemoryPool;
use plexus_index::distance;
use plexus_model::{Error, Metric, Result};

use crate::search::exec::fetch::fetch;
use crate::search::exec::search::{ScoredRow, similarity};
use crate::search::snapshot::{SearchSnapshot, blocking};

/// How a search weighs the likeness of rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Diversity {
    /// Position of the column of the vectors.
    pub column: usize,
    pub metric: Metric,
    /// From 0, where only the query matters, to 1, where only other rows do.
    pub weight: f64,
}

/// Products of components that one selection may compute: some seconds.
const PRODUCTS_MAX: u64 = 4_000_000_000;

impl Diversity {
    /// Selects `k` of the candidates one by one. Each is the one that is nearest to the query and least like
    /// those before it, by `(1 - weight) * similarity to the query - weight * largest similarity to a row
    /// before`.
    ///
    /// # Errors
    /// `InvalidArgument` when that would take too long. When the vectors cannot be read.
    pub(crate) async fn select(
        self,
        snapshot: &SearchSnapshot,
        pool: &Arc<dyn MemoryPool>,
        mut candidates: Vec<ScoredRow>,
        k: usize,
    ) -> Result<Vec<ScoredRow>> {
        let dimensions = snapshot.table.schema.columns[self.column].data_type.vector_dimensions();
        let products = [k.min(candidates.len()) as u64, u64::from(dimensions.unwrap_or(0))]
            .into_iter()
            .fold(candidates.len() as u64, u64::saturating_mul);
        if products > PRODUCTS_MAX {
            return Err(Error::invalid(format!(
                "diversity: {} candidates for {k} rows of {} dimensions take too long; ask for fewer",
                candidates.len(),
                dimensions.unwrap_or(0)
            )));
        }
        let hits: Vec<_> = candidates.iter().map(|candidate| candidate.hit).collect();
        let rows = fetch(snapshot, pool, &hits, &[self.column]).await?;
        let vectors = rows.column(0).clone();
        let scores: Vec<f64> = candidates.iter().map(|candidate| candidate.score).collect();
        let order = blocking(move || self.order(&vectors, &scores, k)).await?;
        Ok(order.into_iter().map(|at| std::mem::take(&mut candidates[at])).collect())
    }

    /// The positions of the selected candidates, in their order.
    fn order(self, vectors: &ArrayRef, scores: &[f64], k: usize) -> Result<Vec<usize>> {
        let failed = |e: arrow::error::ArrowError| Error::internal(format!("diversity: {e}")).with_source(e);
        let DataType::FixedSizeList(_, length) = vectors.data_type() else {
            return Err(Error::internal(format!("diversity of values of type {}", vectors.data_type())));
        };
        let length = *length as usize;
        let values = cast(vectors.as_fixed_size_list().values(), &DataType::Float32).map_err(failed)?;
        let values = values.as_primitive::<Float32Type>().values();
        let vector = |at: usize| &values[at * length..(at + 1) * length];
        let mut nearest_before = vec![f64::NEG_INFINITY; scores.len()];
        let mut left: Vec<usize> = (0..scores.len()).collect();
        let mut selected = Vec::with_capacity(k.min(scores.len()));
        while selected.len() < k && !left.is_empty() {
            let value = |at: usize| match selected.is_empty() {
                true => scores[at],
                false => (1.0 - self.weight) * scores[at] - self.weight * nearest_before[at],
            };
            // The first of equals, which is the nearest to the query.
            let best = left.iter().enumerate().fold(0, |best, (position, at)| {
                if value(*at).total_cmp(&value(left[best])).is_gt() { position } else { best }
            });
            let chosen = left.remove(best);
            selected.push(chosen);
            for at in &left {
                let score = -distance(self.metric, vector(chosen), vector(*at));
                nearest_before[*at] = nearest_before[*at].max(similarity(self.metric, score));
            }
        }
        Ok(selected)
    }
}
