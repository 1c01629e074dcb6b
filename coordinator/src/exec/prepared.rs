//! The statements that a session has prepared with `PREPARE`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast;
use plexus_model::{Error, Result};

use crate::errors::unsupported;
use crate::sql::kind::Parsed;
use crate::sql::names::name_of;
use crate::sql::prepared::{self, PreparedStatement};

/// Statements of one session at most.
const STATEMENTS_MAX: usize = 100;

/// Text of one statement at most. A parsed statement takes some ten times the memory of its text.
const TEXT_BYTES_MAX: usize = 16 * 1024;

/// Prepared statements by name. Cloned, the statements are shared.
#[derive(Clone, Debug, Default)]
pub(crate) struct PreparedStatements(Arc<Mutex<BTreeMap<String, Arc<PreparedStatement>>>>);

impl PreparedStatements {
    /// The statement that an `EXECUTE` stands for; other statements are returned as they are.
    ///
    /// # Errors
    /// `NotFound` names a statement that is not prepared; see [`prepared::executed`].
    pub(crate) fn resolve(&self, parsed: Arc<Parsed>) -> Result<Arc<Parsed>> {
        match prepared::executed(&parsed.statement, |name| self.find(name))? {
            None => Ok(parsed),
            Some((statement, prepared)) => {
                let text = prepared.text.clone();
                Ok(Arc::new(Parsed { text: Some(text), ..Parsed::new(statement)? }))
            }
        }
    }

    /// What a `PREPARE` asks to keep; `None` after a `DEALLOCATE`, which is done then.
    ///
    /// # Errors
    /// `AlreadyExists` and `NotFound` name the statement; `ResourceExhausted` when there are too many, or
    /// when the text is too long; see [`PreparedStatement::new`].
    pub(crate) fn change(&self, text: &str, statement: &Statement) -> Result<Option<PreparedStatement>> {
        let Statement::Statement(statement) = statement else {
            return Err(unsupported(&statement.to_string()));
        };
        match statement.as_ref() {
            ast::Statement::Prepare { name, data_types, statement } => {
                if text.len() > TEXT_BYTES_MAX {
                    return Err(Error::exhausted(format!(
                        "PREPARE {name}: a text of {} bytes is longer than {TEXT_BYTES_MAX}",
                        text.len()
                    )));
                }
                let prepared = PreparedStatement::new(name, data_types, statement, text)?;
                check(&self.lock(), &prepared)?;
                Ok(Some(prepared))
            }
            ast::Statement::Deallocate { name, prepare: _ } => {
                let is_all = name.quote_style.is_none() && name.value.eq_ignore_ascii_case("all");
                let mut statements = self.lock();
                match is_all {
                    true => statements.clear(),
                    false => {
                        let name = name_of(name);
                        statements.remove(&name).ok_or_else(|| unknown(&name))?;
                    }
                }
                Ok(None)
            }
            statement => Err(unsupported(&statement.to_string())),
        }
    }

    /// Keeps a statement.
    ///
    /// # Errors
    /// `AlreadyExists` when the name is taken, `ResourceExhausted` when there are too many.
    pub(crate) fn insert(&self, prepared: PreparedStatement) -> Result<()> {
        let mut statements = self.lock();
        check(&statements, &prepared)?;
        statements.insert(prepared.name.clone(), Arc::new(prepared));
        Ok(())
    }

    fn find(&self, name: &str) -> Result<Arc<PreparedStatement>> {
        self.lock().get(name).cloned().ok_or_else(|| unknown(name))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<PreparedStatement>>> {
        self.0.lock().expect("no code panics while it holds this lock")
    }
}

fn check(statements: &BTreeMap<String, Arc<PreparedStatement>>, prepared: &PreparedStatement) -> Result<()> {
    let name = &prepared.name;
    if statements.contains_key(name) {
        return Err(Error::already_exists(format!("prepared statement {name:?} exists already")));
    }
    if statements.len() >= STATEMENTS_MAX {
        return Err(Error::exhausted(format!(
            "PREPARE {name}: the session has {STATEMENTS_MAX} prepared statements already: DEALLOCATE some"
        )));
    }
    Ok(())
}

fn unknown(name: &str) -> Error {
    Error::not_found(format!("prepared statement {name:?} does not exist in this session"))
}
