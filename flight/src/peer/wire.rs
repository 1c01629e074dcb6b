//! The messages between nodes. Each is one frame: four bytes of length, then an archive. A body of raw
//! bytes may follow, whose length the message tells.

use bytes::Bytes;
use plexus_model::{Error, ErrorKind, Result};
use quinn::{RecvStream, SendStream};
use rkyv::{Archive, Deserialize, Serialize};

/// A message without its body: log entries and snapshot chunks are the largest.
const FRAME_BYTES_MAX: usize = 256 * 1024 * 1024;
/// A segment, whole.
pub const BODY_BYTES_MAX: u64 = 1024 * 1024 * 1024;

#[derive(Archive, Serialize, Deserialize, Debug)]
pub enum Request {
    /// For the metadata group, which knows what is inside.
    Meta(Vec<u8>),
    /// Keep this segment; its bytes follow. Answered once they are durable.
    PutSegment {
        id: u128,
        checksum: [u8; 32],
        length: u64,
    },
    /// Send a range of a segment, checked against its checksum.
    ReadSegment {
        id: u128,
        checksum: [u8; 32],
        length: u64,
        offset: u64,
        count: u64,
    },
    Report,
    /// Read these files and compare them with their checksums.
    CheckFiles(Vec<FileToCheck>),
    /// For the query engine, which knows what is inside. The answer follows as a body.
    Search(Vec<u8>),
}

#[derive(Archive, Serialize, Deserialize, Debug)]
pub struct FileToCheck {
    pub id: u128,
    pub length: u64,
    pub checksum: [u8; 32],
}

#[derive(Archive, Serialize, Deserialize, Debug)]
pub enum Response {
    Meta(Vec<u8>),
    Done,
    /// So many bytes follow.
    Body {
        length: u64,
    },
    Report {
        applied: u64,
        checked: u64,
        segments_missing: u64,
        missing: Vec<u128>,
        segments: u64,
    },
    Checked {
        damaged: Vec<u128>,
        missing: Vec<u128>,
    },
    Failed {
        kind: ErrorKind,
        message: String,
    },
}

impl Response {
    pub fn failed(error: &Error) -> Self {
        Self::Failed { kind: error.kind(), message: error.message().to_owned() }
    }
}

pub async fn write_frame(stream: &mut SendStream, frame: Vec<u8>) -> Result<()> {
    let length = u32::try_from(frame.len())
        .ok()
        .filter(|&n| n as usize <= FRAME_BYTES_MAX)
        .ok_or_else(|| Error::exhausted(format!("a message of {} bytes", frame.len())))?;
    stream.write_all(&length.to_be_bytes()).await.map_err(lost)?;
    stream.write_chunk(frame.into()).await.map_err(lost)
}

pub async fn read_frame(stream: &mut RecvStream) -> Result<Vec<u8>> {
    let mut header = [0; 4];
    stream.read_exact(&mut header).await.map_err(lost)?;
    let length = u32::from_be_bytes(header) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(Error::corrupt(format!("a peer announced a message of {length} bytes")));
    }
    read_exactly(stream, length).await
}

/// Reads `length` bytes. Memory is taken as they arrive, not as they are announced.
async fn read_exactly(stream: &mut RecvStream, length: usize) -> Result<Vec<u8>> {
    const STEP_BYTES: usize = 1024 * 1024;
    let mut bytes = Vec::with_capacity(length.min(STEP_BYTES));
    while bytes.len() < length {
        let chunk = stream.read_chunk(length - bytes.len(), true).await.map_err(lost)?;
        let Some(chunk) = chunk else {
            return Err(Error::unavailable(format!("a peer sent {} of {length} bytes", bytes.len())));
        };
        bytes.extend_from_slice(&chunk.bytes);
    }
    Ok(bytes)
}

pub async fn write_body(stream: &mut SendStream, body: Bytes) -> Result<()> {
    stream.write_chunk(body).await.map_err(lost)
}

pub async fn read_body(stream: &mut RecvStream, length: u64) -> Result<Bytes> {
    if length > BODY_BYTES_MAX {
        return Err(Error::corrupt(format!("a peer announced a body of {length} bytes")));
    }
    Ok(read_exactly(stream, length as usize).await?.into())
}

pub fn lost(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::unavailable(format!("connection to a peer was lost: {error}")).with_source(error)
}
