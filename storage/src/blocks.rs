//! Checksums of the blocks of a file, by which reads notice that the disk has changed it.
//!
//! A file is verified as a whole when it is first opened. Its pages may leave memory after that, and come
//! back from the disk with other bytes. So each read verifies the blocks that it touches.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use xxhash_rust::xxh3::xxh3_64;

/// Bytes of a block. A small read costs one block; a checksum of four bytes each makes 64 MiB a terabyte.
const BLOCK_BYTES: usize = 64 * 1024;

/// The verified state of a file.
#[derive(Debug)]
pub(crate) struct Blocks {
    checksum: [u8; 32],
    length: u64,
    blocks: Box<[u32]>,
}

impl Blocks {
    /// Reads a whole file.
    ///
    /// # Errors
    /// The I/O error.
    pub(crate) fn of(mut file: &File) -> io::Result<Self> {
        let (mut hasher, mut blocks, mut length) = (blake3::Hasher::new(), Vec::new(), 0);
        let mut buffer = vec![0; BLOCK_BYTES];
        loop {
            let mut filled = 0;
            while filled < BLOCK_BYTES {
                match file.read(&mut buffer[filled..]) {
                    Ok(0) => break,
                    Ok(read) => filled += read,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            if filled == 0 {
                break;
            }
            hasher.update(&buffer[..filled]);
            blocks.push(sum(&buffer[..filled]));
            length += filled as u64;
        }
        Ok(Self { checksum: *hasher.finalize().as_bytes(), length, blocks: blocks.into() })
    }

    /// Whether the file has this length and BLAKE3 checksum.
    pub(crate) fn matches(&self, length: u64, checksum: &[u8; 32]) -> bool {
        self.length == length && self.checksum == *checksum
    }

    /// Fills `buffer` with the bytes of the file from `offset` on, and verifies the blocks that they are in.
    ///
    /// # Errors
    /// The I/O error; `InvalidData`, with the place, when the file has changed.
    pub(crate) fn read(&self, file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buffer.len() as u64).filter(|end| *end <= self.length);
        let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut at = offset;
        while at < end {
            let block = (at / BLOCK_BYTES as u64) as usize;
            let place = self.place(block);
            let rest = &mut buffer[(at - offset) as usize..];
            let is_whole = at == place.start && place.end <= end;
            if is_whole {
                // As many whole blocks as there are, with one call.
                let whole = ((end - at) / BLOCK_BYTES as u64).max(1) as usize;
                let blocks = block..(block + whole).min(self.blocks.len());
                let bytes = (self.place(blocks.end - 1).end - at) as usize;
                let rest = &mut rest[..bytes];
                file.read_exact_at(rest, at)?;
                for (block, content) in blocks.zip(rest.chunks(BLOCK_BYTES)) {
                    self.verify(block, content)?;
                }
                at += bytes as u64;
            } else {
                let mut content = vec![0; (place.end - place.start) as usize];
                file.read_exact_at(&mut content, place.start)?;
                self.verify(block, &content)?;
                let to = place.end.min(end);
                let wanted = (at - place.start) as usize..(to - place.start) as usize;
                rest[..wanted.len()].copy_from_slice(&content[wanted]);
                at = to;
            }
        }
        Ok(())
    }

    /// Where a block is in the file.
    fn place(&self, block: usize) -> Range<u64> {
        let start = (block * BLOCK_BYTES) as u64;
        start..(start + BLOCK_BYTES as u64).min(self.length)
    }

    fn verify(&self, block: usize, content: &[u8]) -> io::Result<()> {
        match self.blocks.get(block) {
            Some(expected) if sum(content) == *expected => Ok(()),
            _ => {
                let place = self.place(block);
                let message = format!("bytes {} to {} have changed on disk", place.start, place.end);
                Err(io::Error::new(io::ErrorKind::InvalidData, message))
            }
        }
    }
}

fn sum(content: &[u8]) -> u32 {
    xxh3_64(content) as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn reads_return_what_was_written_and_notice_each_changed_byte(
            length in 1..5 * BLOCK_BYTES,
            from in 0.0..1.0f64,
            to in 0.0..1.0f64,
            changed in 0.0..1.0f64,
        ) {
            let content: Vec<u8> = (0..length).map(|n| (n * 31 % 251) as u8).collect();
            let path = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(path.path(), &content).unwrap();
            let file = File::options().read(true).write(true).open(path.path()).unwrap();
            let blocks = Blocks::of(&file).unwrap();
            prop_assert!(blocks.matches(length as u64, blake3::hash(&content).as_bytes()));
            let at = |share: f64| (share * length as f64) as usize;
            let range = at(from.min(to))..at(from.max(to));
            let mut buffer = vec![0; range.len()];
            blocks.read(&file, &mut buffer, range.start as u64).unwrap();
            prop_assert_eq!(&buffer, &content[range.clone()]);

            let changed = at(changed);
            file.write_all_at(&[content[changed] ^ 1], changed as u64).unwrap();
            let touched = range.start / BLOCK_BYTES..range.end.div_ceil(BLOCK_BYTES);
            let is_noticed = blocks.read(&file, &mut buffer, range.start as u64).is_err();
            prop_assert_eq!(is_noticed, !range.is_empty() && touched.contains(&(changed / BLOCK_BYTES)));
            prop_assert!(blocks.read(&file, &mut [0; 2], length as u64 - 1).is_err());
        }
    }
}
