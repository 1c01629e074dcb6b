//! The reader of the text index of a segment.

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

use super::archive::Archive;
use super::block_max::BlockMaxIndex;
use super::row_lengths::{LENGTHS_ENTRY, RowLengths};

/// The inverted index of one segment: for each field the postings of its terms and the length of each row.
/// Cheap to clone.
#[derive(Clone)]
pub struct TextIndex {
    fields: Vec<Arc<FieldIndex>>,
    rows: u32,
    /// Size of the files in bytes.
    bytes: usize,
}

/// Block-max indexes of terms that were searched and are in many rows, for the fields of a file together.
struct BlockMaxCache {
    known: RwLock<KnownBlockMaxIndexes>,
    /// Size limit in bytes.
    bytes_max: usize,
}

#[derive(Default)]
struct KnownBlockMaxIndexes {
    /// By field and term.
    indexes: HashMap<(usize, String), Arc<BlockMaxIndex>>,
    /// Size of all indexes in memory, in bytes.
    bytes: usize,
}

/// Block-max indexes of terms in fewer rows are cheap to compute and not cached.
const CACHED_ROWS_MIN: u32 = 512;

/// One field of a text index.
pub(super) struct FieldIndex {
    pub(super) inverted: Arc<InvertedIndexReader>,
    /// The length of the field in each row, as a code that [`decode_length`] decodes.
    pub(super) lengths: OwnedBytes,
    /// The same exactly.
    row_lengths: RowLengths,
    /// The sum of these.
    tokens: u64,
    /// The position of the field in its file.
    position: usize,
    block_max_cache: Arc<BlockMaxCache>,
}

/// Statistics of some rows of a segment.
///
/// The tokens of deleted rows are subtracted, so that the sums over all segments are the same for every
/// distribution of the rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextStatistics {
    /// Number of rows.
    pub rows: u64,
    /// Number of tokens of each field.
    pub tokens: Vec<u64>,
}

/// The number of tokens that a length code stands for. Up to 40 tokens it is exact, then it is rounded down.
pub(crate) fn decode_length(code: u8) -> u32 {
    FieldNormReader::id_to_fieldnorm(code)
}

fn corrupt(error: TantivyError) -> Error {
    Error::corrupt(format!("text index: {error}")).with_source(error)
}

pub(super) fn unreadable(error: io::Error) -> Error {
    Error::corrupt(format!("text index: {error}")).with_source(error)
}

/// Size limit of a cache of block-max indexes: an eighth of the index, and the frequency bitmaps of eight
/// terms.
fn cache_bytes_max(bytes: usize, rows: u32) -> usize {
    bytes / 8 + rows as usize * 2
}

impl BlockMaxCache {
    /// The index of a term, built unless it is known.
    fn get(&self, key: (usize, String), build: impl FnOnce() -> Arc<BlockMaxIndex>) -> Arc<BlockMaxIndex> {
        let known = self.known.read().expect("no code panics while it holds this lock");
        let cached = known.indexes.get(&key).cloned();
        drop(known);
        if let Some(index) = cached {
            return index;
        }
        let index = build();
        let mut known = self.known.write().expect("no code panics while it holds this lock");
        if known.bytes + index.bytes() > self.bytes_max {
            // Dropping all is simpler than an eviction order, and frequent terms are soon cached again.
            *known = KnownBlockMaxIndexes::default();
        }
        known.bytes += index.bytes();
        if let Some(built_concurrently) = known.indexes.insert(key, index.clone()) {
            known.bytes -= built_concurrently.bytes();
        }
        index
    }
}

impl std::fmt::Debug for TextIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TextIndex").field("rows", &self.rows).finish_non_exhaustive()
    }
}

impl TextIndex {
    /// Opens the bytes that [`build_text_index`](super::build_text_index) returned.
    ///
    /// The caller must have verified a checksum of the bytes: not all damage is detected here.
    ///
    /// # Errors
    /// `Corrupt` when the bytes are not a text index.
    pub fn open(bytes: Bytes) -> Result<Self> {
        let size = bytes.len();
        let archive = Archive::open(bytes)?;
        let lengths_of_rows = archive.entry(LENGTHS_ENTRY).cloned();
        let index = Index::open(archive).map_err(corrupt)?;
        let segments = index.searchable_segments().map_err(corrupt)?;
        let segment = segments.first().ok_or_else(|| Error::corrupt("text index: no segment"))?;
        let reader = SegmentReader::open(segment).map_err(corrupt)?;
        let lengths = reader.fieldnorms_readers().get_inner_file();
        let field_count = reader.schema().num_fields();
        let row_lengths = RowLengths::open(lengths_of_rows.as_ref(), field_count, reader.max_doc() as usize)?;
        let (known, bytes_max) = (RwLock::default(), cache_bytes_max(size, reader.max_doc()));
        let block_max_cache = Arc::new(BlockMaxCache { known, bytes_max });
        let fields = reader.schema().fields().zip(row_lengths).map(|((field, _), row_lengths)| {
            let lengths = lengths
                .open_read(field)
                .ok_or_else(|| Error::corrupt("text index: a field has no lengths"))?;
            let lengths = lengths.read_bytes().map_err(unreadable)?;
            if lengths.len() != reader.max_doc() as usize {
                return Err(Error::corrupt("text index: the number of lengths does not match the rows"));
            }
            let inverted = reader.inverted_index(field).map_err(corrupt)?;
            let (tokens, position) = (row_lengths.sum(), field.field_id() as usize);
            let block_max_cache = block_max_cache.clone();
            Ok(Arc::new(FieldIndex { inverted, lengths, row_lengths, tokens, position, block_max_cache }))
        });
        Ok(Self { fields: fields.collect::<Result<_>>()?, rows: reader.max_doc(), bytes: size })
    }

    /// One index over the fields of several, one after another.
    ///
    /// # Errors
    /// `Corrupt` when they are not of the same number of rows; `Internal` for none.
    pub fn together(indexes: Vec<Self>) -> Result<Self> {
        let mut indexes = indexes.into_iter();
        let mut all = indexes.next().ok_or_else(|| Error::internal("a text search of no index"))?;
        for index in indexes {
            if index.rows != all.rows {
                let (rows, others) = (all.rows, index.rows);
                return Err(Error::corrupt(format!("text indexes of {rows} and of {others} rows")));
            }
            all.fields.extend(index.fields);
            all.bytes += index.bytes;
        }
        Ok(all)
    }

    /// Number of rows of the segment.
    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// Size in bytes, including the full cache of block-max indexes.
    pub fn bytes(&self) -> usize {
        self.bytes + cache_bytes_max(self.bytes, self.rows)
    }

    /// The block-max index of a term whose postings are `postings`.
    pub(super) fn block_max_index(
        &self,
        field: usize,
        term: &str,
        postings: &BlockSegmentPostings,
    ) -> Result<Arc<BlockMaxIndex>> {
        let field = self.field(field)?;
        let build = || Arc::new(BlockMaxIndex::new(postings.clone(), &field.lengths));
        match postings.doc_freq() < CACHED_ROWS_MIN {
            true => Ok(build()),
            false => Ok(field.block_max_cache.get((field.position, term.to_owned()), build)),
        }
    }

    pub(super) fn field(&self, field: usize) -> Result<&FieldIndex> {
        let found = self.fields.get(field).map(Arc::as_ref);
        found.ok_or_else(|| Error::internal(format!("the text index has no field {field}")))
    }

    /// Statistics of the rows that are not in `deleted`.
    pub fn statistics(&self, deleted: &RowSet) -> TextStatistics {
        let tokens = self.fields.iter().map(|field| {
            let of_deleted: u64 = deleted.iter().map(|row| field.row_lengths.of(row)).sum();
            field.tokens.saturating_sub(of_deleted)
        });
        let deleted_rows = deleted.range_cardinality(..self.rows);
        TextStatistics { rows: u64::from(self.rows) - deleted_rows, tokens: tokens.collect() }
    }

    /// The rows that have a text in any of some fields, even an empty one.
    ///
    /// # Errors
    /// `Internal` when a field does not exist.
    pub(super) fn rows_with_text(&self, fields: &[usize]) -> Result<RowSet> {
        let fields = fields.iter().map(|field| self.field(*field)).collect::<Result<Vec<_>>>()?;
        let has_text = |row: &u32| fields.iter().any(|field| field.row_lengths.has_text(*row));
        Ok((0..self.rows).filter(has_text).collect())
    }

    /// The document frequency of a term in a field, among the rows that are not in `deleted`.
    ///
    /// # Errors
    /// `Corrupt` when the index is damaged; `Internal` when the field does not exist.
    pub fn document_frequency(&self, field: usize, term: &str, deleted: &RowSet) -> Result<u64> {
        if deleted.is_empty() {
            // The dictionary has the number of all rows, so that no postings are read.
            let info = self.field(field)?.inverted.terms().get(term.as_bytes()).map_err(unreadable)?;
            return Ok(info.map_or(0, |info| u64::from(info.doc_freq)));
        }
        let Some(mut postings) = self.postings(field, term, IndexRecordOption::Basic)? else {
            return Ok(0);
        };
        let mut count = 0;
        while !postings.docs().is_empty() {
            count += postings.docs().iter().filter(|row| !deleted.contains(**row)).count() as u64;
            postings.advance();
        }
        Ok(count)
    }

    /// The postings of a term in blocks; `None` when no row has the term.
    pub(super) fn postings(
        &self,
        field: usize,
        term: &str,
        option: IndexRecordOption,
    ) -> Result<Option<BlockSegmentPostings>> {
        let inverted = &self.field(field)?.inverted;
        let info = inverted.terms().get(term.as_bytes()).map_err(unreadable)?;
        let read = |info| inverted.read_block_postings_from_terminfo(&info, option).map_err(unreadable);
        info.map(read).transpose()
    }

    /// The postings of a term with its positions; `None` when no row has the term.
    pub(super) fn positions(&self, field: usize, term: &str) -> Result<Option<SegmentPostings>> {
        let inverted = &self.field(field)?.inverted;
        let info = inverted.terms().get(term.as_bytes()).map_err(unreadable)?;
        let option = IndexRecordOption::WithFreqsAndPositions;
        let read = |info| inverted.read_postings_from_terminfo(&info, option).map_err(unreadable);
        info.map(read).transpose()
    }
}
