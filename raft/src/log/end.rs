//! The end of the log, kept beside it: the last entry that is durable, the last vote, and whether other
//! members could replace what is lost.
//!
//! After a crash, the last record of the log may be torn, and nobody was told of it. A log that has lost
//! entries which were acknowledged looks the same. This file tells the two apart: it is written after each
//! sync of the log, so it is never ahead of it. It is synced in the background, so that no commit waits for
//! it; what it says is behind the log by that time at most.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

use plexus_model::{Error, Result};
use rkyv::{Archive, Deserialize, Serialize};

use crate::wire::{WireLogId, WireVote};

/// Distance of the two copies, which are written in turns: a torn write leaves the other one.
const COPY_BYTES: u64 = 4096;

/// What the file says.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Debug, Default)]
pub(crate) struct End {
    /// Counts the writes.
    sequence: u64,
    /// The last entry that is durable.
    pub(crate) last: Option<WireLogId>,
    /// Where the durable records end, counted from the first byte of the log.
    pub(crate) bytes: u64,
    /// The last vote.
    pub(crate) vote: Option<WireVote>,
    /// Whether this member is the only voter.
    pub(crate) is_alone: bool,
}

/// The file.
pub(crate) struct LogEnd {
    file: File,
    end: Mutex<End>,
    is_synced: AtomicBool,
}

impl LogEnd {
    /// Opens the file at `path`, and creates it if there is none.
    ///
    /// # Errors
    /// The I/O error; `Corrupt` when both copies are damaged.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let open = || -> io::Result<(File, Vec<u8>)> {
            let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
            let mut bytes = vec![0; file.metadata()?.len().min(2 * COPY_BYTES) as usize];
            file.read_exact_at(&mut bytes, 0)?;
            Ok((file, bytes))
        };
        let (file, bytes) = open().map_err(|e| Error::io(path.display(), e))?;
        let copies = bytes.chunks(COPY_BYTES as usize).filter_map(parse);
        let end = match copies.max_by_key(|end| end.sequence) {
            Some(end) => end,
            None if bytes.is_empty() => End::default(),
            None => {
                return Err(Error::corrupt(format!(
                    "{}: both copies are damaged. If nothing else is, delete the file: it is made anew from \
                     the log",
                    path.display()
                )));
            }
        };
        let this = Self { file, end: Mutex::new(end), is_synced: AtomicBool::new(false) };
        // Both copies, so that no later write needs space.
        for _ in 0..2 {
            this.change(|_| {}).map_err(|e| Error::io(path.display(), e))?;
        }
        this.sync().map_err(|e| Error::io(path.display(), e))?;
        Ok(this)
    }

    /// What the file says.
    pub(crate) fn get(&self) -> End {
        *self.lock()
    }

    /// Records that the log is durable up to entry `last`, whose record ends at `bytes`.
    pub(crate) fn appended(&self, last: WireLogId, bytes: u64) -> io::Result<()> {
        self.change(|end| {
            end.last = end.last.max(Some(last));
            end.bytes = bytes;
        })
    }

    /// Records whether this member is the only voter.
    pub(crate) fn set_alone(&self, is_alone: bool) -> io::Result<()> {
        self.change(|end| end.is_alone = is_alone)
    }

    /// Records a vote durably.
    pub(crate) fn voted(&self, vote: WireVote) -> io::Result<()> {
        self.change(|end| end.vote = Some(vote))?;
        self.sync()
    }

    /// Makes durable what was recorded.
    pub(crate) fn sync(&self) -> io::Result<()> {
        if self.is_synced.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.file.sync_data().inspect_err(|_| self.is_synced.store(false, Ordering::Release))
    }

    fn change(&self, change: impl FnOnce(&mut End)) -> io::Result<()> {
        let mut end = self.lock();
        change(&mut end);
        end.sequence += 1;
        let mut bytes = plexus_model::encode(&*end);
        bytes.extend_from_slice(blake3::hash(&bytes).as_bytes());
        bytes.resize(COPY_BYTES as usize, 0);
        self.file.write_all_at(&bytes, end.sequence % 2 * COPY_BYTES)?;
        self.is_synced.store(false, Ordering::Release);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, End> {
        self.end.lock().expect("no code panics while it holds this lock")
    }
}

/// One copy, if it is not damaged.
fn parse(copy: &[u8]) -> Option<End> {
    let length = plexus_model::encode(&End::default()).len();
    let (body, rest) = copy.split_at_checked(length)?;
    let checksum = rest.get(..blake3::OUT_LEN)?;
    (blake3::hash(body).as_bytes() == checksum).then(|| plexus_model::decode("end of the log", body).ok())?
}

/// Whether an error of opening a log says that its content is damaged.
pub(super) fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof | ErrorKind::NotFound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_write_counts_and_a_torn_one_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.end");
        let id = |index| WireLogId { term: 1, leader: 1, index };
        let end = LogEnd::open(&path).unwrap();
        assert_eq!(end.get().last, None);
        (1..=5).for_each(|index| end.appended(id(index), 0).unwrap());
        end.appended(id(3), 0).unwrap();
        let vote = WireVote { term: 2, node: 3, committed: false };
        end.voted(vote).unwrap();
        drop(end);
        let end = LogEnd::open(&path).unwrap().get();
        assert_eq!((end.last, end.vote, end.is_alone), (Some(id(5)), Some(vote), false));

        // The copy that was written last is torn; the other one is as old as the write before.
        let end = LogEnd::open(&path).unwrap();
        end.appended(id(6), 0).unwrap();
        end.appended(id(7), 0).unwrap();
        let newest = end.get().sequence % 2 * COPY_BYTES;
        end.file.write_all_at(&[0xff; 20], newest + 8).unwrap();
        drop(end);
        assert_eq!(LogEnd::open(&path).unwrap().get().last, Some(id(6)));

        std::fs::write(&path, [1; 2 * COPY_BYTES as usize]).unwrap();
        assert!(LogEnd::open(&path).err().unwrap().message().contains("both copies"));
    }
}
