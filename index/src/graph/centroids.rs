//! Centroids by k-means clustering. Codes encode the residual from the nearest centroid, which is smaller
//! than the vector itself and therefore has a smaller quantization error.

use rayon::prelude::*;

use super::random::SplitMix64;

/// Sampled vectors for each centroid.
const SAMPLE_PER_CENTROID: usize = 64;
/// Iterations of Lloyd's algorithm.
const ITERATIONS: usize = 4;
const CENTROIDS_MAX: usize = 1024;
/// Bound of a squared distance in the sampling weights, so that their sum stays finite.
const WEIGHT_MAX: f32 = 1e30;

/// The means of clusters of vectors.
#[derive(Clone, Debug)]
pub(crate) struct Centroids {
    dimensions: usize,
    /// The components of all centroids, one after the other.
    points: Vec<f32>,
}

impl Centroids {
    pub(crate) fn new(dimensions: usize, points: Vec<f32>) -> Self {
        Self { dimensions, points }
    }

    /// Clusters vectors into about the square root of their number, at most 1,024 clusters. Returns the
    /// centroids and the nearest centroid of each vector.
    ///
    /// The initial centroids are chosen by k-means++ (Arthur and Vassilvitskii, 2007) and improved by Lloyd's
    /// algorithm ("Least squares quantization in PCM", 1982), both on a sample.
    pub(crate) fn cluster(vectors: &[f32], dimensions: usize, seed: u64) -> (Self, Vec<u32>) {
        let count = vectors.len().checked_div(dimensions).unwrap_or(0);
        let clusters = ((count as f64).sqrt() as usize).clamp(1, CENTROIDS_MAX).min(count);
        let vector = |row: usize| &vectors[row * dimensions..(row + 1) * dimensions];
        let mut random = SplitMix64::new(seed ^ 2);
        let sample: Vec<usize> = match count <= clusters * SAMPLE_PER_CENTROID {
            true => (0..count).collect(),
            false => {
                (0..clusters * SAMPLE_PER_CENTROID).map(|_| (random.next() % count as u64) as usize).collect()
            }
        };
        let sample: Vec<&[f32]> = sample.into_iter().map(vector).collect();
        let mut centroids = Self { dimensions, points: vec![] };
        centroids.seed_plus_plus(&sample, clusters, &mut random);
        (0..ITERATIONS).for_each(|_| centroids.iterate(&sample));
        let nearest = (0..count).into_par_iter().map(|row| centroids.nearest(vector(row))).collect();
        (centroids, nearest)
    }

    /// Chooses initial centroids: each is a sampled vector, drawn with a probability in proportion to its
    /// squared distance from the centroids before it.
    fn seed_plus_plus(&mut self, sample: &[&[f32]], clusters: usize, random: &mut SplitMix64) {
        let mut distances = vec![f32::MAX; sample.len()];
        let weight = |distance: f32| f64::from(distance.min(WEIGHT_MAX));
        for _ in 0..clusters {
            let total: f64 = distances.iter().map(|distance| weight(*distance)).sum();
            let mut remaining = total * (random.next() >> 11) as f64 / (1u64 << 53) as f64;
            let drawn = distances.iter().position(|distance| {
                remaining -= weight(*distance);
                remaining < 0.0
            });
            let point = sample[drawn.unwrap_or(0)];
            distances.par_iter_mut().zip(sample).for_each(|(distance, vector)| {
                *distance = distance.min(crate::squared_l2(point, vector));
            });
            self.points.extend_from_slice(point);
        }
    }

    /// Moves each centroid to the mean of the sampled vectors that are nearest to it.
    fn iterate(&mut self, sample: &[&[f32]]) {
        let nearest: Vec<u32> = sample.par_iter().map(|vector| self.nearest(vector)).collect();
        let mut sums = vec![0.0f64; self.points.len()];
        let mut counts = vec![0usize; self.len()];
        for (vector, centroid) in sample.iter().zip(&nearest) {
            let centroid = *centroid as usize;
            counts[centroid] += 1;
            let sum = &mut sums[centroid * self.dimensions..(centroid + 1) * self.dimensions];
            sum.iter_mut().zip(*vector).for_each(|(sum, x)| *sum += f64::from(*x));
        }
        for (centroid, count) in counts.into_iter().enumerate().filter(|(_, count)| *count > 0) {
            let range = centroid * self.dimensions..(centroid + 1) * self.dimensions;
            let point = &mut self.points[range.clone()];
            point.iter_mut().zip(&sums[range]).for_each(|(x, sum)| *x = (sum / count as f64) as f32);
        }
    }

    /// Number of centroids.
    pub(crate) fn len(&self) -> usize {
        self.points.len().checked_div(self.dimensions).unwrap_or(0)
    }

    pub(crate) fn get(&self, centroid: u32) -> &[f32] {
        &self.points[centroid as usize * self.dimensions..(centroid as usize + 1) * self.dimensions]
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &[f32]> {
        self.points.chunks_exact(self.dimensions.max(1))
    }

    fn nearest(&self, vector: &[f32]) -> u32 {
        let distances = self.iter().map(|point| crate::squared_l2(point, vector));
        distances.zip(0..).min_by(|a, b| a.0.total_cmp(&b.0)).map_or(0, |(_, centroid)| centroid)
    }
}
