//! The graph of vectors against a look at every one of them.

use plexus_index::graph::{BuildOptions, Graph, Walk, WalkOptions};
use plexus_index::{Query, dot};
use plexus_model::Metric;

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

/// Vectors around some centres.
fn vectors(count: usize, seed: u64) -> Vec<f32> {
    let mut fixed = Random(7);
    let centres: Vec<Vec<f32>> = (0..30).map(|_| (0..LENGTH).map(|_| fixed.next()).collect()).collect();
    let mut random = Random(seed);
    (0..count)
        .flat_map(|row| {
            let centre = &centres[row % centres.len()];
            centre.iter().map(|x| x + 0.5 * random.next()).collect::<Vec<_>>()
        })
        .collect()
}

fn exact(vectors: &[f32], query: &Query) -> Vec<u32> {
    let mut all: Vec<(f32, u32)> =
        vectors.chunks_exact(LENGTH).zip(0..).map(|(vector, row)| (query.distance(vector), row)).collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    all.into_iter().take(K).map(|(_, row)| row).collect()
}

#[test]
fn most_of_the_nearest_are_found_by_each_metric() {
    let base = vectors(5_000, 1);
    let of = |row: u32| &base[row as usize * LENGTH..(row as usize + 1) * LENGTH];
    for metric in [Metric::Cosine, Metric::L2, Metric::Dot] {
        let graph = Graph::build(metric, LENGTH, &base, BuildOptions::default());
        let mut walk = Walk::default();
        let (mut found, mut all) = (0, 0);
        for asked in vectors(100, 2).chunks_exact(LENGTH) {
            let query = Query::new(metric, asked.to_vec()).unwrap();
            let options = WalkOptions { beam: 64, compared: 40 };
            let nearest = walk.nearest(&graph, asked, K, options, |row| query.distance(of(row)));
            assert_eq!(nearest.len(), K);
            assert!(nearest.is_sorted_by(|a, b| a.0 <= b.0));
            let truth = exact(&base, &query);
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
        let graph = pool.install(|| Graph::build(Metric::L2, LENGTH, &base, BuildOptions::default()));
        let mut walk = Walk::default();
        let asked = vectors(50, 4);
        let nearest = |asked: &[f32]| {
            let options = WalkOptions { beam: 10, compared: 10 };
            walk.nearest(&graph, asked, K, options, |row| {
                let vector = &base[row as usize * LENGTH..(row as usize + 1) * LENGTH];
                -dot(asked, vector)
            })
        };
        asked.chunks_exact(LENGTH).map(nearest).collect::<Vec<_>>()
    };
    assert_eq!(walks(1), walks(3));
}

#[test]
fn few_vectors_and_none_are_no_trouble() {
    for count in [0, 1, 2, 3, 40] {
        let base = vectors(count, 5);
        let graph = Graph::build(Metric::L2, LENGTH, &base, BuildOptions::default());
        assert_eq!((graph.len(), graph.is_empty()), (count, count == 0));
        let options = WalkOptions { beam: 64, compared: 64 };
        let nearest = Walk::default().nearest(&graph, &[0.5; LENGTH], K, options, |row| row as f32);
        let rows: Vec<u32> = nearest.iter().map(|(_, row)| *row).collect();
        assert_eq!(rows, (0..count.min(K) as u32).collect::<Vec<_>>(), "{count}");
    }
}
