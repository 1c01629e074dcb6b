//! The graph of which file of a crate uses which, computed from its `use` declarations and paths.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};

/// Files of one crate, relative to its `src`, and the files that each of them uses.
pub(crate) struct FileGraph {
    edges: BTreeMap<String, BTreeSet<String>>,
}

/// A module: its file, its child modules, and the names that it re-exports.
struct Module {
    file: String,
    path: Vec<String>,
    reexports: BTreeMap<String, Vec<String>>,
    paths: Vec<Vec<String>>,
}

impl FileGraph {
    /// Reads all files below `source`. Test modules do not count.
    pub(crate) fn of_crate(source: &Path) -> Self {
        let mut modules = BTreeMap::new();
        for file in rust_files(source) {
            let module = Module::read(source, &file);
            modules.insert(module.path.clone(), module);
        }
        let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for module in modules.values() {
            let used = edges.entry(module.file.clone()).or_default();
            for path in &module.paths {
                let Some(target) = resolve(&modules, path, 0) else {
                    continue;
                };
                // A module may use its descendants, and they may use it: together they are one idea.
                let related = target.path.starts_with(&module.path) || module.path.starts_with(&target.path);
                if !related {
                    used.insert(target.file.clone());
                }
            }
        }
        Self { edges }
    }

    /// Every use of one file by another.
    pub(crate) fn edges(&self) -> impl Iterator<Item = (&str, &str)> {
        self.edges.iter().flat_map(|(from, to)| to.iter().map(move |to| (from.as_str(), to.as_str())))
    }

    /// Files that use each other in a circle: the strongly connected components of two and more files.
    pub(crate) fn rings(&self) -> Vec<BTreeSet<String>> {
        let reachable: BTreeMap<&str, BTreeSet<&str>> =
            self.edges.keys().map(|file| (file.as_str(), self.reachable(file))).collect();
        let mut rings: BTreeSet<BTreeSet<String>> = BTreeSet::new();
        for (file, reached) in &reachable {
            if reached.contains(file) {
                let ring = reached.iter().filter(|other| reachable[**other].contains(file));
                rings.insert(ring.map(|other| (*other).to_owned()).collect());
            }
        }
        rings.into_iter().collect()
    }

    fn reachable<'a>(&'a self, from: &str) -> BTreeSet<&'a str> {
        let mut reached = BTreeSet::new();
        let mut pending: Vec<&str> = self.edges.get(from).into_iter().flatten().map(String::as_str).collect();
        while let Some(file) = pending.pop() {
            if reached.insert(file) {
                pending.extend(self.edges.get(file).into_iter().flatten().map(String::as_str));
            }
        }
        reached
    }
}

impl fmt::Display for FileGraph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (from, to) in &self.edges {
            writeln!(f, "{from} -> {}", to.iter().cloned().collect::<Vec<_>>().join(", "))?;
        }
        Ok(())
    }
}

/// All Rust files below a folder, in any order. Build directories do not count.
pub(crate) fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.ends_with("target") {
            continue;
        }
        match path.is_dir() {
            true => files.extend(rust_files(&path)),
            false => files.extend(path.extension().is_some_and(|e| e == "rs").then_some(path)),
        }
    }
    files
}

impl Module {
    fn read(source: &Path, file: &Path) -> Self {
        let relative = file.strip_prefix(source).unwrap();
        let mut path: Vec<String> =
            relative.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
        if path.last().is_some_and(|name| ["mod", "lib", "main"].contains(&name.as_str())) {
            path.pop();
        }
        let text = std::fs::read_to_string(file).unwrap();
        let parsed = syn::parse_file(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let mut module = Self {
            file: relative.to_string_lossy().into_owned(),
            path,
            reexports: BTreeMap::new(),
            paths: Vec::new(),
        };
        module.visit_file(&parsed);
        module
    }

    /// A path of this crate, from its root; `None` for one of another crate.
    fn absolute(&self, segments: &[String]) -> Option<Vec<String>> {
        let supers = segments.iter().take_while(|s| *s == "super").count();
        match segments.first().map(String::as_str) {
            Some("crate") => Some(segments[1..].to_vec()),
            Some("self") => Some([&self.path[..], &segments[1..]].concat()),
            Some("super") => {
                let parent = self.path.len().checked_sub(supers)?;
                Some([&self.path[..parent], &segments[supers..]].concat())
            }
            _ => None,
        }
    }

    fn add(&mut self, segments: &[String]) {
        if let Some(path) = self.absolute(segments) {
            self.paths.push(path);
        }
    }

    fn add_use(&mut self, tree: &syn::UseTree, prefix: &[String], reexported: bool) {
        let with = |name: String| [prefix, &[name]].concat();
        match tree {
            syn::UseTree::Path(path) => {
                self.add_use(&path.tree, &with(path.ident.to_string()), reexported);
            }
            syn::UseTree::Group(group) => {
                group.items.iter().for_each(|tree| self.add_use(tree, prefix, reexported));
            }
            syn::UseTree::Glob(_) => self.add(prefix),
            syn::UseTree::Name(name) => self.add_name(&with(name.ident.to_string()), None, reexported),
            syn::UseTree::Rename(name) => {
                let alias = name.rename.to_string();
                self.add_name(&with(name.ident.to_string()), Some(alias), reexported);
            }
        }
    }

    fn add_name(&mut self, segments: &[String], alias: Option<String>, reexported: bool) {
        let segments = match segments {
            [rest @ .., last] if last == "self" => rest,
            all => all,
        };
        self.add(segments);
        if reexported && let Some(last) = segments.last() {
            // A path without a keyword in front names a child module.
            let path = self.absolute(segments).unwrap_or_else(|| [&self.path[..], segments].concat());
            self.reexports.insert(alias.unwrap_or_else(|| last.clone()), path);
        }
    }
}

impl<'ast> Visit<'ast> for Module {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let is_test = item.attrs.iter().any(|a| {
            a.path().is_ident("cfg") && a.parse_args::<syn::Path>().is_ok_and(|path| path.is_ident("test"))
        });
        if !is_test {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.add_use(&item.tree, &[], !matches!(item.vis, syn::Visibility::Inherited));
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        if segments.len() > 1 {
            self.add(&segments);
        }
        visit::visit_path(self, path);
    }
}

/// The module that defines what a path names. Follows re-exports, at most a few deep.
fn resolve<'a>(
    modules: &'a BTreeMap<Vec<String>, Module>,
    path: &[String],
    depth: usize,
) -> Option<&'a Module> {
    let length = (0..=path.len()).rev().find(|length| modules.contains_key(&path[..*length]))?;
    let module = &modules[&path[..length]];
    match path.get(length).and_then(|name| module.reexports.get(name)) {
        Some(target) if depth < 8 && target[..] != *path => resolve(modules, target, depth + 1),
        _ => Some(module),
    }
}
