//! Nearest vectors in process: our graph over codes, and other libraries in this machine's Python beside it.
//!
//! Vectors are clustered and of low rank, as embeddings are; uniform ones would be meaningless for recall.

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use plexus_index::graph::{BuildOptions, Graph, GraphSearchOptions, GraphSearcher, NodeFilter, build_graph};
use plexus_index::squared_l2;
use plexus_model::{Error, Metric, Result, RowSelection, RowSet};

use crate::Figure;

pub const VECTORS: usize = 500_000;
pub const LENGTH: usize = 384;
const QUERIES: usize = 1_000;
const CLUSTERS: usize = 200;
/// Directions in which vectors differ most.
const RANK: usize = 128;
const K: usize = 10;
/// Queries under each filter.
const FILTERED_QUERIES: usize = 100;
const BEAMS: [usize; 7] = [16, 24, 32, 48, 64, 96, 128];
const RECALL: f64 = 0.95;
const PEERS: &str = include_str!("../vectors.py");

pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// About normal: the sum of twelve uniform numbers.
    fn normal(&mut self) -> f32 {
        let uniform = |bits: u64| (bits >> 40) as f32 / (1u64 << 24) as f32;
        (0..12).map(|_| uniform(self.next())).sum::<f32>() - 6.0
    }

    fn normals(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.normal()).collect()
    }
}

/// Vectors around centroids in a space of low rank, with some noise in all directions.
pub fn generate(count: usize, seed: u64) -> Vec<f32> {
    let mut fixed = Random(0x5eed);
    let basis = fixed.normals(RANK * LENGTH);
    let centroids: Vec<Vec<f32>> = (0..CLUSTERS).map(|_| fixed.normals(RANK)).collect();
    let mut random = Random(seed);
    let mut vectors = Vec::with_capacity(count * LENGTH);
    for _ in 0..count {
        let centroid = &centroids[(random.next() % CLUSTERS as u64) as usize];
        let place: Vec<f32> = centroid.iter().map(|x| x + random.normal()).collect();
        let mut vector = random.normals(LENGTH);
        vector.iter_mut().for_each(|x| *x *= 0.6);
        for (x, direction) in place.iter().zip(basis.chunks_exact(LENGTH)) {
            vector.iter_mut().zip(direction).for_each(|(v, d)| *v += x * d);
        }
        let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
        vectors.extend(vector.iter().map(|x| x / length));
    }
    vectors
}

pub fn write(path: &Path, vectors: &[f32]) -> Result<()> {
    let fail = |e| Error::io(path.display(), e);
    let mut file = std::io::BufWriter::new(std::fs::File::create(path).map_err(fail)?);
    vectors.iter().try_for_each(|x| file.write_all(&x.to_le_bytes())).map_err(fail)?;
    file.flush().map_err(fail)
}

pub fn measure(dir: &Path, count: usize) -> Result<Vec<Figure>> {
    let vectors = generate(count, 1);
    let queries = generate(QUERIES, 2);
    let of = |row: u32| &vectors[row as usize * LENGTH..(row as usize + 1) * LENGTH];
    let truth: Vec<Vec<u32>> = queries
        .chunks_exact(LENGTH)
        .map(|query| {
            let mut all: Vec<(f32, u32)> =
                (0..count as u32).map(|row| (squared_l2(query, of(row)), row)).collect();
            all.select_nth_unstable_by(K - 1, |a, b| a.0.total_cmp(&b.0));
            all[..K].iter().map(|(_, row)| *row).collect()
        })
        .collect();
    let mut figures = Vec::new();
    let started = Instant::now();
    let rows: Vec<u32> = (0..count as u32).collect();
    let bytes =
        build_graph(Metric::L2, LENGTH, vectors.clone(), &rows, count as u32, BuildOptions::default())?;
    let each = bytes.len() / count.max(1);
    let graph = Graph::open(bytes.into())?;
    let build = started.elapsed().as_secs_f64();
    let title = format!("{count} x {LENGTH}");
    figures.push(Figure::new(
        format!("graph of {title}: build"),
        format!("{build:.1} s, {each} bytes a vector"),
        "",
    ));
    let (mut searcher, all_rows) = (GraphSearcher::default(), RowSelection::all());
    let mut best: Option<f64> = None;
    for beam in BEAMS {
        let options = GraphSearchOptions { k: K, beam };
        let started = Instant::now();
        let mut found = 0;
        for (query, truth) in queries.chunks_exact(LENGTH).zip(&truth) {
            let distance = |row| squared_l2(query, of(row)).sqrt();
            let nearest = searcher.search(&graph, query, options, &all_rows, None, distance);
            found += nearest.iter().filter(|(_, row)| truth.contains(row)).count();
        }
        let rate = QUERIES as f64 / started.elapsed().as_secs_f64();
        let recall = found as f64 / (QUERIES * K) as f64;
        if recall >= RECALL && best.is_none() {
            best = Some(rate);
        }
        figures.push(Figure::new(
            format!("graph of {title}: beam {beam}"),
            format!("recall {recall:.4}, {rate:.0} queries/s a thread"),
            "",
        ));
    }
    figures.extend(filtered(&graph, &vectors, &queries));
    figures.extend(peers(dir, &vectors, &queries, &truth, best)?);
    Ok(figures)
}

/// Queries a second in process, with as many threads as there are processors and the usual beam, for some time.
pub fn rate_in_process(vectors: &[f32], queries: &[f32], time: Duration) -> Result<f64> {
    let of = |row: u32| &vectors[row as usize * LENGTH..(row as usize + 1) * LENGTH];
    let rows: Vec<u32> = (0..(vectors.len() / LENGTH) as u32).collect();
    let bytes =
        build_graph(Metric::L2, LENGTH, vectors.to_vec(), &rows, rows.len() as u32, BuildOptions::default())?;
    let (graph, all_rows) = (Graph::open(bytes.into())?, RowSelection::all());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let started = Instant::now();
    let done = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut searcher = GraphSearcher::default();
                let options = GraphSearchOptions::new(K);
                let mut ours = 0;
                for query in queries.chunks_exact(LENGTH).cycle() {
                    if started.elapsed() > time {
                        break;
                    }
                    let distance = |row| squared_l2(query, of(row)).sqrt();
                    searcher.search(&graph, query, options, &all_rows, None, distance);
                    ours += 1;
                }
                done.fetch_add(ours, std::sync::atomic::Ordering::Relaxed);
            });
        }
    });
    Ok(done.into_inner() as f64 / started.elapsed().as_secs_f64())
}

/// Filters that leave some of the vectors: whichever, those near the first query, those far from it. Searched for is what
/// is near the first query as well.
fn filtered(graph: &Graph, vectors: &[f32], queries: &[f32]) -> Vec<Figure> {
    let count = (vectors.len() / LENGTH) as u32;
    let of = |row: u32| &vectors[row as usize * LENGTH..(row as usize + 1) * LENGTH];
    let first = &queries[..LENGTH];
    let by_distance = |rows: &mut Vec<u32>, query: &[f32]| {
        rows.sort_by_cached_key(|row| squared_l2(query, of(*row)).to_bits());
    };
    let mut ordered: Vec<u32> = (0..count).collect();
    by_distance(&mut ordered, first);
    let mut asked: Vec<&[f32]> = queries.chunks_exact(LENGTH).collect();
    asked.sort_by_cached_key(|query| squared_l2(first, query).to_bits());
    asked.truncate(FILTERED_QUERIES);
    let mut figures = Vec::new();
    for share in [0.5, 0.25, 0.1, 0.01, 0.001] {
        let kept = (f64::from(count) * share) as usize;
        let hashed = |row: &u32| f64::from(row.wrapping_mul(2_654_435_761) >> 8) < share * f64::from(1 << 24);
        let sets: [(&str, RowSet); 3] = [
            ("any", (0..count).filter(hashed).collect()),
            ("near", ordered[..kept].iter().copied().collect()),
            ("far", ordered[count as usize - kept..].iter().copied().collect()),
        ];
        for (name, rows) in sets {
            let chosen = NodeFilter::new(graph, &rows);
            let truth: Vec<Vec<u32>> = asked
                .iter()
                .map(|query| {
                    let mut all: Vec<(f32, u32)> =
                        rows.iter().map(|row| (squared_l2(query, of(row)), row)).collect();
                    all.sort_by(|a, b| a.0.total_cmp(&b.0));
                    all.into_iter().take(K).map(|(_, row)| row).collect()
                })
                .collect();
            let mut searcher = GraphSearcher::default();
            let selection = RowSelection::Only(Arc::new(rows.clone()));
            let started = Instant::now();
            let mut found = 0;
            for (query, truth) in asked.iter().zip(&truth) {
                let options = GraphSearchOptions::new(K);
                let distance = |row| squared_l2(query, of(row)).sqrt();
                let nearest = searcher.search(graph, query, options, &selection, Some(&chosen), distance);
                found += nearest.iter().filter(|(_, row)| truth.contains(row)).count();
            }
            let rate = asked.len() as f64 / started.elapsed().as_secs_f64();
            let recall = found as f64 / truth.iter().map(Vec::len).sum::<usize>().max(1) as f64;
            let percent = share * 100.0;
            figures.push(Figure::new(
                format!("graph of {count} x {LENGTH}: {percent} %, {name}"),
                format!("recall {recall:.3}, {rate:.0} queries/s a thread"),
                "recall >= 0.95",
            ));
        }
    }
    figures
}

/// The same in other libraries, as far as they are there: some in Python, some in a program of their own (`bench/peers`).
fn peers(
    dir: &Path,
    vectors: &[f32],
    queries: &[f32],
    truth: &[Vec<u32>],
    ours: Option<f64>,
) -> Result<Vec<Figure>> {
    let (base, asked) = (dir.join("vectors.f32"), dir.join("queries.f32"));
    write(&base, vectors)?;
    write(&asked, queries)?;
    let nearest = dir.join("nearest.u32");
    let bytes: Vec<u8> = truth.iter().flatten().flat_map(|row| row.to_le_bytes()).collect();
    std::fs::write(&nearest, bytes).map_err(|e| Error::io(nearest.display(), e))?;
    let python = std::env::var("PLEXUS_BENCH_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let mut in_python = Command::new(python);
    in_python.args(["-c", PEERS]);
    let in_rust = std::env::var_os("PLEXUS_BENCH_PEERS").map(Command::new);
    let mut figures = Vec::new();
    for mut program in std::iter::once(in_python).chain(in_rust) {
        program.args([&base, &asked, &nearest]);
        program.args([LENGTH.to_string(), K.to_string(), RECALL.to_string()]);
        match program.output() {
            Ok(output) => {
                if !output.status.success() {
                    eprintln!("other libraries: {}", String::from_utf8_lossy(&output.stderr));
                }
                let lines = String::from_utf8_lossy(&output.stdout);
                figures.extend(lines.lines().filter_map(|line| peer(line, ours)));
            }
            Err(e) => eprintln!("other libraries: {}: {e}", program.get_program().display()),
        }
    }
    Ok(figures)
}

/// A line of a program of other libraries: a name, what was measured, and queries a second where the recall is reached.
fn peer(line: &str, ours: Option<f64>) -> Option<Figure> {
    let (name, value) = line.split_once('\t')?;
    let (text, rate) = value.split_once('\t').unwrap_or((value, ""));
    let ratio = match (ours, rate.parse::<f64>()) {
        (Some(ours), Ok(rate)) if rate > 0.0 => format!("; ours is {:.2} x", ours / rate),
        _ => String::new(),
    };
    let target = if name.starts_with("hnswlib") && !ratio.is_empty() { ">= 3 x" } else { "" };
    Some(Figure::new(name, format!("{text}{ratio}"), target))
}
