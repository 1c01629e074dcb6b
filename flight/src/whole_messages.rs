//! Request bodies whose messages are passed on whole.
//!
//! The decoder of gRPC allocates a message by the length that its first bytes announce, before the rest has
//! come: some thousand streams that announce a message each, and send nothing more, would take the memory of
//! a node. Here the parts of a message wait until the last of them is there.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame};
use tonic::Status;
use tonic::body::Body;

/// Largest message from a client. `pyarrow` sends a record batch as one message, whatever its size.
pub(crate) const MESSAGE_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Parts below this size are copied together: a part of one byte would keep some hundred others in memory.
const SMALL_PART_BYTES: usize = 1024;

/// How many bytes are copied together.
const GATHERED_BYTES: usize = 64 * 1024;

/// A flag, and the length of the message.
const PREFIX_BYTES: usize = 5;

/// A body that passes the parts of a message on once it has all of them.
pub(crate) struct WholeMessages {
    inner: Body,
    parts: VecDeque<Bytes>,
    /// Small parts after those.
    gathered: BytesMut,
    /// Bytes of all parts.
    bytes: u64,
    /// Bytes of them that belong to whole messages.
    whole: u64,
    /// Whether the sender is done. The decoder then reports a message that is not whole.
    has_ended: bool,
}

impl WholeMessages {
    pub(crate) fn new(inner: Body) -> Self {
        let (parts, gathered) = (VecDeque::new(), BytesMut::new());
        Self { inner, parts, gathered, bytes: 0, whole: 0, has_ended: false }
    }

    fn push(&mut self, part: Bytes) {
        self.bytes += part.len() as u64;
        let is_first = self.parts.is_empty() && self.gathered.is_empty();
        if is_first || part.len() >= SMALL_PART_BYTES {
            self.end_gathering();
            self.parts.push_back(part);
            return;
        }
        self.gathered.extend_from_slice(&part);
        if self.gathered.len() >= GATHERED_BYTES {
            self.end_gathering();
        }
    }

    /// Makes a part of the small ones.
    fn end_gathering(&mut self) {
        if !self.gathered.is_empty() {
            self.parts.push_back(std::mem::take(&mut self.gathered).freeze());
        }
    }

    fn pop(&mut self) -> Option<Bytes> {
        if self.parts.is_empty() {
            self.end_gathering();
        }
        self.parts.pop_front()
    }

    /// The next part of a whole message.
    fn next_whole(&mut self) -> Option<Bytes> {
        if self.whole == 0 {
            let length = self.announced_bytes()?;
            let message = PREFIX_BYTES as u64 + length;
            // The decoder refuses one that is too long, and needs no more of it for that.
            if message > self.bytes && length <= MESSAGE_BYTES_MAX as u64 {
                return None;
            }
            self.whole = message;
        }
        let mut part = self.pop()?;
        let wanted = usize::try_from(self.whole).unwrap_or(usize::MAX).min(part.len());
        let first = part.split_to(wanted);
        if !part.is_empty() {
            self.parts.push_front(part);
        }
        self.bytes -= first.len() as u64;
        self.whole -= first.len() as u64;
        Some(first)
    }

    /// Bytes that the prefix of the first message announces, if it is there.
    fn announced_bytes(&self) -> Option<u64> {
        let parts = self.parts.iter().flatten().chain(&self.gathered);
        let mut prefix = parts.copied().take(PREFIX_BYTES).skip(1);
        let mut length = || prefix.next();
        Some(u64::from(u32::from_be_bytes([length()?, length()?, length()?, length()?])))
    }
}

impl HttpBody for WholeMessages {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            let whole = self.next_whole();
            let rest = whole.or_else(|| if self.has_ended { self.pop() } else { None });
            if let Some(part) = rest {
                return Poll::Ready(Some(Ok(Frame::data(part))));
            }
            if self.has_ended {
                return Poll::Ready(None);
            }
            match ready!(Pin::new(&mut self.inner).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(part) if part.has_remaining() => self.push(part),
                    Ok(_) => {}
                    // Trailers. Requests have none that anybody reads.
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.has_ended = true,
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.parts.is_empty() && self.gathered.is_empty() && (self.has_ended || self.inner.is_end_stream())
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures::FutureExt;
    use proptest::prelude::*;
    use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

    use super::*;

    /// A body of the parts that are sent.
    struct Parts(UnboundedReceiver<Vec<u8>>);

    impl HttpBody for Parts {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            self.0.poll_recv(context).map(|part| part.map(|part| Ok(Frame::data(Bytes::from(part)))))
        }
    }

    fn body() -> (UnboundedSender<Vec<u8>>, WholeMessages) {
        let (sender, parts) = unbounded_channel();
        (sender, WholeMessages::new(Body::new(Parts(parts))))
    }

    async fn next(body: &mut WholeMessages) -> Option<Bytes> {
        let frame = poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await?;
        frame.unwrap().into_data().ok()
    }

    fn message(length: usize) -> Vec<u8> {
        let mut message = vec![0];
        message.extend_from_slice(&(length as u32).to_be_bytes());
        message.extend((0..length).map(|n| n as u8));
        message
    }

    proptest! {
        #[test]
        fn all_bytes_arrive_in_order_however_they_are_cut(
            lengths in proptest::collection::vec(0usize..100_000, 0..6),
            cuts in proptest::collection::vec(0usize..600_000, 0..20),
            small in 0usize..70_000,
            lost in 0usize..4,
        ) {
            let mut sent: Vec<u8> = lengths.iter().flat_map(|length| message(*length)).collect();
            sent.truncate(sent.len().saturating_sub(lost));
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (sent.len() + 1)).collect();
            // The first ones are small.
            cuts.extend((0..small.min(sent.len())).step_by(37));
            cuts.extend([0, sent.len()]);
            cuts.sort_unstable();
            let (sender, mut body) = body();
            cuts.windows(2).for_each(|cut| sender.send(sent[cut[0]..cut[1]].to_vec()).unwrap());
            drop(sender);
            let mut received = Vec::new();
            while let Some(part) = next(&mut body).now_or_never().expect("all parts are there") {
                received.extend_from_slice(&part);
            }
            prop_assert_eq!(received, sent);
        }
    }

    #[test]
    fn a_message_waits_for_its_last_byte() {
        let (sender, mut body) = body();
        let message = message(100);
        sender.send(message[..50].to_vec()).unwrap();
        assert!(next(&mut body).now_or_never().is_none());
        sender.send(message[50..].to_vec()).unwrap();
        assert_eq!(next(&mut body).now_or_never().unwrap().unwrap(), message[..50]);
        assert_eq!(next(&mut body).now_or_never().unwrap().unwrap(), message[50..]);
    }

    #[test]
    fn the_decoder_sees_a_message_that_is_too_long_at_once() {
        for (length, is_seen) in [(MESSAGE_BYTES_MAX, false), (MESSAGE_BYTES_MAX + 1, true)] {
            let (sender, mut body) = body();
            let prefix = [&[0][..], &(length as u32).to_be_bytes(), &[1]].concat();
            sender.send(prefix).unwrap();
            assert_eq!(next(&mut body).now_or_never().is_some(), is_seen, "{length}");
        }
    }
}
