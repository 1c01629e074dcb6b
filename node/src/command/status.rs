//! `plexus status`: the cluster at a glance.

use std::time::Duration;

use clap::{Args, ValueEnum};
use plexus_model::{Error, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::status::ClusterStatus;

/// Show nodes, the metadata group, tables and shards
#[derive(Args, Debug)]
pub struct Status {
    /// HTTP address of any node
    #[arg(long, env = "PLEXUS_HTTP_URL", default_value = "http://127.0.0.1:7072")]
    url: String,

    /// How the status is written
    #[arg(long, env = "PLEXUS_FORMAT", value_enum, default_value_t)]
    format: StatusFormat,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum StatusFormat {
    /// Tables, for people
    #[default]
    Table,
    /// One JSON object, for programs
    Json,
}

impl Status {
    pub fn run(self) -> Result<()> {
        super::block_on(async {
            let body = get(&self.url, "/status").await?;
            let status: ClusterStatus = serde_json::from_str(&body)
                .map_err(|e| Error::corrupt(format!("{} does not answer like a node: {e}", self.url)))?;
            match self.format {
                StatusFormat::Json => println!("{body}"),
                StatusFormat::Table => print(&status),
            }
            Ok(())
        })
    }
}

/// A GET over plain HTTP/1.0, which needs no library: our own server, one request, then close.
pub async fn get(url: &str, path: &str) -> Result<String> {
    let host = url.strip_prefix("http://").unwrap_or(url).trim_end_matches('/');
    let exchange = async {
        let mut stream = TcpStream::connect(host).await?;
        let request = format!("GET {path} HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = timeout(Duration::from_secs(15), exchange)
        .await
        .map_err(|_| Error::unavailable(format!("no answer from {url}")))?
        .map_err(|e| Error::unavailable(format!("cannot reach {url}: {e}")).with_source(e))?;
    let (head, body) =
        answer.split_once("\r\n\r\n").ok_or_else(|| Error::corrupt(format!("{url} does not speak HTTP")))?;
    if !head.lines().next().unwrap_or_default().contains(" 200 ") {
        return Err(Error::unavailable(format!("{url}{path}: {}", body.trim())));
    }
    Ok(body.to_owned())
}

fn print(status: &ClusterStatus) {
    let leader = status.leader.map_or("none".to_owned(), |l| l.to_string());
    println!("cluster {}", status.cluster);
    println!(
        "leader {leader}, term {}, log index {}, manifest version {}\n",
        status.term, status.log_index, status.version
    );
    let optional = |n: Option<u64>| n.map_or("-".to_owned(), |n| n.to_string());
    let nodes = status
        .nodes
        .iter()
        .map(|n| {
            let role = if n.leader {
                "leader"
            } else if n.voter {
                "voter"
            } else {
                "learner"
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
        })
        .collect();
    let header =
        ["node", "roles", "state", "meta", "applied", "segments", "missing", "flight", "peer", "http"];
    print_table(&header, nodes);
    println!();
    let tables = status
        .tables
        .iter()
        .map(|t| {
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
        })
        .collect();
    print_table(&["table", "rows", "bytes", "shards", "replicas", "segments", "shards degraded"], tables);
    println!("\nunder-replicated segments: {}", status.segments_under_replicated);
}

fn print_table(header: &[&str], rows: Vec<Vec<String>>) {
    let widths: Vec<usize> = (0..header.len())
        .map(|c| rows.iter().map(|r| r[c].chars().count()).chain([header[c].len()]).max().unwrap_or(0))
        .collect();
    let line = |cells: &[String]| {
        let padded: Vec<String> = cells.iter().zip(&widths).map(|(cell, w)| format!("{cell:<w$}")).collect();
        println!("{}", padded.join("  ").trim_end());
    };
    line(&header.iter().map(|h| (*h).to_owned()).collect::<Vec<_>>());
    rows.iter().for_each(|row| line(row));
}
