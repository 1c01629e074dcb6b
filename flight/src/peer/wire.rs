//! The messages between nodes.
//!
//! A message is one frame: its length as four bytes in network order, then an rkyv archive. A body of raw
//! bytes may follow; the message tells its length.

use bytes::Bytes;
use plexus_model::{Error, ErrorKind, Result};
use plexus_query::RunningQuery;
use quinn::{RecvStream, SendStream};
use rkyv::{Archive, Deserialize, Serialize};

/// Largest message without its body. Raft log entries and snapshot chunks are the largest.
const FRAME_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Largest body: a whole segment.
const BODY_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// A request to a peer.
#[derive(Archive, Serialize, Deserialize, Debug)]
pub(crate) enum Request {
    /// A message of the metadata group, in its own encoding.
    Meta(Vec<u8>),
    /// Store a segment, whose `length` bytes follow as the body. The response means that they are durable.
    PutSegment { id: u128, checksum: [u8; 32], length: u64 },
    /// Read `count` bytes at `offset` of a segment file of `length` bytes with this BLAKE3 checksum.
    ReadSegment { id: u128, checksum: [u8; 32], length: u64, offset: u64, count: u64 },
    /// Report the progress and the storage of the node.
    Report,
    /// Read segment files and compare them with their checksums.
    CheckFiles(Vec<FileToCheck>),
    /// A search request of the query engine, in its own encoding. The response follows as a body.
    Search(Vec<u8>),
    /// List the statements that the node runs for its clients.
    Running,
    /// End a statement that the node runs for a client, by its id or ticket.
    Kill(String),
    /// End the parts of a query that the node runs for another node.
    Interrupt(String),
}

/// A segment file and what it must contain.
#[derive(Archive, Serialize, Deserialize, Debug)]
pub(crate) struct FileToCheck {
    pub(crate) id: u128,
    pub(crate) length: u64,
    pub(crate) checksum: [u8; 32],
}

/// The response of a peer.
#[derive(Archive, Serialize, Deserialize, Debug)]
pub(crate) enum Response {
    /// A message of the metadata group, in its own encoding.
    Meta(Vec<u8>),
    /// The request succeeded and has no result.
    Done,
    /// The result follows as a body of `length` bytes.
    Body { length: u64 },
    /// The report of a node; see `NodeReport` of the coordinator.
    Report { applied: u64, checked: u64, segments_missing: u64, missing: Vec<u128>, segments: u64 },
    /// Segment files that failed a check.
    Checked { damaged: Vec<u128>, missing: Vec<u128> },
    /// The statements that a node runs.
    Running(Vec<RunningQuery>),
    /// Whether there was a statement to end.
    Killed(bool),
    /// The request failed.
    Failed { kind: ErrorKind, message: String },
}

impl Response {
    /// The response for an error. Its source stays on this node.
    pub(crate) fn failed(error: &Error) -> Self {
        Self::Failed { kind: error.kind(), message: error.message().to_owned() }
    }
}

/// Writes one message.
///
/// # Errors
/// `ResourceExhausted` when the message is too large, `Unavailable` when the connection is lost.
pub(crate) async fn write_frame(stream: &mut SendStream, frame: Vec<u8>) -> Result<()> {
    let length =
        u32::try_from(frame.len()).ok().filter(|&n| n as usize <= FRAME_BYTES_MAX).ok_or_else(|| {
            Error::exhausted(format!("a message of {} bytes exceeds {FRAME_BYTES_MAX} bytes", frame.len()))
        })?;
    stream.write_all(&length.to_be_bytes()).await.map_err(connection_lost)?;
    stream.write_chunk(frame.into()).await.map_err(connection_lost)
}

/// Reads one message.
///
/// # Errors
/// `Corrupt` when it is too large, `Unavailable` when the connection is lost.
pub(crate) async fn read_frame(stream: &mut RecvStream) -> Result<Vec<u8>> {
    let mut header = [0; 4];
    stream.read_exact(&mut header).await.map_err(connection_lost)?;
    let length = u32::from_be_bytes(header) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(Error::corrupt(format!("a peer announced a message of {length} bytes")));
    }
    read_exactly(stream, length).await
}

/// Reads `length` bytes. Memory is allocated as bytes arrive, so a wrong length cannot exhaust it.
async fn read_exactly(stream: &mut RecvStream, length: usize) -> Result<Vec<u8>> {
    const STEP_BYTES: usize = 1024 * 1024;
    let mut bytes = Vec::with_capacity(length.min(STEP_BYTES));
    while bytes.len() < length {
        let chunk = stream.read_chunk(length - bytes.len(), true).await.map_err(connection_lost)?;
        let Some(chunk) = chunk else {
            return Err(Error::unavailable(format!("a peer sent {} of {length} bytes", bytes.len())));
        };
        bytes.extend_from_slice(&chunk.bytes);
    }
    Ok(bytes)
}

/// Writes the body of a message.
pub(crate) async fn write_body(stream: &mut SendStream, body: Bytes) -> Result<()> {
    stream.write_chunk(body).await.map_err(connection_lost)
}

/// Reads the body that a message announced.
///
/// # Errors
/// `Corrupt` when it is too large, `Unavailable` when the connection is lost.
pub(crate) async fn read_body(stream: &mut RecvStream, length: u64) -> Result<Bytes> {
    if length > BODY_BYTES_MAX {
        return Err(Error::corrupt(format!("a peer announced a body of {length} bytes")));
    }
    Ok(read_exactly(stream, length as usize).await?.into())
}

/// The error for a failed read or write on a connection.
pub(crate) fn connection_lost(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::unavailable(format!("the connection to a peer was lost: {error}")).with_source(error)
}
