//! Graph search against exact search: recall, filters, determinism, and damaged bytes.

use std::sync::Arc;

use fastrand::Rng;
use plexus_index::graph::{
    Beam, BuildOptions, Graph, GraphSearchOptions, GraphSearcher, NodeFilter, RECALL_TARGETS, build_graph,
};
use plexus_index::{VectorQuery, dot};
use plexus_model::{ErrorKind, Metric, RowSelection, RowSet};

const DIMENSIONS: usize = 40;
const K: usize = 10;

/// Uniform from -1 to 1.
fn component(random: &mut Rng) -> f32 {
    2.0 * random.f32() - 1.0
}

/// Vectors around 30 centers, which are the same for every seed.
fn vectors(count: usize, seed: u64) -> Vec<f32> {
    let mut center_random = Rng::with_seed(7);
    let centers: Vec<Vec<f32>> =
        (0..30).map(|_| (0..DIMENSIONS).map(|_| component(&mut center_random)).collect()).collect();
    let mut random = Rng::with_seed(seed);
    (0..count)
        .flat_map(|row| {
            let center = &centers[row % centers.len()];
            center.iter().map(|x| x + 0.5 * component(&mut random)).collect::<Vec<_>>()
        })
        .collect()
}

/// A graph in which row `i` has the vector `i`.
fn graph(metric: Metric, base: &[f32]) -> Graph {
    let rows: Vec<u32> = (0..(base.len() / DIMENSIONS) as u32).collect();
    let built =
        build_graph(metric, DIMENSIONS, base.to_vec(), &rows, rows.len() as u32, BuildOptions::default());
    Graph::open(built.unwrap().into()).unwrap()
}

/// The nearest rows that a filter accepts, by brute force.
fn exact(vectors: &[f32], query: &VectorQuery, accept: impl Fn(u32) -> bool) -> Vec<u32> {
    let rows = vectors.chunks_exact(DIMENSIONS).zip(0..).filter(|(_, row)| accept(*row));
    let mut all: Vec<(f32, u32)> = rows.map(|(vector, row)| (query.distance(vector), row)).collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    all.into_iter().take(K).map(|(_, row)| row).collect()
}

#[test]
fn recall_is_at_least_95_percent_for_each_metric() {
    let base = vectors(5_000, 1);
    let of = |row: u32| &base[row as usize * DIMENSIONS..(row as usize + 1) * DIMENSIONS];
    for metric in [Metric::Cosine, Metric::L2, Metric::Dot] {
        let graph = graph(metric, &base);
        let (mut searcher, all_rows) = (GraphSearcher::default(), RowSelection::all());
        let (mut found, mut all) = (0, 0);
        for vector in vectors(100, 2).chunks_exact(DIMENSIONS) {
            let query = VectorQuery::new(metric, vector.to_vec()).unwrap();
            let options = GraphSearchOptions::new(K);
            let nearest =
                searcher.search(&graph, vector, options, &all_rows, None, |row| query.distance(of(row)));
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
fn search_results_do_not_depend_on_the_number_of_threads() {
    let base = vectors(2_000, 3);
    let results = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let graph = pool.install(|| graph(Metric::L2, &base));
        let (mut searcher, all_rows) = (GraphSearcher::default(), RowSelection::all());
        let queries = vectors(50, 4);
        let nearest = |query: &[f32]| {
            let options = GraphSearchOptions { k: K, beam: Beam::Width(10) };
            searcher.search(&graph, query, options, &all_rows, None, |row| {
                let vector = &base[row as usize * DIMENSIONS..(row as usize + 1) * DIMENSIONS];
                -dot(query, vector)
            })
        };
        queries.chunks_exact(DIMENSIONS).map(nearest).collect::<Vec<_>>()
    };
    assert_eq!(results(1), results(3));
}

#[test]
fn the_bytes_depend_on_the_seed_and_not_on_the_number_of_threads() {
    let base = vectors(3_000, 12);
    let rows: Vec<u32> = (0..3_000).collect();
    let build = |threads: usize, options: BuildOptions| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| build_graph(Metric::L2, DIMENSIONS, base.clone(), &rows, 3_000, options).unwrap())
    };
    let defaults = BuildOptions::default();
    assert!(build(1, defaults) == build(3, defaults));
    assert!(build(1, defaults) != build(1, BuildOptions { seed: 1, ..defaults }));
}

#[test]
fn all_duplicates_are_found() {
    let mut base = vectors(3_000, 13);
    let of = |base: &[f32], row: usize| base[row * DIMENSIONS..(row + 1) * DIMENSIONS].to_vec();
    // 50 vectors occur ten times each, and one more than 1,500 times.
    for group in 0..50 {
        let same = of(&base, group);
        for duplicate in 1..10 {
            base[(group + 50 * duplicate) * DIMENSIONS..][..DIMENSIONS].copy_from_slice(&same);
        }
    }
    let common = of(&base, 600);
    (1_500..3_000).for_each(|row| base[row * DIMENSIONS..][..DIMENSIONS].copy_from_slice(&common));
    let graph = graph(Metric::L2, &base);
    let (mut searcher, none) = (GraphSearcher::default(), RowSet::new());
    let excluded: RowSet = (0..600).filter(|row| row % 3 == 0).collect();
    for (query, k, wanted) in (0..50).map(|group| (of(&base, group), 10, 10)).chain([(common, 100, 1_501)]) {
        let vector_query = VectorQuery::new(Metric::L2, query.clone()).unwrap();
        for (excluded, wanted) in [(&none, wanted), (&excluded, wanted - if wanted == 10 { 4 } else { 0 })] {
            let selection = RowSelection::AllExcept(Arc::new(excluded.clone()));
            let options = GraphSearchOptions::new(k);
            let distance = |row: u32| vector_query.distance(&of(&base, row as usize));
            let nearest = searcher.search(&graph, &query, options, &selection, None, distance);
            let same = nearest.iter().filter(|(distance, _)| *distance == 0.0).count();
            // Of the ten rows of a group, three or four are excluded.
            assert!(same == wanted || (wanted < 10 && same == wanted + 1), "{same} of {wanted}");
            assert!(nearest.iter().all(|(_, row)| !excluded.contains(*row)));
        }
    }
}

#[test]
fn graphs_of_few_and_no_vectors_can_be_searched() {
    for count in [0, 1, 2, 3, 40] {
        let base = vectors(count, 5);
        let graph = graph(Metric::L2, &base);
        assert_eq!((graph.len(), graph.is_empty()), (count, count == 0));
        let (options, all_rows) = (GraphSearchOptions { k: K, beam: Beam::Width(64) }, RowSelection::all());
        let mut searcher = GraphSearcher::default();
        let nearest = searcher.search(&graph, &[0.5; DIMENSIONS], options, &all_rows, None, |row| row as f32);
        let rows: Vec<u32> = nearest.iter().map(|(_, row)| *row).collect();
        assert_eq!(rows, (0..count.min(K) as u32).collect::<Vec<_>>(), "{count}");
    }
}

/// Filters that select a share of the rows: independent of the query, those nearest to it, and those farthest
/// from it.
fn filters(base: &[f32], query: &VectorQuery, share: f64) -> [Vec<u32>; 3] {
    let count = base.len() / DIMENSIONS;
    let kept = ((count as f64 * share) as usize).max(1);
    let mut by_distance: Vec<u32> = (0..count as u32).collect();
    let distances: Vec<f32> = base.chunks_exact(DIMENSIONS).map(|vector| query.distance(vector)).collect();
    by_distance.sort_by(|a, b| distances[*a as usize].total_cmp(&distances[*b as usize]));
    let independent = (0..count as u32)
        .filter(|row| row.wrapping_mul(2_654_435_761) >> 8 < (share * f64::from(1 << 24)) as u32);
    [independent.collect(), by_distance[..kept].to_vec(), by_distance[count - kept..].to_vec()]
}

#[test]
fn filters_keep_the_recall_and_the_number_of_rows() {
    let base = vectors(20_000, 8);
    let of = |row: u32| &base[row as usize * DIMENSIONS..(row as usize + 1) * DIMENSIONS];
    let graph = graph(Metric::L2, &base);
    let mut searcher = GraphSearcher::default();
    for share in [0.9, 0.5, 0.1, 0.01, 0.001] {
        let mut found = [0; 3];
        let queries = vectors(30, 9);
        for vector in queries.chunks_exact(DIMENSIONS) {
            let query = VectorQuery::new(Metric::L2, vector.to_vec()).unwrap();
            for (found, rows) in found.iter_mut().zip(filters(&base, &query, share)) {
                let rows: RowSet = rows.into_iter().collect();
                let truth = exact(&base, &query, |row| rows.contains(row));
                let node_filter = NodeFilter::new(&graph, &rows);
                assert_eq!(node_filter.len() as u64, rows.len());
                let mut excluded: RowSet = (0..base.len() as u32 / DIMENSIONS as u32).collect();
                excluded -= &rows;
                let only = RowSelection::Only(Arc::new(rows.clone()));
                let except = RowSelection::AllExcept(Arc::new(excluded));
                for (selection, nodes) in [(&only, Some(&node_filter)), (&only, None), (&except, None)] {
                    let distance = |row| query.distance(of(row));
                    let options = GraphSearchOptions::new(K);
                    let nearest = searcher.search(&graph, vector, options, selection, nodes, distance);
                    assert!(nearest.len() >= truth.len(), "{share}");
                    let ties = nearest.iter().skip(truth.len().saturating_sub(1));
                    assert!(
                        ties.clone().all(|(distance, _)| Some(distance) == ties.clone().next().map(|t| &t.0))
                    );
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
fn rows_without_a_vector_have_no_node_and_damage_is_detected() {
    let base = vectors(300, 10);
    let rows: Vec<u32> = (0..300).map(|row| row * 2 + 1).collect();
    let bytes =
        build_graph(Metric::Cosine, DIMENSIONS, base.clone(), &rows, 601, BuildOptions::default()).unwrap();
    let graph = Graph::open(bytes.clone().into()).unwrap();
    let absent: RowSet = (0..=300).map(|row| row * 2).collect();
    assert_eq!((graph.rows(), graph.len(), graph.rows_without_vector()), (601, 300, absent));
    let largest = base.chunks_exact(DIMENSIONS).map(|vector| dot(vector, vector)).fold(0.0, f32::max);
    assert_eq!(graph.norm_squared_max(), largest);
    let mut seen: Vec<u32> = (0..300).map(|node| graph.row_of(node)).collect();
    seen.sort_unstable();
    assert_eq!(seen, rows);
    let wanted: RowSet = [0, 1, 2, 3, 600, 7_000].into_iter().collect();
    assert_eq!(NodeFilter::new(&graph, &wanted).len(), 2);
    // Too many unreached nodes, and a beam that is too wide.
    let [unreached, beam_width] = [32, 48].map(|place| {
        let mut damaged = bytes.clone();
        damaged[place..place + 4].fill(0xff);
        damaged
    });
    for damaged in [&bytes[..bytes.len() - 1], &bytes[..20], &[0; 100], &unreached, &beam_width] {
        let error = Graph::open(damaged.to_vec().into()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    }
}

/// Tight clusters with no edges between them, and rows that lie alone far outside.
fn clusters_and_outliers(random: &mut Rng) -> Vec<f32> {
    let mut point = |scale: f32| (0..DIMENSIONS).map(|_| scale * component(random)).collect::<Vec<f32>>();
    let centers: Vec<Vec<f32>> = (0..40).map(|_| point(1.0)).collect();
    let mut all = Vec::new();
    for row in 0..6_000 {
        let offset = point(0.05);
        all.extend(centers[row % 40].iter().zip(offset).map(|(x, y)| x + y));
    }
    (0..60).for_each(|_| all.extend(point(3.0)));
    all
}

#[test]
fn each_row_is_found_by_its_own_vector() {
    for (seed, metric) in [(20, Metric::L2), (21, Metric::Cosine)] {
        let base = clusters_and_outliers(&mut Rng::with_seed(seed));
        let of = |row: u32| &base[row as usize * DIMENSIONS..(row as usize + 1) * DIMENSIONS];
        let graph = graph(metric, &base);
        let mut searcher = GraphSearcher::default();
        let lost = (0..graph.len() as u32).filter(|row| {
            let query = VectorQuery::new(metric, of(*row).to_vec()).unwrap();
            let (options, all_rows) = (GraphSearchOptions::new(K), RowSelection::all());
            let nearest = searcher
                .search(&graph, of(*row), options, &all_rows, None, |other| query.distance(of(other)));
            !nearest.iter().any(|(_, found)| found == row)
        });
        assert_eq!(lost.count(), 0, "seed {seed}");
    }
}

#[test]
fn queries_outside_of_the_data_find_what_is_nearest() {
    let mut random = Rng::with_seed(22);
    let base = clusters_and_outliers(&mut random);
    let of = |row: u32| &base[row as usize * DIMENSIONS..(row as usize + 1) * DIMENSIONS];
    for metric in [Metric::L2, Metric::Cosine, Metric::Dot] {
        let graph = graph(metric, &base);
        let (mut searcher, all_rows) = (GraphSearcher::default(), RowSelection::all());
        let mut found = 0;
        for _ in 0..100 {
            let vector: Vec<f32> = (0..DIMENSIONS).map(|_| component(&mut random)).collect();
            let query = VectorQuery::new(metric, vector.clone()).unwrap();
            let distance = |row| query.distance(of(row));
            let options = GraphSearchOptions::new(K);
            let nearest = searcher.search(&graph, &vector, options, &all_rows, None, distance);
            let truth = exact(&base, &query, |_| true);
            found += nearest.iter().filter(|(_, row)| truth.contains(row)).count();
        }
        assert!(found >= 950, "{metric:?}: {found} of 1000");
    }
}

#[test]
fn the_measured_beam_finds_what_was_asked_for() {
    let mut random = Rng::with_seed(23);
    let scattered: Vec<f32> = (0..8_000 * DIMENSIONS).map(|_| component(&mut random)).collect();
    for (base, seed, is_clustered) in [(scattered, 24, false), (clusters_and_outliers(&mut random), 25, true)]
    {
        let of = |row: u32| &base[row as usize * DIMENSIONS..(row as usize + 1) * DIMENSIONS];
        let graph = graph(Metric::L2, &base);
        let mut random = Rng::with_seed(seed);
        let queries: Vec<Vec<f32>> =
            (0..100).map(|_| (0..DIMENSIONS).map(|_| component(&mut random)).collect()).collect();
        for recall in RECALL_TARGETS {
            let mut searcher = GraphSearcher::default();
            let (mut found, mut compared) = (0, 0);
            for vector in &queries {
                let query = VectorQuery::new(Metric::L2, vector.clone()).unwrap();
                let options = GraphSearchOptions { k: K, beam: Beam::Recall(recall) };
                let distance = |row| query.distance(of(row));
                let nearest = searcher.search(&graph, vector, options, &RowSelection::all(), None, distance);
                let truth = exact(&base, &query, |_| true);
                // Where so many candidates are needed that all are compared, nothing is missed.
                compared += usize::from(nearest.is_empty());
                found += nearest.iter().filter(|(_, row)| truth.contains(row)).count();
            }
            assert!(!is_clustered || recall > 0.95 || compared == 0, "seed {seed}");
            let wanted = (recall - 0.02) * (1_000 - K * compared) as f32;
            assert!(found as f32 >= wanted, "recall {recall}: {found}, {compared} compared");
        }
    }
}
