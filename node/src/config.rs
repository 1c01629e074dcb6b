//! The configuration of a node: flags over environment over file over defaults.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use clap::builder::BoolishValueParser;
use clap::{Args, ValueEnum};
use plexus_model::{Error, NodeId, Result, Roles};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::node::default_query_memory;

/// One setting a flag; every flag is also an environment variable and a key of the TOML file.
#[derive(Args, Deserialize, Clone, Debug, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Identity of this node. Generated once and kept in the data directory when absent
    #[arg(long, env = "PLEXUS_NODE_ID", value_name = "ID")]
    pub node_id: Option<u64>,

    /// Where this node keeps its log and its segments [default: ./plexus-data]
    #[arg(long, env = "PLEXUS_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    /// Address for clients: Arrow Flight and Flight SQL [default: 127.0.0.1:7070]
    #[arg(long, env = "PLEXUS_FLIGHT", value_name = "HOST:PORT", value_parser = address)]
    #[serde(deserialize_with = "address_key")]
    pub flight: Option<SocketAddr>,

    /// Address for other nodes: QUIC on UDP, distributed execution on TCP [default: 127.0.0.1:7071]
    #[arg(long, env = "PLEXUS_PEER", value_name = "HOST:PORT", value_parser = address)]
    #[serde(deserialize_with = "address_key")]
    pub peer: Option<SocketAddr>,

    /// Address for health, metrics and status over HTTP [default: 127.0.0.1:7072]
    #[arg(long, env = "PLEXUS_HTTP", value_name = "HOST:PORT", value_parser = address)]
    #[serde(deserialize_with = "address_key")]
    pub http: Option<SocketAddr>,

    /// Host under which clients and other nodes reach this node [default: the host listened on]
    #[arg(long, env = "PLEXUS_ADVERTISE", value_name = "HOST")]
    pub advertise: Option<String>,

    /// Roles this node takes [default: meta,data,query]
    #[arg(long, env = "PLEXUS_ROLES", value_name = "ROLES", value_delimiter = ',')]
    pub roles: Option<Vec<Role>>,

    /// Found a new cluster: create its authority, kept as join.token in the data directory
    #[arg(long, env = "PLEXUS_BOOTSTRAP", num_args = 0..=1, default_missing_value = "true", value_parser = BoolishValueParser::new(), conflicts_with = "join")]
    pub bootstrap: Option<bool>,

    /// Join the cluster of the node at this peer address
    #[arg(long, env = "PLEXUS_JOIN", value_name = "HOST:PORT")]
    pub join: Option<String>,

    /// The join token of the cluster, or @FILE that holds it
    #[arg(long, env = "PLEXUS_JOIN_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub join_token: Option<String>,

    /// Memory in MiB that queries may use before they spill or fail [default: 60 % of what there is]
    #[arg(long, env = "PLEXUS_QUERY_MEMORY", value_name = "MIB", value_parser = clap::value_parser!(u64).range(64..))]
    pub query_memory: Option<u64>,

    /// Where COPY ... TO may write files, which it may not elsewhere [default: nowhere]
    #[arg(long, env = "PLEXUS_EXPORT_DIR", value_name = "DIR")]
    pub export_dir: Option<PathBuf>,

    /// Let clients make this node fail, for tests
    #[arg(long, env = "PLEXUS_FAILPOINTS", num_args = 0..=1, default_missing_value = "true", value_parser = BoolishValueParser::new(), hide = true)]
    pub failpoints: Option<bool>,

    /// Stop when standard input ends: whoever started the node is gone
    #[arg(long, env = "PLEXUS_STOP_WITH_STDIN", num_args = 0..=1, default_missing_value = "true", value_parser = BoolishValueParser::new(), hide = true)]
    pub stop_with_stdin: Option<bool>,

    /// Log format [default: text]
    #[arg(long, env = "PLEXUS_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,

    /// What to log, such as `info` or `plexus=debug` [default: info]
    #[arg(long, env = "PLEXUS_LOG", value_name = "FILTER")]
    pub log: Option<String>,
}

#[derive(ValueEnum, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Meta,
    Data,
    Query,
}

#[derive(ValueEnum, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// How a node gets into a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Membership {
    /// Continue what the data directory says; in an empty one, be a complete cluster alone.
    Resume,
    Bootstrap,
    Join {
        address: String,
        token: String,
    },
}

/// The settings with every default filled in.
#[derive(Clone, Debug)]
pub struct Config {
    pub node_id: Option<NodeId>,
    pub data_dir: PathBuf,
    pub flight: SocketAddr,
    pub peer: SocketAddr,
    pub http: SocketAddr,
    pub advertise: Option<String>,
    pub roles: Roles,
    pub membership: Membership,
    /// Bytes that queries may use.
    pub query_memory: u64,
    pub export_dir: Option<PathBuf>,
    pub failpoints: bool,
    pub stop_with_stdin: bool,
    pub log_format: LogFormat,
    pub log: String,
}

impl Settings {
    /// Reads a TOML file.
    ///
    /// # Errors
    /// `InvalidArgument` names the file, the line and the unknown key or unfit value.
    pub fn from_file(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| Error::invalid(format!("configuration file {}: {e}", path.display())))?;
        toml::from_str(&text).map_err(|e| {
            Error::invalid(format!("configuration file {}: {}", path.display(), e.to_string().trim_end()))
        })
    }

    /// These settings, and those of `file` where these say nothing.
    pub fn or(self, file: Self) -> Self {
        Self {
            node_id: self.node_id.or(file.node_id),
            data_dir: self.data_dir.or(file.data_dir),
            flight: self.flight.or(file.flight),
            peer: self.peer.or(file.peer),
            http: self.http.or(file.http),
            advertise: self.advertise.or(file.advertise),
            roles: self.roles.or(file.roles),
            bootstrap: self.bootstrap.or(file.bootstrap),
            join: self.join.or(file.join),
            join_token: self.join_token.or(file.join_token),
            query_memory: self.query_memory.or(file.query_memory),
            export_dir: self.export_dir.or(file.export_dir),
            failpoints: self.failpoints.or(file.failpoints),
            stop_with_stdin: self.stop_with_stdin.or(file.stop_with_stdin),
            log_format: self.log_format.or(file.log_format),
            log: self.log.or(file.log),
        }
    }

    /// Fills in the defaults and checks what depends on several settings.
    pub fn resolve(self) -> Result<Config> {
        let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let roles = match self.roles {
            None => Roles::ALL,
            Some(roles) if roles.is_empty() => {
                return Err(Error::invalid("roles: name at least one"));
            }
            Some(roles) => Roles {
                meta: roles.contains(&Role::Meta),
                data: roles.contains(&Role::Data),
                query: roles.contains(&Role::Query),
            },
        };
        if self.node_id == Some(0) {
            return Err(Error::invalid("node_id = 0: must be at least 1"));
        }
        let membership = match (self.bootstrap.unwrap_or(false), self.join, self.join_token) {
            (true, Some(_), _) => {
                return Err(Error::invalid("bootstrap and join exclude each other"));
            }
            (true, None, _) => Membership::Bootstrap,
            (false, Some(address), Some(token)) => Membership::Join { address, token: read_token(token)? },
            (false, Some(address), None) => {
                return Err(Error::invalid(format!("join = {address:?} needs a join token")));
            }
            (false, None, _) => Membership::Resume,
        };
        let config = Config {
            node_id: self.node_id.map(NodeId),
            data_dir: self.data_dir.unwrap_or_else(|| "plexus-data".into()),
            flight: self.flight.unwrap_or_else(|| loopback(7070)),
            peer: self.peer.unwrap_or_else(|| loopback(7071)),
            http: self.http.unwrap_or_else(|| loopback(7072)),
            advertise: self.advertise,
            roles,
            membership,
            query_memory: query_memory(self.query_memory)?,
            export_dir: self.export_dir,
            failpoints: self.failpoints.unwrap_or(false),
            stop_with_stdin: self.stop_with_stdin.unwrap_or(false),
            log_format: self.log_format.unwrap_or_default(),
            log: self.log.unwrap_or_else(|| "info".into()),
        };
        for (name, address) in [("flight", config.flight), ("peer", config.peer), ("http", config.http)] {
            if config.advertise.is_none() && address.ip().is_unspecified() {
                return Err(Error::invalid(format!(
                    "{name} = {address} listens on all interfaces: set advertise to the host that others reach"
                )));
            }
        }
        Ok(config)
    }
}

impl Config {
    /// The address that others are told for one listened on.
    pub fn advertised(&self, address: SocketAddr) -> String {
        match &self.advertise {
            Some(host) if host.contains(':') && !host.starts_with('[') => {
                format!("[{host}]:{}", address.port())
            }
            Some(host) => format!("{host}:{}", address.port()),
            None => address.to_string(),
        }
    }
}

/// An address to listen on. A host name stands for the first address that it resolves to.
fn address(text: &str) -> Result<SocketAddr, String> {
    let mut found = text.to_socket_addrs().map_err(|e| format!("{text:?} is not HOST:PORT: {e}"))?;
    found.next().ok_or_else(|| format!("{text:?} has no address"))
}

fn address_key<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    let text: Option<String> = Option::deserialize(deserializer)?;
    text.map(|text| address(&text).map_err(D::Error::custom)).transpose()
}

/// From the setting in MiB.
fn query_memory(setting: Option<u64>) -> Result<u64> {
    const MIB: u64 = 1024 * 1024;
    match setting {
        None => Ok(default_query_memory().max(64 * MIB)),
        Some(mib) if (64..=u64::MAX / MIB).contains(&mib) => Ok(mib * MIB),
        Some(mib) => Err(Error::invalid(format!("query_memory = {mib}: at least 64 MiB"))),
    }
}

fn read_token(token: String) -> Result<String> {
    match token.strip_prefix('@') {
        None => Ok(token),
        Some(path) => std::fs::read_to_string(path)
            .map(|text| text.trim().to_owned())
            .map_err(|e| Error::invalid(format!("join token file {path}: {e}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_over_the_file_and_defaults_fill_the_rest() {
        let file: Settings = toml::from_str("data_dir = \"/a\"\nlog = \"debug\"").unwrap();
        let flags = Settings { data_dir: Some("/b".into()), ..Settings::default() };
        let config = flags.or(file).resolve().unwrap();
        assert_eq!(config.data_dir, Path::new("/b"));
        assert_eq!(config.log, "debug");
        assert_eq!(config.flight.port(), 7070);
        assert_eq!(config.membership, Membership::Resume);
    }

    #[test]
    fn addresses_may_name_their_host() {
        let file: Settings = toml::from_str("flight = \"localhost:7171\"").unwrap();
        assert!(file.flight.is_some_and(|a| a.ip().is_loopback() && a.port() == 7171));
        assert!(address("7171").unwrap_err().contains("\"7171\" is not HOST:PORT"));
        assert!(toml::from_str::<Settings>("flight = \"nonsense\"").is_err());
    }

    #[test]
    fn an_unknown_key_is_named_with_its_file_and_line() {
        let path = std::env::temp_dir().join(format!("plexus-config-{}.toml", std::process::id()));
        std::fs::write(&path, "log = \"info\"\ndata_directory = \"/a\"\n").unwrap();
        let error = Settings::from_file(&path).unwrap_err();
        std::fs::remove_file(&path).unwrap();
        assert!(error.message().contains("data_directory"), "{error}");
        assert!(error.message().contains("line 2"), "{error}");
    }

    #[test]
    fn joining_without_a_token_and_listening_on_all_without_advertise_are_refused() {
        let join = Settings { join: Some("h:1".into()), ..Settings::default() };
        assert!(join.resolve().unwrap_err().message().contains("join token"));
        let all = Settings { flight: Some(([0, 0, 0, 0], 1).into()), ..Settings::default() };
        assert!(all.resolve().unwrap_err().message().contains("advertise"));
    }
}
