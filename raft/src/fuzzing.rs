//! For fuzzing: bytes of other members and of the log, as this crate reads them.

use std::io::Cursor;

use plexus_model::{Command, Manifest, Proposal, Result, Token, Version};
use raft_log::codeq::{Decode, Encode};

use crate::apply::apply;
use crate::log::records::Payload;
use crate::types::Batch;
use crate::wire::{Append, RaftRequest, Request, Response, WireEntry, WireLogId, WirePayload, WireVote};

/// Decodes a message of another member. Entries in it are applied to `manifest`, as if they were committed.
///
/// # Errors
/// Of the first thing that is damaged.
pub fn message(bytes: &[u8], manifest: &Manifest) -> Result<()> {
    let response = plexus_model::decode::<Response>("metadata response", bytes);
    let request = plexus_model::decode::<Request>("metadata request", bytes);
    match request {
        Ok(Request::Raft { request: RaftRequest::Append(append), .. }) => {
            for entry in append.entries {
                if let WirePayload::Batch(batch) = entry.payload {
                    entry_of(&batch, manifest)?;
                }
            }
        }
        Ok(Request::Raft { request: RaftRequest::Snapshot { data, .. }, .. }) => {
            Manifest::from_bytes(&data)?;
        }
        Ok(Request::Propose(proposal)) => apply_to(manifest.clone(), vec![proposal]),
        other => return other.map(|_| ()).or(response.map(|_| ())),
    }
    Ok(())
}

/// Decodes the content of a log entry and applies it to `manifest`.
///
/// # Errors
/// `Corrupt` when it is damaged.
pub fn entry_of(bytes: &[u8], manifest: &Manifest) -> Result<()> {
    let batch = plexus_model::decode::<Batch>("log entry", bytes)?;
    apply_to(manifest.clone(), batch.proposals);
    Ok(())
}

fn apply_to(mut manifest: Manifest, proposals: Vec<Proposal>) {
    let index = Version(manifest.version.0.saturating_add(1));
    apply(&mut manifest, index, 3_000_000, proposals);
    manifest.to_bytes();
}

/// Decodes the parts of a record of the log, one after the other.
///
/// # Errors
/// Of the first part that is damaged.
pub fn record(bytes: &[u8]) -> std::io::Result<()> {
    let mut rest = Cursor::new(bytes);
    while rest.position() < bytes.len() as u64 {
        WireLogId::decode(&mut rest)?;
        WireVote::decode(&mut rest)?;
        Payload::decode(&mut rest)?;
    }
    Ok(())
}

/// Valid inputs of each kind.
#[derive(Debug)]
pub struct Seeds {
    /// Messages of members.
    pub messages: Vec<Vec<u8>>,
    /// Contents of log entries.
    pub entries: Vec<Vec<u8>>,
    /// Records of the log.
    pub records: Vec<Vec<u8>>,
}

/// Messages, entries and records that hold `commands`.
pub fn seeds(commands: Vec<Command>) -> Seeds {
    let id = WireLogId { term: 2, leader: 1, index: 9 };
    let vote = WireVote { term: 2, node: 1, committed: true };
    let proposals: Vec<Proposal> =
        commands.into_iter().zip(100..).map(|(command, n)| Proposal { token: Token(n), command }).collect();
    let entries: Vec<Vec<u8>> = proposals
        .iter()
        .map(|proposal| {
            plexus_model::encode(&Batch { time_us: 3_000_000, proposals: vec![proposal.clone()] })
        })
        .collect();
    let append = |batch: &Vec<u8>| {
        let entry = WireEntry { id, payload: WirePayload::Batch(batch.clone()) };
        let append = Append { vote, previous: Some(id), entries: vec![entry], committed: Some(id) };
        plexus_model::encode(&Request::Raft { to: 1, request: RaftRequest::Append(append) })
    };
    let mut messages: Vec<Vec<u8>> = entries.iter().map(append).collect();
    messages.extend(proposals.into_iter().map(|proposal| plexus_model::encode(&Request::Propose(proposal))));
    messages.push(plexus_model::encode(&Request::Heartbeat { node: 1 }));
    messages.push(plexus_model::encode(&Response::HasLeader(true)));
    let record = |batch: &Vec<u8>| {
        let mut bytes = vec![];
        // Writing to memory does not fail.
        let _ = (
            id.encode(&mut bytes),
            vote.encode(&mut bytes),
            Payload(batch.clone().into()).encode(&mut bytes),
        );
        bytes
    };
    let records = entries.iter().map(record).collect();
    Seeds { messages, entries, records }
}
