//! Cursors: the argument `search_after` of a search, which continues it after the last row of a page.

use plexus_model::{Error, Result};

/// The end of a page, where the next page begins.
///
/// The same search at the same version always finds the same rows in the same order, so the number of rows
/// seen identifies the position. The number of fused candidates is part of the cursor because the order
/// depends on it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Cursor {
    /// The version that all pages read.
    pub version: u64,
    /// Rows up to the cursor, including rows skipped by `offset`.
    pub seen: usize,
    /// Rows of each retriever that are fused.
    pub candidates: usize,
    /// The search, as a hash that [`Request::ranking`](super::request::Request::ranking) computes.
    pub ranking: u64,
}

/// Number of rows that can be paged through.
pub(crate) const SEEN_MAX: usize = 1_000_000;

impl Cursor {
    /// The cursor as the result column `_cursor` shows it.
    pub(crate) fn to_text(self) -> String {
        format!("{}.{}.{}.{:x}", self.version, self.seen, self.candidates, self.ranking)
    }

    /// Parses what [`Cursor::to_text`] wrote.
    ///
    /// # Errors
    /// `InvalidArgument` when the text is not a cursor.
    pub(crate) fn from_text(text: &str) -> Result<Self> {
        let wrong =
            || Error::invalid(format!("{:?} is not a cursor of a search", plexus_model::cut(text, 80)));
        let parts: Vec<&str> = text.split('.').collect();
        let [version, seen, candidates, ranking] = parts.as_slice() else {
            return Err(wrong());
        };
        let version = version.parse().map_err(|_| wrong())?;
        let seen = seen.parse().ok().filter(|seen| *seen <= SEEN_MAX).ok_or_else(wrong)?;
        let candidates = candidates.parse().ok().filter(|n| *n <= SEEN_MAX).ok_or_else(wrong)?;
        let ranking = u64::from_str_radix(ranking, 16).map_err(|_| wrong())?;
        Ok(Self { version, seen, candidates, ranking })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_survive_a_round_trip_through_text() {
        let cursor = Cursor { version: 7, seen: 10, candidates: 100, ranking: 0xbeef };
        assert_eq!(Cursor::from_text(&cursor.to_text()).unwrap(), cursor);
        for wrong in ["", "1.2", "x.2.3.4", "1.2.3", "1.2.3.4.5", "1.99999999.3.4", "1.2.-3.4", "1.2.3.x"] {
            assert!(Cursor::from_text(wrong).is_err(), "{wrong}");
        }
    }
}
