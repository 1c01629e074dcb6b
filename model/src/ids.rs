//! Identifiers. Each kind has a type of its own, so that ids of different kinds cannot be confused. No id is
//! ever reused.

use std::fmt;
use std::str::FromStr;

use rkyv::{Archive, Deserialize, Serialize};

use crate::{Error, Result};

macro_rules! id_u64 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default,
            Debug,
        )]
        pub struct $name(
            /// The bare number.
            pub u64,
        );

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

macro_rules! id_u128 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(
            /// The bare number; written as a UUID.
            pub u128,
        );

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                uuid::Uuid::from_u128(self.0).fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                uuid::Uuid::parse_str(text)
                    .map(|id| Self(id.as_u128()))
                    .map_err(|e| Error::invalid(format!("{text:?} is not a {}: {e}", stringify!($name))))
            }
        }

        impl $name {
            /// A new id: a UUID of version 7 (RFC 9562), so that ids sort by creation time in milliseconds.
            #[allow(clippy::disallowed_methods, reason = "the one place where ids come from")]
            pub fn generate() -> Self {
                Self(uuid::Uuid::now_v7().as_u128())
            }
        }
    };
}

id_u64! {
    /// A node. Generated once and stored in its data directory.
    NodeId
}
id_u64! {
    /// A table: the index of the log entry that created it.
    TableId
}
id_u64! {
    /// A version of the manifest: the index of the log entry that produced it.
    Version
}
id_u128! {
    /// A segment, or another immutable file: a deletion vector or an index of a segment.
    SegmentId
}
id_u128! {
    /// A cluster. Stored in every data directory, so that a node cannot join another cluster by mistake.
    ClusterId
}
id_u128! {
    /// Idempotency token of a proposal. Proposing a token again returns the recorded outcome of its first
    /// proposal.
    Token
}

impl NodeId {
    /// A new random id. Never zero, which means "no node".
    #[allow(clippy::disallowed_methods, reason = "the one place where ids come from")]
    pub fn generate() -> Self {
        // The low bits of a UUID v4 are random. 53 bits are exact in JSON readers that parse numbers as f64.
        let bits = uuid::Uuid::new_v4().as_u128() as u64 & ((1 << 53) - 1);
        Self(bits.max(1))
    }
}

/// A secret of a cluster, from which keys are derived. Its founder makes it; all nodes have it in their
/// manifest, and nobody else.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Default)]
pub struct Secret([u8; 32]);

impl Secret {
    /// A new random secret, of 244 bits.
    #[allow(clippy::disallowed_methods, reason = "the one place where secrets come from")]
    pub fn generate() -> Self {
        let mut bytes = [0; 32];
        for half in bytes.chunks_mut(16) {
            half.copy_from_slice(uuid::Uuid::new_v4().as_bytes());
        }
        Self(bytes)
    }

    /// A known secret, for tests.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The secret. It must not be shown.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl SegmentId {
    /// Creation time in milliseconds since 1970: the first 48 bits of a UUID of version 7 (RFC 9562).
    pub fn created_ms(self) -> u64 {
        (self.0 >> 80) as u64
    }
}
