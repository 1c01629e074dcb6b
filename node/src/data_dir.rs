//! The data directory of a node: its lock, the identity of the node, and the authority of the cluster.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use plexus_flight::tls::Authority;
use plexus_model::{ClusterId, Error, NodeId, Result};
use serde::{Deserialize, Serialize};

use crate::config::Membership;

/// An open data directory, locked until this is dropped.
pub(crate) struct DataDir {
    path: PathBuf,
    _lock: File,
    identity: Identity,
    /// The authority of the cluster that the node belongs to.
    pub(crate) authority: Authority,
}

/// The identity file. Written when the directory is first used, and never changed.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
struct Identity {
    node: u64,
    cluster: String,
    /// QUIC stateless reset key, 32 bytes in hex. Lets a restarted node reset connections of its earlier
    /// process.
    reset_key: String,
}

const LOCK_FILE: &str = "LOCK";
const IDENTITY_FILE: &str = "node.json";
/// Exists once the node has been a member of its cluster.
const MEMBER_FILE: &str = "member";
const AUTHORITY_FILE: &str = "join.token";
/// What a node leaves in its directory beside its identity.
const TRACES: [&str; 3] = [MEMBER_FILE, "meta", "segments"];

impl DataDir {
    /// Opens the directory, or creates it for a node that founds a cluster or joins one.
    ///
    /// # Errors
    /// `Conflict` when another process holds the lock, `InvalidArgument` when the token is invalid, when the
    /// directory belongs to another node or another cluster than the configuration says, or when it has no
    /// node and none is to be created. `Corrupt` when it has lost the identity of its node.
    pub(crate) fn open(path: &Path, node: Option<NodeId>, membership: &Membership) -> Result<Self> {
        // Parsed before anything is created, so that an invalid token leaves no files behind.
        let joining = match membership {
            Membership::Join { token, .. } => Some(Authority::from_join_token(token)?),
            Membership::Bootstrap | Membership::Resume => None,
        };
        check_new(path, membership)?;
        // Only the owner may read it: it holds the private key of the cluster and all rows.
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|e| Error::io(format!("data directory {}", path.display()), e))?;
        let lock = lock(path)?;
        let (identity, authority) = match read_identity(path)? {
            Some(identity) => {
                let authority_path = path.join(AUTHORITY_FILE);
                let authority = Authority::load(&authority_path)?
                    .ok_or_else(|| Error::corrupt(format!("{} is missing", authority_path.display())))?;
                (identity, authority)
            }
            None => initialize(path, node, joining.as_ref())?,
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
                "data directory {} belongs to cluster {}, the join token belongs to cluster {}",
                path.display(),
                identity.cluster,
                other.cluster
            )));
        }
        Ok(Self { path: path.to_owned(), _lock: lock, identity, authority })
    }

    /// Path of the directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Id of the node that the directory belongs to.
    pub(crate) fn node(&self) -> NodeId {
        NodeId(self.identity.node)
    }

    /// The QUIC stateless reset key of the node.
    pub(crate) fn reset_key(&self) -> [u8; 32] {
        let mut key = [0; 32];
        for (byte, hex) in key.iter_mut().zip(self.identity.reset_key.as_bytes().chunks(2)) {
            let text = std::str::from_utf8(hex).unwrap_or_default();
            *byte = u8::from_str_radix(text, 16).unwrap_or_default();
        }
        key
    }

    /// Whether the cluster has ever accepted this node as a member.
    pub(crate) fn was_member(&self) -> bool {
        self.path.join(MEMBER_FILE).exists()
    }

    /// Path of the file with the join token of the cluster.
    pub(crate) fn token_path(&self) -> PathBuf {
        self.path.join(AUTHORITY_FILE)
    }
}

/// Records in the data directory that the cluster has accepted this node as a member.
pub(crate) fn mark_member(directory: &Path) -> Result<()> {
    plexus_raft::durable::replace_file(directory, MEMBER_FILE, b"")
}

/// Checks that a directory without a node may become that of a new one.
fn check_new(path: &Path, membership: &Membership) -> Result<()> {
    if path.join(IDENTITY_FILE).exists() {
        return Ok(());
    }
    if let Some(trace) = TRACES.iter().find(|name| path.join(name).exists()) {
        return Err(Error::corrupt(format!(
            "data directory {} has {trace} of a node, but not its {IDENTITY_FILE}: restore the directory, or \
             start with another one",
            path.display()
        )));
    }
    // An empty directory may be one that is not mounted. A new cluster in its place would take writes.
    match membership {
        Membership::Resume => Err(Error::invalid(format!(
            "data directory {} has no node: found a cluster with --bootstrap, or join one with --join. If it \
             had one, it is not mounted, or its content is lost",
            path.display()
        ))),
        Membership::Bootstrap | Membership::Join { .. } => Ok(()),
    }
}

/// Writes the identity of a new directory. The identity file is written last: if the process dies before, the
/// next start begins anew.
fn initialize(
    path: &Path,
    node: Option<NodeId>,
    joining: Option<&Authority>,
) -> Result<(Identity, Authority)> {
    let authority = match joining {
        Some(authority) => authority.clone(),
        None => Authority::create(ClusterId::generate())?,
    };
    authority.save(&path.join(AUTHORITY_FILE))?;
    let identity = Identity {
        node: node.unwrap_or_else(NodeId::generate).0,
        cluster: authority.cluster.to_string(),
        reset_key: format!("{:032x}{:032x}", uuid::Uuid::new_v4().as_u128(), uuid::Uuid::new_v4().as_u128()),
    };
    write_identity(path, &identity)?;
    Ok((identity, authority))
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
    fn a_directory_is_locked_and_keeps_its_identity() {
        let dir = tempfile::tempdir().unwrap();
        let bootstrap = Membership::Bootstrap;
        let first = DataDir::open(dir.path(), None, &bootstrap).unwrap();
        let error = DataDir::open(dir.path(), None, &bootstrap).err().expect("the directory is locked");
        assert!(error.message().contains("held by another process"), "{error}");
        let (node, cluster) = (first.node(), first.authority.cluster);
        drop(first);
        let again = DataDir::open(dir.path(), Some(node), &Membership::Resume).unwrap();
        assert_eq!((again.node(), again.authority.cluster), (node, cluster));
        drop(again);
        assert!(DataDir::open(dir.path(), Some(NodeId(1)), &Membership::Resume).is_err());
        let token = Authority::create(ClusterId::generate()).unwrap().join_token();
        let join = Membership::Join { address: "127.0.0.1:1".into(), token };
        let error = DataDir::open(dir.path(), None, &join).err().expect("another cluster");
        assert!(error.message().contains("belongs to cluster"), "{error}");
    }

    #[test]
    fn an_empty_directory_founds_nothing_and_one_with_traces_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing");
        for path in [dir.path(), missing.as_path()] {
            let error = DataDir::open(path, None, &Membership::Resume).err().expect("there is no node");
            assert!(error.message().contains("not mounted"), "{error}");
        }
        assert!(!missing.exists(), "a failed start left a directory");
        for trace in TRACES {
            let dir = tempfile::tempdir().unwrap();
            std::fs::create_dir(dir.path().join(trace)).unwrap();
            let error =
                DataDir::open(dir.path(), None, &Membership::Bootstrap).err().expect("there are traces");
            assert!(error.message().contains(trace), "{error}");
        }
    }
}
