//! Reading the index of a segment.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, RwLock};

use bytes::Bytes;
use plexus_model::{Error, Result, RowSet};
use tantivy::directory::OwnedBytes;
use tantivy::fieldnorm::FieldNormReader;
use tantivy::postings::{BlockSegmentPostings, SegmentPostings};
use tantivy::schema::IndexRecordOption;
use tantivy::{Index, InvertedIndexReader, SegmentReader, TantivyError};

use super::Analyzer;
use super::archive::Archive;
use super::block_max::BlockMaxIndex;
use super::build::tokenizers;

/// The text index of one segment. Cheap to clone.
#[derive(Clone)]
pub struct TextIndex {
    fields: Arc<Vec<FieldIndex>>,
    rows: u32,
    bytes: usize,
    /// Of terms that were searched for and are in many rows.
    blocks: Arc<RwLock<BlockMaxIndexes>>,
}

/// By field and term, with the bytes that they take.
#[derive(Default)]
struct BlockMaxIndexes {
    of: HashMap<(usize, String), Arc<BlockMaxIndex>>,
    bytes: usize,
}

/// Terms in fewer rows have their blocks made each time.
const KEPT_ROWS_MIN: u32 = 512;

/// One field of it.
pub(super) struct FieldIndex {
    pub inverted: Arc<InvertedIndexReader>,
    /// How long the field is in each row, rounded (see [`length_of`]).
    pub lengths: OwnedBytes,
    /// The sum of all lengths.
    pub tokens: u64,
}

/// What is known of some rows of a segment. Lengths are rounded, so that they can be taken away again when a row is
/// deleted, and add up to the same however rows are spread over segments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextStatistics {
    pub rows: u64,
    /// Tokens of each field.
    pub tokens: Vec<u64>,
}

/// The length that a code in [`FieldIndex::lengths`] stands for, in tokens.
pub fn length_of(code: u8) -> u32 {
    FieldNormReader::id_to_fieldnorm(code)
}

fn damaged(error: TantivyError) -> Error {
    Error::corrupt(format!("text index: {error}")).with_source(error)
}

pub(super) fn unreadable(error: io::Error) -> Error {
    Error::corrupt(format!("text index: {error}")).with_source(error)
}

impl std::fmt::Debug for TextIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TextIndex").field("rows", &self.rows).finish_non_exhaustive()
    }
}

impl TextIndex {
    /// Opens what [`super::build_text`] made. The bytes must have been compared with a checksum: of those that were
    /// changed since, not all are found out here.
    ///
    /// # Errors
    /// `Corrupt` when they are no text index.
    pub fn open(bytes: Bytes, analyzer: &Analyzer) -> Result<Self> {
        let size = bytes.len();
        let mut index = Index::open(Archive::open(bytes)?).map_err(damaged)?;
        index.set_tokenizers(tokenizers(analyzer));
        let segments = index.searchable_segments().map_err(damaged)?;
        let segment = segments.first().ok_or_else(|| Error::corrupt("text index: without a segment"))?;
        let reader = SegmentReader::open(segment).map_err(damaged)?;
        let lengths = reader.fieldnorms_readers().get_inner_file();
        let fields = reader.schema().fields().map(|(field, _)| {
            let lengths =
                lengths.open_read(field).ok_or_else(|| Error::corrupt("text index: without lengths"))?;
            let lengths = lengths.read_bytes().map_err(unreadable)?;
            if lengths.len() != reader.max_doc() as usize {
                return Err(Error::corrupt("text index: not as many lengths as rows"));
            }
            let tokens = lengths.iter().map(|code| u64::from(length_of(*code))).sum();
            Ok(FieldIndex { inverted: reader.inverted_index(field).map_err(damaged)?, lengths, tokens })
        });
        let fields = fields.collect::<Result<Vec<_>>>()?;
        Ok(Self { fields: Arc::new(fields), rows: reader.max_doc(), bytes: size, blocks: Arc::default() })
    }

    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// Bytes that it takes, with what is made of it when it is searched.
    pub fn bytes(&self) -> usize {
        self.bytes + self.kept_max()
    }

    /// Bytes of blocks that are kept: an eighth of the index, and the frequencies of eight terms that are in many rows.
    fn kept_max(&self) -> usize {
        self.bytes / 8 + self.rows as usize * 2
    }

    /// The blocks of a term that is there.
    pub(super) fn blocks(
        &self,
        field: usize,
        term: &str,
        postings: &BlockSegmentPostings,
    ) -> Result<Arc<BlockMaxIndex>> {
        let make = || Ok(Arc::new(BlockMaxIndex::new(postings.clone(), &self.field(field)?.lengths)));
        if postings.doc_freq() < KEPT_ROWS_MIN {
            return make();
        }
        let key = (field, term.to_owned());
        let kept = self.blocks.read().expect("no code panics while it holds this lock").of.get(&key).cloned();
        if let Some(blocks) = kept {
            return Ok(blocks);
        }
        let blocks = make()?;
        let mut all = self.blocks.write().expect("no code panics while it holds this lock");
        if all.bytes + blocks.bytes() > self.kept_max() {
            // Those that are still asked for are soon there again.
            *all = BlockMaxIndexes::default();
        }
        all.bytes += blocks.bytes();
        if let Some(made_meanwhile) = all.of.insert(key, blocks.clone()) {
            all.bytes -= made_meanwhile.bytes();
        }
        Ok(blocks)
    }

    pub(super) fn field(&self, field: usize) -> Result<&FieldIndex> {
        self.fields.get(field).ok_or_else(|| Error::internal(format!("text index without field {field}")))
    }

    /// Of the rows that are not `hidden`.
    pub fn statistics(&self, hidden: &RowSet) -> TextStatistics {
        let tokens = self.fields.iter().map(|field| {
            let length = |code: &u8| u64::from(length_of(*code));
            let gone = hidden.iter().filter_map(|row| field.lengths.get(row as usize));
            field.tokens - gone.map(length).sum::<u64>()
        });
        let gone = hidden.range_cardinality(..self.rows);
        TextStatistics { rows: u64::from(self.rows) - gone, tokens: tokens.collect() }
    }

    /// How many rows that are not `hidden` have a term in a field.
    pub fn frequency(&self, field: usize, term: &str, hidden: &RowSet) -> Result<u64> {
        if hidden.is_empty() {
            // The dictionary knows.
            let found = self.field(field)?.inverted.terms().get(term.as_bytes()).map_err(unreadable)?;
            return Ok(found.map_or(0, |info| u64::from(info.doc_freq)));
        }
        let Some(mut postings) = self.postings(field, term, IndexRecordOption::Basic)? else {
            return Ok(0);
        };
        let mut count = 0;
        while !postings.docs().is_empty() {
            count += postings.docs().iter().filter(|row| !hidden.contains(**row)).count() as u64;
            postings.advance();
        }
        Ok(count)
    }

    /// The rows of a term, block by block.
    pub(super) fn postings(
        &self,
        field: usize,
        term: &str,
        option: IndexRecordOption,
    ) -> Result<Option<BlockSegmentPostings>> {
        let inverted = &self.field(field)?.inverted;
        let found = inverted.terms().get(term.as_bytes()).map_err(unreadable)?;
        let read = |info| inverted.read_block_postings_from_terminfo(&info, option).map_err(unreadable);
        found.map(read).transpose()
    }

    /// The rows of a term, with its places in them.
    pub(super) fn positions(&self, field: usize, term: &str) -> Result<Option<SegmentPostings>> {
        let inverted = &self.field(field)?.inverted;
        let found = inverted.terms().get(term.as_bytes()).map_err(unreadable)?;
        let option = IndexRecordOption::WithFreqsAndPositions;
        let read = |info| inverted.read_postings_from_terminfo(&info, option).map_err(unreadable);
        found.map(read).transpose()
    }
}
