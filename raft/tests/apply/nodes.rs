//! Decommissioning a node: its replicas are placed on other nodes before it is removed.

use plexus_model::{Command, ErrorKind, Manifest, NodeId};

use crate::helpers::*;

fn remove(node: u64) -> Command {
    Command::RemoveNode(NodeId(node))
}

fn drain(node: u64) -> Command {
    Command::DrainNode(NodeId(node))
}

fn replicas(manifest: &Manifest) -> Vec<Vec<u64>> {
    table(manifest).shards.iter().map(|s| s.replicas.iter().map(|n| n.0).collect()).collect()
}

#[test]
fn node_is_removed_only_when_other_nodes_have_taken_over_its_replicas() {
    let mut manifest = cluster();
    assert_eq!(reject(&mut manifest, 50, remove(9)), ErrorKind::NotFound);
    assert_eq!(reject(&mut manifest, 51, drain(9)), ErrorKind::NotFound);
    assert_eq!(reject(&mut manifest, 52, remove(2)), ErrorKind::Conflict);
    let (kind, message) = reject_with_message(&mut manifest, 53, drain(2));
    assert_eq!(kind, ErrorKind::Conflict);
    assert!(message.contains("node 2") && message.contains("public.t"), "{message}");
    accept(&mut manifest, 54, Command::RegisterNode(node(4)));
    for token in [55, 56] {
        // The second time changes nothing.
        accept(&mut manifest, token, drain(2));
        for shard in replicas(&manifest) {
            assert!(shard.len() == 4 && shard.contains(&2), "{shard:?}");
            assert_eq!(shard.last(), Some(&4), "a replica without data must come last");
        }
    }
    // When the node that takes over dies, another one is needed and the drained node must stay.
    let set_liveness = |live| Command::SetLiveness { node: NodeId(4), live };
    accept(&mut manifest, 60, set_liveness(false));
    assert_eq!(reject(&mut manifest, 61, remove(2)), ErrorKind::Conflict);
    assert_eq!(reject(&mut manifest, 62, drain(2)), ErrorKind::Conflict);
    accept(&mut manifest, 63, set_liveness(true));
    accept(&mut manifest, 57, remove(2));
    assert!(!manifest.nodes.contains_key(&NodeId(2)));
    for mut shard in replicas(&manifest) {
        shard.sort_unstable();
        assert_eq!(shard, [1, 3, 4]);
    }
}
