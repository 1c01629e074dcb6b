//! Nearest vectors in Rust libraries. Arguments: files of vectors, queries and the nearest of each, length,
//! k, recall.
//!
//! Prints lines of a name, what was measured, and queries a second of one thread at the recall, separated
//! by tabs.

mod hnsw;
mod vamana;

use std::error::Error;
use std::fmt::Display;
use std::io::Write;
use std::str::FromStr;
use std::time::Instant;
use std::{env, fs, io};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let data = Data::read(&arguments)?;
    hnsw::measure(&data)?;
    vamana::measure(&data)
}

/// The vectors, what is asked of them, and what would be right.
struct Data {
    vectors: Vec<f32>,
    queries: Vec<f32>,
    truth: Vec<u32>,
    length: usize,
    k: usize,
    wanted: f64,
}

impl Data {
    fn read(arguments: &[String]) -> Result<Self> {
        let [vectors, queries, truth, length, k, wanted] = arguments else {
            return Err("wanted: files of vectors, queries and the nearest of each, length, k, recall".into());
        };
        let (length, k) = (parsed(length, "length")?, parsed(k, "k")?);
        let data = Self {
            vectors: rows(vectors, length, f32::from_le_bytes)?,
            queries: rows(queries, length, f32::from_le_bytes)?,
            truth: rows(truth, k, u32::from_le_bytes)?,
            length,
            k,
            wanted: parsed(wanted, "recall")?,
        };
        let (asked, known) = (data.queries.len() / length, data.truth.len() / k);
        if asked != known {
            return Err(format!("{truth}: the nearest of {known} queries, but {queries} has {asked}").into());
        }
        Ok(data)
    }

    fn count(&self) -> usize {
        self.vectors.len() / self.length
    }

    fn vector(&self, id: u32) -> &[f32] {
        let start = id as usize * self.length;
        &self.vectors[start..start + self.length]
    }

    /// Wider and wider searches, until one finds as many of the nearest as are wanted.
    fn measure(
        &self,
        name: &str,
        build: f64,
        widths: &[usize],
        search: impl Fn(&[f32], usize) -> Result<Vec<u32>>,
    ) -> Result<()> {
        say(&format!("{name}: build\t{build:.1} s"))?;
        for &width in widths {
            let started = Instant::now();
            let queries = self.queries.chunks_exact(self.length);
            let found = queries.map(|query| search(query, width)).collect::<Result<Vec<_>>>()?;
            let rate = found.len() as f64 / started.elapsed().as_secs_f64();
            let recall = self.recall(&found);
            let reached = recall >= self.wanted;
            let last = if reached { format!("\t{rate}") } else { String::new() };
            say(&format!("{name}: ef {width}\trecall {recall:.4}, {rate:.0} queries/s a thread{last}"))?;
            if reached {
                break;
            }
        }
        Ok(())
    }

    fn recall(&self, found: &[Vec<u32>]) -> f64 {
        let mut hits = 0;
        for (found, truth) in found.iter().zip(self.truth.chunks_exact(self.k)) {
            // Counted by what is true: a row that a library gave twice is one hit.
            hits += truth.iter().filter(|row| found.contains(row)).count();
        }
        hits as f64 / self.truth.len() as f64
    }
}

fn parsed<T>(text: &str, name: &str) -> Result<T>
where
    T: FromStr<Err: Display>,
{
    text.parse::<T>().map_err(|error| format!("{name}: {text}: {error}").into())
}

/// The numbers of a file whose rows all have the same length.
fn rows<T>(path: &str, length: usize, number: impl Fn([u8; 4]) -> T) -> Result<Vec<T>> {
    let bytes = fs::read(path).map_err(|error| format!("{path}: {error}"))?;
    let (numbers, rest) = bytes.as_chunks::<4>();
    if numbers.is_empty() || !rest.is_empty() || !numbers.len().is_multiple_of(length) {
        return Err(format!("{path}: not rows of {length} numbers").into());
    }
    Ok(numbers.iter().map(|&bytes| number(bytes)).collect())
}

/// Flushed: a build takes minutes, and what was measured stays when a later one fails.
fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}
