//! What Arrow IPC messages announce, checked before a decoder believes it.
//!
//! Arrow's decoder allocates bodies, decompressed buffers and arrays by the lengths that a message announces:
//! a few hundred bytes can ask for terabytes. Whoever decodes bytes from outside runs one of these checks
//! first.

use std::fs::File;
use std::io::{Read, Result as IoResult};
use std::os::unix::fs::FileExt;

use arrow_ipc::{Message, RecordBatch, Schema, root_as_footer, root_as_message};
use plexus_model::{Error, Result};

use crate::ipc_layout::Layouts;
use crate::ipc_schema::check_schema;

/// Limit on the buffers of one message of a file after decompression, in bytes.
const FILE_MESSAGE_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// The same for a message that a client sends. Those without compression have no more.
const SENT_MESSAGE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// The smallest value takes one bit.
const ELEMENTS_PER_BYTE: u64 = 8;

/// Elements that a column may have beyond what the bytes of its message can hold. Values of type `Null` take
/// no bytes at all.
const ELEMENTS_WITHOUT_BYTES: u64 = 1024 * 1024;

/// The first bytes of a message. Streams of old writers lack it.
const CONTINUATION: [u8; 4] = [0xff; 4];

/// Ends a file.
const MAGIC: &[u8] = b"ARROW1";

/// Bytes of the length of the footer, and of the magic after it.
const TRAILER_BYTES: u64 = 10;

/// Bytes that can be read at any offset.
pub trait ReadAt {
    /// Number of bytes.
    ///
    /// # Errors
    /// Those of the file system.
    fn size(&self) -> IoResult<u64>;

    /// Fills `buffer` with the bytes from `offset` on.
    ///
    /// # Errors
    /// Those of the file system, and `UnexpectedEof`.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> IoResult<()>;
}

impl ReadAt for [u8] {
    fn size(&self) -> IoResult<u64> {
        Ok(self.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> IoResult<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.len());
        (&self[start..]).read_exact(buffer)
    }
}

impl ReadAt for File {
    fn size(&self) -> IoResult<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> IoResult<()> {
        self.read_exact_at(buffer, offset)
    }
}

/// Checks the messages of one stream, one after the other. It knows the schema once it has seen it.
pub struct MessageCheck {
    layouts: Option<Layouts>,
    bytes_max: u64,
}

impl MessageCheck {
    /// Checks the messages of an upload.
    pub fn of_upload() -> Self {
        Self { layouts: None, bytes_max: SENT_MESSAGE_BYTES_MAX }
    }

    fn of_file() -> Self {
        Self { layouts: None, bytes_max: FILE_MESSAGE_BYTES_MAX }
    }

    /// Checks a message that arrived as a header and a body, as those of Flight do.
    ///
    /// # Errors
    /// `InvalidArgument` says what the message announces.
    pub fn check(&mut self, header: &[u8], body: &[u8]) -> Result<()> {
        self.check_parsed(parse(header)?, &Section { source: body, start: 0, bytes: body.len() as u64 })
    }

    fn schema(&mut self, schema: Schema<'_>) -> Result<()> {
        check_schema(schema)?;
        self.layouts = Some(Layouts::of(schema));
        Ok(())
    }

    fn check_parsed(&mut self, message: Message<'_>, body: &Section<'_, impl ReadAt + ?Sized>) -> Result<()> {
        if let Some(schema) = message.header_as_schema() {
            return self.schema(schema);
        }
        if let Some(batch) = message.header_as_record_batch() {
            let buffers = check_batch(batch, body, self.bytes_max)?;
            return self.layouts()?.check_columns(batch, &buffers);
        }
        if let Some(dictionary) = message.header_as_dictionary_batch() {
            let batch = dictionary.data().ok_or_else(|| Error::invalid("a dictionary without values"))?;
            let buffers = check_batch(batch, body, self.bytes_max)?;
            return self.layouts()?.check_dictionary(dictionary.id(), batch, &buffers);
        }
        Ok(())
    }

    fn layouts(&self) -> Result<&Layouts> {
        self.layouts.as_ref().ok_or_else(|| Error::invalid("a message with rows comes before the schema"))
    }
}

/// Checks all messages of a stream.
///
/// # Errors
/// `InvalidArgument` says what a message announces; `Unavailable` or others when it cannot be read.
pub fn check_stream(source: &(impl ReadAt + ?Sized)) -> Result<()> {
    let (mut rest, mut check) = (Section::whole(source)?, MessageCheck::of_file());
    while let Some(header) = rest.header()? {
        let message = parse(&header)?;
        let body = rest.take(message.bodyLength())?;
        check.check_parsed(message, &body)?;
    }
    Ok(())
}

/// Checks all messages of a file of the random access format.
///
/// # Errors
/// As of [`check_stream`].
pub fn check_file(source: &(impl ReadAt + ?Sized)) -> Result<()> {
    let whole = Section::whole(source)?;
    let at_trailer = whole.bytes.checked_sub(TRAILER_BYTES).ok_or_else(cut_off)?;
    let trailer = whole.range(at_trailer, TRAILER_BYTES)?.read()?;
    let Some((length, MAGIC)) = trailer.split_first_chunk() else {
        return Err(cut_off());
    };
    let length = u64::try_from(i32::from_le_bytes(*length)).map_err(|_| cut_off())?;
    let footer = whole.range(at_trailer.checked_sub(length).ok_or_else(cut_off)?, length)?.read()?;
    let footer = root_as_footer(&footer).map_err(|e| Error::invalid(format!("its footer: {e}")))?;
    let mut check = MessageCheck::of_file();
    footer.schema().map_or(Ok(()), |schema| check.schema(schema))?;
    let blocks = [footer.dictionaries(), footer.recordBatches()].into_iter().flatten().flatten();
    for block in blocks {
        let mut rest = whole.range(unsigned(block.offset())?, u64::MAX)?;
        let header = rest.take(i64::from(block.metaDataLength()))?;
        let header = Section { ..header }.header()?.ok_or_else(cut_off)?;
        check.check_parsed(parse(&header)?, &rest.take(block.bodyLength())?)?;
    }
    Ok(())
}

/// A part of the bytes.
struct Section<'a, S: ?Sized> {
    source: &'a S,
    start: u64,
    bytes: u64,
}

impl<'a, S: ReadAt + ?Sized> Section<'a, S> {
    fn whole(source: &'a S) -> Result<Self> {
        let bytes = source.size().map_err(|e| Error::io("its size", e))?;
        Ok(Self { source, start: 0, bytes })
    }

    /// `length` bytes from `offset` on; the rest if `length` is `u64::MAX`.
    fn range(&self, offset: u64, length: u64) -> Result<Self> {
        let most = self.bytes.checked_sub(offset).ok_or_else(cut_off)?;
        let bytes = if length == u64::MAX { most } else { length };
        if bytes > most {
            return Err(cut_off());
        }
        Ok(Self { source: self.source, start: self.start + offset, bytes })
    }

    /// Cuts the first `length` bytes off.
    fn take(&mut self, length: i64) -> Result<Self> {
        let length = unsigned(length)?;
        let first = self.range(0, length)?;
        *self = self.range(length, u64::MAX)?;
        Ok(first)
    }

    fn read(&self) -> Result<Vec<u8>> {
        let mut buffer = vec![0; usize::try_from(self.bytes).map_err(|_| cut_off())?];
        self.source.read_at(&mut buffer, self.start).map_err(|e| Error::io("its bytes", e))?;
        Ok(buffer)
    }

    /// Cuts the header of a message off. `None` at the end of a stream.
    fn header(&mut self) -> Result<Option<Vec<u8>>> {
        const WORD: i64 = 4;
        if self.bytes == 0 {
            return Ok(None);
        }
        let mut word = self.take(WORD)?.read()?;
        if word == CONTINUATION {
            word = self.take(WORD)?.read()?;
        }
        match word.first_chunk().map(|word| i32::from_le_bytes(*word)) {
            None | Some(0) => Ok(None),
            Some(length) => self.take(i64::from(length))?.read().map(Some),
        }
    }
}

fn cut_off() -> Error {
    Error::invalid("a message announces more bytes than there are")
}

fn unsigned(length: i64) -> Result<u64> {
    u64::try_from(length).map_err(|_| Error::invalid(format!("a message announces the length {length}")))
}

fn parse(header: &[u8]) -> Result<Message<'_>> {
    root_as_message(header).map_err(|e| Error::invalid(format!("the header of a message: {e}")))
}

/// Checks buffers against the body, and lengths of columns against buffers. Returns the bytes of each buffer
/// after decompression.
fn check_batch(
    batch: RecordBatch<'_>,
    body: &Section<'_, impl ReadAt + ?Sized>,
    bytes_max: u64,
) -> Result<Vec<u64>> {
    let buffers = decompressed_bytes(batch, body)?;
    let bytes = buffers.iter().fold(0u64, |total, bytes| total.saturating_add(*bytes));
    if bytes > bytes_max && batch.compression().is_some() {
        return Err(Error::invalid(format!(
            "a message announces {bytes} bytes, the most is {bytes_max}: use smaller batches"
        )));
    }
    let most = bytes.saturating_mul(ELEMENTS_PER_BYTE).saturating_add(ELEMENTS_WITHOUT_BYTES);
    let lengths = batch.nodes().into_iter().flatten().map(arrow_ipc::FieldNode::length);
    for length in lengths.chain([batch.length()]) {
        if unsigned(length)? > most {
            return Err(Error::invalid(format!(
                "a message of {bytes} bytes announces {length} rows, the most is {most}: use smaller batches"
            )));
        }
    }
    Ok(buffers)
}

/// The bytes of each buffer of a batch after decompression.
fn decompressed_bytes(batch: RecordBatch<'_>, body: &Section<'_, impl ReadAt + ?Sized>) -> Result<Vec<u64>> {
    let mut sizes = Vec::new();
    for buffer in batch.buffers().into_iter().flatten() {
        let mut stored = body.range(unsigned(buffer.offset())?, unsigned(buffer.length())?)?;
        let mut bytes = stored.bytes;
        // A compressed buffer starts with its length, or with -1 if it is not compressed after all.
        if batch.compression().is_some() && bytes > 0 {
            let announced = stored.take(8)?.read()?;
            bytes = match announced.first_chunk().map(|bytes| i64::from_le_bytes(*bytes)) {
                Some(-1) => stored.bytes,
                announced => unsigned(announced.unwrap_or_default())?,
            };
        }
        sizes.push(bytes);
    }
    Ok(sizes)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, NullArray, RecordBatch, StringArray};
    use arrow_ipc::CompressionType;
    use arrow_ipc::writer::{FileWriter, IpcWriteOptions, StreamWriter};

    use super::*;

    fn batch() -> RecordBatch {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..1_000));
        let texts: ArrayRef = Arc::new(StringArray::from(vec!["same"; 1_000]));
        RecordBatch::try_from_iter([("n", numbers), ("s", texts)]).unwrap()
    }

    fn stream(batch: &RecordBatch, compression: Option<CompressionType>) -> Vec<u8> {
        let options = IpcWriteOptions::default().try_with_compression(compression).unwrap();
        let mut writer = StreamWriter::try_new_with_options(Vec::new(), &batch.schema(), options).unwrap();
        writer.write(batch).unwrap();
        writer.into_inner().unwrap()
    }

    fn file(batch: &RecordBatch) -> Vec<u8> {
        let mut writer = FileWriter::try_new(Vec::new(), &batch.schema()).unwrap();
        writer.write(batch).unwrap();
        writer.into_inner().unwrap()
    }

    #[test]
    fn what_writers_write_passes() {
        for compression in [None, Some(CompressionType::ZSTD), Some(CompressionType::LZ4_FRAME)] {
            check_stream(stream(&batch(), compression).as_slice()).unwrap();
        }
        check_file(file(&batch()).as_slice()).unwrap();
        check_stream(stream(&batch().slice(0, 0), None).as_slice()).unwrap();
        let nulls: ArrayRef = Arc::new(NullArray::new(1_000_000));
        check_stream(stream(&RecordBatch::try_from_iter([("z", nulls)]).unwrap(), None).as_slice()).unwrap();
    }

    #[test]
    fn rows_without_bytes_are_refused() {
        let nulls: ArrayRef = Arc::new(NullArray::new(1 << 40));
        let batch = RecordBatch::try_from_iter([("z", nulls)]).unwrap();
        for error in [
            check_stream(stream(&batch, None).as_slice()).unwrap_err(),
            check_file(file(&batch).as_slice()).unwrap_err(),
        ] {
            assert!(error.message().contains("announces 1099511627776 rows"), "{error}");
        }
    }

    #[test]
    fn announced_lengths_of_compressed_buffers_are_refused() {
        let mut bytes = stream(&batch(), Some(CompressionType::ZSTD));
        let announced = 8_000u64.to_le_bytes();
        let at = bytes.windows(8).position(|window| window == announced).unwrap();
        bytes[at..at + 8].copy_from_slice(&(1i64 << 61).to_le_bytes());
        let error = check_stream(bytes.as_slice()).unwrap_err();
        assert!(error.message().contains("announces"), "{error}");
    }

    #[test]
    fn a_stream_or_file_cut_anywhere_is_refused_or_ends_before_a_message() {
        let whole = stream(&batch(), None);
        let ends = (0..whole.len()).filter(|end| check_stream(&whole[..*end]).is_ok());
        // Before the schema, the batch and the marker of the end.
        assert_eq!(ends.count(), 3);
        let whole = file(&batch());
        assert!((0..whole.len()).all(|end| check_file(&whole[..end]).is_err()));
    }
}
