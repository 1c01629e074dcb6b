//! Building the index of a segment.

use plexus_model::{Error, Result};
use tantivy::schema::{Field, IndexRecordOption, Schema, TextFieldIndexing, TextOptions};
use tantivy::tokenizer::TokenizerManager;
use tantivy::{Index, SingleSegmentIndexWriter, TantivyDocument};

use super::Analyzer;
use super::archive::{Workspace, settings};

/// Memory of the writer's first table of terms; it grows from there.
const TABLE_BYTES: usize = 16 << 20;
/// Memory of the writer above which the rows are too many for one index: some times what a segment takes.
const MEMORY_BYTES_MAX: usize = 1 << 30;
/// What the analyzer is called inside.
pub const ANALYZER: &str = "analyzer";

pub fn tokenizers(analyzer: &Analyzer) -> TokenizerManager {
    let manager = TokenizerManager::new();
    manager.register(ANALYZER, analyzer.tantivy());
    manager
}

/// Indexes rows one after the other, from number 0 on. Each has as many texts, or none, as there are fields. Takes
/// a while and one thread: call it off the async threads.
///
/// # Errors
/// `ResourceExhausted` when the rows are too many.
pub fn build_text<'a>(
    fields: usize,
    analyzer: &Analyzer,
    rows: impl Iterator<Item = Vec<Option<&'a str>>>,
) -> Result<Vec<u8>> {
    let failed =
        |e: tantivy::TantivyError| Error::internal(format!("building a text index: {e}")).with_source(e);
    let mut schema = Schema::builder();
    let indexing = TextFieldIndexing::default()
        .set_tokenizer(ANALYZER)
        .set_index_option(IndexRecordOption::WithFreqsAndPositions)
        .set_fieldnorms(true);
    let options = TextOptions::default().set_indexing_options(indexing);
    let fields: Vec<Field> =
        (0..fields).map(|field| schema.add_text_field(&field.to_string(), options.clone())).collect();
    let workspace = Workspace::default();
    let mut writer: SingleSegmentIndexWriter<TantivyDocument> = Index::builder()
        .schema(schema.build())
        .settings(settings())
        .tokenizers(tokenizers(analyzer))
        .single_segment_index_writer(workspace.clone(), TABLE_BYTES)
        .map_err(failed)?;
    for texts in rows {
        let mut document = TantivyDocument::default();
        for (field, text) in fields.iter().zip(texts) {
            if let Some(text) = text {
                document.add_text(*field, text);
            }
        }
        writer.add_document(document).map_err(failed)?;
        if writer.mem_usage() > MEMORY_BYTES_MAX {
            return Err(Error::exhausted(format!(
                "building a text index takes more than {MEMORY_BYTES_MAX} bytes of memory"
            )));
        }
    }
    writer.finalize().map_err(failed)?;
    Ok(workspace.pack())
}
