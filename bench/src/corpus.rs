//! Texts and text queries over a made-up vocabulary with the term frequencies of natural language.

use std::io::Write;
use std::ops::Range;
use std::path::Path;

use fastrand::Rng;
use plexus_model::{Error, Result};

/// Queries of each kind.
pub(crate) const QUERIES: usize = 300;
/// Distinct terms, `w1` to `w20000`, the most frequent first.
const VOCABULARY: u64 = 20_000;
const TERMS_PER_TEXT: Range<u64> = 5..56;

/// Texts of many lengths. The frequency of the n-th term is in proportion to 1/n (Zipf's law).
pub(crate) fn texts(rows: usize) -> Vec<String> {
    let mut random = Rng::with_seed(0xbe_ef);
    let text = |_| {
        let length = random.u64(TERMS_PER_TEXT);
        let mut term = || ((VOCABULARY as f64).powf(random.f64())) as u64;
        (0..length).map(|_| format!("w{}", term())).collect::<Vec<_>>().join(" ")
    };
    (0..rows).map(text).collect()
}

/// Queries of two terms, the first of them frequent.
pub(crate) fn two_term_queries() -> Vec<String> {
    (0..QUERIES).map(|i| format!("w{} w{}", 20 + i % 50, 300 + i * 7)).collect()
}

/// Queries with the name of their kind.
pub(crate) fn query_kinds() -> Vec<(&'static str, Vec<String>)> {
    let of = |make: fn(usize) -> String| (0..QUERIES).map(make).collect();
    vec![
        ("two terms", two_term_queries()),
        ("two frequent terms", of(|i| format!("w{} w{}", 1 + i % 7, 9 + i % 31))),
        (
            "five terms",
            of(|i| format!("w{} w{} w{} w{} w{}", 1 + i % 5, 10 + i % 20, 50 + i, 400 + i, 2_000 + i)),
        ),
        ("two required terms", of(|i| format!("+w{} +w{}", 2 + i % 10, 20 + i % 50))),
        ("phrase", of(|i| format!("\"w{} w{}\"", 1 + i % 5, 2 + i % 11))),
    ]
}

/// Writes one text per line, which the peers read.
pub(crate) fn write(path: &Path, texts: &[String]) -> Result<()> {
    let fail = |e| Error::io(path.display(), e);
    let mut file = std::io::BufWriter::new(std::fs::File::create(path).map_err(fail)?);
    texts.iter().try_for_each(|text| writeln!(file, "{text}")).map_err(fail)?;
    file.flush().map_err(fail)
}
