//! Seals of statement handles and tickets. A client gets them from a node and sends them back, perhaps to
//! another node. The seal tells whether it has changed them: what is inside was checked when it was made, and
//! is not checked again.

use bytes::Bytes;
use plexus_model::Secret;
use tonic::Status;

/// Bytes of a seal at the end of a message.
const SEAL_BYTES: usize = blake3::OUT_LEN;

/// What the key is for. It differs from all other keys of the secret.
const CONTEXT: &str = "plexus 2026-11-29 statement handles";

/// Seals messages with a key that all nodes of a cluster have.
pub(crate) struct Seal([u8; blake3::KEY_LEN]);

impl Seal {
    /// The seal of the cluster with a secret.
    pub(crate) fn of(secret: &Secret) -> Self {
        Self(blake3::derive_key(CONTEXT, secret.bytes()))
    }

    /// A message with its seal.
    pub(crate) fn close(&self, mut message: Vec<u8>) -> Bytes {
        let seal = blake3::keyed_hash(&self.0, &message);
        message.extend_from_slice(seal.as_bytes());
        message.into()
    }

    /// The message in sealed bytes.
    ///
    /// # Errors
    /// `Unauthenticated` for bytes that no node of this cluster sealed.
    pub(crate) fn open<'a>(&self, bytes: &'a [u8]) -> Result<&'a [u8], Status> {
        let opened = bytes.split_last_chunk::<SEAL_BYTES>().filter(|(message, seal)| {
            // Hashes are compared in constant time.
            blake3::keyed_hash(&self.0, message) == blake3::Hash::from_bytes(**seal)
        });
        let (message, _) = opened.ok_or_else(|| {
            Status::unauthenticated(
                "the statement handle or ticket was not made by a node of this cluster, or has changed: run \
                 the statement again",
            )
        })?;
        Ok(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_bytes_and_those_of_other_clusters_are_refused() {
        let seal = Seal::of(&Secret::from_bytes([1; 32]));
        let sealed = seal.close(b"handle".to_vec());
        assert_eq!(seal.open(&sealed).unwrap(), b"handle");
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.to_vec();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(seal.open(&changed).unwrap_err().code(), tonic::Code::Unauthenticated);
        }
        for length in 0..sealed.len() {
            assert!(seal.open(&sealed[..length]).is_err());
        }
        assert!(Seal::of(&Secret::from_bytes([2; 32])).open(&sealed).is_err());
    }
}
