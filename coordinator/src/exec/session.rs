//! What a client's session remembers between statements.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use plexus_model::{Error, Result, Version};
use plexus_query::search::{EF_SEARCH_MAX, SearchOptions};
use plexus_query::{CATALOG, DEFAULT_SCHEMA};

use crate::exec::transactions::TransactionId;

/// Settings of one client. Shared by its concurrent statements.
#[derive(Debug, Default)]
pub struct Session {
    settings: Arc<Mutex<BTreeMap<String, String>>>,
    /// The transaction that its statements are part of.
    transaction: Mutex<Option<TransactionId>>,
    ephemeral: bool,
}

/// Settings of ours, with what they mean.
pub const SETTINGS: [(&str, &str); 7] = [
    ("catalog", "database of unqualified names; always plexus"),
    ("schema", "schema of unqualified names"),
    ("plexus.task_bytes", "segment bytes that are worth a task on another node"),
    ("plexus.read_version", "version that queries read, instead of the newest"),
    ("plexus.string_view", "whether text columns reach the client as string views"),
    (
        "plexus.ef_search",
        "candidates that are kept while an index leads to the nearest vectors: more find more, and take longer",
    ),
    ("plexus.exact_search", "whether searches look at every vector, and not only where an index leads"),
];

/// Settings of searches, which the query engine reads.
pub const SEARCH_SETTINGS: [&str; 2] = ["plexus.ef_search", "plexus.exact_search"];

/// Length of a setting's value.
pub const VALUE_BYTES_MAX: usize = 1024;

/// Segment bytes that are worth a task on another node, unless the session says otherwise: some tenths of a
/// second of scanning on two cores. Below it the exchange between nodes costs more than the scan: TPC-H at
/// scale factor 1, whose largest table has 180 MB, takes 1.7 times as long spread over three nodes.
pub const TASK_BYTES_DEFAULT: u64 = 256 * 1024 * 1024;

impl Session {
    /// A session that ends with its request, so nothing can be set in it.
    pub fn ephemeral() -> Self {
        Self { ephemeral: true, ..Self::default() }
    }

    /// The same settings for statements of a transaction that the client names with each of them.
    pub fn in_transaction(&self, id: TransactionId) -> Self {
        let transaction = Mutex::new(Some(id));
        Self { settings: self.settings.clone(), transaction, ephemeral: self.ephemeral }
    }

    pub fn transaction(&self) -> Option<TransactionId> {
        *self.lock_transaction()
    }

    /// # Errors
    /// `InvalidArgument` when the session ends with its request.
    pub fn set_transaction(&self, id: Option<TransactionId>) -> Result<()> {
        if self.ephemeral && id.is_some() {
            return Err(Error::invalid(
                "a transaction would be forgotten at once: connect with a user name to have a session, or begin \
                 one by Flight SQL's action",
            ));
        }
        *self.lock_transaction() = id;
        Ok(())
    }

    fn lock_transaction(&self) -> std::sync::MutexGuard<'_, Option<TransactionId>> {
        self.transaction.lock().expect("no code panics while it holds this lock")
    }

    /// Sets a value after checking it.
    ///
    /// # Errors
    /// `InvalidArgument` names the setting, and what it takes.
    pub fn set(&self, name: &str, value: &str) -> Result<()> {
        let name = canonical(name);
        if self.ephemeral {
            return Err(Error::invalid(format!(
                "setting {name} would be forgotten at once: connect with a user name to have a session"
            )));
        }
        if value.len() > VALUE_BYTES_MAX {
            return Err(Error::invalid(format!("setting {name}: a value of {} bytes", value.len())));
        }
        match name.as_str() {
            "catalog" if value != CATALOG => {
                return Err(Error::invalid(format!(
                    "catalog {value:?} does not exist; there is only {CATALOG:?}"
                )));
            }
            "catalog" | "schema" => {}
            "plexus.task_bytes" => drop(parse::<u64>(&name, value)?),
            "plexus.read_version" => drop(parse::<u64>(&name, value)?),
            "plexus.string_view" => drop(parse::<bool>(&name, value)?),
            "plexus.ef_search" => {
                let ef = parse::<usize>(&name, value)?;
                if !(1..=EF_SEARCH_MAX).contains(&ef) {
                    return Err(Error::invalid(format!(
                        "setting {name} = {ef}: a number from 1 to {EF_SEARCH_MAX} is needed"
                    )));
                }
            }
            "plexus.exact_search" => drop(parse::<bool>(&name, value)?),
            _ if name.starts_with("datafusion.") => {
                let mut config = datafusion::prelude::SessionConfig::new();
                config.options_mut().set(&name, value).map_err(|e| Error::invalid(e.strip_backtrace()))?;
            }
            _ => {
                let known: Vec<&str> = SETTINGS.iter().map(|(name, _)| *name).collect();
                return Err(Error::invalid(format!(
                    "setting {name:?} does not exist; there are {}",
                    known.join(", ")
                )));
            }
        }
        self.lock().insert(name, value.to_owned());
        Ok(())
    }

    /// Back to the default.
    pub fn unset(&self, name: &str) {
        self.lock().remove(&canonical(name));
    }

    /// All that was set, and the defaults of what was not.
    pub fn all(&self) -> BTreeMap<String, String> {
        let mut all = self.lock().clone();
        all.entry("catalog".into()).or_insert_with(|| CATALOG.into());
        all.entry("schema".into()).or_insert_with(|| DEFAULT_SCHEMA.into());
        all.entry("plexus.task_bytes".into()).or_insert_with(|| TASK_BYTES_DEFAULT.to_string());
        all.entry("plexus.string_view".into()).or_insert_with(|| "false".into());
        let search = SearchOptions::default();
        all.entry("plexus.ef_search".into()).or_insert_with(|| search.ef_search.to_string());
        all.entry("plexus.exact_search".into()).or_insert_with(|| search.exact_search.to_string());
        all
    }

    pub fn schema(&self) -> String {
        self.lock().get("schema").cloned().unwrap_or_else(|| DEFAULT_SCHEMA.into())
    }

    pub fn task_bytes(&self) -> u64 {
        self.lock().get("plexus.task_bytes").and_then(|v| v.parse().ok()).unwrap_or(TASK_BYTES_DEFAULT)
    }

    /// The version that queries read, unless it is the newest.
    pub fn read_version(&self) -> Option<Version> {
        self.lock().get("plexus.read_version").and_then(|v| v.parse().ok()).map(Version)
    }

    /// # Errors
    /// `InvalidArgument` when it reads an older version: what it would change is not what is there.
    pub fn check_writable(&self) -> Result<()> {
        match self.read_version() {
            Some(version) => Err(Error::invalid(format!(
                "the session reads version {version}: RESET plexus.read_version before changing rows"
            ))),
            None => Ok(()),
        }
    }

    pub fn string_view(&self) -> bool {
        self.lock().get("plexus.string_view").is_some_and(|v| v == "true")
    }

    /// Settings of the query engine and its searches.
    pub fn engine_settings(&self) -> Vec<(String, String)> {
        let lock = self.lock();
        lock.iter()
            .filter(|(name, _)| name.starts_with("datafusion.") || SEARCH_SETTINGS.contains(&name.as_str()))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, String>> {
        self.settings.lock().expect("no code panics while it holds this lock")
    }
}

pub fn canonical(name: &str) -> String {
    match name.to_ascii_lowercase().as_str() {
        "search_path" | "current_schema" => "schema".into(),
        other => other.to_owned(),
    }
}

pub fn parse<T: std::str::FromStr>(name: &str, value: &str) -> Result<T>
where
    T::Err: std::fmt::Display,
{
    value.parse().map_err(|e| Error::invalid(format!("setting {name} = {value:?}: {e}")))
}
