//! The cluster's own authority, and what a node proves itself with.
//!
//! `--bootstrap` creates an authority; every node holds a certificate from it and accepts no other, on
//! QUIC and on TCP. A join token carries the authority, so whoever has it can let nodes in: it is as
//! secret as the data.

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

/// The name that every node's certificate carries; addresses change, this does not.
pub const SERVER_NAME: &str = "plexus-node";
const ALPN: &[u8] = b"plexus/1";
const TOKEN_PREFIX: &str = "plexus-join-";

/// The authority of a cluster.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq)]
pub struct Authority {
    pub cluster: ClusterId,
    certificate: String,
    key: String,
}

/// What a node proves itself with. PEM texts.
#[derive(Clone)]
pub struct Identity {
    pub authority: String,
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn create(cluster: ClusterId) -> Result<Self> {
        let make = || -> Result<(String, String), rcgen::Error> {
            let key = KeyPair::generate()?;
            let mut params = CertificateParams::default();
            params.distinguished_name = name(&format!("plexus cluster {cluster}"));
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
    pub fn issue(&self, node: NodeId) -> Result<Identity> {
        let make = || -> Result<(String, String), rcgen::Error> {
            let issuer = Issuer::from_ca_cert_pem(&self.certificate, KeyPair::from_pem(&self.key)?)?;
            let key = KeyPair::generate()?;
            let mut params = CertificateParams::new(vec![SERVER_NAME.to_owned()])?;
            params.distinguished_name = name(&format!("plexus node {node}"));
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

    /// The authority as text, to be given to a node that joins.
    pub fn join_token(&self) -> String {
        let mut bytes = plexus_model::encode(self);
        let checksum = blake3::hash(&bytes);
        bytes.extend_from_slice(&checksum.as_bytes()[..8]);
        format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }

    /// # Errors
    /// `InvalidArgument` when the token is not one, or was cut or changed on the way.
    pub fn from_join_token(token: &str) -> Result<Self> {
        let wrong = || {
            let shown: String = token.chars().take(TOKEN_PREFIX.len() + 4).collect();
            Error::invalid(format!("join token \"{shown}...\" ({} characters) is not valid", token.len()))
        };
        let text = token.trim().strip_prefix(TOKEN_PREFIX).ok_or_else(wrong)?;
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| wrong())?;
        let (body, checksum) = bytes.split_at_checked(bytes.len().saturating_sub(8)).ok_or_else(wrong)?;
        if blake3::hash(body).as_bytes()[..8] != *checksum {
            return Err(wrong());
        }
        plexus_model::decode("join token", body).map_err(|_| wrong())
    }

    /// Keeps the authority in a file that only its owner reads.
    pub fn save(&self, path: &Path) -> Result<()> {
        let write = || {
            let mut file =
                fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
            file.write_all(self.join_token().as_bytes())?;
            file.sync_all()
        };
        write().map_err(|e| Error::io(path.display(), e))
    }

    /// The authority in a file, if there is one.
    pub fn load(path: &Path) -> Result<Option<Self>> {
        match fs::read_to_string(path) {
            Ok(text) => Self::from_join_token(&text).map(Some).map_err(|e| e.context(path.display())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io(path.display(), e)),
        }
    }
}

fn name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}

impl Identity {
    pub fn server_config(&self) -> Result<ServerConfig> {
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots()?, provider())
            .build()
            .map_err(|e| Error::internal(format!("TLS client verifier: {e}")))?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(tls)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.chain()?, self.private_key()?)
            .map_err(tls)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(config)
    }

    pub fn client_config(&self) -> Result<ClientConfig> {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(tls)?
            .with_root_certificates(self.roots()?)
            .with_client_auth_cert(self.chain()?, self.private_key()?)
            .map_err(tls)?;
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
            roots.add(certificate).map_err(tls)?;
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

fn tls(error: rustls::Error) -> Error {
    Error::internal(format!("TLS configuration: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_carries_the_authority_and_a_changed_one_is_refused() {
        let authority = Authority::create(ClusterId::generate()).unwrap();
        let token = authority.join_token();
        assert!(Authority::from_join_token(&token).unwrap() == authority);
        let mut wrong = token.clone();
        wrong.replace_range(40..41, if &token[40..41] == "A" { "B" } else { "A" });
        for bad in [wrong.as_str(), &token[..token.len() - 3], "plexus-join-", "nonsense", ""] {
            let error = Authority::from_join_token(bad).err().expect("refused");
            assert!(error.message().contains("join token"), "{error}");
        }
        let identity = authority.issue(NodeId(7)).unwrap();
        identity.server_config().unwrap();
        identity.client_config().unwrap();
    }
}
