//! Time travel: older versions of tables in queries.
//!
//! `t VERSION AS OF n` becomes table `t` of a virtual schema for that version, so that everything after the
//! parser treats it like any other table.

use std::ops::ControlFlow;

use arrow_schema::{DataType as ArrowType, TimeUnit};
use datafusion::common::ScalarValue;
use datafusion::sql::sqlparser::ast::{
    self, DataType, Expr, ObjectName, TableAlias, TableFactor, TableVersion, TimezoneInfo, Value, VisitorMut,
};
use plexus_model::{Error, ErrorKind, Manifest, Result, TableName, Version};
use plexus_query::{Engine, SYSTEM_SCHEMA, as_of_schema, plain, visit_mut};

use crate::sql::names::table_reference;
use crate::sql::syntax;

/// Replaces tables with a version by their names in virtual schemas. `schema` qualifies names without one,
/// and times without a zone are those of `zone`.
///
/// # Errors
/// `InvalidArgument` for a version or time that is invalid or in the future, `NotFound` for one that is no
/// longer retained, `Unsupported` for other version clauses.
pub(crate) fn resolve(
    statement: &mut ast::Statement,
    engine: &Engine,
    manifest: &Manifest,
    schema: &str,
    zone: &str,
) -> Result<()> {
    let mut resolver = Resolver { engine, manifest, schema, zone };
    match visit_mut(statement, &mut resolver) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

/// Visits the tables of a statement.
struct Resolver<'a> {
    engine: &'a Engine,
    manifest: &'a Manifest,
    schema: &'a str,
    zone: &'a str,
}

impl VisitorMut for Resolver<'_> {
    type Break = Error;

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Error> {
        let TableFactor::Table { name, alias, version, .. } = factor else {
            return ControlFlow::Continue(());
        };
        let Some(clause) = version.take() else {
            return ControlFlow::Continue(());
        };
        match self.rename(name, alias, &clause) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }
}

impl Resolver<'_> {
    /// Replaces the name of a table by its name in the virtual schema. Keeps the original name as alias, so
    /// that qualified columns still resolve.
    fn rename(
        &self,
        name: &mut ObjectName,
        alias: &mut Option<TableAlias>,
        clause: &TableVersion,
    ) -> Result<()> {
        let version = match clause {
            TableVersion::VersionAsOf(expr) => {
                let number = version_number(expr);
                number.ok_or_else(|| {
                    Error::invalid(format!("VERSION AS OF {expr}: a version is a whole number"))
                })?
            }
            TableVersion::TimestampAsOf(expr) | TableVersion::ForSystemTimeAsOf(expr) => {
                self.manifest.version_at(time_us(expr, self.engine, self.zone)?)?
            }
            other => {
                return Err(Error::unsupported(format!("{other} is not supported; write VERSION AS OF")));
            }
        };
        let reference = table_reference(name)?;
        let (schema, table) = (reference.schema().unwrap_or(self.schema), reference.table());
        if [SYSTEM_SCHEMA, "information_schema"].contains(&schema) {
            return Err(Error::unsupported(format!(
                "{schema}.{table} has no versions: SET plexus.read_version = {version}, and read it then"
            )));
        }
        // The statement may use the name that the table has now, or the name that it had at that version.
        let requested = TableName::new(schema, table);
        let past = match self.manifest.table(&requested).map(|now| now.as_of(version)) {
            Some(Ok(past)) => past.name.clone(),
            // The table that has the name now is newer. Another table may have had the name at that version.
            Some(Err(e)) if e.kind() == ErrorKind::NotFound => {
                let existed = self.manifest.as_of(version).is_ok_and(|past| past.table(&requested).is_some());
                if existed { requested } else { return Err(e) }
            }
            Some(Err(e)) => return Err(e),
            None => requested,
        };
        if version > self.manifest.version {
            return Err(Error::invalid(format!(
                "version {version} is yet to come: the latest is {}",
                self.manifest.version
            )));
        }
        if alias.is_none() {
            let name = syntax::ident(table);
            *alias = Some(TableAlias { explicit: true, name, columns: vec![], at: None });
        }
        *name = syntax::object_name([as_of_schema(version, &past.schema).as_str(), &past.table]);
        Ok(())
    }
}

/// Evaluates a constant expression to an instant, in microseconds since the Unix epoch.
///
/// # Errors
/// `InvalidArgument` when the expression is not constant, or no time.
fn time_us(expr: &Expr, engine: &Engine, zone: &str) -> Result<u64> {
    let invalid = |e: String| Error::invalid(format!("TIMESTAMP AS OF {expr}: {e}"));
    let instant = DataType::Timestamp(None, TimezoneInfo::WithTimeZone);
    let instant = syntax::cast(syntax::nested(expr.clone()), instant);
    let value = engine.evaluate_constant(&instant, zone).map_err(|e| {
        let reason = e.message();
        invalid(reason.strip_prefix(&format!("{instant}: ")).unwrap_or(reason).to_owned())
    })?;
    let value = ScalarValue::try_from_array(&value, 0)
        .and_then(|value| value.cast_to(&ArrowType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))))
        .map_err(|e| invalid(plain(&e)))?;
    match value {
        ScalarValue::TimestampMicrosecond(Some(us), _) => {
            u64::try_from(us).map_err(|e| invalid(e.to_string()))
        }
        _ => Err(invalid("it is null".to_owned())),
    }
}

/// The version that an expression denotes: a whole number, or the last version at a time.
///
/// # Errors
/// Those of [`time_us`] and [`Manifest::version_at`].
pub(crate) fn version_of(expr: &Expr, engine: &Engine, manifest: &Manifest, zone: &str) -> Result<Version> {
    match version_number(expr) {
        Some(version) => Ok(version),
        None => manifest.version_at(time_us(expr, engine, zone)?),
    }
}

/// The version that a number literal denotes.
pub(crate) fn version_number(expr: &Expr) -> Option<Version> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::Number(digits, _) => digits.parse().ok().map(Version),
            _ => None,
        },
        _ => None,
    }
}
