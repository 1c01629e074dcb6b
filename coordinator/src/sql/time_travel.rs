//! Older versions of tables in queries.
//!
//! `t VERSION AS OF n` is read as the table `t` of a schema that stands for that version, so that everything
//! after the parser treats it as any other table.

use std::ops::ControlFlow;

use arrow_schema::{DataType, TimeUnit};
use datafusion::common::{ScalarValue, TableReference};
use datafusion::sql::sqlparser::ast::{
    self, Expr, Ident, ObjectName, TableAlias, TableFactor, TableVersion, Value, VisitMut, VisitorMut,
};
use plexus_model::{Error, ErrorKind, Manifest, Result, TableName, Version};
use plexus_query::{Engine, as_of_schema};

use crate::sql::names::quoted;

/// Replaces tables at a version by names that stand for them. `schema` is that of unqualified names.
///
/// # Errors
/// Names a version or time that cannot be read.
pub fn resolve(
    statement: &mut ast::Statement,
    engine: &Engine,
    manifest: &Manifest,
    schema: &str,
) -> Result<()> {
    let mut resolver = Resolver { engine, manifest, schema };
    match VisitMut::visit(statement, &mut resolver) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

pub struct Resolver<'a> {
    engine: &'a Engine,
    manifest: &'a Manifest,
    schema: &'a str,
}

impl VisitorMut for Resolver<'_> {
    type Break = Error;

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Error> {
        let TableFactor::Table { name, alias, version, .. } = factor else {
            return ControlFlow::Continue(());
        };
        let Some(wanted) = version.take() else {
            return ControlFlow::Continue(());
        };
        match self.rename(name, alias, &wanted) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }
}

impl Resolver<'_> {
    fn rename(
        &self,
        name: &mut ObjectName,
        alias: &mut Option<TableAlias>,
        wanted: &TableVersion,
    ) -> Result<()> {
        let version = match wanted {
            TableVersion::VersionAsOf(expr) => {
                let number = version_number(expr);
                number.ok_or_else(|| {
                    Error::invalid(format!("VERSION AS OF {expr}: a version is a whole number"))
                })?
            }
            TableVersion::TimestampAsOf(expr) | TableVersion::ForSystemTimeAsOf(expr) => {
                self.manifest.version_at(time_us(expr, self.engine)?)?
            }
            other => {
                return Err(Error::unsupported(format!("{other} is not supported; write VERSION AS OF")));
            }
        };
        let reference = TableReference::parse_str(&name.to_string());
        let (schema, table) = (reference.schema().unwrap_or(self.schema), reference.table());
        // By the name that it has now, or had then.
        let called = TableName::new(schema, table);
        let then = match self.manifest.table(&called).map(|now| now.as_of(version)) {
            Some(Ok(then)) => then.name.clone(),
            // Another table may have had the name then.
            Some(Err(e)) if e.kind() == ErrorKind::NotFound => {
                let had = self.manifest.as_of(version).is_ok_and(|then| then.table(&called).is_some());
                if had { called } else { return Err(e) }
            }
            Some(Err(e)) => return Err(e),
            None => called,
        };
        if version > self.manifest.version {
            return Err(Error::invalid(format!(
                "version {version} is yet to come: the latest is {}",
                self.manifest.version
            )));
        }
        if alias.is_none() {
            let name = Ident::with_quote('"', table);
            *alias = Some(TableAlias { explicit: true, name, columns: vec![], at: None });
        }
        *name = quoted([&as_of_schema(version, &then.schema), &then.table]);
        Ok(())
    }
}

/// The value of an expression that names no column, in microseconds since 1970.
pub fn time_us(expr: &Expr, engine: &Engine) -> Result<u64> {
    let wrong = |e: String| Error::invalid(format!("TIMESTAMP AS OF {expr}: {e}"));
    let value = engine.evaluate_constant(&expr.to_string())?;
    let value = ScalarValue::try_from_array(&value, 0)
        .and_then(|value| value.cast_to(&DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))))
        .map_err(|e| wrong(e.strip_backtrace()))?;
    match value {
        ScalarValue::TimestampMicrosecond(Some(us), _) => u64::try_from(us).map_err(|e| wrong(e.to_string())),
        _ => Err(wrong("it is null".to_owned())),
    }
}

/// The version that a whole number names, or the last one at a time.
pub fn version_of(expr: &Expr, engine: &Engine, manifest: &Manifest) -> Result<Version> {
    match version_number(expr) {
        Some(version) => Ok(version),
        None => manifest.version_at(time_us(expr, engine)?),
    }
}

pub fn version_number(expr: &Expr) -> Option<Version> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::Number(digits, _) => digits.parse().ok().map(Version),
            _ => None,
        },
        _ => None,
    }
}
