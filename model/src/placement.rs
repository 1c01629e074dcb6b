//! Placement: which shard a row belongs to, and which nodes hold the replicas of a shard. All functions are
//! pure, so that every node computes the same placement.

use xxhash_rust::xxh3::{Xxh3, xxh3_64_with_seed};

use crate::NodeId;
use crate::limits::{SLOT_SEED, SLOTS};

/// XXH3 hash of the canonical bytes of a key. It selects the slot, and key indexes are sorted by it.
pub fn hash_key(key: &[u8]) -> u64 {
    xxh3_64_with_seed(key, SLOT_SEED)
}

/// The slot of a key hash: from 0 to 65,535.
pub fn slot_of_hash(hash: u64) -> u32 {
    (hash % u64::from(SLOTS)) as u32
}

/// The shard that owns `slot` when `shards` shards own contiguous ranges of equal size.
pub fn shard_of_slot(slot: u32, shards: u32) -> u32 {
    debug_assert!(slot < SLOTS && shards > 0);
    (u64::from(slot) * u64::from(shards) / u64::from(SLOTS)) as u32
}

/// The `count` nodes with the highest score for a shard, highest first.
///
/// Rendezvous hashing (Thaler and Ravishankar: "Using name-based mappings to increase hit rates", 1998). When
/// a node joins or leaves, only replicas that the node wins or held move.
pub fn rendezvous(table: u64, shard: u32, nodes: &[NodeId], count: usize) -> Vec<NodeId> {
    let mut scored: Vec<(u64, NodeId)> =
        nodes.iter().map(|&node| (score(table, shard, node), node)).collect();
    scored.sort_unstable_by(|a, b| b.cmp(a));
    scored.into_iter().take(count).map(|(_, node)| node).collect()
}

/// The rendezvous score of a node for a shard.
fn score(table: u64, shard: u32, node: NodeId) -> u64 {
    let mut hasher = Xxh3::with_seed(SLOT_SEED);
    hasher.update(&table.to_le_bytes());
    hasher.update(&shard.to_le_bytes());
    hasher.update(&node.0.to_le_bytes());
    hasher.digest()
}

/// The smallest number of replicas that is a majority of `replicas`.
pub fn majority(replicas: usize) -> usize {
    replicas / 2 + 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_slot_has_one_shard_and_ranges_are_contiguous(shards in 1u32..=1024) {
            let mut last = 0;
            for slot in 0..SLOTS {
                let shard = shard_of_slot(slot, shards);
                prop_assert!(shard == last || shard == last + 1);
                last = shard;
            }
            prop_assert_eq!(last, shards - 1);
        }

        #[test]
        fn losing_a_node_moves_only_its_shards(shard in 0u32..64, lost in 0usize..7) {
            let nodes: Vec<NodeId> = (1..=7).map(NodeId).collect();
            let before = rendezvous(9, shard, &nodes, 3);
            let remaining: Vec<NodeId> = nodes.iter().copied().filter(|&n| n != nodes[lost]).collect();
            let after = rendezvous(9, shard, &remaining, 3);
            let survivors: Vec<NodeId> = before.iter().copied().filter(|&n| n != nodes[lost]).collect();
            prop_assert_eq!(&after[..survivors.len()], &survivors[..]);
        }
    }

    #[test]
    fn a_majority_is_more_than_half() {
        assert_eq!((1..=5).map(majority).collect::<Vec<_>>(), [1, 2, 2, 3, 3]);
    }
}
