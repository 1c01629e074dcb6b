//! The configuration of a node. Command line options override environment variables, which override the
//! configuration file, which overrides the defaults.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use clap::builder::BoolishValueParser;
use clap::{Args, ValueEnum};
use plexus_model::{Error, NodeId, Result, Roles};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::memory::default_query_memory;

/// The settings as given, before defaults. Each field is a command line option, an environment variable and a
/// key of the TOML file. The field comments are the help texts of the options.
#[derive(Args, Deserialize, Clone, Debug, Default)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// Id of this node [default: generated at the first start and stored in the data directory]
    #[arg(long, env = "PLEXUS_NODE_ID", value_name = "ID")]
    pub(crate) node_id: Option<u64>,

    /// Directory for the log and the segments of this node [default: ./plexus-data]
    #[arg(long, env = "PLEXUS_DATA_DIR", value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,

    /// Address to listen on for clients (Arrow Flight and Flight SQL) [default: 127.0.0.1:7070]
    #[arg(long, env = "PLEXUS_FLIGHT", value_name = "HOST:PORT", value_parser = address)]
    #[serde(deserialize_with = "address_key")]
    pub(crate) flight: Option<SocketAddr>,

    /// Address to listen on for other nodes (QUIC over UDP, gRPC over TCP) [default: 127.0.0.1:7071]
    #[arg(long, env = "PLEXUS_PEER", value_name = "HOST:PORT", value_parser = address)]
    #[serde(deserialize_with = "address_key")]
    pub(crate) peer: Option<SocketAddr>,

    /// Address to listen on for health, metrics and status (HTTP) [default: 127.0.0.1:7072]
    #[arg(long, env = "PLEXUS_HTTP", value_name = "HOST:PORT", value_parser = address)]
    #[serde(deserialize_with = "address_key")]
    pub(crate) http: Option<SocketAddr>,

    /// Host name or IP address at which clients and other nodes reach this node [default: the listening
    /// address]
    #[arg(long, env = "PLEXUS_ADVERTISE", value_name = "HOST")]
    pub(crate) advertise: Option<String>,

    /// Roles of this node, separated by commas [default: meta,data,query]
    #[arg(long, env = "PLEXUS_ROLES", value_name = "ROLES", value_delimiter = ',')]
    pub(crate) roles: Option<Vec<Role>>,

    /// Found a new cluster, with an empty data directory, and write its join token to join.token there. Only
    /// for the first start: a directory that belongs to a cluster is refused
    #[arg(
        long,
        env = "PLEXUS_BOOTSTRAP",
        num_args = 0..=1,
        default_missing_value = "true",
        value_parser = BoolishValueParser::new(),
        conflicts_with = "join"
    )]
    pub(crate) bootstrap: Option<bool>,

    /// Join an existing cluster through the node at this peer address
    #[arg(long, env = "PLEXUS_JOIN", value_name = "HOST:PORT")]
    pub(crate) join: Option<String>,

    /// Join token of the cluster, or @FILE to read it from a file
    #[arg(long, env = "PLEXUS_JOIN_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub(crate) join_token: Option<String>,

    /// Memory limit of queries in MiB, beyond which they spill to disk or fail [default: half of the
    /// memory beyond 256 MiB]
    #[arg(
        long,
        env = "PLEXUS_QUERY_MEMORY",
        value_name = "MIB",
        value_parser = clap::value_parser!(u64).range(64..)
    )]
    pub(crate) query_memory: Option<u64>,

    /// Only directory to which COPY ... TO may write files [default: none, COPY ... TO is disabled]
    #[arg(long, env = "PLEXUS_EXPORT_DIR", value_name = "DIR")]
    pub(crate) export_dir: Option<PathBuf>,

    /// Let clients trigger failures of this node, for tests
    #[arg(
        long,
        env = "PLEXUS_FAILPOINTS",
        num_args = 0..=1,
        default_missing_value = "true",
        value_parser = BoolishValueParser::new(),
        hide = true
    )]
    pub(crate) failpoints: Option<bool>,

    /// Stop when standard input is closed, which means that the parent process has ended
    #[arg(
        long,
        env = "PLEXUS_STOP_WITH_STDIN",
        num_args = 0..=1,
        default_missing_value = "true",
        value_parser = BoolishValueParser::new(),
        hide = true
    )]
    pub(crate) stop_with_stdin: Option<bool>,

    /// Format of log messages [default: text]
    #[arg(long, env = "PLEXUS_LOG_FORMAT", value_name = "FORMAT")]
    pub(crate) log_format: Option<LogFormat>,

    /// Log filter, for example `info` or `plexus=debug` [default: info]
    #[arg(long, env = "PLEXUS_LOG", value_name = "FILTER")]
    pub(crate) log: Option<String>,
}

/// A role on the command line and in the file.
#[derive(ValueEnum, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// Vote in the Raft group of the metadata
    Meta,
    /// Store segments
    Data,
    /// Accept clients and run queries
    Query,
}

/// Format of log messages.
#[derive(ValueEnum, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// Lines of text, for people
    #[default]
    Text,
    /// One JSON object per line, for programs
    Json,
}

/// How a node enters a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Membership {
    /// Return to the cluster of the data directory.
    Resume,
    /// Found a cluster that other nodes will join.
    Bootstrap,
    /// Join a cluster.
    Join {
        /// Peer address of any member.
        address: String,
        /// The join token itself, not the name of its file.
        token: String,
    },
}

/// The complete configuration: settings with defaults applied.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) node_id: Option<NodeId>,
    pub(crate) data_dir: PathBuf,
    pub(crate) flight: SocketAddr,
    pub(crate) peer: SocketAddr,
    pub(crate) http: SocketAddr,
    pub(crate) advertise: Option<String>,
    pub(crate) roles: Roles,
    pub(crate) membership: Membership,
    /// Memory limit of queries, in bytes.
    pub(crate) query_memory: u64,
    pub(crate) export_dir: Option<PathBuf>,
    pub(crate) failpoints: bool,
    pub(crate) stop_with_stdin: bool,
    pub(crate) log_format: LogFormat,
    pub(crate) log: String,
}

impl Settings {
    /// Reads a TOML file.
    ///
    /// # Errors
    /// `InvalidArgument` names the file, the line and the unknown key or unfit value.
    pub(crate) fn from_file(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| Error::invalid(format!("configuration file {}: {e}", path.display())))?;
        toml::from_str(&text).map_err(|e| {
            Error::invalid(format!("configuration file {}: {}", path.display(), e.to_string().trim_end()))
        })
    }

    /// These settings, completed by those of `file`.
    pub(crate) fn or(self, file: Self) -> Self {
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

    /// Applies the defaults and checks the settings against each other.
    ///
    /// # Errors
    /// `InvalidArgument` names the setting and its value.
    pub(crate) fn resolve(self) -> Result<Config> {
        let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let roles = match self.roles {
            None => Roles::ALL,
            Some(roles) if roles.is_empty() => {
                return Err(Error::invalid("roles: must name at least one role"));
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
                return Err(Error::invalid("bootstrap and join are mutually exclusive"));
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
                    "{name} = {address} listens on all interfaces: \
                     set advertise to a host that others can reach"
                )));
            }
        }
        Ok(config)
    }
}

impl Config {
    /// The address under which others reach a listening address.
    pub(crate) fn advertised(&self, address: SocketAddr) -> String {
        match &self.advertise {
            Some(host) if host.contains(':') && !host.starts_with('[') => {
                format!("[{host}]:{}", address.port())
            }
            Some(host) => format!("{host}:{}", address.port()),
            None => address.to_string(),
        }
    }
}

/// Parses an address to listen on. A host name stands for the first address that it resolves to.
fn address(text: &str) -> Result<SocketAddr, String> {
    let mut found = text.to_socket_addrs().map_err(|e| format!("{text:?} is not HOST:PORT: {e}"))?;
    found.next().ok_or_else(|| format!("{text:?} does not resolve to any address"))
}

fn address_key<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    let text: Option<String> = Option::deserialize(deserializer)?;
    text.map(|text| address(&text).map_err(D::Error::custom)).transpose()
}

/// Converts the setting from MiB to bytes, or returns the default.
fn query_memory(setting: Option<u64>) -> Result<u64> {
    const MIB: u64 = 1024 * 1024;
    match setting {
        None => Ok(default_query_memory().max(64 * MIB)),
        Some(mib) if (64..=u64::MAX / MIB).contains(&mib) => Ok(mib * MIB),
        Some(mib) => Err(Error::invalid(format!("query_memory = {mib}: must be at least 64 MiB"))),
    }
}

/// The token itself, or the content of the file that it names with a leading @.
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
    fn options_override_the_file_and_defaults_complete_them() {
        let file: Settings = toml::from_str("data_dir = \"/a\"\nlog = \"debug\"").unwrap();
        let options = Settings { data_dir: Some("/b".into()), ..Settings::default() };
        let config = options.or(file).resolve().unwrap();
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
    fn join_without_a_token_and_a_wildcard_address_without_advertise_are_refused() {
        let join = Settings { join: Some("h:1".into()), ..Settings::default() };
        assert!(join.resolve().unwrap_err().message().contains("join token"));
        let wildcard = Settings { flight: Some(([0, 0, 0, 0], 1).into()), ..Settings::default() };
        assert!(wildcard.resolve().unwrap_err().message().contains("advertise"));
    }
}
