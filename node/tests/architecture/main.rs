//! The architecture is tested: the paths that ARCHITECTURE.md and the decision records name exist, crates and
//! folders depend on each other in the directions that it states, and no ring of files spans folders.

mod graph;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use graph::FileGraph;

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

#[test]
fn named_paths_exist() {
    let records = std::fs::read_dir(root().join("docs/adr")).unwrap().map(|entry| entry.unwrap().path());
    let mut seen = 0;
    for file in records.chain([root().join("ARCHITECTURE.md")]) {
        let text = std::fs::read_to_string(&file).unwrap();
        let is_path = |name: &&str| match name.split_once('/') {
            Some((folder, _)) => !folder.is_empty() && root().join(folder).is_dir() && !name.contains(' '),
            None => false,
        };
        for path in text.split('`').skip(1).step_by(2).filter(is_path) {
            assert!(root().join(path).exists(), "{} names {path}, which does not exist", file.display());
            seen += 1;
        }
    }
    assert!(seen > 50, "only {seen} paths were found");
}

/// Each entry of the glossary names the type that carries the term and the file that defines it.
#[test]
fn glossary_names_types_where_they_are() {
    let text = std::fs::read_to_string(root().join("docs/glossary.md")).unwrap();
    let mut seen = 0;
    for entry in text.split("\n- ").skip(1) {
        let code: Vec<&str> = entry.split('`').skip(1).step_by(2).collect();
        let Some(path) = code.iter().find(|c| c.contains('/') && c.contains('.')) else {
            panic!("the glossary names no file for: {entry}");
        };
        let source = std::fs::read_to_string(root().join(path))
            .unwrap_or_else(|e| panic!("the glossary names {path}: {e}"));
        // The type is what stands right before the path.
        let before = entry.split(&format!("`{path}`")).next().unwrap().trim_end().trim_end_matches(',');
        if let Some(name) = before.strip_suffix('`').and_then(|b| b.rsplit('`').next()) {
            let name = name.rsplit("::").next().unwrap().trim_end_matches("()");
            assert!(source.contains(name), "the glossary looks for {name} in {path}");
            seen += 1;
        }
    }
    assert!(seen > 50, "only {seen} types were found");
}

#[test]
fn crates_depend_only_on_crates_below_them() {
    // Each crate, and which of ours it may use directly.
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("memory", &[][..]),
        ("model", &[][..]),
        ("raft", &["model"][..]),
        ("index", &["model"][..]),
        ("storage", &["memory", "model", "index"][..]),
        ("query", &["memory", "model", "index", "storage"][..]),
        ("coordinator", &["memory", "model", "index", "storage", "query", "raft"][..]),
        ("flight", &["memory", "model", "index", "storage", "query", "raft", "coordinator"][..]),
        ("node", &["memory", "model", "index", "storage", "query", "raft", "coordinator", "flight"][..]),
        ("fuzz", &["memory", "model", "query", "storage", "index", "raft", "coordinator", "flight"]),
        ("bench", &["memory", "model", "query", "storage", "index", "raft", "coordinator", "flight", "node"]),
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

const CRATES: [&str; 11] = [
    "memory",
    "model",
    "raft",
    "index",
    "storage",
    "query",
    "coordinator",
    "flight",
    "node",
    "bench",
    "fuzz",
];

#[test]
fn no_ring_of_files_spans_folders() {
    for name in CRATES {
        let graph = FileGraph::of_crate(&root().join(name).join("src"));
        for ring in graph.rings() {
            let folders: BTreeSet<_> = ring.iter().map(|file| Path::new(file).parent()).collect();
            assert!(folders.len() == 1, "{name}: a ring across folders: {ring:?}\n{graph}");
        }
    }
}

#[test]
fn coordinator_has_no_ring_of_files() {
    let graph = FileGraph::of_crate(&root().join("coordinator/src"));
    assert!(graph.rings().is_empty(), "rings: {:?}\n{graph}", graph.rings());
}

/// Folders of a crate, each with the folders of the same list that it may depend on.
fn check_layers(source: &str, layers: &[(&str, &[&str])]) {
    let graph = FileGraph::of_crate(&root().join(source));
    let layer_of = |file: &str| {
        layers.iter().map(|(folder, _)| *folder).find(|folder| file.starts_with(&format!("{folder}/")))
    };
    let mut seen = 0;
    for (from, to) in graph.edges() {
        let (Some(from_layer), Some(to_layer)) = (layer_of(from), layer_of(to)) else {
            continue;
        };
        seen += 1;
        let allowed = layers.iter().find(|(folder, _)| *folder == from_layer).map_or(&[][..], |(_, a)| *a);
        assert!(
            from_layer == to_layer || allowed.contains(&to_layer),
            "{source}: {from} uses {to}: {from_layer} must not depend on {to_layer}\n{graph}"
        );
    }
    assert!(seen > 10, "{source}: only {seen} dependencies between layers were found\n{graph}");
}

#[test]
fn search_layers_depend_in_one_direction() {
    check_layers(
        "query/src",
        &[
            ("search/sql", &["search/exec", "search/remote", "search/snapshot", "tables", "scan"]),
            ("tables", &["search/exec", "search/snapshot", "scan"]),
            ("search/exec", &["search/remote", "search/snapshot", "scan"]),
            ("search/remote", &["search/snapshot"]),
            ("search/snapshot", &[]),
            ("scan", &[]),
        ],
    );
}

#[test]
fn coordinator_layers_depend_in_one_direction() {
    check_layers(
        "coordinator/src",
        &[
            ("table_ops", &["ddl", "exec", "background", "sql", "write"]),
            ("ddl", &["exec", "sql", "write"]),
            ("exec", &["sql", "write"]),
            ("background", &["write"]),
            ("sql", &["write"]),
            ("write", &[]),
        ],
    );
}

#[test]
fn files_stay_short() {
    let mut lines = Vec::new();
    for name in CRATES {
        for file in graph::rust_files(&root().join(name)) {
            let count = std::fs::read_to_string(&file).unwrap().lines().count();
            assert!(count <= 600, "{}: {count} lines; a file of that length holds two ideas", file.display());
            lines.push(count);
        }
    }
    lines.sort_unstable();
    let median = lines[lines.len() / 2];
    assert!(median <= 150, "the median file has {median} lines");
}
