//! TODO module docs.

use plexus_model::{Error, Result};

/// Where a page ends: the next begins after it. At one version the same search always finds the same, so that it is
/// enough to know how far it was read; with how many rows of each retriever were fused, on which that depends.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Cursor {
    pub version: u64,
    /// How many rows came up to it.
    pub seen: usize,
    pub candidates: usize,
}

/// Rows that can be paged through.
pub const SEEN_MAX: usize = 1_000_000;

impl Cursor {
    pub fn to_text(self) -> String {
        format!("{}.{}.{}", self.version, self.seen, self.candidates)
    }

    /// # Errors
    /// `InvalidArgument` when it is none.
    pub fn from_text(text: &str) -> Result<Self> {
        let wrong = || Error::invalid(format!("{text:.80?} is not a cursor that a search gave"));
        let parts: Vec<&str> = text.split('.').collect();
        let [version, seen, candidates] = parts.as_slice() else {
            return Err(wrong());
        };
        let version = version.parse().map_err(|_| wrong())?;
        let seen = seen.parse().ok().filter(|seen| *seen <= SEEN_MAX).ok_or_else(wrong)?;
        let candidates = candidates.parse().ok().filter(|n| *n <= SEEN_MAX).ok_or_else(wrong)?;
        Ok(Self { version, seen, candidates })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_read_as_they_are_written() {
        let cursor = Cursor { version: 7, seen: 10, candidates: 100 };
        assert_eq!(Cursor::from_text(&cursor.to_text()).unwrap(), cursor);
        for wrong in ["", "1.2", "x.2.3", "1.2.3.4", "1.99999999.3", "1.2.-3"] {
            assert!(Cursor::from_text(wrong).is_err(), "{wrong}");
        }
    }
}
