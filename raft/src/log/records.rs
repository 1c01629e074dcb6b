//! How `raft-log` stores log ids, votes and payloads, and whom it notifies after a sync.

use std::io::{self, Read};
use std::sync::Arc;

use bytes::Bytes;
use openraft::storage::LogFlushed;
use raft_log::codeq::{Decode, Encode};
use tokio::sync::oneshot;

use crate::limits::LOG_PAYLOAD_BYTES_MAX;
use crate::log::LogEnd;
use crate::types::TypeConfig;
use crate::wire::{WireLogId, WireVote};

/// The types that `raft-log` is instantiated with.
#[derive(Debug, Default, PartialEq, Eq, Clone)]
pub(crate) struct LogTypes;

impl raft_log::Types for LogTypes {
    type LogId = WireLogId;
    type LogPayload = Payload;
    type Vote = WireVote;
    type Callback = FlushCallback;
    type UserData = String;

    fn log_index(id: &WireLogId) -> u64 {
        id.index
    }

    fn payload_size(payload: &Payload) -> u64 {
        payload.0.len() as u64
    }
}

/// An archived [`WirePayload`](crate::wire::WirePayload), preceded on disk by its length.
#[derive(Clone, Debug)]
pub(crate) struct Payload(pub(crate) Bytes);

impl Encode for Payload {
    fn encode<W: io::Write>(&self, mut w: W) -> io::Result<usize> {
        let n = (self.0.len() as u32).encode(&mut w)?;
        w.write_all(&self.0)?;
        Ok(n + self.0.len())
    }
}

impl Decode for Payload {
    fn decode<R: Read>(mut r: R) -> io::Result<Self> {
        let length = u32::decode(&mut r)?;
        if length > LOG_PAYLOAD_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("an entry of {length} bytes")));
        }
        // As much as arrives, and not what the length announces.
        let mut bytes = Vec::new();
        r.take(u64::from(length)).read_to_end(&mut bytes)?;
        match bytes.len() == length as usize {
            true => Ok(Self(bytes.into())),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

impl Encode for WireLogId {
    fn encode<W: io::Write>(&self, mut w: W) -> io::Result<usize> {
        Ok(self.term.encode(&mut w)? + self.leader.encode(&mut w)? + self.index.encode(&mut w)?)
    }
}

impl Decode for WireLogId {
    fn decode<R: Read>(mut r: R) -> io::Result<Self> {
        Ok(Self { term: u64::decode(&mut r)?, leader: u64::decode(&mut r)?, index: u64::decode(&mut r)? })
    }
}

impl Encode for WireVote {
    fn encode<W: io::Write>(&self, mut w: W) -> io::Result<usize> {
        let committed = u64::from(self.committed);
        Ok(self.term.encode(&mut w)? + self.node.encode(&mut w)? + committed.encode(&mut w)?)
    }
}

impl Decode for WireVote {
    fn decode<R: Read>(mut r: R) -> io::Result<Self> {
        Ok(Self {
            term: u64::decode(&mut r)?,
            node: u64::decode(&mut r)?,
            committed: u64::decode(&mut r)? == 1,
        })
    }
}

/// Who is notified after a sync.
pub(crate) enum FlushCallback {
    /// `openraft`, after an append that ended at entry `last` and at `bytes` from the first byte of the log.
    Append { callback: LogFlushed<TypeConfig>, end: Arc<LogEnd>, last: Option<WireLogId>, bytes: u64 },
    /// A caller in this crate.
    Caller(oneshot::Sender<()>),
}

impl raft_log::Callback for FlushCallback {
    fn send(self, result: io::Result<()>) {
        if let Err(error) = result {
            tracing::error!(%error, "sync of the metadata log failed; stopping");
            eprintln!(
                "sync of the metadata log failed: {error}; stopping, since the content on disk is unknown"
            );
            std::process::abort();
        }
        match self {
            Self::Append { callback, end, last, bytes } => {
                let recorded = last.map_or(Ok(()), |last| end.appended(last, bytes));
                callback.log_io_completed(recorded);
            }
            // The receiver is gone when the caller gave up.
            Self::Caller(sender) => drop(sender.send(())),
        }
    }
}
