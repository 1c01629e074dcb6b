//! Fusion: merges several rankings into one. Pure functions without I/O.

use std::collections::HashMap;
use std::hash::Hash;

/// How rankings are merged.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Fusion {
    /// Reciprocal rank fusion: the sum of `1 / (k + rank)` over the rankings (Cormack, Clarke and Büttcher,
    /// "Reciprocal rank fusion outperforms Condorcet and individual rank learning methods", SIGIR 2009).
    Rrf { k: f64 },
    /// The sum of the scores, each normalized within its ranking.
    Weighted(Normalization),
}

/// How the scores of different retrievers become comparable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Normalization {
    /// Maps the lowest score to 0 and the highest to 1.
    MinMax,
    /// Maps three standard deviations below the mean to 0 and three above it to 1.
    Distribution,
}

/// The rank and score of a row in the ranking of one retriever.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct RetrieverRank {
    /// Starts at 1.
    pub rank: u32,
    /// The score as the retriever computes it.
    pub score: f32,
}

/// An item of the fused ranking.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct FusedRow<T> {
    pub item: T,
    /// The fused score.
    pub score: f64,
    /// Its rank in each of the rankings, if it is in that ranking.
    pub ranks: Vec<Option<RetrieverRank>>,
}

/// Fuses rankings, each with the best first and with a weight.
///
/// `comparable(ranking, score)` converts the score of a ranking into one where higher is better. The result
/// is in order of first appearance. Equal inputs give bit-identical scores.
pub(crate) fn fuse<T: Copy + Eq + Hash>(
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
        for ((rank, (score, item)), comparable_score) in (1..).zip(ranking).zip(&scores) {
            let index = *known.entry(*item).or_insert_with(|| {
                fused.push(FusedRow { item: *item, score: 0.0, ranks: vec![None; rankings.len()] });
                fused.len() - 1
            });
            let contribution = match fusion {
                Fusion::Rrf { k } => 1.0 / (k + f64::from(rank)),
                Fusion::Weighted(_) => normalize(*comparable_score),
            };
            fused[index].score += weight * contribution;
            fused[index].ranks[retriever] = Some(RetrieverRank { rank, score: *score });
        }
    }
    fused
}

/// The function that maps the scores of one ranking to the range from 0 to 1.
fn normalizer(scores: &[f64], fusion: Fusion) -> impl Fn(f64) -> f64 {
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
        // All scores are equal, so each is the best.
        false => 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(_: usize, score: f32) -> f64 {
        f64::from(score)
    }

    fn by_score(mut fused: Vec<FusedRow<char>>) -> Vec<(char, f64)> {
        fused.sort_by(|a, b| b.score.total_cmp(&a.score));
        fused.into_iter().map(|f| (f.item, f.score)).collect()
    }

    #[test]
    fn reciprocal_ranks_add_up() {
        let rankings = [vec![(9.0, 'a'), (8.0, 'b')], vec![(0.5, 'b'), (0.4, 'c')]];
        let found = by_score(fuse(&rankings, &[1.0, 1.0], Fusion::Rrf { k: 60.0 }, identity));
        assert_eq!(found, [('b', 1.0 / 62.0 + 1.0 / 61.0), ('a', 1.0 / 61.0), ('c', 1.0 / 62.0)]);
    }

    #[test]
    fn weights_apply_to_normalized_scores() {
        let rankings = [vec![(30.0, 'a'), (10.0, 'b')], vec![(0.9, 'b'), (0.8, 'a'), (0.7, 'c')]];
        let fusion = Fusion::Weighted(Normalization::MinMax);
        let found = by_score(fuse(&rankings, &[0.25, 0.75], fusion, identity));
        assert_eq!(found.iter().map(|f| f.0).collect::<String>(), "bac");
        assert_eq!(found[0].1, 0.75);
        let same = fuse(
            &[vec![(1.0, 'a'), (1.0, 'b')]],
            &[1.0],
            Fusion::Weighted(Normalization::Distribution),
            identity,
        );
        assert!(same.iter().all(|f| f.score == 1.0));
    }

    #[test]
    fn ranks_in_each_ranking_are_kept() {
        let fused = fuse(&[vec![(2.0, 'a')], vec![]], &[1.0, 1.0], Fusion::Rrf { k: 60.0 }, identity);
        assert_eq!(fused[0].ranks, [Some(RetrieverRank { rank: 1, score: 2.0 }), None]);
    }
}
