//! Building the text index of a segment.

use plexus_model::{Error, Result};
use tantivy::schema::{Field, IndexRecordOption, Schema, TextFieldIndexing, TextOptions};
use tantivy::tokenizer::TokenizerManager;
use tantivy::{Index, SingleSegmentIndexWriter, TantivyDocument};

use super::Analyzer;
use super::memory_directory::{MemoryDirectory, index_settings};
use super::row_lengths::{NO_TEXT, TokenCount};

/// Memory budget of the writer, in bytes. It sizes the initial hash table of terms, which grows from there.
const WRITER_BUDGET_BYTES: usize = 16 << 20;

/// The name of the analyzer of a field in the schema of the index.
fn tokenizer_name(field: usize) -> String {
    format!("analyzer {field}")
}

/// The tokenizers of an index, which are its one analyzer, with the tokens of each field counted.
fn tokenizers(analyzer: &Analyzer, counts: &[TokenCount]) -> TokenizerManager {
    let manager = TokenizerManager::new();
    for (field, count) in counts.iter().enumerate() {
        manager.register(&tokenizer_name(field), count.of(analyzer.to_tantivy()));
    }
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
    let fields: Vec<Field> = (0..fields)
        .map(|field| {
            let indexing = TextFieldIndexing::default()
                .set_tokenizer(&tokenizer_name(field))
                .set_index_option(IndexRecordOption::WithFreqsAndPositions)
                .set_fieldnorms(true);
            let options = TextOptions::default().set_indexing_options(indexing);
            schema.add_text_field(&field.to_string(), options)
        })
        .collect();
    let counts: Vec<TokenCount> = fields.iter().map(|_| TokenCount::default()).collect();
    let mut lengths: Vec<Vec<u8>> = vec![vec![]; fields.len()];
    let directory = MemoryDirectory::default();
    let mut writer: SingleSegmentIndexWriter<TantivyDocument> = Index::builder()
        .schema(schema.build())
        .settings(index_settings())
        .tokenizers(tokenizers(analyzer, &counts))
        .single_segment_index_writer(directory.clone(), WRITER_BUDGET_BYTES)
        .map_err(failed)?;
    for texts in rows {
        let mut document = TantivyDocument::default();
        for (field, text) in fields.iter().zip(&texts) {
            if let Some(text) = text {
                document.add_text(*field, text);
            }
        }
        writer.add_document(document).map_err(failed)?;
        for ((lengths, count), text) in lengths.iter_mut().zip(&counts).zip(&texts) {
            let tokens = count.take();
            lengths.extend(if text.is_some() { tokens } else { NO_TEXT }.to_le_bytes());
        }
        if writer.mem_usage() > memory_max {
            return Err(Error::exhausted(format!(
                "building a text index takes more than {memory_max} bytes, which this node has for it: use \
                 an analyzer that makes fewer terms, or smaller segments"
            )));
        }
    }
    writer.finalize().map_err(failed)?;
    Ok(directory.to_archive(lengths.concat()))
}
