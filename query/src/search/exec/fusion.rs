//! One ranking of several. Pure.

use std::collections::HashMap;
use std::hash::Hash;

/// How rankings become one.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Fusion {
    /// The sum of `1 / (k + rank)` over the rankings (Cormack, Clarke and Büttcher: "Reciprocal rank fusion outperforms
    /// Condorcet and individual rank learning methods", 2009).
    Rrf { k: f64 },
    /// The sum of scores, which each ranking is first made comparable by.
    Weighted(Normalization),
}

/// How scores of different kinds become comparable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Normalization {
    /// The lowest becomes 0, the highest 1.
    MinMax,
    /// Three standard deviations below the mean become 0, three above it 1.
    Distribution,
}

/// A place in a ranking.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct RetrieverRank {
    /// From 1 on.
    pub rank: u32,
    pub score: f32,
}

/// An item with its place in each ranking that has it.
#[derive(Clone, PartialEq, Debug)]
pub struct FusedRow<T> {
    pub item: T,
    pub score: f64,
    pub ranks: Vec<Option<RetrieverRank>>,
}

/// Fuses rankings, the best first in each, with a weight for each. `comparable` gives the score of which more is better
/// for one in a ranking. The items are in the order of their first appearance; equal rankings give equal scores, bit for
/// bit.
pub fn fuse<T: Copy + Eq + Hash>(
    rankings: &[Vec<(f32, T)>],
    weights: &[f64],
    fusion: Fusion,
    comparable: impl Fn(usize, f32) -> f64,
) -> Vec<FusedRow<T>> {
    let mut fused: Vec<FusedRow<T>> = Vec::new();
    let mut known: HashMap<T, usize> = HashMap::new();
    for (retriever, (ranking, weight)) in rankings.iter().zip(weights).enumerate() {
        let scores: Vec<f64> = ranking.iter().map(|(score, _)| comparable(retriever, *score)).collect();
        let normalize = normalizer(&scores, fusion);
        for ((rank, (score, item)), of_leg) in (1..).zip(ranking).zip(&scores) {
            let place = *known.entry(*item).or_insert_with(|| {
                fused.push(FusedRow { item: *item, score: 0.0, ranks: vec![None; rankings.len()] });
                fused.len() - 1
            });
            let view = match fusion {
                Fusion::Rrf { k } => 1.0 / (k + f64::from(rank)),
                Fusion::Weighted(_) => normalize(*of_leg),
            };
            fused[place].score += weight * view;
            fused[place].ranks[retriever] = Some(RetrieverRank { rank, score: *score });
        }
    }
    fused
}

pub fn normalizer(scores: &[f64], fusion: Fusion) -> impl Fn(f64) -> f64 {
    let scores = || scores.iter().copied();
    let (low, high) = match fusion {
        Fusion::Weighted(Normalization::Distribution) => {
            let count = scores().count().max(1) as f64;
            let mean = scores().sum::<f64>() / count;
            let deviation = (scores().map(|s| (s - mean) * (s - mean)).sum::<f64>() / count).sqrt();
            (mean - 3.0 * deviation, mean + 3.0 * deviation)
        }
        _ => (scores().fold(f64::INFINITY, f64::min), scores().fold(f64::NEG_INFINITY, f64::max)),
    };
    move |score| match high > low {
        true => ((score - low) / (high - low)).clamp(0.0, 1.0),
        // All are equal: as good as the best.
        false => 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same_score(_: usize, score: f32) -> f64 {
        f64::from(score)
    }

    fn by_score(mut fused: Vec<FusedRow<char>>) -> Vec<(char, f64)> {
        fused.sort_by(|a, b| b.score.total_cmp(&a.score));
        fused.into_iter().map(|f| (f.item, f.score)).collect()
    }

    #[test]
    fn reciprocal_ranks_add_up() {
        let rankings = [vec![(9.0, 'a'), (8.0, 'b')], vec![(0.5, 'b'), (0.4, 'c')]];
        let found = by_score(fuse(&rankings, &[1.0, 1.0], Fusion::Rrf { k: 60.0 }, same_score));
        assert_eq!(found, [('b', 1.0 / 62.0 + 1.0 / 61.0), ('a', 1.0 / 61.0), ('c', 1.0 / 62.0)]);
    }

    #[test]
    fn weights_count_after_scores_are_made_comparable() {
        let rankings = [vec![(30.0, 'a'), (10.0, 'b')], vec![(0.9, 'b'), (0.8, 'a'), (0.7, 'c')]];
        let fusion = Fusion::Weighted(Normalization::MinMax);
        let found = by_score(fuse(&rankings, &[0.25, 0.75], fusion, same_score));
        assert_eq!(found.iter().map(|f| f.0).collect::<String>(), "bac");
        assert_eq!(found[0].1, 0.75);
        let same = fuse(
            &[vec![(1.0, 'a'), (1.0, 'b')]],
            &[1.0],
            Fusion::Weighted(Normalization::Distribution),
            same_score,
        );
        assert!(same.iter().all(|f| f.score == 1.0));
    }

    #[test]
    fn places_of_each_ranking_are_kept() {
        let fused = fuse(&[vec![(2.0, 'a')], vec![]], &[1.0, 1.0], Fusion::Rrf { k: 60.0 }, same_score);
        assert_eq!(fused[0].ranks, [Some(RetrieverRank { rank: 1, score: 2.0 }), None]);
    }
}
