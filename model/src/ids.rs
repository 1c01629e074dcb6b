//! Identifiers. Each is its own type, so that one cannot be passed for another, and none is ever reused.

use std::fmt;
use std::str::FromStr;

use rkyv::{Archive, Deserialize, Serialize};

use crate::{Error, Result};

macro_rules! id_u64 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
        pub struct $name(pub u64);

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
        pub struct $name(pub u128);

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
                    .map_err(|e| Error::invalid(format!("{:?} is not a {}: {e}", text, stringify!($name))))
            }
        }

        impl $name {
            /// A new id, ordered by creation time to the millisecond (UUID version 7).
            pub fn generate() -> Self {
                Self(uuid::Uuid::now_v7().as_u128())
            }
        }
    };
}

id_u64! {
    /// A node. Generated once, kept in its data directory, never reused.
    NodeId
}
id_u64! {
    /// A table: the log index of the entry that created it.
    TableId
}
id_u64! {
    /// A version of the manifest: the index of the log entry that produced it.
    Version
}
id_u128! {
    /// A segment. Its bytes never change once it is sealed.
    SegmentId
}
impl SegmentId {
    /// When it was made, in milliseconds since 1970 (UUID version 7 begins with them).
    pub fn created_ms(self) -> u64 {
        (self.0 >> 80) as u64
    }
}

id_u128! {
    /// A cluster, so that a data directory cannot join another one by mistake.
    ClusterId
}
id_u128! {
    /// Names one attempt to change something; a repeated token answers what it answered before.
    Token
}

impl NodeId {
    /// A new random id. Never zero, which stands for "no node".
    pub fn generate() -> Self {
        // The low bits of a UUID v4 are random; 53 bits keep the id exact in JSON readers.
        let bits = uuid::Uuid::new_v4().as_u128() as u64 & ((1 << 53) - 1);
        Self(bits.max(1))
    }
}
