//! The texts of a segment and their inverted index, from its index file or built in memory.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute;
use arrow_schema::DataType;
use futures::TryStreamExt;
use plexus_index::text::{Analyzer, TextIndex, build_text_index};
use plexus_model::{Error, ErrorKind, Result, RowSelection};
use plexus_storage::{SegmentRef, project};

use crate::search::snapshot::text_fields::{FieldGroup, TextFields};
use crate::search::snapshot::{SearchSnapshot, SegmentView, blocking};

impl SearchSnapshot {
    /// The inverted index of a segment over all fields.
    ///
    /// # Errors
    /// When the segment cannot be read.
    pub(crate) async fn text(&self, view: &SegmentView, fields: &TextFields) -> Result<TextIndex> {
        let mut indexes = Vec::with_capacity(fields.groups.len());
        for group in &fields.groups {
            indexes.push(self.index_of(view, group).await?);
        }
        TextIndex::together(indexes)
    }

    /// The inverted index of a group of fields. If the segment has no index file, or the file cannot be read,
    /// the index is built in memory. It is cached.
    async fn index_of(&self, view: &SegmentView, fields: &FieldGroup) -> Result<TextIndex> {
        let key = (
            view.segment.id,
            fields.analyzer.name().to_owned(),
            fields.columns.clone(),
            self.reads().lost_file_count(),
        );
        let make = async {
            let file = fields.index.and_then(|id| SegmentRef::index_file(&self.table, &view.segment, id));
            if let Some(file) = file {
                match self.open_text(&file, view).await {
                    Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Unavailable) => {
                        tracing::warn!(
                            segment = %view.segment.id,
                            error = %e,
                            "a text index cannot be read; indexing the segment in memory"
                        );
                    }
                    opened => return opened,
                }
            }
            // The build goes on when the statement has ended, so the next one waits for it.
            let permit = self.context.caches.build_permit().await?;
            let texts = self.texts(view, fields).await?;
            let analyzer = fields.analyzer.clone();
            let memory_max = self.context.caches.build_bytes_max;
            blocking(move || {
                let _permit = permit;
                TextIndex::open(build_texts(&texts, &analyzer, memory_max)?.into())
            })
            .await
        };
        self.context.caches.texts.get(key, make).await
    }

    /// Opens the index file of a segment.
    async fn open_text(&self, file: &SegmentRef, view: &SegmentView) -> Result<TextIndex> {
        let bytes = self.reads().memory_mapped().read_range(file, 0, file.data.bytes).await?;
        let index = blocking(move || TextIndex::open(bytes)).await?;
        if u64::from(index.rows()) != view.segment.rows {
            return Err(Error::corrupt(format!(
                "index {} has {} rows, which is not the number of its segment",
                file.id,
                index.rows()
            )));
        }
        Ok(index)
    }

    /// The texts of the columns of `fields` in all rows of a segment, including invisible rows. Returns one
    /// list of arrays per batch, with one `LargeUtf8` array per column.
    ///
    /// # Errors
    /// When the segment cannot be read.
    pub async fn texts(&self, view: &SegmentView, fields: &FieldGroup) -> Result<Vec<Vec<ArrayRef>>> {
        let columns =
            fields.columns.iter().map(|id| self.column_position(*id)).collect::<Result<Vec<_>>>()?;
        let schema = project(&self.table.schema, &columns);
        let all = RowSelection::all();
        let mut rows = self.reads().scan(&self.table, &view.segment, &schema, all).await?;
        let (mut texts, mut read) = (Vec::new(), 0);
        while let Some(found) = rows.try_next().await? {
            check_positions(view, read, &found.positions)?;
            read += found.positions.len() as u64;
            let columns = found.rows.columns().iter().map(|column| {
                compute::cast(column, &DataType::LargeUtf8)
                    .map_err(|e| Error::internal(format!("reading texts: {e}")).with_source(e))
            });
            texts.push(columns.collect::<Result<Vec<_>>>()?);
        }
        Ok(texts)
    }
}

/// Fails unless `positions` continue the rows of a segment from `first` without a gap.
pub(crate) fn check_positions(view: &SegmentView, first: u64, positions: &[u64]) -> Result<()> {
    match positions.iter().copied().eq(first..first + positions.len() as u64) {
        true => Ok(()),
        false => {
            Err(Error::internal(format!("segment {}: rows are missing or out of order", view.segment.id)))
        }
    }
}

/// Builds the inverted index of texts that [`SearchSnapshot::texts`] read. Returns the bytes of an index
/// file.
///
/// # Errors
/// `ResourceExhausted` when the build needs too much memory.
pub fn build_texts(texts: &[Vec<ArrayRef>], analyzer: &Analyzer, memory_max: usize) -> Result<Vec<u8>> {
    let fields = texts.first().map_or(0, Vec::len);
    let rows = texts.iter().flat_map(|columns| {
        let columns: Vec<_> = columns.iter().map(|column| column.as_string::<i64>()).collect();
        let rows = columns.first().map_or(0, |column| column.len());
        (0..rows).map(move |row| {
            columns.iter().map(|column| column.is_valid(row).then(|| column.value(row))).collect()
        })
    });
    build_text_index(fields, analyzer, rows, memory_max)
}
