//! The encoded form of a [`Manifest`], which Raft snapshots contain.
//!
//! The maps become vectors in key order, so that equal manifests have equal bytes. `names`, `token_times` and
//! `inline_bytes` are derived from the other fields and not stored.

use std::sync::Arc;

use imbl::OrdMap;
use rkyv::{Archive, Deserialize, Serialize};

use crate::{
    ClusterId, CommitRecord, Error, Manifest, NodeRecord, Result, Secret, Segment, SegmentId,
    SegmentRelocation, Shard, Table, TableHistory, TableId, TableName, TableSchema, Token, TokenRecord,
    Version,
};

/// Version of the layout of [`ManifestSnapshot`]. Written in front of the archive, as four little-endian
/// bytes. Increment it with every change of the layout.
const SNAPSHOT_FORMAT: u32 = 5;

#[derive(Archive, Serialize, Deserialize)]
struct ManifestSnapshot {
    cluster: ClusterId,
    secret: Secret,
    version: Version,
    time_us: u64,
    nodes: Vec<NodeRecord>,
    schemas: Vec<(String, Version)>,
    tables: Vec<TableSnapshot>,
    tokens: Vec<(Token, TokenRecord)>,
    commits: Vec<CommitRecord>,
    clock: Vec<(u64, Version)>,
}

#[derive(Archive, Serialize, Deserialize)]
struct TableSnapshot {
    id: TableId,
    name: TableName,
    schema: TableSchema,
    schema_version: u32,
    replicas: u32,
    shards: Vec<Shard>,
    created: Version,
    created_time_us: u64,
    dropped: Option<Version>,
    dropped_time_us: u64,
    segments: Vec<Segment>,
    history: Vec<TableHistory>,
    oldest: Version,
    changed: Version,
    relocations: Vec<SegmentRelocation>,
}

impl Manifest {
    /// Encodes the manifest. Equal manifests have equal bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = SNAPSHOT_FORMAT.to_le_bytes().to_vec();
        bytes.extend(crate::encode(&ManifestSnapshot::from(self)));
        bytes
    }

    /// Decodes a manifest that [`Manifest::to_bytes`] wrote.
    ///
    /// # Errors
    /// `Corrupt` when the bytes are damaged or have a format that this version does not read.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let (format, archive) = bytes.split_at_checked(size_of::<u32>()).unwrap_or_default();
        let format = format.try_into().map(u32::from_le_bytes).unwrap_or_default();
        if format != SNAPSHOT_FORMAT {
            return Err(Error::corrupt(format!(
                "manifest snapshot of format {format}: this version reads {SNAPSHOT_FORMAT}"
            )));
        }
        crate::decode::<ManifestSnapshot>("manifest snapshot", archive).map(Self::from)
    }
}

impl From<&Manifest> for ManifestSnapshot {
    fn from(m: &Manifest) -> Self {
        Self {
            cluster: m.cluster,
            secret: m.secret,
            version: m.version,
            time_us: m.time_us,
            nodes: m.nodes.values().map(|n| (**n).clone()).collect(),
            schemas: m.schemas.iter().map(|(name, version)| (name.clone(), *version)).collect(),
            tables: m.tables.values().map(|t| TableSnapshot::from(&**t)).collect(),
            tokens: m.tokens.iter().map(|(token, record)| (*token, record.clone())).collect(),
            commits: m.commits.values().map(|c| (**c).clone()).collect(),
            clock: m.clock.iter().map(|(second, version)| (*second, *version)).collect(),
        }
    }
}

impl From<&Table> for TableSnapshot {
    fn from(t: &Table) -> Self {
        Self {
            id: t.id,
            name: t.name.clone(),
            schema: (*t.schema).clone(),
            schema_version: t.schema_version,
            replicas: t.replicas,
            shards: (*t.shards).clone(),
            created: t.created,
            created_time_us: t.created_time_us,
            dropped: t.dropped,
            dropped_time_us: t.dropped_time_us,
            segments: t.segments.values().map(|s| (**s).clone()).collect(),
            history: t.history.clone(),
            oldest: t.oldest,
            changed: t.changed,
            relocations: t.relocations.values().map(|r| (**r).clone()).collect(),
        }
    }
}

impl From<ManifestSnapshot> for Manifest {
    fn from(snapshot: ManifestSnapshot) -> Self {
        let tables: OrdMap<TableId, Arc<Table>> =
            snapshot.tables.into_iter().map(|t| (t.id, Arc::new(Table::from(t)))).collect();
        let live = tables.values().filter(|t| t.dropped.is_none());
        let names = live.map(|t| (t.name.clone(), t.id)).collect();
        let tokens = snapshot.tokens.iter();
        Self {
            cluster: snapshot.cluster,
            secret: snapshot.secret,
            version: snapshot.version,
            time_us: snapshot.time_us,
            nodes: snapshot.nodes.into_iter().map(|n| (n.id, Arc::new(n))).collect(),
            schemas: snapshot.schemas.into_iter().collect(),
            names,
            tables,
            token_times: tokens.map(|(token, record)| ((record.time_us, *token), ())).collect(),
            tokens: snapshot.tokens.into_iter().collect(),
            commits: snapshot.commits.into_iter().map(|c| (c.version, Arc::new(c))).collect(),
            clock: snapshot.clock.into_iter().collect(),
        }
    }
}

impl From<TableSnapshot> for Table {
    fn from(t: TableSnapshot) -> Self {
        let segments: OrdMap<SegmentId, Arc<Segment>> =
            t.segments.into_iter().map(|s| (s.id, Arc::new(s))).collect();
        let inline_bytes = segments.values().filter(|s| s.is_inline()).map(|s| s.bytes()).sum();
        Self {
            id: t.id,
            name: t.name,
            schema: Arc::new(t.schema),
            schema_version: t.schema_version,
            replicas: t.replicas,
            shards: Arc::new(t.shards),
            created: t.created,
            created_time_us: t.created_time_us,
            dropped: t.dropped,
            dropped_time_us: t.dropped_time_us,
            segments,
            inline_bytes,
            history: t.history,
            oldest: t.oldest,
            changed: t.changed,
            relocations: t.relocations.into_iter().map(|r| (r.from, Arc::new(r))).collect(),
        }
    }
}
