//! ARCHITECTURE.md is tested: the paths that it names exist, and the crates use each other as it says.

use std::collections::BTreeMap;
use std::path::Path;

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

#[test]
fn the_paths_it_names_exist() {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let mut seen = 0;
    for path in text.split('`').skip(1).step_by(2).filter(|t| t.contains('/') && !t.contains(' ')) {
        assert!(root().join(path).exists(), "ARCHITECTURE.md names {path}, which does not exist");
        seen += 1;
    }
    assert!(seen > 15, "only {seen} paths were found");
}

#[test]
fn crates_use_only_what_is_below_them() {
    // Each crate, and which of ours it may use directly.
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("model", &[][..]),
        ("raft", &["model"][..]),
        ("index", &["model"][..]),
        ("storage", &["model", "index"][..]),
        ("query", &["model", "index", "storage"][..]),
        ("coordinator", &["model", "index", "storage", "query", "raft"][..]),
        ("flight", &["model", "index", "storage", "query", "raft", "coordinator"][..]),
        ("node", &["model", "index", "storage", "query", "raft", "coordinator", "flight"][..]),
        ("bench", &["model", "index", "storage", "query", "raft", "coordinator", "flight", "node"][..]),
    ]);
    for (name, allowed) in allowed {
        let manifest = std::fs::read_to_string(root().join(name).join("Cargo.toml")).unwrap();
        for line in manifest.lines().filter_map(|l| l.strip_prefix("plexus-")) {
            let used = line.split(['.', ' ', '=']).next().unwrap();
            assert!(allowed.contains(&used), "{name} uses {used}, which ARCHITECTURE.md does not allow");
        }
    }
    let raft = std::fs::read_to_string(root().join("raft/Cargo.toml")).unwrap();
    assert!(!raft.contains("arrow"), "raft knows no Arrow");
    let storage = std::fs::read_to_string(root().join("storage/Cargo.toml")).unwrap();
    assert!(!storage.contains("datafusion"), "storage knows no SQL");
}
