//! Random commands: the same entries give the same snapshot bytes, and damaged snapshots give errors.

use plexus_model::{
    AlterTable, Command, DeletionVector, Manifest, NodeId, RowSet, SegmentId, TableChange, TableId, Version,
};
use plexus_raft::apply::apply;
use proptest::prelude::*;

use crate::helpers::*;

/// A random command. Numbers are chosen from few values, so that commands often meet the same table or
/// segment.
#[derive(Clone, Debug)]
enum Step {
    Create(u8),
    Drop(u8),
    Rename(u8, u8),
    Commit(u8, u16, bool),
    Remove(u8, u16),
    Liveness(u8, bool),
    Delete(u8, u16, u8),
    Flush(u8, u16, u16),
    Alter(u8),
    Vacuum(u8),
    /// A proposal with a token that may have been used before.
    Repeat(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0u8..4).prop_map(Step::Create),
        (0u8..4).prop_map(Step::Drop),
        (0u8..4, 0u8..4).prop_map(|(a, b)| Step::Rename(a, b)),
        (0u8..20, 0u16..200, any::<bool>()).prop_map(|(t, s, inline)| Step::Commit(t, s, inline)),
        (0u8..20, 0u16..200).prop_map(|(t, s)| Step::Remove(t, s)),
        (1u8..4, any::<bool>()).prop_map(|(n, live)| Step::Liveness(n, live)),
        (0u8..20, 0u16..200, 0u8..12).prop_map(|(t, s, row)| Step::Delete(t, s, row)),
        (0u8..20, 0u16..200, 0u16..200).prop_map(|(t, a, b)| Step::Flush(t, a, b)),
        (0u8..20).prop_map(Step::Alter),
        (0u8..20).prop_map(Step::Vacuum),
        (0u8..50).prop_map(Step::Repeat),
    ];
    proptest::collection::vec(step, 1..80)
}

fn command(step: &Step, manifest: &Manifest) -> Command {
    let name = |n: &u8| table_name(&format!("t{n}"));
    let table =
        |n: &u8| manifest.tables.keys().nth(*n as usize % manifest.tables.len().max(1)).map_or(0, |t| t.0);
    match step {
        Step::Create(n) => create_table(&format!("t{n}"), 1 + u32::from(n % 3)),
        Step::Drop(n) => Command::DropTable { name: name(n), if_exists: n % 2 == 0 },
        Step::Rename(a, b) => Command::RenameTable { from: name(a), to: name(b), replace: a % 2 == 0 },
        Step::Commit(t, s, inline) => {
            let id = u128::from(*s);
            let segment = if *inline { inline_segment(id) } else { file_segment(id, &[1, 2, 3]) };
            commit(table(t), vec![segment], vec![])
        }
        Step::Remove(t, s) => commit(table(t), vec![], vec![u128::from(*s)]),
        Step::Liveness(n, live) => Command::SetLiveness { node: NodeId(u64::from(*n)), live: *live },
        Step::Delete(t, s, row) => {
            let deletion = DeletionVector::inline(&RowSet::from_iter([u32::from(*row)]));
            let delete = vec![(SegmentId(u128::from(*s)), deletion)];
            commit_change(TableChange { base: manifest.version, delete, ..write(table(t)) })
        }
        Step::Flush(t, from, to) => flush(
            table(t),
            vec![u128::from(*from)],
            file_segment(1_000 + u128::from(*to) * 2 + u128::from(from % 2), &[1, 2, 3]),
        ),
        Step::Alter(t) => Command::AlterTable(AlterTable {
            table: TableId(table(t)),
            schema_version: 1,
            schema: schema(),
            base: None,
        }),
        Step::Vacuum(t) => {
            Command::Vacuum { table: TableId(table(t)), until: Version(manifest.version.0.saturating_sub(5)) }
        }
        Step::Repeat(_) => Command::Vacuum { table: TableId(0), until: Version(0) },
    }
}

/// Applies the steps in entries of `entry_proposals` proposals each.
fn apply_steps(steps: &[Step], entry_proposals: usize) -> Manifest {
    let mut manifest = cluster();
    for (entry, chunk) in steps.chunks(entry_proposals).enumerate() {
        let index = Version(manifest.version.0 + 1);
        let proposals = chunk
            .iter()
            .enumerate()
            .map(|(i, step)| {
                let token = match step {
                    Step::Repeat(token) => u128::from(*token),
                    _ => 1_000 + (entry * entry_proposals + i) as u128,
                };
                proposal(token, command(step, &manifest))
            })
            .collect();
        // The leader's clock may fall between entries.
        apply(&mut manifest, index, 10_000 + (entry * 7 % 31) as u64, proposals);
    }
    manifest
}

proptest! {
    #[test]
    fn same_entries_give_the_same_snapshot_bytes(steps in steps(), entry_proposals in 1usize..5) {
        let first = apply_steps(&steps, entry_proposals).to_bytes();
        let second = apply_steps(&steps, entry_proposals).to_bytes();
        prop_assert!(first == second, "the same entries gave different bytes");
        // A restored snapshot is the same manifest.
        let restored = Manifest::from_bytes(&first).unwrap();
        prop_assert!(restored.to_bytes() == first);
        prop_assert!(restored == apply_steps(&steps, entry_proposals));
    }

    #[test]
    fn damaged_snapshots_never_panic(
        steps in steps(),
        at in any::<prop::sample::Index>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = apply_steps(&steps, 3).to_bytes();
        let cut_at = cut.index(bytes.len());
        let _ = Manifest::from_bytes(&bytes[..cut_at]);
        let at = at.index(bytes.len());
        bytes[at] ^= 0x55;
        let _ = Manifest::from_bytes(&bytes);
    }
}
