//! Other libraries and databases, measured on the same data in the same run, as far as they are installed.
//!
//! Some are Python packages, which the scripts in `bench/python` call; some are Rust crates, in a program of
//! their own (`bench/peers`) so that their dependencies stay out of this workspace's lock file. A peer that
//! is absent costs its lines of the table and nothing else: every failure is printed to standard error.

use std::path::Path;
use std::process::{Command, Output};

use plexus_model::{Error, Result};

/// Functions that the scripts share. Python imports it from the folder of the script.
const COMMON: (&str, &str) = ("common.py", include_str!("../python/common.py"));

/// A script of `bench/python`.
pub(crate) struct Script {
    name: &'static str,
    source: &'static str,
}

/// Insert, upsert, delete and scan in DuckDB.
pub(crate) const DUCKDB_DML: Script =
    Script { name: "duckdb_dml.py", source: include_str!("../python/duckdb_dml.py") };
/// Full-text, vector and hybrid search in tantivy and LanceDB.
pub(crate) const SEARCH: Script = Script { name: "search.py", source: include_str!("../python/search.py") };
/// Nearest vectors in hnswlib and USearch.
pub(crate) const VECTORS: Script =
    Script { name: "vectors.py", source: include_str!("../python/vectors.py") };

/// A command that runs a script with the Python of `PLEXUS_BENCH_PYTHON`, or else `python3`. The script is
/// written to `dir` first.
pub(crate) fn python(dir: &Path, script: &Script) -> Result<Command> {
    let folder = dir.join("python");
    std::fs::create_dir_all(&folder).map_err(|e| Error::io(folder.display(), e))?;
    for (name, source) in [COMMON, (script.name, script.source)] {
        let path = folder.join(name);
        std::fs::write(&path, source).map_err(|e| Error::io(path.display(), e))?;
    }
    let interpreter = std::env::var_os("PLEXUS_BENCH_PYTHON").unwrap_or_else(|| "python3".into());
    let mut command = Command::new(interpreter);
    command.arg(folder.join(script.name));
    Ok(command)
}

/// The program of `bench/peers`, where `PLEXUS_BENCH_PEERS` says that it was built.
pub(crate) fn rust_program() -> Option<Command> {
    std::env::var_os("PLEXUS_BENCH_PEERS").map(Command::new)
}

/// Runs a peer to its end and returns what it printed, or nothing if it could not be started. Its standard
/// error is passed on: it names the libraries that are missing.
pub(crate) fn run(command: &mut Command) -> Option<String> {
    match command.output() {
        Ok(Output { status, stdout, stderr }) => {
            eprint!("{}", String::from_utf8_lossy(&stderr));
            if !status.success() {
                eprintln!("{}: {status}", command.get_program().display());
            }
            Some(String::from_utf8_lossy(&stdout).into_owned())
        }
        Err(e) => {
            eprintln!("{} cannot be started: {e}", command.get_program().display());
            None
        }
    }
}
