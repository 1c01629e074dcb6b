//! The bytes of a text file: decompressed, decoded to UTF-8, without a byte order mark.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Result as IoResult};
use std::path::Path;

use encoding_rs::Encoding;
use encoding_rs_io::DecodeReaderBytesBuilder;
use flate2::read::MultiGzDecoder;
use plexus_model::{Error, Result};

const BUFFER_BYTES: usize = 1024 * 1024;

/// A reader of text.
pub(crate) struct Source(BufReader<Box<dyn Read + Send>>);

impl Source {
    /// Opens a file. Without an encoding, a byte order mark decides, and UTF-8 is assumed.
    ///
    /// # Errors
    /// When the file cannot be opened, or there is no encoding of that name.
    pub(crate) fn open(path: &Path, encoding: Option<&str>) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io(path.display(), e))?;
        let failed = |e| Error::io(path.display(), e);
        let mut bytes = decompress(BufReader::with_capacity(BUFFER_BYTES, file)).map_err(failed)?;
        let encoding = match encoding {
            Some(name) => Some(Encoding::for_label(name.as_bytes()).ok_or_else(|| {
                Error::invalid(format!(
                    "encoding {name:?} is unknown; for example utf-8, utf-16le, windows-1252"
                ))
            })?),
            None => None,
        };
        let marked = {
            let mut buffered = BufReader::with_capacity(BUFFER_BYTES, bytes);
            let head = buffered.fill_buf().map_err(failed)?;
            let marked = Encoding::for_bom(head).is_some();
            bytes = Box::new(buffered);
            marked
        };
        // Bytes that are not UTF-8 are reported with their line, so nothing replaces them here.
        if encoding.is_none() && !marked {
            return Ok(Self(BufReader::with_capacity(BUFFER_BYTES, bytes)));
        }
        let decoder = DecodeReaderBytesBuilder::new().encoding(encoding).bom_override(true).build(bytes);
        Ok(Self(BufReader::with_capacity(BUFFER_BYTES, Box::new(decoder))))
    }
}

/// The content of a file that may be compressed by gzip or zstd.
fn decompress(mut file: BufReader<File>) -> IoResult<Box<dyn Read + Send>> {
    let head = file.fill_buf()?;
    if head.starts_with(&[0x1f, 0x8b]) {
        return Ok(Box::new(MultiGzDecoder::new(file)));
    }
    if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        return Ok(Box::new(zstd::Decoder::with_buffer(file)?));
    }
    Ok(Box::new(file))
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> IoResult<usize> {
        self.0.read(buffer)
    }
}

impl BufRead for Source {
    fn fill_buf(&mut self) -> IoResult<&[u8]> {
        self.0.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.0.consume(amount);
    }
}
