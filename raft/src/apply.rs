//! `apply`: the pure function from a manifest and one log entry to the next manifest and the outcomes.
//!
//! It uses no clock, no randomness and no I/O, so all nodes that apply the same entries hold the same bytes.
//! Within one entry, proposals are applied in order and share the entry's version. Each is all or nothing.

mod alter;
mod nodes;
mod tables;

use plexus_model::limits::{CLOCK_SECONDS_MAX, COMMIT_HISTORY_MAX, TOKEN_TTL_US, TOKENS_MAX, TOKENS_MIN};
use plexus_model::{
    ClusterId, Command, Error, Manifest, Outcome, Proposal, Result, Secret, TableId, TokenRecord, Version,
};

pub(crate) use self::alter::alter_table;
use crate::commit;

/// Applies the proposals of the log entry with index `version`, and returns one outcome for each, in their
/// order.
///
/// A proposal whose token was applied before gets the recorded outcome and changes nothing. `time_us` is the
/// clock of the leader that made the entry, in microseconds since the Unix epoch. The manifest's commit time
/// follows it, but always increases.
///
/// # Panics
/// When `version` is not above the manifest's version: applying an entry twice would break every invariant.
pub fn apply(
    manifest: &mut Manifest,
    version: Version,
    time_us: u64,
    proposals: Vec<Proposal>,
) -> Vec<Outcome> {
    assert!(
        version > manifest.version,
        "entry {version} applied to a manifest at version {}",
        manifest.version
    );
    manifest.version = version;
    manifest.time_us = time_us.max(manifest.time_us.saturating_add(1));
    let outcomes = proposals.into_iter().map(|p| apply_proposal(manifest, version, p)).collect();
    expire_tokens(manifest);
    trim_commit_history(manifest);
    record_clock(manifest, version);
    outcomes
}

fn apply_proposal(manifest: &mut Manifest, version: Version, proposal: Proposal) -> Outcome {
    if let Some(record) = manifest.tokens.get(&proposal.token) {
        return record.outcome.clone();
    }
    let time_us = manifest.time_us;
    let outcome = match execute(manifest, version, proposal.command) {
        Ok(table) => Outcome::Applied { version, time_us, table },
        Err(error) => Outcome::rejected(&error),
    };
    manifest.tokens.insert(proposal.token, TokenRecord { time_us, outcome: outcome.clone() });
    manifest.token_times.insert((time_us, proposal.token), ());
    outcome
}

/// Drops tokens that are too old or too many, oldest first. The latest [`TOKENS_MIN`] stay whatever their
/// age: a clock that jumps ahead must not drop the token of a proposal that may still be repeated.
fn expire_tokens(manifest: &mut Manifest) {
    let until = manifest.time_us.saturating_sub(TOKEN_TTL_US);
    while manifest.tokens.len() > TOKENS_MIN
        && let Some(((time_us, token), ())) = manifest.token_times.get_min().copied()
        && (time_us <= until || manifest.tokens.len() > TOKENS_MAX)
    {
        manifest.token_times.remove(&(time_us, token));
        manifest.tokens.remove(&token);
    }
}

fn trim_commit_history(manifest: &mut Manifest) {
    while manifest.commits.len() > COMMIT_HISTORY_MAX {
        let Some(oldest) = manifest.commits.get_min().map(|(version, _)| *version) else {
            return;
        };
        manifest.commits.remove(&oldest);
    }
}

/// Records the last version of each second, which `TIMESTAMP AS OF` looks up.
fn record_clock(manifest: &mut Manifest, version: Version) {
    manifest.clock.insert(manifest.time_us / 1_000_000, version);
    while manifest.clock.len() > CLOCK_SECONDS_MAX
        && let Some(oldest) = manifest.clock.get_min().map(|(second, _)| *second)
    {
        manifest.clock.remove(&oldest);
    }
}

/// Checks a command against the manifest, then changes it. Each command does all of its checks before its
/// first change, so that a rejected command leaves no trace.
fn execute(manifest: &mut Manifest, version: Version, command: Command) -> Result<Option<TableId>> {
    match command {
        Command::Bootstrap { cluster, secret } => {
            bootstrap(manifest, version, cluster, secret).map(|()| None)
        }
        Command::RegisterNode(record) => nodes::register_node(manifest, record).map(|()| None),
        Command::DrainNode(node) => nodes::drain_node(manifest, node).map(|()| None),
        Command::RemoveNode(node) => nodes::remove_node(manifest, node).map(|()| None),
        Command::SetLiveness { node, live } => nodes::set_liveness(manifest, node, live).map(|()| None),
        Command::CreateSchema { name, if_not_exists } => {
            tables::create_schema(manifest, version, name, if_not_exists).map(|()| None)
        }
        Command::DropSchema { name, if_exists } => {
            tables::drop_schema(manifest, &name, if_exists).map(|()| None)
        }
        Command::CreateTable(create) => tables::create_table(manifest, version, create).map(Some),
        Command::DropTable { name, if_exists } => tables::drop_table(manifest, version, &name, if_exists),
        Command::RenameTable { from, to, replace } => {
            alter::rename_table(manifest, version, &from, to, replace).map(Some)
        }
        Command::AlterTable(alter) => alter_table(manifest, version, alter).map(Some),
        Command::Commit(commit) => commit::apply_commit(manifest, version, commit).map(|()| None),
        Command::Vacuum { table, until } => tables::vacuum(manifest, table, until).map(|()| None),
    }
}

fn bootstrap(manifest: &mut Manifest, version: Version, cluster: ClusterId, secret: Secret) -> Result<()> {
    if manifest.cluster != Default::default() {
        return Err(Error::already_exists(format!("the log belongs to cluster {}", manifest.cluster)));
    }
    (manifest.cluster, manifest.secret) = (cluster, secret);
    manifest.schemas.insert("public".to_owned(), version);
    Ok(())
}
