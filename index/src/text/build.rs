//! Building the text index of a segment.

use plexus_model::{Error, Result};
use tantivy::schema::{Field, IndexRecordOption, Schema, TextFieldIndexing, TextOptions};
use tantivy::tokenizer::TokenizerManager;
use tantivy::{Index, SingleSegmentIndexWriter, TantivyDocument};

use super::Analyzer;
use super::memory_directory::{MemoryDirectory, index_settings};

/// Memory budget of the writer, in bytes. It sizes the initial hash table of terms, which grows from there.
const WRITER_BUDGET_BYTES: usize = 16 << 20;
/// The name of the analyzer in the schema of the index.
const TOKENIZER_NAME: &str = "analyzer";

/// The tokenizers of an index, which are its one analyzer.
pub(crate) fn tokenizers(analyzer: &Analyzer) -> TokenizerManager {
    let manager = TokenizerManager::new();
    manager.register(TOKENIZER_NAME, analyzer.to_tantivy());
    manager
}

/// Builds the index of a segment and returns the bytes that [`TextIndex::open`](super::TextIndex::open)
/// reads.
///
/// Each row has one text, or `None`, for each of the `fields`. Rows are numbered from 0 in the order of the
/// iterator. Equal rows give equal bytes. The build is CPU-bound and blocks the thread.
///
/// # Errors
/// `ResourceExhausted` when the build needs more than about `memory_max` bytes: it is looked at after each
/// row.
pub fn build_text_index<'a>(
    fields: usize,
    analyzer: &Analyzer,
    rows: impl Iterator<Item = Vec<Option<&'a str>>>,
    memory_max: usize,
) -> Result<Vec<u8>> {
    let failed =
        |e: tantivy::TantivyError| Error::internal(format!("building a text index: {e}")).with_source(e);
    let mut schema = Schema::builder();
    let indexing = TextFieldIndexing::default()
        .set_tokenizer(TOKENIZER_NAME)
        .set_index_option(IndexRecordOption::WithFreqsAndPositions)
        .set_fieldnorms(true);
    let options = TextOptions::default().set_indexing_options(indexing);
    let fields: Vec<Field> =
        (0..fields).map(|field| schema.add_text_field(&field.to_string(), options.clone())).collect();
    let directory = MemoryDirectory::default();
    let mut writer: SingleSegmentIndexWriter<TantivyDocument> = Index::builder()
        .schema(schema.build())
        .settings(index_settings())
        .tokenizers(tokenizers(analyzer))
        .single_segment_index_writer(directory.clone(), WRITER_BUDGET_BYTES)
        .map_err(failed)?;
    for texts in rows {
        let mut document = TantivyDocument::default();
        for (field, text) in fields.iter().zip(texts) {
            if let Some(text) = text {
                document.add_text(*field, text);
            }
        }
        writer.add_document(document).map_err(failed)?;
        if writer.mem_usage() > memory_max {
            return Err(Error::exhausted(format!(
                "building a text index takes more than {memory_max} bytes, which this node has for it: use \
                 an analyzer that makes fewer terms, or smaller segments"
            )));
        }
    }
    writer.finalize().map_err(failed)?;
    Ok(directory.to_archive())
}
