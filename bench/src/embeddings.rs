//! Vectors that resemble embeddings: clustered and of low rank. Uniformly random vectors would say nothing
//! about recall, since all of them are about equally far from each other.

use std::io::Write;
use std::path::Path;

use fastrand::Rng;
use plexus_index::squared_l2;
use plexus_model::{Error, Result};

/// Components of each vector.
pub(crate) const DIMENSIONS: usize = 384;
const CLUSTERS: usize = 200;
/// Dimensions of the subspace in which vectors differ most.
const RANK: usize = 128;
/// Standard deviation of the noise outside of that subspace.
const NOISE: f32 = 0.6;

/// A sequence of vectors of [`DIMENSIONS`] components, one after the other in memory.
#[derive(Clone, Copy)]
pub(crate) struct Vectors<'a>(pub(crate) &'a [f32]);

impl<'a> Vectors<'a> {
    pub(crate) fn count(self) -> usize {
        self.0.len() / DIMENSIONS
    }

    pub(crate) fn get(self, row: usize) -> &'a [f32] {
        &self.0[row * DIMENSIONS..(row + 1) * DIMENSIONS]
    }

    pub(crate) fn iter(self) -> std::slice::ChunksExact<'a, f32> {
        self.0.chunks_exact(DIMENSIONS)
    }

    /// The `k` of the given rows that are nearest to a query by Euclidean distance, nearest first, by
    /// comparing all of them.
    pub(crate) fn nearest(self, query: &[f32], rows: impl Iterator<Item = u32>, k: usize) -> Vec<u32> {
        let mut all: Vec<(f32, u32)> =
            rows.map(|row| (squared_l2(query, self.get(row as usize)), row)).collect();
        if all.len() > k && k > 0 {
            all.select_nth_unstable_by(k - 1, |a, b| a.0.total_cmp(&b.0));
            all.truncate(k);
        }
        all.sort_by(|a, b| a.0.total_cmp(&b.0));
        all.into_iter().take(k).map(|(_, row)| row).collect()
    }
}

/// Approximately standard normal: the sum of twelve uniform numbers, minus their mean (Irwin-Hall).
fn normal(random: &mut Rng) -> f32 {
    (0..12).map(|_| random.f32()).sum::<f32>() - 6.0
}

/// `count` numbers, each approximately standard normal.
fn normals(random: &mut Rng, count: usize) -> Vec<f32> {
    (0..count).map(|_| normal(random)).collect()
}

/// Unit vectors around centroids in a space of low rank, with some noise in all directions. The centroids are
/// the same for every seed, so that queries can be drawn from the distribution of the base vectors.
pub(crate) fn generate(count: usize, seed: u64) -> Vec<f32> {
    let mut fixed = Rng::with_seed(0x5eed);
    let basis = normals(&mut fixed, RANK * DIMENSIONS);
    let centroids: Vec<Vec<f32>> = (0..CLUSTERS).map(|_| normals(&mut fixed, RANK)).collect();
    let mut random = Rng::with_seed(seed);
    let mut vectors = Vec::with_capacity(count * DIMENSIONS);
    for _ in 0..count {
        let centroid = &centroids[random.u64(..CLUSTERS as u64) as usize];
        let position: Vec<f32> = centroid.iter().map(|x| x + normal(&mut random)).collect();
        let mut vector = normals(&mut random, DIMENSIONS);
        vector.iter_mut().for_each(|x| *x *= NOISE);
        for (x, direction) in position.iter().zip(basis.chunks_exact(DIMENSIONS)) {
            vector.iter_mut().zip(direction).for_each(|(v, d)| *v += x * d);
        }
        let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
        vectors.extend(vector.iter().map(|x| x / norm));
    }
    vectors
}

/// Writes vectors as little-endian 32-bit floats without a header, which the peers read.
pub(crate) fn write(path: &Path, vectors: &[f32]) -> Result<()> {
    let fail = |e| Error::io(path.display(), e);
    let mut file = std::io::BufWriter::new(std::fs::File::create(path).map_err(fail)?);
    vectors.iter().try_for_each(|x| file.write_all(&x.to_le_bytes())).map_err(fail)?;
    file.flush().map_err(fail)
}
