//! `plexus status`: shows the nodes, tables and shards of a cluster.

use std::io::Write;
use std::time::Duration;

use clap::{Args, ValueEnum};
use plexus_model::{Error, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::render::Stdout;
use crate::status::{ClusterStatus, NodeStatus, ShardStatus, TableStatus};

const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// Show the status of a cluster: nodes, tables and shards
#[derive(Args, Debug)]
pub(crate) struct Status {
    /// HTTP URL of any node
    #[arg(long, env = "PLEXUS_HTTP_URL", default_value = "http://127.0.0.1:7072")]
    url: String,

    /// Output format
    #[arg(long, env = "PLEXUS_STATUS_FORMAT", value_enum, default_value_t)]
    format: StatusFormat,
}

/// Output format of the status. The variant comments are help texts.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum StatusFormat {
    /// Aligned tables, for people
    #[default]
    Table,
    /// JSON object, for programs
    Json,
}

impl Status {
    /// Runs the command.
    pub(crate) fn run(self) -> Result<()> {
        super::block_on(async {
            let body = get(&self.url, "/status").await?;
            let status: ClusterStatus = serde_json::from_str(&body).map_err(|e| {
                Error::corrupt(format!("the response of {} is not a cluster status: {e}", self.url))
            })?;
            let text = match self.format {
                StatusFormat::Json => body,
                StatusFormat::Table => overview(&status),
            };
            writeln!(Stdout, "{}", text.trim_end()).map_err(|e| Error::io("standard output", e))
        })
    }
}

/// Sends a GET request to the HTTP port of a node and returns the body. HTTP/1.0 without TLS: one request per
/// connection, which needs no HTTP client library.
///
/// # Errors
/// `Unavailable` when the node cannot be reached or answers with another status than 200, `Corrupt` when the
/// response is not HTTP.
pub async fn get(url: &str, path: &str) -> Result<String> {
    let host = url.strip_prefix("http://").unwrap_or(url).trim_end_matches('/');
    let exchange = async {
        let mut stream = TcpStream::connect(host).await?;
        let request = format!("GET {path} HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut response = String::new();
        stream.read_to_string(&mut response).await?;
        Ok::<_, std::io::Error>(response)
    };
    let response = timeout(REQUEST_TIMEOUT, exchange)
        .await
        .map_err(|_| Error::unavailable(format!("no response from {url} within {REQUEST_TIMEOUT:?}")))?
        .map_err(|e| Error::unavailable(format!("cannot reach {url}: {e}")).with_source(e))?;
    let (head, body) = response
        .split_once("\r\n\r\n")
        .ok_or_else(|| Error::corrupt(format!("{url} does not speak HTTP")))?;
    if !head.lines().next().unwrap_or_default().contains(" 200 ") {
        return Err(Error::unavailable(format!("{url}{path}: {}", body.trim())));
    }
    Ok(body.to_owned())
}

/// The status as text.
fn overview(status: &ClusterStatus) -> String {
    let leader = status.leader.map_or("none".to_owned(), |l| l.to_string());
    let head = format!(
        "cluster {}\nleader {leader}, term {}, log index {}, manifest version {}",
        status.cluster, status.term, status.log_index, status.version
    );
    let tail = format!("under-replicated segments: {}", status.segments_under_replicated);
    [head, nodes(status), tables(status), shards(status), tail].join("\n\n")
}

fn nodes(status: &ClusterStatus) -> String {
    let optional = |n: Option<u64>| n.map_or("-".to_owned(), |n| n.to_string());
    let row = |n: &NodeStatus| {
        let role = match (n.leader, n.voter) {
            (true, _) => "leader",
            (false, true) => "voter",
            (false, false) => "learner",
        };
        vec![
            n.id.to_string(),
            n.roles.clone(),
            if n.live { "live" } else { "dead" }.to_owned(),
            role.to_owned(),
            optional(n.applied),
            optional(n.segments),
            optional(n.segments_missing),
            n.flight.clone(),
            n.peer.clone(),
            n.http.clone(),
        ]
    };
    let header =
        ["node", "roles", "state", "meta", "applied", "segments", "missing", "flight", "peer", "http"];
    table(&header, status.nodes.iter().map(row).collect())
}

fn tables(status: &ClusterStatus) -> String {
    let row = |t: &TableStatus| {
        let degraded = t.shards.iter().filter(|s| (s.live_replicas as usize) < s.replicas.len()).count();
        vec![
            format!("{}.{}", t.schema, t.name),
            t.rows.to_string(),
            t.bytes.to_string(),
            t.shards.len().to_string(),
            t.replicas.to_string(),
            t.segments.to_string(),
            degraded.to_string(),
        ]
    };
    let header = ["table", "rows", "bytes", "shards", "replicas", "segments", "shards degraded"];
    table(&header, status.tables.iter().map(row).collect())
}

/// One line per shard with the nodes that hold it, to look up what is affected when a node is gone.
fn shards(status: &ClusterStatus) -> String {
    let dead = |id: &u64| status.nodes.iter().any(|n| n.id == *id && !n.live);
    let row = |t: &TableStatus, s: &ShardStatus| {
        let replicas: Vec<String> = s
            .replicas
            .iter()
            .map(|id| if dead(id) { format!("{id} (dead)") } else { id.to_string() })
            .collect();
        vec![
            format!("{}.{}", t.schema, t.name),
            s.shard.to_string(),
            s.rows.to_string(),
            s.segments.to_string(),
            replicas.join(", "),
        ]
    };
    let rows = status.tables.iter().flat_map(|t| t.shards.iter().map(move |s| row(t, s))).collect();
    table(&["table", "shard", "rows", "segments", "replicas on nodes"], rows)
}

/// Aligns cells in columns.
fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let widths: Vec<usize> = (0..header.len())
        .map(|c| rows.iter().map(|r| r[c].chars().count()).chain([header[c].len()]).max().unwrap_or(0))
        .collect();
    let line = |cells: &[String]| {
        let padded: Vec<String> = cells.iter().zip(&widths).map(|(cell, w)| format!("{cell:<w$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    let header: Vec<String> = header.iter().map(|h| (*h).to_owned()).collect();
    std::iter::once(&header).chain(&rows).map(|cells| line(cells)).collect::<Vec<_>>().join("\n")
}
