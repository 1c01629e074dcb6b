//! Nearest-neighbor search in process: the graph index of this project, and other libraries beside it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use plexus_index::graph::{
    Beam, BuildOptions, Graph, GraphSearchOptions, GraphSearcher, NodeFilter, build_graph,
};
use plexus_index::squared_l2;
use plexus_model::{Error, Metric, Result, RowSelection, RowSet};

use crate::Figure;
use crate::embeddings::{DIMENSIONS, Vectors, generate, write};
use crate::peers;

/// Base vectors, unless the command line says otherwise.
pub(crate) const VECTORS: usize = 500_000;
const QUERIES: usize = 1_000;
const K: usize = 10;
/// Queries with each filter.
const FILTERED_QUERIES: usize = 100;
/// Shares of the rows that filters leave.
const FILTERED_SHARES: [f64; 5] = [0.5, 0.25, 0.1, 0.01, 0.001];
/// Beam widths, of which the first that reaches the recall is compared with the peers.
const BEAMS: [usize; 7] = [16, 24, 32, 48, 64, 96, 128];
const RECALL_TARGET: f64 = 0.95;

/// Builds a graph over `count` vectors and searches it with several beams, with filters, and in the peers.
pub(crate) fn measure(dir: &Path, count: usize) -> Result<Vec<Figure>> {
    let (base, queries) = (generate(count, 1), generate(QUERIES, 2));
    let (base, queries) = (Vectors(&base), Vectors(&queries));
    let truth: Vec<Vec<u32>> = queries.iter().map(|query| base.nearest(query, 0..count as u32, K)).collect();
    let title = format!("graph, {count} x {DIMENSIONS}");
    let started = Instant::now();
    let (graph, bytes) = build(base)?;
    let (seconds, bytes) = (started.elapsed().as_secs_f64(), bytes / count.max(1));
    let value = format!("{seconds:.1} s, {bytes} bytes per vector");
    let mut figures = vec![Figure::new(format!("{title}: build"), value, "")];

    let mut rate_at_target: Option<f64> = None;
    for beam in BEAMS {
        let options = GraphSearchOptions { k: K, beam: Beam::Width(beam) };
        let all_rows = RowSelection::all();
        let (recall, rate) = search_all(&graph, base, queries.iter(), &truth, options, &all_rows, None);
        if recall >= RECALL_TARGET && rate_at_target.is_none() {
            rate_at_target = Some(rate);
        }
        let value = format!("recall {recall:.4}, {rate:.0} queries/s per thread");
        figures.push(Figure::new(format!("{title}: ef {beam}"), value, ""));
    }
    figures.extend(filtered(&graph, base, queries));
    figures.extend(measure_peers(dir, base, queries, &truth, rate_at_target)?);
    Ok(figures)
}

/// A graph over all vectors, and the bytes of its file.
fn build(base: Vectors) -> Result<(Graph, usize)> {
    let count = base.count() as u32;
    let rows: Vec<u32> = (0..count).collect();
    let options = BuildOptions::default();
    let bytes = build_graph(Metric::L2, DIMENSIONS, base.0.to_vec(), &rows, count, options)?;
    let size = bytes.len();
    Ok((Graph::open(bytes.into())?, size))
}

/// Searches for every query on one thread. Returns the recall and the queries per second.
fn search_all<'a>(
    graph: &Graph,
    base: Vectors,
    queries: impl ExactSizeIterator<Item = &'a [f32]>,
    truth: &[Vec<u32>],
    options: GraphSearchOptions,
    rows: &RowSelection,
    filter: Option<&NodeFilter>,
) -> (f64, f64) {
    let mut searcher = GraphSearcher::default();
    let count = queries.len();
    let mut hits = 0;
    let started = Instant::now();
    for (query, truth) in queries.zip(truth) {
        let distance = |row| squared_l2(query, base.get(row as usize)).sqrt();
        let nearest = searcher.search(graph, query, options, rows, filter, distance);
        hits += nearest.iter().filter(|(_, row)| truth.contains(row)).count();
    }
    let rate = count as f64 / started.elapsed().as_secs_f64();
    let wanted = truth.iter().map(Vec::len).sum::<usize>();
    (hits as f64 / wanted.max(1) as f64, rate)
}

/// Queries per second in process with the default beam, on as many threads as there are processors, measured
/// for `time`.
pub(crate) fn rate_in_process(base: Vectors, queries: Vectors, time: Duration) -> Result<f64> {
    let (graph, _) = build(base)?;
    let all_rows = RowSelection::all();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let started = Instant::now();
    let total = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut searcher = GraphSearcher::default();
                let options = GraphSearchOptions::new(K);
                let mut done = 0;
                for query in queries.iter().cycle() {
                    if started.elapsed() > time {
                        break;
                    }
                    let distance = |row| squared_l2(query, base.get(row as usize)).sqrt();
                    searcher.search(&graph, query, options, &all_rows, None, distance);
                    done += 1;
                }
                total.fetch_add(done, Ordering::Relaxed);
            });
        }
    });
    Ok(total.into_inner() as f64 / started.elapsed().as_secs_f64())
}

/// Searches under filters of several selectivities. A filter leaves random rows, or the rows nearest to the
/// first query, or those farthest from it; the queries are those nearest to the first one, so that the last
/// kind of filter excludes everything near the queries.
fn filtered(graph: &Graph, base: Vectors, queries: Vectors) -> Vec<Figure> {
    let count = base.count() as u32;
    let first = queries.get(0);
    let mut by_distance: Vec<u32> = (0..count).collect();
    by_distance.sort_by_cached_key(|row| squared_l2(first, base.get(*row as usize)).to_bits());
    let mut near_queries: Vec<&[f32]> = queries.iter().collect();
    near_queries.sort_by_cached_key(|query| squared_l2(first, query).to_bits());
    near_queries.truncate(FILTERED_QUERIES);
    let mut figures = Vec::new();
    for share in FILTERED_SHARES {
        let left = (f64::from(count) * share) as usize;
        // Multiplicative hashing (Knuth: "The Art of Computer Programming", volume 3, section 6.4).
        let hashed = |row: &u32| f64::from(row.wrapping_mul(2_654_435_761) >> 8) < share * f64::from(1 << 24);
        let filters: [(&str, RowSet); 3] = [
            ("random", (0..count).filter(hashed).collect()),
            ("nearest", by_distance[..left].iter().copied().collect()),
            ("farthest", by_distance[count as usize - left..].iter().copied().collect()),
        ];
        for (name, rows) in filters {
            let filter = NodeFilter::new(graph, &rows);
            let truth: Vec<Vec<u32>> =
                near_queries.iter().map(|query| base.nearest(query, rows.iter(), K)).collect();
            let selection = RowSelection::Only(Arc::new(rows.clone()));
            let options = GraphSearchOptions::new(K);
            let queries = near_queries.iter().copied();
            let (recall, rate) = search_all(graph, base, queries, &truth, options, &selection, Some(&filter));
            let percent = share * 100.0;
            figures.push(Figure::new(
                format!("graph, {count} x {DIMENSIONS}: filter leaves the {name} {percent} %"),
                format!("recall {recall:.3}, {rate:.0} queries/s per thread"),
                "recall >= 0.95",
            ));
        }
    }
    figures
}

/// The same vectors and queries in other libraries. `ours` is our rate where the recall is reached.
fn measure_peers(
    dir: &Path,
    base: Vectors,
    queries: Vectors,
    truth: &[Vec<u32>],
    ours: Option<f64>,
) -> Result<Vec<Figure>> {
    let (base_file, query_file) = (dir.join("vectors.f32"), dir.join("queries.f32"));
    write(&base_file, base.0)?;
    write(&query_file, queries.0)?;
    let truth_file = dir.join("nearest.u32");
    let bytes: Vec<u8> = truth.iter().flatten().flat_map(|row| row.to_le_bytes()).collect();
    std::fs::write(&truth_file, bytes).map_err(|e| Error::io(truth_file.display(), e))?;
    let mut figures = Vec::new();
    for mut program in std::iter::once(peers::python(dir, &peers::VECTORS)?).chain(peers::rust_program()) {
        program.args([&base_file, &query_file, &truth_file]);
        program.args([DIMENSIONS.to_string(), K.to_string(), RECALL_TARGET.to_string()]);
        let output = peers::run(&mut program).unwrap_or_default();
        figures.extend(output.lines().filter_map(|line| peer_figure(line, ours)));
    }
    Ok(figures)
}

/// A line that a peer printed: a name, a measurement, and the queries per second where the recall is reached,
/// separated by tabs.
fn peer_figure(line: &str, ours: Option<f64>) -> Option<Figure> {
    let (name, value) = line.split_once('\t')?;
    let (text, rate) = value.split_once('\t').unwrap_or((value, ""));
    let ratio = match (ours, rate.parse::<f64>()) {
        (Some(ours), Ok(rate)) if rate > 0.0 => format!("; plexus {:.2} x", ours / rate),
        _ => String::new(),
    };
    let target = if name.starts_with("hnswlib") && !ratio.is_empty() { ">= 3 x" } else { "" };
    Some(Figure::new(name, format!("{text}{ratio}"), target))
}
