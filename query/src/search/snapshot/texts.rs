//! TODO module docs.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute;
use arrow_schema::DataType;
use futures::TryStreamExt;
use plexus_index::text::{Analyzer, TextIndex, build_text_index};
use plexus_model::{Error, ErrorKind, Result, RowSelection};
use plexus_storage::{SegmentRef, project};

use crate::search::snapshot::snapshot::{SearchSnapshot, SegmentView, blocking};
use crate::search::snapshot::text_fields::TextFields;

impl SearchSnapshot {
    /// The words of a segment.
    pub async fn text(&self, view: &SegmentView, fields: &TextFields) -> Result<TextIndex> {
        let key = (
            view.segment.id,
            fields.analyzer.name().to_owned(),
            fields.columns.clone(),
            self.reads().lost_file_count(),
        );
        let make = async {
            let file = fields.index.and_then(|id| SegmentRef::index_file(&self.table, &view.segment, id));
            if let Some(file) = file {
                match self.open_text(&file, view, fields).await {
                    Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Unavailable) => {
                        tracing::warn!(segment = %view.segment.id, error = %e, "a text index cannot be read; searching without");
                    }
                    opened => return opened,
                }
            }
            let texts = self.texts(view, fields).await?;
            let analyzer = fields.analyzer.clone();
            blocking(move || TextIndex::open(build_texts(&texts, &analyzer)?.into(), &analyzer)).await
        };
        self.context.caches.texts.get(key, make).await
    }

    pub async fn open_text(
        &self,
        file: &SegmentRef,
        view: &SegmentView,
        fields: &TextFields,
    ) -> Result<TextIndex> {
        let bytes = self.reads().memory_mapped().read_range(&file, 0, file.data.bytes).await?;
        let analyzer = fields.analyzer.clone();
        let index = blocking(move || TextIndex::open(bytes, &analyzer)).await?;
        if u64::from(index.rows()) != view.segment.rows {
            return Err(Error::corrupt(format!("index {} is of {} rows", file.id, index.rows())));
        }
        Ok(index)
    }

    /// The texts of some columns, of all rows, also those that are invisible. Of each batch one array a column.
    pub async fn texts(&self, view: &SegmentView, fields: &TextFields) -> Result<Vec<Vec<ArrayRef>>> {
        let places = fields.columns.iter().map(|id| self.column_place(*id)).collect::<Result<Vec<_>>>()?;
        let schema = project(&self.table.schema, &places);
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

/// Fails when rows are not all rows of a segment, from `first` on.
pub fn check_positions(view: &SegmentView, first: u64, positions: &[u64]) -> Result<()> {
    match positions.iter().copied().eq(first..first + positions.len() as u64) {
        true => Ok(()),
        false => Err(Error::internal(format!("segment {}: rows are not in their order", view.segment.id))),
    }
}

/// Indexes texts that were read by [`SearchSnapshot::texts`].
pub fn build_texts(texts: &[Vec<ArrayRef>], analyzer: &Analyzer) -> Result<Vec<u8>> {
    let fields = texts.first().map_or(0, Vec::len);
    let rows = texts.iter().flat_map(|columns| {
        let columns: Vec<_> = columns.iter().map(|column| column.as_string::<i64>()).collect();
        let rows = columns.first().map_or(0, |column| column.len());
        (0..rows).map(move |row| {
            columns.iter().map(|column| column.is_valid(row).then(|| column.value(row))).collect()
        })
    });
    build_text_index(fields, analyzer, rows)
}
