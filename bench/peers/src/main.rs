//! Nearest-neighbor search in Rust libraries.
//!
//! Arguments: files of base vectors, query vectors and the true nearest rows of each query, dimensions, k,
//! the recall to reach. Prints lines of a name, a measurement and, where the recall is reached, the queries
//! per second of one thread, separated by tabs.

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

/// The base vectors, the queries and their true nearest neighbors.
struct Data {
    vectors: Vec<f32>,
    queries: Vec<f32>,
    /// The `k` nearest rows of each query.
    truth: Vec<u32>,
    dimensions: usize,
    k: usize,
    recall_target: f64,
}

impl Data {
    fn read(arguments: &[String]) -> Result<Self> {
        let [vectors, queries, truth, dimensions, k, recall_target] = arguments else {
            let usage = "arguments: files of vectors, queries and nearest rows, dimensions, k, recall";
            return Err(usage.into());
        };
        let (dimensions, k) = (parse(dimensions, "dimensions")?, parse(k, "k")?);
        let data = Self {
            vectors: read_rows(vectors, dimensions, f32::from_le_bytes)?,
            queries: read_rows(queries, dimensions, f32::from_le_bytes)?,
            truth: read_rows(truth, k, u32::from_le_bytes)?,
            dimensions,
            k,
            recall_target: parse(recall_target, "recall")?,
        };
        let (count, judged) = (data.queries.len() / dimensions, data.truth.len() / k);
        if count != judged {
            return Err(format!("{truth} is for {judged} queries, but {queries} has {count}").into());
        }
        Ok(data)
    }

    fn count(&self) -> usize {
        self.vectors.len() / self.dimensions
    }

    fn vector(&self, id: u32) -> &[f32] {
        let start = id as usize * self.dimensions;
        &self.vectors[start..start + self.dimensions]
    }

    /// Searches with wider and wider beams until the recall is reached. `build` is in seconds.
    fn measure(
        &self,
        name: &str,
        build: f64,
        beams: &[usize],
        search: impl Fn(&[f32], usize) -> Result<Vec<u32>>,
    ) -> Result<()> {
        report(&format!("{name}: build\t{build:.1} s"))?;
        for &beam in beams {
            let started = Instant::now();
            let queries = self.queries.chunks_exact(self.dimensions);
            let found = queries.map(|query| search(query, beam)).collect::<Result<Vec<_>>>()?;
            let rate = found.len() as f64 / started.elapsed().as_secs_f64();
            let recall = self.recall(&found);
            let reached = recall >= self.recall_target;
            let last = if reached { format!("\t{rate}") } else { String::new() };
            report(&format!("{name}: ef {beam}\trecall {recall:.4}, {rate:.0} queries/s per thread{last}"))?;
            if reached {
                break;
            }
        }
        Ok(())
    }

    fn recall(&self, found: &[Vec<u32>]) -> f64 {
        let mut hits = 0;
        for (found, truth) in found.iter().zip(self.truth.chunks_exact(self.k)) {
            // Counts true neighbors, so that a row that a library returns twice is one hit.
            hits += truth.iter().filter(|row| found.contains(row)).count();
        }
        hits as f64 / self.truth.len() as f64
    }
}

fn parse<T>(text: &str, name: &str) -> Result<T>
where
    T: FromStr<Err: Display>,
{
    text.parse::<T>().map_err(|error| format!("{name}: {text}: {error}").into())
}

/// The numbers of a file of rows of `length` numbers each, of four bytes in little-endian order.
fn read_rows<T>(path: &str, length: usize, number: impl Fn([u8; 4]) -> T) -> Result<Vec<T>> {
    let bytes = fs::read(path).map_err(|error| format!("{path}: {error}"))?;
    let (numbers, rest) = bytes.as_chunks::<4>();
    if numbers.is_empty() || !rest.is_empty() || !numbers.len().is_multiple_of(length) {
        return Err(format!("{path} does not consist of rows of {length} numbers").into());
    }
    Ok(numbers.iter().map(|&bytes| number(bytes)).collect())
}

/// Prints a line and flushes it: builds take minutes, and a later failure must not lose earlier lines.
fn report(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}
