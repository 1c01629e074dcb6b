//! A node's data directory: who holds it, and whom it belongs to.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use plexus_flight::tls::Authority;
use plexus_model::{ClusterId, Error, NodeId, Result};
use serde::{Deserialize, Serialize};

/// An open data directory. The lock lasts as long as this.
pub struct DataDir {
    path: PathBuf,
    _lock: File,
    pub identity: Identity,
    pub authority: Authority,
}

/// Written once, when the directory is first used.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    node: u64,
    cluster: String,
    /// Hex; lets a restarted node reset the connections of its earlier process.
    reset_key: String,
}

const LOCK_FILE: &str = "LOCK";
const IDENTITY_FILE: &str = "node.json";
const MEMBER_FILE: &str = "member";
const AUTHORITY_FILE: &str = "join.token";

impl DataDir {
    /// Opens or creates the directory. A new one belongs to the cluster of `token`, or founds one.
    ///
    /// # Errors
    /// `Conflict` when another process holds it; `InvalidArgument` when it belongs to another node or
    /// another cluster than the configuration says.
    pub fn open(path: &Path, node: Option<NodeId>, token: Option<&str>) -> Result<Self> {
        // Parsed before anything is created: a wrong token leaves nothing behind.
        let joining = token.map(Authority::from_join_token).transpose()?;
        // Holds the cluster's key, and everybody's rows.
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|e| Error::io(format!("data directory {}", path.display()), e))?;
        let lock = lock(path)?;
        let known = read_identity(path)?;
        let authority_path = path.join(AUTHORITY_FILE);
        let (identity, authority) = match known {
            Some(identity) => {
                let authority = Authority::load(&authority_path)?
                    .ok_or_else(|| Error::corrupt(format!("{} is missing", authority_path.display())))?;
                (identity, authority)
            }
            None => {
                let authority = match &joining {
                    Some(authority) => authority.clone(),
                    None => Authority::create(ClusterId::generate())?,
                };
                authority.save(&authority_path)?;
                let identity = Identity {
                    node: node.unwrap_or_else(NodeId::generate).0,
                    cluster: authority.cluster.to_string(),
                    reset_key: format!(
                        "{:032x}{:032x}",
                        uuid::Uuid::new_v4().as_u128(),
                        uuid::Uuid::new_v4().as_u128()
                    ),
                };
                write_identity(path, &identity)?;
                (identity, authority)
            }
        };
        if let Some(node) = node.filter(|n| n.0 != identity.node) {
            return Err(Error::invalid(format!(
                "data directory {} belongs to node {}, not to node {node}",
                path.display(),
                identity.node
            )));
        }
        if let Some(other) = joining.filter(|a| a.cluster.to_string() != identity.cluster) {
            return Err(Error::invalid(format!(
                "data directory {} belongs to cluster {}, the join token is of cluster {}",
                path.display(),
                identity.cluster,
                other.cluster
            )));
        }
        Ok(Self { path: path.to_owned(), _lock: lock, identity, authority })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn node(&self) -> NodeId {
        NodeId(self.identity.node)
    }

    pub fn reset_key(&self) -> [u8; 32] {
        let mut key = [0; 32];
        for (byte, hex) in key.iter_mut().zip(self.identity.reset_key.as_bytes().chunks(2)) {
            let text = std::str::from_utf8(hex).unwrap_or_default();
            *byte = u8::from_str_radix(text, 16).unwrap_or_default();
        }
        key
    }

    /// Whether this node was a member of its cluster at some time.
    pub fn was_member(&self) -> bool {
        self.path.join(MEMBER_FILE).exists()
    }

    /// Where the token is kept that lets other nodes join.
    pub fn token_path(&self) -> PathBuf {
        self.path.join(AUTHORITY_FILE)
    }
}

/// Notes in a data directory that the cluster has let this node in.
pub fn mark_member(directory: &Path) -> Result<()> {
    plexus_raft::durable::replace_file(directory, MEMBER_FILE, b"")
}

fn lock(path: &Path) -> Result<File> {
    let lock_path = path.join(LOCK_FILE);
    let file = File::create(&lock_path).map_err(|e| Error::io(lock_path.display(), e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(Error::conflict(format!("data directory {} is held by another process", path.display())))
        }
        Err(TryLockError::Error(e)) => Err(Error::io(lock_path.display(), e)),
    }
}

fn read_identity(path: &Path) -> Result<Option<Identity>> {
    let path = path.join(IDENTITY_FILE);
    match fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str(&text)
            .map(Some)
            .map_err(|e| Error::corrupt(format!("{}: {e}", path.display())).with_source(e)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(path.display(), e)),
    }
}

fn write_identity(path: &Path, identity: &Identity) -> Result<()> {
    let text =
        serde_json::to_string_pretty(identity).map_err(|e| Error::internal(format!("identity: {e}")))?;
    plexus_raft::durable::replace_file(path, IDENTITY_FILE, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_held_once_and_keeps_its_identity() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDir::open(dir.path(), None, None).unwrap();
        let error = DataDir::open(dir.path(), None, None).err().expect("held");
        assert!(error.message().contains("held by another process"), "{error}");
        let (node, cluster) = (first.node(), first.authority.cluster);
        drop(first);
        let again = DataDir::open(dir.path(), Some(node), None).unwrap();
        assert_eq!((again.node(), again.authority.cluster), (node, cluster));
        drop(again);
        assert!(DataDir::open(dir.path(), Some(NodeId(1)), None).is_err());
        let other = Authority::create(ClusterId::generate()).unwrap().join_token();
        let error = DataDir::open(dir.path(), None, Some(&other)).err().expect("another cluster");
        assert!(error.message().contains("belongs to cluster"), "{error}");
    }
}
