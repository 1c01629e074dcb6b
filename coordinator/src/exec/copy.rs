//! `COPY ... TO 'file'`: exports rows to a file in the export directory of the node.
//!
//! The file appears under its name once it is complete. A target outside the directory is refused, and so is
//! an existing file: permission to send SQL does not imply permission to write anywhere on the host.

use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::UInt64Type;
use arrow::json::WriterBuilder;
use arrow::json::writer::LineDelimited;
use arrow_schema::{DataType, Schema};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::sql::parser::{CopyToSource, CopyToStatement, Statement};
use datafusion::sql::sqlparser::ast;
use futures::TryStreamExt;
use plexus_model::{Error, NodeId, Result, Token};
use tokio::fs::File;
use tokio::io::{AsyncWriteExt, BufWriter};

use crate::errors::from_datafusion;
use crate::exec::context::{Executed, StatementContext};
use crate::exec::csv_export::CsvOptions;
use crate::exec::json_encoding::ExactValues;
use crate::exec::plan_statement::plan_statement;
use crate::exec::planner::Planner;
use crate::sql::names::last_part;
use crate::sql::parameters::bind;
use crate::sql::result_names::ResultNames;
use crate::sql::syntax;

const CSV: &str = "CSV";
const JSON: &str = "JSON";
const PARQUET: &str = "PARQUET";

/// Formats by file name extension or `STORED AS` name.
const FORMATS: [(&str, &str); 8] = [
    ("parquet", PARQUET),
    ("csv", CSV),
    ("ndjson", JSON),
    ("jsonl", JSON),
    ("json", JSON),
    ("arrow", "ARROW"),
    ("ipc", "ARROW"),
    ("feather", "ARROW"),
];

/// Runs `COPY ... TO`.
pub(crate) struct CopyExecutor {
    planner: Planner,
    /// The export directory; `None` disables exports.
    export_dir: Option<PathBuf>,
}

impl CopyExecutor {
    /// An executor that writes to files below `export_dir`. Removes what a killed process has left there.
    pub(crate) fn new(planner: Planner, export_dir: Option<PathBuf>) -> Self {
        if let Some(directory) = &export_dir {
            remove_unfinished(directory, planner.node);
        }
        Self { planner, export_dir }
    }

    /// Runs `COPY ... TO`. The file appears when it is complete.
    ///
    /// # Errors
    /// `Unsupported` when the node has no export directory; `InvalidArgument` or `NotFound` for a target
    /// outside of it; `AlreadyExists` when the file exists.
    pub(crate) async fn execute(
        &self,
        context: &StatementContext<'_>,
        statement: &Statement,
        names: &ResultNames,
    ) -> Result<Executed> {
        let copy = copy_of(statement)?;
        let directory = self.export_dir.as_deref().ok_or_else(|| {
            Error::unsupported(
                "COPY ... TO writes files on the node: start the node with --export-dir to allow it",
            )
        })?;
        let path = resolve_target(directory, &copy.target)?;
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
        let plan = named(bind(self.plan_source(context, statement).await?, context.values)?, names)?;
        // The engine writes one file, and not a directory of files, only to a path with an extension.
        let temporary = TemporaryFile(directory.join(unfinished_name(self.planner.node, Token::generate())));
        let rows = match format {
            CSV => {
                let csv = CsvOptions::of(&copy.options)?;
                let header = |schema: &Schema| csv.header(schema);
                self.write_lines(context, plan, header, |batch| csv.lines(batch), &temporary.0).await?
            }
            JSON => {
                if let Some((name, _)) = copy.options.first() {
                    return Err(Error::invalid(format!(
                        "COPY: option {name:?} is unknown: an NDJSON file has none"
                    )));
                }
                self.write_lines(context, plan, |_| vec![], json_lines, &temporary.0).await?
            }
            _ => self.write(context, copy, plan, format, &temporary.0).await?,
        };
        publish(temporary.0.clone(), path).await?;
        Ok(Executed::Affected(rows))
    }

    /// The plan of the exported query, from which a transaction records the tables that it reads.
    pub(crate) async fn plan_source(
        &self,
        context: &StatementContext<'_>,
        statement: &Statement,
    ) -> Result<LogicalPlan> {
        let copy = copy_of(statement)?;
        let query = match &copy.source {
            CopyToSource::Query(query) => query.clone(),
            CopyToSource::Relation(name) => {
                let alias = last_part(name)?.clone();
                let rows = vec![syntax::relation(syntax::table(name.clone(), alias))];
                Box::new(syntax::select(vec![syntax::wildcard()], rows, None))
            }
        };
        let mut statement = ast::Statement::Query(query);
        self.planner.resolve(&mut statement, context).await?;
        let statement = Statement::Statement(Box::new(statement));
        plan_statement(&self.planner.local_state(context)?, statement).await
    }

    /// Writes the rows to file `to` as lines of text and returns their number.
    async fn write_lines(
        &self,
        context: &StatementContext<'_>,
        plan: LogicalPlan,
        header: impl Fn(&Schema) -> Vec<u8>,
        lines: impl Fn(&RecordBatch) -> Result<Vec<u8>>,
        to: &Path,
    ) -> Result<u64> {
        let mut rows = self.planner.query(context, &plan).await?;
        let failed = |e| Error::io(to.display(), e);
        let mut file = BufWriter::new(File::create(to).await.map_err(failed)?);
        file.write_all(&header(&rows.schema)).await.map_err(failed)?;
        let mut count = 0;
        while let Some(batch) = rows.stream.try_next().await? {
            file.write_all(&lines(&batch)?).await.map_err(failed)?;
            count += batch.num_rows() as u64;
        }
        file.flush().await.map_err(failed)?;
        Ok(count)
    }

    /// Writes the rows to file `to` in a format of the engine and returns their number.
    async fn write(
        &self,
        context: &StatementContext<'_>,
        copy: &CopyToStatement,
        source: LogicalPlan,
        format: &str,
        to: &Path,
    ) -> Result<u64> {
        if format == PARQUET
            && let Some(field) = source.schema().fields().iter().find(|field| has_interval(field.data_type()))
        {
            return Err(Error::unsupported(format!(
                "COPY: a Parquet file cannot have the intervals of column {:?}: export to an Arrow file",
                field.name()
            )));
        }
        let mut copy = copy.clone();
        copy.stored_as = Some(format.to_owned());
        copy.target = to.to_string_lossy().into_owned();
        // What the engine makes of the options; the rows are those of the plan that there is.
        let one = syntax::item(syntax::literal(ast::Value::Boolean(true)), "one");
        copy.source = CopyToSource::Query(Box::new(syntax::select(vec![one], vec![], None)));
        let state = self.planner.local_state(context)?;
        let mut plan = state.statement_to_plan(Statement::CopyTo(copy)).await.map_err(from_datafusion)?;
        if let LogicalPlan::Copy(copy) = &mut plan {
            copy.input = Arc::new(source);
        }
        let rows = self.planner.run(&plan, &context.manifest, || Ok(state.clone())).await?;
        let counts: Vec<_> = rows.stream.try_collect().await?;
        let count = counts
            .iter()
            .find(|b| b.num_rows() > 0)
            .and_then(|b| b.column(0).as_primitive_opt::<UInt64Type>().map(|counts| counts.value(0)));
        count.ok_or_else(|| Error::internal("COPY returned no row count"))
    }
}

/// A plan whose columns have the names that were written.
///
/// # Errors
/// `InvalidArgument` when two have the same.
fn named(plan: LogicalPlan, names: &ResultNames) -> Result<LogicalPlan> {
    let columns = plan.schema().columns();
    let named = names.apply(plan.schema().as_arrow());
    let mut seen = HashSet::new();
    if let Some(twice) = named.fields().iter().find(|field| !seen.insert(field.name())) {
        return Err(Error::invalid(format!(
            "COPY: two columns are called {:?}: give one of them another name",
            twice.name()
        )));
    }
    if columns.iter().zip(named.fields()).all(|(column, field)| column.name == *field.name()) {
        return Ok(plan);
    }
    let renamed = columns.into_iter().zip(named.fields());
    let renamed = renamed.map(|(column, field)| Expr::Column(column).alias(field.name()));
    let plan = LogicalPlanBuilder::from(plan).project(renamed).and_then(LogicalPlanBuilder::build);
    plan.map_err(from_datafusion)
}

/// Whether a type is an interval, or has one in it.
fn has_interval(data_type: &DataType) -> bool {
    match data_type {
        DataType::Interval(_) => true,
        DataType::Struct(fields) => fields.iter().any(|field| has_interval(field.data_type())),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::Map(item, _) => has_interval(item.data_type()),
        _ => false,
    }
}

/// Rows as JSON objects, one on a line. Missing values are written, so that a column that has no others is in
/// the file.
fn json_lines(batch: &RecordBatch) -> Result<Vec<u8>> {
    let failed = |e| Error::internal(format!("JSON: {e}"));
    let builder = WriterBuilder::new().with_explicit_nulls(true).with_encoder_factory(Arc::new(ExactValues));
    let mut writer = builder.build::<_, LineDelimited>(Vec::new());
    writer.write(batch).and_then(|()| writer.finish()).map_err(failed)?;
    Ok(writer.into_inner())
}

/// The `COPY` statement in a parsed statement.
fn copy_of(statement: &Statement) -> Result<&CopyToStatement> {
    match statement {
        Statement::CopyTo(copy) => Ok(copy),
        other => Err(Error::internal(format!("{other} is not COPY ... TO"))),
    }
}

/// The name of an export that is not complete. Nodes may share a directory.
fn unfinished_name(node: NodeId, token: Token) -> String {
    format!(".{node}-{token}{UNFINISHED}")
}

const UNFINISHED: &str = ".unfinished";

/// Removes the exports that earlier processes of a node began.
fn remove_unfinished(directory: &Path, node: NodeId) {
    let prefix = format!(".{node}-");
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(&prefix) && name.ends_with(UNFINISHED) {
            match std::fs::remove_file(entry.path()) {
                Ok(()) => tracing::info!(file = name, "removed an export that a killed process began"),
                Err(error) => tracing::warn!(file = name, %error, "could not remove an unfinished export"),
            }
        }
    }
}

/// A file under a temporary name. Dropping it removes that name, also when the statement is cancelled.
struct TemporaryFile(PathBuf);

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        // Best effort: nobody mistakes a file under this name for a result.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Makes a file durable and links it under its final name.
async fn publish(from: PathBuf, to: PathBuf) -> Result<()> {
    let named = to.display().to_string();
    tokio::task::spawn_blocking(move || {
        // A query without rows writes no file.
        std::fs::OpenOptions::new().create(true).append(true).open(&from)?.sync_all()?;
        // Unlike a rename, a hard link fails when the name has been taken concurrently.
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

/// The path of a target below the export directory.
///
/// # Errors
/// `InvalidArgument` for targets that are not plain relative paths; `NotFound` when the parent directory does
/// not exist, or is outside the export directory because of a symbolic link.
fn resolve_target(directory: &Path, target: &str) -> Result<PathBuf> {
    let path = Path::new(target);
    let plain = path.components().all(|c| matches!(c, Component::Normal(_)));
    if target.is_empty() || !plain || target.contains("://") {
        return Err(Error::invalid(format!(
            "COPY ... TO {target:?}: a file name relative to the node's export directory is needed"
        )));
    }
    let path = directory.join(path);
    match path.parent().map(Path::canonicalize) {
        // A symbolic link may point outside the directory.
        Some(Ok(parent)) if directory.canonicalize().is_ok_and(|d| parent.starts_with(d)) => Ok(path),
        _ => Err(Error::not_found(format!(
            "COPY ... TO {target:?}: the directory of that file does not exist"
        ))),
    }
}

/// The format of a `COPY`, from `STORED AS` or the file name extension.
pub(crate) fn format(copy: &CopyToStatement) -> Result<&'static str> {
    let extension = Path::new(&copy.target).extension().and_then(|e| e.to_str()).unwrap_or_default();
    let format = copy.stored_as.as_deref().unwrap_or(extension).to_ascii_lowercase();
    let found = FORMATS.iter().find(|(name, _)| *name == format).map(|(_, engine_name)| *engine_name);
    found.ok_or_else(|| {
        Error::invalid(format!(
            "COPY ... TO {:?}: format {format:?} is unknown: use parquet, csv, ndjson or arrow, as the file \
             name extension or in STORED AS",
            copy.target
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_removes_its_own_unfinished_exports() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| directory.path().join(name);
        let own = unfinished_name(NodeId(1), Token::generate());
        let kept = [unfinished_name(NodeId(12), Token::generate()), "1-a.csv".into(), ".1-notes".into()];
        kept.iter().chain([&own]).for_each(|name| std::fs::write(file(name), "x").unwrap());
        remove_unfinished(directory.path(), NodeId(1));
        assert!(!file(&own).exists());
        assert!(kept.iter().all(|name| file(name).exists()));
    }

    #[test]
    fn targets_outside_the_directory_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        std::fs::create_dir(directory.join("sub")).unwrap();
        std::os::unix::fs::symlink("/tmp", directory.join("link")).unwrap();
        assert_eq!(resolve_target(directory, "a.csv").unwrap(), directory.join("a.csv"));
        assert_eq!(resolve_target(directory, "sub/a.csv").unwrap(), directory.join("sub/a.csv"));
        for wrong in
            ["", "/etc/passwd", "../a.csv", "sub/../../a.csv", "file:///tmp/a.csv", "link/a.csv", "no/a.csv"]
        {
            assert!(resolve_target(directory, wrong).is_err(), "{wrong}");
        }
    }
}
