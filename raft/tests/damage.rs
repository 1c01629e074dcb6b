//! Members whose log or snapshot was damaged on disk while they were stopped.

mod members;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use plexus_model::{ClusterId, ErrorKind};
use plexus_raft::Meta;

use members::{Network, TIMEOUT, create_schema, group, options, record, start};

/// A kind of damage to node 3, by name.
type Damage = (&'static str, fn(&Path));

/// The newest file of the log of node `id`.
fn log_file(dir: &Path, id: u64) -> PathBuf {
    let files = fs::read_dir(dir.join(format!("node{id}/log"))).unwrap().map(|file| file.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|e| e == "wal")).max().expect("a file of the log")
}

fn flip(path: &Path, byte: usize, bit: u8) {
    let mut bytes = fs::read(path).unwrap();
    bytes[byte] ^= 1 << bit;
    fs::write(path, bytes).unwrap();
}

/// Stops a member as a crash would: nothing is written any more.
async fn stop(network: &Network, member: Arc<Meta>) {
    network.members.write().unwrap().remove(&record(member.node().0).peer);
    member.shutdown().await;
    drop(member);
    // The lock of the log is released when the last task of the member has ended.
    tokio::time::sleep(Duration::from_millis(50)).await;
}

async fn commit(member: &Meta, names: std::ops::Range<u64>) {
    for n in names {
        member.propose(create_schema(format!("s{n}")), TIMEOUT).await.unwrap_or_else(|e| panic!("s{n}: {e}"));
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..400 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("not after 20 s: {what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_gets_from_the_others_what_its_disk_has_lost() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    fastrand::seed(seed);
    let dir = tempfile::tempdir().unwrap();
    let network = Arc::new(Network::default());
    let mut members = group(&network, dir.path()).await;
    let mut names = 0;
    let damages: [Damage; 6] = [
        ("a bit", |dir| {
            let path = log_file(dir, 3);
            let length = fs::metadata(&path).unwrap().len() as usize;
            flip(&path, fastrand::usize(0..length), fastrand::u8(0..8));
        }),
        // The length of the last entry: what follows the id of the entry.
        ("halved", |dir| {
            let path = log_file(dir, 3);
            let file = fs::File::options().write(true).open(&path).unwrap();
            file.set_len(file.metadata().unwrap().len() / 2).unwrap();
        }),
        ("emptied", |dir| fs::write(log_file(dir, 3), "").unwrap()),
        ("without a file", |dir| fs::remove_file(log_file(dir, 3)).unwrap()),
        ("without the log", |dir| fs::remove_dir_all(dir.join("node3/log")).unwrap()),
        ("snapshot", |dir| {
            let path = dir.join("node3/snapshot/manifest.snapshot");
            if path.exists() {
                flip(&path, 100, 3);
            }
        }),
    ];
    // Single bits most often: of lengths, bodies, checksums, record types.
    for (name, damage) in std::iter::repeat_n(&damages[0], 12).chain(&damages[1..]) {
        // More entries than between two snapshots.
        commit(&members[0], names..names + 20).await;
        names += 20;
        let version = members[0].manifest().version;
        members[2].wait_version(version, TIMEOUT).await.unwrap();
        stop(&network, members.pop().unwrap()).await;
        damage(dir.path());
        let member = start(&network, 3, dir.path()).await;
        let manifest = member.wait_version(version, TIMEOUT).await.unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(manifest.to_bytes(), members[0].manifest().to_bytes(), "{name}");
        until(name, || !member.lacks_entries()).await;
        members.push(member);
        assert_eq!(members[0].status().leader.map(|n| n.0), Some(1), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_lacks_entries_neither_leads_nor_votes() {
    let dir = tempfile::tempdir().unwrap();
    let network = Arc::new(Network::default());
    let mut members = group(&network, dir.path()).await;
    // Node 3 misses the last commits: nodes 1 and 2 have acknowledged them.
    stop(&network, members.pop().unwrap()).await;
    commit(&members[0], 0..10).await;
    let committed = members[0].manifest().version;
    members[1].wait_version(committed, TIMEOUT).await.unwrap();
    for member in members {
        stop(&network, member).await;
    }
    let path = log_file(dir.path(), 1);
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();

    // Node 1 led, and would be a majority with node 3.
    let first = start(&network, 1, dir.path()).await;
    assert!(first.lacks_entries());
    let third = start(&network, 3, dir.path()).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!first.is_leader() && !third.is_leader(), "a leader without the last commits");

    let second = start(&network, 2, dir.path()).await;
    for member in [&first, &second, &third] {
        let manifest = member.read(TIMEOUT).await.unwrap();
        assert!(manifest.version >= committed, "node {}", member.node());
        assert_eq!(manifest.schemas.len(), 11, "node {}", member.node());
    }
    until("node 1 votes again", || !first.lacks_entries()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_only_voter_does_not_start_without_what_it_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let network = Arc::new(Network::default());
    let member = start(&network, 1, dir.path()).await;
    member.bootstrap(ClusterId(7), record(1)).await.unwrap();
    commit(&member, 0..20).await;
    stop(&network, member).await;
    let path = log_file(dir.path(), 1);
    let log = path.parent().unwrap();
    let intact = fs::read(&path).unwrap();
    // The second time there is a newer file, which the first start began.
    for damaged in [&intact[..intact.len() / 2], &[]] {
        fs::write(&path, damaged).unwrap();
        let error = Meta::start(options(&network, 1, dir.path())).await.err().expect("it refuses to start");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.message().contains("restore"), "{error}");
    }
    fs::remove_dir_all(log).unwrap();
    fs::create_dir(log).unwrap();
    fs::write(&path, &intact).unwrap();
    let member = start(&network, 1, dir.path()).await;
    assert_eq!(member.read(TIMEOUT).await.unwrap().schemas.len(), 21);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_that_was_not_acknowledged_may_be_torn() {
    // A part of a record, zeros that a file system leaves after a loss of power, and what was there before.
    let torn = [&[0, 0, 0, 1, 0, 0][..], &[0; 4096], &[7; 100]].concat();
    for behind in [&[0, 0, 0, 1, 0, 0][..], &[0; 5000], &[0xff; 100], &torn] {
        let dir = tempfile::tempdir().unwrap();
        let network = Arc::new(Network::default());
        let member = start(&network, 1, dir.path()).await;
        member.bootstrap(ClusterId(7), record(1)).await.unwrap();
        commit(&member, 0..20).await;
        stop(&network, member).await;
        let path = log_file(dir.path(), 1);
        let intact = fs::read(&path).unwrap();
        fs::write(&path, [&intact, behind].concat()).unwrap();
        let member = start(&network, 1, dir.path()).await;
        assert_eq!(member.read(TIMEOUT).await.unwrap().schemas.len(), 21);
        assert!(!member.lacks_entries());
    }
}
