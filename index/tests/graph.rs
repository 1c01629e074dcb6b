//! The graph of vectors against a look at every one of them.

use std::sync::Arc;

use plexus_index::graph::{BuildOptions, Graph, GraphSearchOptions, GraphSearcher, NodeFilter, build_graph};
use plexus_index::{VectorQuery, dot};
use plexus_model::{ErrorKind, Metric, RowSelection, RowSet};

const LENGTH: usize = 40;
const K: usize = 10;

/// Numbers that a seed decides (Marsaglia: "Xorshift RNGs", 2003).
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// Vectors around some centroids.
fn vectors(count: usize, seed: u64) -> Vec<f32> {
    let mut fixed = Random(7);
    let centroids: Vec<Vec<f32>> = (0..30).map(|_| (0..LENGTH).map(|_| fixed.next()).collect()).collect();
    let mut random = Random(seed);
    (0..count)
        .flat_map(|row| {
            let centroid = &centroids[row % centroids.len()];
            centroid.iter().map(|x| x + 0.5 * random.next()).collect::<Vec<_>>()
        })
        .collect()
}

fn graph(metric: Metric, base: &[f32]) -> Graph {
    let rows: Vec<u32> = (0..(base.len() / LENGTH) as u32).collect();
    let built = build_graph(metric, LENGTH, base.to_vec(), &rows, rows.len() as u32, BuildOptions::default());
    Graph::open(built.unwrap().into()).unwrap()
}

fn exact(vectors: &[f32], query: &VectorQuery, may: impl Fn(u32) -> bool) -> Vec<u32> {
    let rows = vectors.chunks_exact(LENGTH).zip(0..).filter(|(_, row)| may(*row));
    let mut all: Vec<(f32, u32)> = rows.map(|(vector, row)| (query.distance(vector), row)).collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    all.into_iter().take(K).map(|(_, row)| row).collect()
}

#[test]
fn most_of_the_nearest_are_found_by_each_metric() {
    let base = vectors(5_000, 1);
    let of = |row: u32| &base[row as usize * LENGTH..(row as usize + 1) * LENGTH];
    for metric in [Metric::Cosine, Metric::L2, Metric::Dot] {
        let graph = graph(metric, &base);
        let (mut searcher, all_rows) = (GraphSearcher::default(), RowSelection::all());
        let (mut found, mut all) = (0, 0);
        for asked in vectors(100, 2).chunks_exact(LENGTH) {
            let query = VectorQuery::new(metric, asked.to_vec()).unwrap();
            let options = GraphSearchOptions::new(K);
            let nearest =
                searcher.search(&graph, asked, options, &all_rows, None, |row| query.distance(of(row)));
            assert_eq!(nearest.len(), K);
            assert!(nearest.is_sorted_by(|a, b| a.0 <= b.0));
            let truth = exact(&base, &query, |_| true);
            found += nearest.iter().filter(|(_, row)| truth.contains(row)).count();
            all += K;
        }
        assert!(found * 100 >= all * 95, "{metric:?}: {found} of {all}");
    }
}

#[test]
fn a_graph_depends_on_its_seed_and_not_on_threads() {
    let base = vectors(2_000, 3);
    let walks = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let graph = pool.install(|| graph(Metric::L2, &base));
        let (mut searcher, all_rows) = (GraphSearcher::default(), RowSelection::all());
        let asked = vectors(50, 4);
        let nearest = |asked: &[f32]| {
            let options = GraphSearchOptions { k: K, beam: 10 };
            searcher.search(&graph, asked, options, &all_rows, None, |row| {
                let vector = &base[row as usize * LENGTH..(row as usize + 1) * LENGTH];
                -dot(asked, vector)
            })
        };
        asked.chunks_exact(LENGTH).map(nearest).collect::<Vec<_>>()
    };
    assert_eq!(walks(1), walks(3));
}

#[test]
fn the_same_vectors_give_the_same_bytes_and_another_seed_others() {
    let base = vectors(3_000, 12);
    let rows: Vec<u32> = (0..3_000).collect();
    let build = |threads: usize, options: BuildOptions| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| build_graph(Metric::L2, LENGTH, base.clone(), &rows, 3_000, options).unwrap())
    };
    let usual = BuildOptions::default();
    assert!(build(1, usual) == build(3, usual));
    assert!(build(1, usual) != build(1, BuildOptions { seed: 1, ..usual }));
}

#[test]
fn all_that_are_equal_are_found() {
    let mut base = vectors(3_000, 13);
    let of = |base: &[f32], row: usize| base[row * LENGTH..(row + 1) * LENGTH].to_vec();
    // Some vectors are there ten times, and one very often.
    for group in 0..50 {
        let same = of(&base, group);
        for copy in 1..10 {
            base[(group + 50 * copy) * LENGTH..][..LENGTH].copy_from_slice(&same);
        }
    }
    let common = of(&base, 600);
    (1_500..3_000).for_each(|row| base[row * LENGTH..][..LENGTH].copy_from_slice(&common));
    let graph = graph(Metric::L2, &base);
    let (mut searcher, none) = (GraphSearcher::default(), RowSet::new());
    let hidden: RowSet = (0..600).filter(|row| row % 3 == 0).collect();
    for (query, k, wanted) in (0..50).map(|group| (of(&base, group), 10, 10)).chain([(common, 100, 1_501)]) {
        let measure = VectorQuery::new(Metric::L2, query.clone()).unwrap();
        for (hidden, wanted) in [(&none, wanted), (&hidden, wanted - if wanted == 10 { 4 } else { 0 })] {
            let selection = RowSelection::AllExcept(Arc::new(hidden.clone()));
            let options = GraphSearchOptions::new(k);
            let distance = |row: u32| measure.distance(&of(&base, row as usize));
            let nearest = searcher.search(&graph, &query, options, &selection, None, distance);
            let same = nearest.iter().filter(|(distance, _)| *distance == 0.0).count();
            // Three or four of ten rows in steps of fifty can be hidden.
            assert!(same == wanted || (wanted < 10 && same == wanted + 1), "{same} of {wanted}");
            assert!(nearest.iter().all(|(_, row)| !hidden.contains(*row)));
        }
    }
}

#[test]
fn few_vectors_and_none_are_no_trouble() {
    for count in [0, 1, 2, 3, 40] {
        let base = vectors(count, 5);
        let graph = graph(Metric::L2, &base);
        assert_eq!((graph.len(), graph.is_empty()), (count, count == 0));
        let (options, all_rows) = (GraphSearchOptions { k: K, beam: 64 }, RowSelection::all());
        let mut searcher = GraphSearcher::default();
        let nearest = searcher.search(&graph, &[0.5; LENGTH], options, &all_rows, None, |row| row as f32);
        let rows: Vec<u32> = nearest.iter().map(|(_, row)| *row).collect();
        assert_eq!(rows, (0..count.min(K) as u32).collect::<Vec<_>>(), "{count}");
    }
}

/// Of each query, which rows may be found: as many as a share, with the query, against it, or whatever it is.
fn filters(base: &[f32], query: &VectorQuery, share: f64) -> [Vec<u32>; 3] {
    let count = base.len() / LENGTH;
    let kept = ((count as f64 * share) as usize).max(1);
    let mut by_distance: Vec<u32> = (0..count as u32).collect();
    let distances: Vec<f32> = base.chunks_exact(LENGTH).map(|vector| query.distance(vector)).collect();
    by_distance.sort_by(|a, b| distances[*a as usize].total_cmp(&distances[*b as usize]));
    let any = (0..count as u32)
        .filter(|row| row.wrapping_mul(2_654_435_761) >> 8 < (share * f64::from(1 << 24)) as u32);
    [any.collect(), by_distance[..kept].to_vec(), by_distance[count - kept..].to_vec()]
}

#[test]
fn a_filter_loses_neither_recall_nor_rows() {
    let base = vectors(20_000, 8);
    let of = |row: u32| &base[row as usize * LENGTH..(row as usize + 1) * LENGTH];
    let graph = graph(Metric::L2, &base);
    let mut searcher = GraphSearcher::default();
    for share in [0.9, 0.5, 0.1, 0.01, 0.001] {
        let mut found = [0; 3];
        let asked = vectors(30, 9);
        for asked in asked.chunks_exact(LENGTH) {
            let query = VectorQuery::new(Metric::L2, asked.to_vec()).unwrap();
            for (found, rows) in found.iter_mut().zip(filters(&base, &query, share)) {
                let rows: RowSet = rows.into_iter().collect();
                let truth = exact(&base, &query, |row| rows.contains(row));
                let chosen = NodeFilter::new(&graph, &rows);
                assert_eq!(chosen.len() as u64, rows.len());
                let mut hidden: RowSet = (0..base.len() as u32 / LENGTH as u32).collect();
                hidden -= &rows;
                let only = RowSelection::Only(Arc::new(rows.clone()));
                let except = RowSelection::AllExcept(Arc::new(hidden));
                for (selection, nodes) in [(&only, Some(&chosen)), (&only, None), (&except, None)] {
                    let distance = |row| query.distance(of(row));
                    let options = GraphSearchOptions::new(K);
                    let nearest = searcher.search(&graph, asked, options, selection, nodes, distance);
                    assert_eq!(nearest.len(), truth.len(), "{share}");
                    assert!(nearest.iter().all(|(_, row)| rows.contains(*row)));
                    *found += nearest.iter().filter(|(_, row)| truth.contains(row)).count();
                }
            }
        }
        let all = 3 * 30 * K;
        assert!(found.iter().all(|found| found * 100 >= all * 95), "{share}: {found:?} of {all}");
    }
}

#[test]
fn rows_without_a_vector_are_not_in_it() {
    let base = vectors(300, 10);
    let rows: Vec<u32> = (0..300).map(|row| row * 2 + 1).collect();
    let bytes =
        build_graph(Metric::Cosine, LENGTH, base.clone(), &rows, 601, BuildOptions::default()).unwrap();
    let graph = Graph::open(bytes.clone().into()).unwrap();
    let absent: RowSet = (0..=300).map(|row| row * 2).collect();
    assert_eq!((graph.rows(), graph.len(), graph.absent()), (601, 300, absent));
    let largest = base.chunks_exact(LENGTH).map(|vector| dot(vector, vector)).fold(0.0, f32::max);
    assert_eq!(graph.largest_square(), largest);
    let mut seen: Vec<u32> = (0..300).map(|node| graph.row_of(node)).collect();
    seen.sort_unstable();
    assert_eq!(seen, rows);
    let wanted: RowSet = [0, 1, 2, 3, 600, 7_000].into_iter().collect();
    assert_eq!(NodeFilter::new(&graph, &wanted).len(), 2);
    for wrong in [&bytes[..bytes.len() - 1], &bytes[..20], &[0; 100]] {
        let error = Graph::open(wrong.to_vec().into()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    }
}
