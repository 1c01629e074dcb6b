//! The certificate authority of a cluster and the certificates of its nodes.
//!
//! The first node creates the authority. Every node holds a certificate that the authority issued, and
//! accepts only peers that hold one too, over QUIC and over TCP. A join token contains the authority's
//! private key, so whoever has the token can add nodes and read all data. Keep it as secret as the data
//! itself.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use plexus_model::{ClusterId, Error, NodeId, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use rkyv::{Archive, Deserialize, Serialize};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use webpki::EndEntityCert;

/// DNS name in every node's certificate. Peers verify this name instead of addresses, which may change.
pub const SERVER_NAME: &str = "plexus-node";
/// What the name of a node begins with, which its certificate has, too: `node-7.plexus-node`.
const NODE_PREFIX: &str = "node-";
/// Protocol version that TLS negotiates on the peer port.
const ALPN: &[u8] = b"plexus/1";
const TOKEN_PREFIX: &str = "plexus-join-";

/// The certificate authority of a cluster.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq)]
pub struct Authority {
    /// The cluster that this authority belongs to.
    pub cluster: ClusterId,
    certificate: String,
    key: String,
}

/// The credentials of a node: its certificate, its private key and the authority that issued it, all in PEM.
#[derive(Clone)]
pub struct Identity {
    /// Certificate of the authority that peers must have, too.
    pub authority: String,
    /// Certificate of the node.
    pub certificate: String,
    /// Private key of the node.
    pub key: String,
}

impl Authority {
    /// Creates the authority of a new cluster, with a self-signed certificate.
    ///
    /// # Errors
    /// `Internal` when the system cannot generate a key.
    pub fn create(cluster: ClusterId) -> Result<Self> {
        let make = || -> Result<(String, String), rcgen::Error> {
            let key = KeyPair::generate()?;
            let mut params = CertificateParams::default();
            params.distinguished_name = distinguished_name(&format!("plexus cluster {cluster}"));
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            params.key_usages = vec![
                KeyUsagePurpose::KeyCertSign,
                KeyUsagePurpose::CrlSign,
                KeyUsagePurpose::DigitalSignature,
            ];
            Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
        };
        let (certificate, key) =
            make().map_err(|e| Error::internal(format!("creating the cluster authority: {e}")))?;
        Ok(Self { cluster, certificate, key })
    }

    /// Issues a certificate for a node.
    ///
    /// # Errors
    /// `Internal` when the authority or the new key is unusable.
    pub fn issue(&self, node: NodeId) -> Result<Identity> {
        let make = || -> Result<(String, String), rcgen::Error> {
            let issuer = Issuer::from_ca_cert_pem(&self.certificate, KeyPair::from_pem(&self.key)?)?;
            let key = KeyPair::generate()?;
            let mut params = CertificateParams::new(vec![
                SERVER_NAME.to_owned(),
                format!("{NODE_PREFIX}{node}.{SERVER_NAME}"),
            ])?;
            params.distinguished_name = distinguished_name(&format!("plexus node {node}"));
            params.is_ca = IsCa::ExplicitNoCa;
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages =
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            params.use_authority_key_identifier_extension = true;
            Ok((params.signed_by(&key, &issuer)?.pem(), key.serialize_pem()))
        };
        let (certificate, key) =
            make().map_err(|e| Error::internal(format!("issuing a certificate: {e}")))?;
        Ok(Identity { authority: self.certificate.clone(), certificate, key })
    }

    /// The authority as text, to be passed to nodes that join.
    ///
    /// Format: a prefix, then URL-safe base64 of the archived authority and the first eight bytes of its
    /// BLAKE3 hash, which detects truncated and mistyped tokens.
    pub fn join_token(&self) -> String {
        let mut bytes = plexus_model::encode(self);
        let checksum = blake3::hash(&bytes);
        bytes.extend_from_slice(&checksum.as_bytes()[..8]);
        format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }

    /// The authority in a join token.
    ///
    /// # Errors
    /// `InvalidArgument` when the text is not a join token, or is truncated or altered. The message shows
    /// only the first characters, since the token is a secret.
    pub fn from_join_token(token: &str) -> Result<Self> {
        let invalid = || {
            let shown: String = token.chars().take(TOKEN_PREFIX.len() + 4).collect();
            Error::invalid(format!("join token \"{shown}...\" ({} characters) is not valid", token.len()))
        };
        let text = token.trim().strip_prefix(TOKEN_PREFIX).ok_or_else(invalid)?;
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| invalid())?;
        let (body, checksum) = bytes.split_at_checked(bytes.len().saturating_sub(8)).ok_or_else(invalid)?;
        if blake3::hash(body).as_bytes()[..8] != *checksum {
            return Err(invalid());
        }
        plexus_model::decode("join token", body).map_err(|_| invalid())
    }

    /// Writes the authority to a file that only its owner may read.
    ///
    /// # Errors
    /// I/O errors of the file.
    pub fn save(&self, path: &Path) -> Result<()> {
        let write = || {
            let mut file =
                fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
            file.write_all(self.join_token().as_bytes())?;
            file.sync_all()
        };
        write().map_err(|e| Error::io(path.display(), e))
    }

    /// Reads the authority from a file. `None` if the file does not exist.
    ///
    /// # Errors
    /// I/O errors, or `InvalidArgument` when the file does not hold a join token.
    pub fn load(path: &Path) -> Result<Option<Self>> {
        match fs::read_to_string(path) {
            Ok(text) => Self::from_join_token(&text).map(Some).map_err(|e| e.context(path.display())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io(path.display(), e)),
        }
    }
}

/// The node that a certificate was issued to. `None` if it names none.
pub(crate) fn node_of(certificate: &CertificateDer<'_>) -> Option<NodeId> {
    let certificate = EndEntityCert::try_from(certificate).ok()?;
    certificate.valid_dns_names().find_map(|name| {
        let node = name.strip_suffix(SERVER_NAME)?.strip_suffix('.')?.strip_prefix(NODE_PREFIX)?;
        node.parse().ok().map(NodeId)
    })
}

fn distinguished_name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}

impl Identity {
    /// TLS 1.3 configuration of a server that requires certificates of this cluster from its clients.
    ///
    /// # Errors
    /// `Corrupt` when a PEM text cannot be parsed, `Internal` when TLS rejects the configuration.
    pub fn server_config(&self) -> Result<ServerConfig> {
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots()?, provider())
            .build()
            .map_err(|e| Error::internal(format!("TLS client verifier: {e}")))?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(tls_error)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.chain()?, self.private_key()?)
            .map_err(tls_error)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(config)
    }

    /// TLS 1.3 configuration of a client that presents this certificate and trusts only this cluster.
    ///
    /// # Errors
    /// `Corrupt` when a PEM text cannot be parsed, `Internal` when TLS rejects the configuration.
    pub fn client_config(&self) -> Result<ClientConfig> {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(tls_error)?
            .with_root_certificates(self.roots()?)
            .with_client_auth_cert(self.chain()?, self.private_key()?)
            .map_err(tls_error)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(config)
    }

    fn chain(&self) -> Result<Vec<CertificateDer<'static>>> {
        certificates(&self.certificate)
    }

    fn private_key(&self) -> Result<PrivateKeyDer<'static>> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes())
            .map_err(|e| Error::corrupt(format!("private key: {e}")))
    }

    fn roots(&self) -> Result<Arc<RootCertStore>> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.authority)? {
            roots.add(certificate).map_err(tls_error)?;
        }
        Ok(Arc::new(roots))
    }
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|e| Error::corrupt(format!("certificate: {e}")))
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn tls_error(error: rustls::Error) -> Error {
    Error::internal(format!("TLS configuration: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_join_token_round_trips_and_an_altered_one_is_refused() {
        let authority = Authority::create(ClusterId::generate()).unwrap();
        let token = authority.join_token();
        assert!(Authority::from_join_token(&token).unwrap() == authority);
        let mut altered = token.clone();
        altered.replace_range(40..41, if &token[40..41] == "A" { "B" } else { "A" });
        for bad in [altered.as_str(), &token[..token.len() - 3], "plexus-join-", "nonsense", ""] {
            let error = Authority::from_join_token(bad).err().expect("refused");
            assert!(error.message().contains("join token"), "{error}");
        }
        let identity = authority.issue(NodeId(7)).unwrap();
        identity.server_config().unwrap();
        identity.client_config().unwrap();
        assert_eq!(node_of(&identity.chain().unwrap()[0]), Some(NodeId(7)));
        assert_eq!(node_of(&certificates(&authority.certificate).unwrap()[0]), None);
    }
}
