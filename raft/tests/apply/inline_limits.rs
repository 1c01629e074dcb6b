//! Limits of the inline rows, which every node holds in memory.

use plexus_model::limits::INLINE_TOTAL_BYTES_MAX;
use plexus_model::{ErrorKind, Manifest, NewSegment, Outcome, Segment, SegmentData};

use crate::helpers::*;

#[test]
fn inline_rows_are_limited_for_each_table_and_for_all_tables() {
    let mut manifest = cluster();
    let megabyte = |id: u128| {
        let NewSegment(segment) = inline_segment(id);
        NewSegment(Segment { data: SegmentData::Inline(vec![7; 1 << 20]), ..segment })
    };
    let mut id = 1_000;
    // Adds segments to a table until one is rejected, and returns the message.
    let mut fill = |manifest: &mut Manifest, table| loop {
        id += 1;
        match apply_one(manifest, id, commit(table, vec![megabyte(id)], vec![])) {
            Outcome::Applied { .. } => {}
            Outcome::Rejected { kind, message } => {
                assert_eq!(kind, ErrorKind::ResourceExhausted);
                return message;
            }
        }
    };
    assert!(fill(&mut manifest, TABLE).contains("table public.t"));
    for n in 0..20 {
        let table = accept(&mut manifest, 100 + n, create_table(&format!("u{n}"), 1)).unwrap();
        if fill(&mut manifest, table.0).contains("for all tables") {
            assert!(manifest.inline_bytes() <= INLINE_TOTAL_BYTES_MAX as u64);
            return;
        }
    }
    panic!("the inline rows of all tables together are not limited");
}
