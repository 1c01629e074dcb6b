//! What clients notice when the leader of the metadata group is killed, and when it is restarted: the slowest
//! commit and the slowest read of each time, on the nodes that stay.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use plexus_model::{Error, Result};
use plexus_node::client::Client;
use plexus_node::local::{LocalCluster, NodeEnd};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::Figure;
use crate::latency::Latencies;

/// Times that the leader is killed by default, and restarted.
pub(crate) const TRIALS: usize = 50;

/// Time before the leader ends.
const BEFORE: Duration = Duration::from_millis(700);

/// Time after it, in which the slowest requests end.
const AFTER: Duration = Duration::from_secs(4);

/// Time for a new member to catch up.
const SETTLE_TIME: Duration = Duration::from_secs(1);

/// Kills the leader, and restarts it, `trials` times each.
pub(crate) async fn measure(program: &Path, dir: &Path, trials: usize) -> Result<Vec<Figure>> {
    let data = dir.join("failover");
    std::fs::create_dir_all(&data).map_err(|e| Error::io(data.display(), e))?;
    let mut cluster = LocalCluster::start(program, &data, 3).await?;
    let figures = measure_on(&mut cluster, trials).await;
    cluster.stop().await;
    figures
}

async fn measure_on(cluster: &mut LocalCluster, trials: usize) -> Result<Vec<Figure>> {
    Client::connect(&cluster.url()).await?.execute("CREATE TABLE failover (a BIGINT)").await?;
    let mut figures = vec![];
    for (how, name, target) in [
        (NodeEnd::Stopped, "leader restarted", "max < 500 ms"),
        (NodeEnd::Killed, "leader killed", "max < 3 s"),
    ] {
        let (mut commits, mut reads) = (Latencies::new(), Latencies::new());
        let mut failed = 0;
        for _ in 0..trials {
            let slowest = end_leader(cluster, how).await?;
            commits.record(slowest.commit);
            reads.record(slowest.read);
            failed += slowest.failed;
        }
        for (what, latencies) in [("commit", commits), ("read", reads)] {
            let value = format!("{}, {failed} failed", latencies.extremes());
            figures.push(Figure::new(format!("{name} {trials} times, slowest {what}"), value, target));
        }
    }
    Ok(figures)
}

/// What the clients of one time noticed.
#[derive(Clone, Copy, Default)]
struct Slowest {
    commit: Duration,
    read: Duration,
    failed: usize,
}

/// Ends the leader while clients work on the other nodes, and starts it again.
async fn end_leader(cluster: &mut LocalCluster, how: NodeEnd) -> Result<Slowest> {
    let leader = cluster.nodes[0].status().await?.leader;
    let is_leader = |node: &plexus_node::local::LocalNode| Some(node.id) == leader;
    let index = cluster.nodes.iter().position(is_leader);
    let index = index.ok_or_else(|| Error::unavailable("the group has no leader"))?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for (_, node) in cluster.nodes.iter().enumerate().filter(|(other, _)| *other != index) {
        for commits in [true, false] {
            let mut client = Client::connect(&format!("grpc://{}", node.flight)).await?;
            let stop = stop.clone();
            clients.spawn(async move {
                let mut noticed = Slowest::default();
                while !stop.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    let outcome = match commits {
                        true => client.execute("INSERT INTO failover VALUES (1)").await.map(|_| ()),
                        false => client.query("SELECT count(*) FROM failover").await.map(|_| ()),
                    };
                    noticed.failed += usize::from(outcome.is_err());
                    let slowest = if commits { &mut noticed.commit } else { &mut noticed.read };
                    *slowest = (*slowest).max(began.elapsed());
                }
                noticed
            });
        }
    }
    sleep(BEFORE).await;
    cluster.end(index, how).await?;
    sleep(AFTER).await;
    stop.store(true, Ordering::Relaxed);
    let mut all = Slowest::default();
    while let Some(noticed) = clients.join_next().await {
        let noticed = noticed.map_err(|e| Error::internal(format!("a client stopped: {e}")))?;
        all.commit = all.commit.max(noticed.commit);
        all.read = all.read.max(noticed.read);
        all.failed += noticed.failed;
    }
    cluster.start_again(index).await?;
    sleep(SETTLE_TIME).await;
    Ok(all)
}
