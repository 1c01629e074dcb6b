//! Centroids of vectors: codes are of the difference from the nearest, which is smaller than that from any one point.

use rayon::prelude::*;

use super::quantization::Random;

/// Vectors of a sample for each centroid.
const SAMPLE: usize = 64;
const ROUNDS: usize = 4;
const CENTROIDS_MAX: usize = 1024;

/// Points in the middle of groups of vectors.
#[derive(Clone, Debug)]
pub struct Centroids {
    length: usize,
    points: Vec<f32>,
}

impl Centroids {
    pub fn new(length: usize, points: Vec<f32>) -> Self {
        Self { length, points }
    }

    /// Centroids of vectors, and for each vector which is the nearest (Lloyd: "Least squares quantization in PCM", 1982).
    pub fn find(vectors: &[f32], length: usize, seed: u64) -> (Self, Vec<u32>) {
        let count = vectors.len().checked_div(length).unwrap_or(0);
        let wanted = ((count as f64).sqrt() as usize).clamp(1, CENTROIDS_MAX).min(count);
        let of = |row: usize| &vectors[row * length..(row + 1) * length];
        let mut random = Random::new(seed ^ 2);
        let sample: Vec<usize> = match count <= wanted * SAMPLE {
            true => (0..count).collect(),
            false => (0..wanted * SAMPLE).map(|_| (random.next() % count as u64) as usize).collect(),
        };
        let mut centroids = Self { length, points: vec![] };
        // Each is far from those before it: a group of its own soon has one (Arthur and Vassilvitskii: "k-means++: the
        // advantages of careful seeding", 2007).
        let mut far = vec![f32::MAX; sample.len()];
        for _ in 0..wanted {
            let total: f64 = far.iter().map(|far| f64::from((*far).min(1e30))).sum();
            let mut left = total * (random.next() >> 11) as f64 / (1u64 << 53) as f64;
            let at = far.iter().position(|far| {
                left -= f64::from((*far).min(1e30));
                left < 0.0
            });
            let point = of(sample[at.unwrap_or(0)]);
            far.par_iter_mut().zip(&sample).for_each(|(far, row)| {
                *far = far.min(crate::squared_l2(point, of(*row)));
            });
            centroids.points.extend_from_slice(point);
        }
        for _ in 0..ROUNDS {
            let nearest: Vec<u32> = sample.par_iter().map(|row| centroids.nearest(of(*row))).collect();
            let mut sums = vec![0.0f64; centroids.points.len()];
            let mut counts = vec![0usize; centroids.len()];
            for (row, centroid) in sample.iter().zip(&nearest) {
                let centroid = *centroid as usize;
                counts[centroid] += 1;
                let sum = &mut sums[centroid * length..(centroid + 1) * length];
                sum.iter_mut().zip(of(*row)).for_each(|(sum, x)| *sum += f64::from(*x));
            }
            for (centroid, count) in counts.into_iter().enumerate().filter(|(_, count)| *count > 0) {
                let range = centroid * length..(centroid + 1) * length;
                let point = &mut centroids.points[range.clone()];
                point.iter_mut().zip(&sums[range]).for_each(|(x, sum)| *x = (sum / count as f64) as f32);
            }
        }
        let nearest = (0..count).into_par_iter().map(|row| centroids.nearest(of(row))).collect();
        (centroids, nearest)
    }

    pub fn len(&self) -> usize {
        self.points.len().checked_div(self.length).unwrap_or(0)
    }

    pub fn get(&self, centroid: u32) -> &[f32] {
        &self.points[centroid as usize * self.length..(centroid as usize + 1) * self.length]
    }

    pub fn all(&self) -> impl Iterator<Item = &[f32]> {
        self.points.chunks_exact(self.length.max(1))
    }

    fn nearest(&self, vector: &[f32]) -> u32 {
        let distances = self.all().map(|point| crate::squared_l2(point, vector));
        distances.zip(0..).min_by(|a, b| a.0.total_cmp(&b.0)).map_or(0, |(_, centroid)| centroid)
    }
}
