//! `COPY ... TO 'file'`: rows as a file in the directory that the node's operator gave for it.
//!
//! The file appears under its name when it is whole. Nothing outside that directory can be named, and nothing
//! in it is written over: whoever may send SQL is not thereby someone who may write to this machine.

use std::path::{Component, Path, PathBuf};

use arrow::array::AsArray;
use arrow::datatypes::UInt64Type;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::parser::{CopyToSource, CopyToStatement, Statement};
use datafusion::sql::sqlparser::ast;
use futures::TryStreamExt;
use plexus_model::{Error, Result, Token};

use crate::errors::from_datafusion;
use crate::exec::context::{Executed, StatementContext};
use crate::exec::planner::Planner;
use crate::sql::parameters::bind;
use crate::sql::parse;

/// Formats by the endings of file names.
pub const FORMATS: [(&str, &str); 8] = [
    ("parquet", "PARQUET"),
    ("csv", "CSV"),
    ("ndjson", "JSON"),
    ("jsonl", "JSON"),
    ("json", "JSON"),
    ("arrow", "ARROW"),
    ("ipc", "ARROW"),
    ("feather", "ARROW"),
];

/// Runs `COPY ... TO`.
pub struct CopyExecutor {
    planner: Planner,
    /// Where files may be written, if anywhere.
    export_dir: Option<PathBuf>,
}

impl CopyExecutor {
    /// An executor that writes below `export_dir`.
    pub fn new(planner: Planner, export_dir: Option<PathBuf>) -> Self {
        Self { planner, export_dir }
    }

    /// Writes the rows of a `COPY ... TO` statement to a file that appears when it is complete.
    ///
    /// # Errors
    /// `Unsupported` when the node allows no exports; `AlreadyExists` when the file exists.
    pub async fn execute(&self, scope: &StatementContext<'_>, statement: &Statement) -> Result<Executed> {
        let copy = copy_of(statement)?;
        let directory = self.export_dir.as_deref().ok_or_else(|| {
            Error::unsupported(
                "COPY ... TO writes files on the node: its operator allows it with --export-dir",
            )
        })?;
        let path = inside(directory, &copy.target)?;
        let format = format(copy)?;
        if !copy.partitioned_by.is_empty() {
            return Err(Error::unsupported("COPY ... PARTITIONED BY is not supported: one file is written"));
        }
        if copy.options.iter().any(|(name, _)| name.to_ascii_lowercase().contains("single_file")) {
            return Err(Error::unsupported("COPY ... OPTIONS: one file is written"));
        }
        if path.exists() {
            return Err(Error::already_exists(format!("file {:?} exists already", copy.target)));
        }
        // The engine tells one file from a directory of them by the ending.
        let unfinished = Unfinished(directory.join(format!(".{}.unfinished", Token::generate())));
        let rows = self.write(scope, copy, format, &unfinished.0).await?;
        publish(unfinished.0.clone(), path).await?;
        Ok(Executed::Affected(rows))
    }

    /// The plan of what is copied, to see what it reads.
    pub async fn plan_source(
        &self,
        scope: &StatementContext<'_>,
        statement: &Statement,
    ) -> Result<LogicalPlan> {
        let copy = copy_of(statement)?;
        let query = match &copy.source {
            CopyToSource::Query(query) => query.to_string(),
            CopyToSource::Relation(name) => format!("SELECT * FROM {name}"),
        };
        let mut statement = parse::plain_statement(&query)?;
        self.planner.resolve(&mut statement, scope).await?;
        let statement = Statement::Statement(Box::new(statement));
        self.planner.local_state(scope)?.statement_to_plan(statement).await.map_err(from_datafusion)
    }

    async fn write(
        &self,
        scope: &StatementContext<'_>,
        copy: &CopyToStatement,
        format: &str,
        to: &Path,
    ) -> Result<u64> {
        let mut copy = copy.clone();
        copy.stored_as = Some(format.to_owned());
        copy.target = to.to_string_lossy().into_owned();
        if let CopyToSource::Query(query) = copy.source {
            let mut statement = ast::Statement::Query(query);
            self.planner.resolve(&mut statement, scope).await?;
            let ast::Statement::Query(query) = statement else {
                return Err(Error::internal("a query became something else"));
            };
            copy.source = CopyToSource::Query(query);
        }
        let state = self.planner.local_state(scope)?;
        let plan = state.statement_to_plan(Statement::CopyTo(copy)).await.map_err(from_datafusion)?;
        let plan = bind(plan, scope.values)?;
        let rows = self.planner.run(&plan, &scope.manifest, || Ok(state.clone())).await?;
        let counts: Vec<_> = rows.stream.try_collect().await?;
        let count = counts
            .iter()
            .find(|b| b.num_rows() > 0)
            .and_then(|b| b.column(0).as_primitive_opt::<UInt64Type>().map(|counts| counts.value(0)));
        count.ok_or_else(|| Error::internal("COPY said nothing of its rows"))
    }
}

fn copy_of(statement: &Statement) -> Result<&CopyToStatement> {
    match statement {
        Statement::CopyTo(copy) => Ok(copy),
        other => Err(Error::internal(format!("{other} is not COPY ... TO"))),
    }
}

/// A file that goes unless it gets its name, also when nobody waits for it any more.
pub struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Best effort: it has a name that nobody takes for a result.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Makes a file durable and gives it its name.
pub async fn publish(from: PathBuf, to: PathBuf) -> Result<()> {
    let named = to.display().to_string();
    tokio::task::spawn_blocking(move || {
        // A query without rows writes none.
        std::fs::OpenOptions::new().create(true).append(true).open(&from)?.sync_all()?;
        // Unlike a rename it fails when somebody else has taken the name meanwhile.
        std::fs::hard_link(&from, &to)?;
        let directory = to.parent().map(std::fs::File::open).transpose()?;
        directory.map_or(Ok(()), |directory| directory.sync_all())
    })
    .await
    .map_err(|e| Error::internal(format!("writing {named}: {e}")))?
    .map_err(|e| match e.kind() {
        std::io::ErrorKind::AlreadyExists => Error::already_exists(format!("file {named} exists already")),
        _ => Error::io(named, e),
    })
}

/// The path that a statement names, as long as it is in the directory.
pub fn inside(directory: &Path, target: &str) -> Result<PathBuf> {
    let path = Path::new(target);
    let plain = path.components().all(|c| matches!(c, Component::Normal(_)));
    if target.is_empty() || !plain || target.contains("://") {
        return Err(Error::invalid(format!(
            "COPY ... TO {target:?}: a file name relative to the node's export directory is needed"
        )));
    }
    let path = directory.join(path);
    match path.parent().map(Path::canonicalize) {
        // Links may lead elsewhere.
        Some(Ok(parent)) if directory.canonicalize().is_ok_and(|d| parent.starts_with(d)) => Ok(path),
        _ => Err(Error::not_found(format!(
            "COPY ... TO {target:?}: the directory of that file does not exist"
        ))),
    }
}

pub fn format(copy: &CopyToStatement) -> Result<&'static str> {
    let ending = Path::new(&copy.target).extension().and_then(|e| e.to_str()).unwrap_or_default();
    let wanted = copy.stored_as.as_deref().unwrap_or(ending).to_ascii_lowercase();
    let found = FORMATS.iter().find(|(ending, _)| *ending == wanted).map(|(_, format)| *format);
    found.ok_or_else(|| {
        Error::invalid(format!(
            "COPY ... TO {:?}: {wanted:?} is no format; there are parquet, csv, ndjson, arrow, by the ending of the \
             file or STORED AS",
            copy.target
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_in_the_directory_can_be_named() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        std::fs::create_dir(directory.join("sub")).unwrap();
        std::os::unix::fs::symlink("/tmp", directory.join("link")).unwrap();
        assert_eq!(inside(directory, "a.csv").unwrap(), directory.join("a.csv"));
        assert_eq!(inside(directory, "sub/a.csv").unwrap(), directory.join("sub/a.csv"));
        for wrong in
            ["", "/etc/passwd", "../a.csv", "sub/../../a.csv", "file:///tmp/a.csv", "link/a.csv", "no/a.csv"]
        {
            assert!(inside(directory, wrong).is_err(), "{wrong}");
        }
    }
}
