//! Tokens make a repeated proposal harmless, and expire by commit time.

use plexus_model::limits::{TOKENS_MAX, TOKENS_MIN};
use plexus_model::{Command, TableId, Token, Version};
use plexus_raft::apply::apply;

use crate::helpers::*;

#[test]
fn repeated_token_gets_the_recorded_outcome_and_changes_nothing() {
    let mut manifest = cluster();
    let command = add(vec![file_segment(100, &[1, 2])]);
    let first = apply_one(&mut manifest, 50, command.clone());
    let before = manifest.clone();
    let repeated = apply_one(&mut manifest, 50, command);
    assert_eq!(first, repeated);
    assert_eq!(manifest.tables, before.tables);
}

#[test]
fn commit_time_increases_and_expires_tokens_except_the_latest() {
    let mut manifest = cluster();
    let late = 1_000_000_000;
    let mut entry = |time_us, proposals| {
        let index = Version(manifest.version.0 + 1);
        apply(&mut manifest, index, time_us, proposals);
        manifest.clone()
    };
    entry(late, vec![proposal(90, create_table("a", 1))]);
    let manifest = entry(5, vec![proposal(91, create_table("b", 1))]);
    assert_eq!(manifest.time_us, late + 1);
    // A clock that is far ahead must not expire the tokens of recent proposals.
    assert!(manifest.tokens.contains_key(&Token(1)));
    let vacuum = |token| proposal(token, Command::Vacuum { table: TableId(9), until: Version(0) });
    let manifest = entry(late, (1_000..1_000 + TOKENS_MIN as u128).map(vacuum).collect());
    assert!(!manifest.tokens.contains_key(&Token(1)), "an old token has not expired");
    assert!(manifest.tokens.contains_key(&Token(90)), "a token has expired too early");
    // Commit time increases even near the greatest clock value.
    entry(u64::MAX - 1_000, vec![vacuum(5_000_000)]);
    assert_eq!(entry(0, vec![vacuum(5_000_001)]).tokens.len(), TOKENS_MIN);
    // From then on commit time hardly increases, and the number of tokens is still limited.
    let many = entry(0, (0..TOKENS_MAX as u128 + 5_000).map(|i| vacuum(6_000_000 + i)).collect());
    assert_eq!(many.tokens.len(), TOKENS_MAX);
}
