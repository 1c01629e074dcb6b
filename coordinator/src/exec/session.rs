//! The session of a client: its settings, and the transaction that its statements are part of.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::timezone::Tz;
use plexus_model::{Error, Manifest, Result, Version};
use plexus_query::search::{EF_SEARCH_MAX, RECALL_TARGETS, SearchOptions};
use plexus_query::{CATALOG, DEFAULT_SCHEMA, DEFAULT_ZONE, SYSTEM_SCHEMA};

use crate::exec::engine_settings;
use crate::exec::prepared::PreparedStatements;
use crate::exec::transactions::{IDLE_TIMEOUT_DEFAULT, IDLE_TIMEOUT_MAX, TransactionId};
use crate::sql::duration::timeout;
use crate::suggestions::did_you_mean;

/// The session of one client, shared by its concurrent statements.
#[derive(Debug, Default)]
pub struct Session {
    settings: Arc<Mutex<BTreeMap<String, String>>>,
    /// The statements that it has prepared in SQL.
    prepared: PreparedStatements,
    /// The open transaction that its statements are part of.
    transaction: Mutex<Option<TransactionId>>,
    /// Whether the session ends with its request. Nothing can be set in it then.
    ephemeral: bool,
    /// Whether the session cannot have a transaction.
    without_transactions: bool,
}

/// The settings of Plexus, each with its description.
const SETTINGS: [(&str, &str); 12] = [
    ("catalog", "database of unqualified names; always plexus"),
    ("schema", "schema of unqualified names"),
    (TIME_ZONE, "zone of times that are written without one, such as Europe/Berlin or +02:00"),
    ("plexus.task_bytes", "segment bytes that justify a task on another node"),
    ("plexus.read_version", "version that queries read instead of the newest"),
    (STALENESS, "how far behind the newest version queries may read, such as 5s, without asking a quorum"),
    ("plexus.string_view", "whether text columns reach the client as string views"),
    (
        "plexus.ef_search",
        "candidates of a vector index search (ef): more raise recall and latency; 0 for as many as \
         plexus.recall_target needs",
    ),
    (RECALL_TARGET, "share of the nearest rows that a vector index search finds on average"),
    ("plexus.exact_search", "whether vector searches compare every vector and use no index"),
    (STATEMENT_TIMEOUT, "how long a statement may run, such as 30s; 0 for no limit"),
    (IDLE_TIMEOUT, "how long a transaction that has changed rows may be idle, such as 60s"),
];

/// The setting that allows reads of a version that was the newest a while ago.
const STALENESS: &str = "plexus.staleness";

/// The setting that limits the time of a statement.
const STATEMENT_TIMEOUT: &str = "statement_timeout";

/// The setting that limits the time between two statements of a transaction.
const IDLE_TIMEOUT: &str = "idle_in_transaction_timeout";

/// Default of [`STATEMENT_TIMEOUT`]: longer than statements that somebody waits for, so that a forgotten one
/// ends.
const STATEMENT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(60 * 60);

/// The setting of the time zone.
const TIME_ZONE: &str = "time_zone";

/// The settings of searches, which the query engine reads from its session.
const SEARCH_SETTINGS: [&str; 3] = ["plexus.ef_search", "plexus.exact_search", RECALL_TARGET];

/// The setting of the recall of vector searches.
const RECALL_TARGET: &str = "plexus.recall_target";

/// Maximum length of a setting's value in bytes.
const VALUE_BYTES_MAX: usize = 1024;

/// Default of `plexus.task_bytes`: segment bytes that justify a task on another node. They take some tenths
/// of a second to scan on two cores. Below that the exchange between nodes costs more than the scan: TPC-H at
/// scale factor 1, whose largest table has 180 MB, takes 1.7 times as long distributed over three nodes.
const TASK_BYTES_DEFAULT: u64 = 256 * 1024 * 1024;

impl Session {
    /// A session that ends with its request. Settings and transactions are refused, since they would be lost.
    pub fn ephemeral() -> Self {
        Self { ephemeral: true, without_transactions: true, ..Self::default() }
    }

    /// A session for a ticket of a session on another node, with the settings of that one.
    ///
    /// # Errors
    /// `InvalidArgument` or `NotFound` for a setting that this node does not take.
    pub fn of_ticket(settings: &[(String, String)], manifest: &Manifest) -> Result<Self> {
        let this = Self::without_transactions();
        settings.iter().try_for_each(|(name, value)| this.set(name, value, manifest))?;
        Ok(Self { ephemeral: true, ..this })
    }

    /// The settings that have been set in the session.
    pub fn own_settings(&self) -> Vec<(String, String)> {
        self.lock().iter().map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    /// A session that has settings, but no transactions.
    pub fn without_transactions() -> Self {
        Self { without_transactions: true, ..Self::default() }
    }

    /// A session with the same settings, whose statements are part of transaction `id`. For clients that send
    /// the transaction id with each statement.
    pub fn in_transaction(&self, id: TransactionId) -> Self {
        let transaction = Mutex::new(Some(id));
        let Self { ephemeral, without_transactions, .. } = *self;
        let (settings, prepared) = (self.settings.clone(), self.prepared.clone());
        Self { settings, prepared, transaction, ephemeral, without_transactions }
    }

    /// The statements that the session has prepared in SQL.
    pub(crate) fn prepared(&self) -> &PreparedStatements {
        &self.prepared
    }

    /// Fails for a session in which nothing can be kept.
    ///
    /// # Errors
    /// `InvalidArgument` says what would be lost.
    pub(crate) fn check_lasting(&self, what: &str) -> Result<()> {
        match self.ephemeral {
            true => Err(Error::invalid(format!(
                "{what} would be lost with this request: connect with a user name to have a session"
            ))),
            false => Ok(()),
        }
    }

    /// The open transaction of the session.
    pub fn transaction(&self) -> Option<TransactionId> {
        *self.lock_transaction()
    }

    /// Sets or clears the open transaction of the session.
    ///
    /// # Errors
    /// `InvalidArgument` when `id` is given and the session cannot have a transaction.
    pub(crate) fn set_transaction(&self, id: Option<TransactionId>) -> Result<()> {
        if self.without_transactions && id.is_some() {
            return Err(Error::invalid(
                "a transaction needs a session of its own: connect with a user name, or begin it with the \
                 Flight SQL action",
            ));
        }
        *self.lock_transaction() = id;
        Ok(())
    }

    fn lock_transaction(&self) -> std::sync::MutexGuard<'_, Option<TransactionId>> {
        self.transaction.lock().expect("no code panics while it holds this lock")
    }

    /// Checks and sets a value.
    ///
    /// # Errors
    /// `InvalidArgument` names the setting and the values that it takes. `NotFound` for a schema that
    /// `manifest` does not have.
    pub(crate) fn set(&self, name: &str, value: &str, manifest: &Manifest) -> Result<()> {
        let name = canonical(name);
        self.check_lasting(&format!("setting {name}"))?;
        if value.len() > VALUE_BYTES_MAX {
            return Err(Error::invalid(format!(
                "setting {name}: a value of {} bytes is too long",
                value.len()
            )));
        }
        match name.as_str() {
            "catalog" if value != CATALOG => {
                return Err(Error::invalid(format!(
                    "catalog {value:?} does not exist; there is only {CATALOG:?}"
                )));
            }
            "catalog" => {}
            "schema" => {
                let system = [SYSTEM_SCHEMA, "information_schema"].contains(&value);
                if !system && !manifest.schemas.contains_key(value) {
                    return Err(Error::not_found(format!("schema {value:?} does not exist")));
                }
            }
            TIME_ZONE => drop(parse::<Tz>(&name, value)?),
            "plexus.task_bytes" => drop(parse::<u64>(&name, value)?),
            "plexus.read_version" => {
                let version = Version(parse::<u64>(&name, value)?);
                manifest.as_of(version)?;
            }
            "plexus.string_view" => drop(parse::<bool>(&name, value)?),
            "plexus.ef_search" => {
                let ef = parse::<usize>(&name, value)?;
                if ef > EF_SEARCH_MAX {
                    return Err(Error::invalid(format!(
                        "setting {name} = {ef}: a number from 0 to {EF_SEARCH_MAX} is needed"
                    )));
                }
            }
            RECALL_TARGET => {
                let recall = parse::<f32>(&name, value)?;
                if !RECALL_TARGETS.contains(&recall) {
                    let targets = RECALL_TARGETS.map(|target| target.to_string()).join(", ");
                    return Err(Error::invalid(format!(
                        "setting {name} = {value:?}: one of {targets} is needed; for all rows, set \
                         plexus.exact_search"
                    )));
                }
            }
            "plexus.exact_search" => drop(parse::<bool>(&name, value)?),
            STATEMENT_TIMEOUT | STALENESS => drop(timeout_of(&name, value)?),
            IDLE_TIMEOUT => {
                if timeout_of(&name, value)?.is_none_or(|idle| idle > IDLE_TIMEOUT_MAX) {
                    return Err(Error::invalid(format!(
                        "setting {name} = {value:?}: a time of up to {IDLE_TIMEOUT_MAX:?} is needed"
                    )));
                }
            }
            _ if name.starts_with(engine_settings::PREFIX) => engine_settings::check(&name, value)?,
            _ => return Err(unknown(&name)),
        }
        self.lock().insert(name, value.to_owned());
        Ok(())
    }

    /// Resets a setting to its default.
    ///
    /// # Errors
    /// `InvalidArgument` when there is no such setting.
    pub(crate) fn unset(&self, name: &str) -> Result<()> {
        let name = canonical(name);
        let is_ours = SETTINGS.iter().any(|(known, _)| *known == name);
        if !is_ours && !engine_settings::exists(&name) {
            return Err(unknown(&name));
        }
        self.lock().remove(&name);
        Ok(())
    }

    /// The values of all settings, including the defaults of those that are not set.
    pub fn all(&self) -> BTreeMap<String, String> {
        let mut all = self.lock().clone();
        all.entry("catalog".into()).or_insert_with(|| CATALOG.into());
        all.entry("schema".into()).or_insert_with(|| DEFAULT_SCHEMA.into());
        all.entry(TIME_ZONE.into()).or_insert_with(|| DEFAULT_ZONE.into());
        all.entry("plexus.task_bytes".into()).or_insert_with(|| TASK_BYTES_DEFAULT.to_string());
        all.entry(STATEMENT_TIMEOUT.into())
            .or_insert_with(|| format!("{}s", STATEMENT_TIMEOUT_DEFAULT.as_secs()));
        all.entry(IDLE_TIMEOUT.into()).or_insert_with(|| format!("{}s", IDLE_TIMEOUT_DEFAULT.as_secs()));
        all.entry(STALENESS.into()).or_insert_with(|| "0s".into());
        all.entry("plexus.string_view".into()).or_insert_with(|| "false".into());
        let search = SearchOptions::default();
        all.entry("plexus.ef_search".into()).or_insert_with(|| search.ef_search.to_string());
        all.entry(RECALL_TARGET.into()).or_insert_with(|| RECALL_TARGETS[0].to_string());
        all.entry("plexus.exact_search".into()).or_insert_with(|| search.exact_search.to_string());
        all
    }

    /// The schema of unqualified table names.
    pub(crate) fn schema(&self) -> String {
        self.lock().get("schema").cloned().unwrap_or_else(|| DEFAULT_SCHEMA.into())
    }

    /// Segment bytes that justify a task on another node.
    pub(crate) fn task_bytes(&self) -> u64 {
        self.lock().get("plexus.task_bytes").and_then(|v| v.parse().ok()).unwrap_or(TASK_BYTES_DEFAULT)
    }

    /// The version that queries read; `None` for the newest.
    pub(crate) fn read_version(&self) -> Option<Version> {
        self.lock().get("plexus.read_version").and_then(|v| v.parse().ok()).map(Version)
    }

    /// How far behind the newest version queries may read; `None` to read the newest.
    pub(crate) fn staleness(&self) -> Option<Duration> {
        self.lock().get(STALENESS).and_then(|value| timeout(value).ok()).flatten()
    }

    /// Checks that the session may change rows.
    ///
    /// # Errors
    /// `InvalidArgument` when the session reads an older version: changes computed from it would be based on
    /// stale rows.
    pub(crate) fn check_writable(&self) -> Result<()> {
        match self.read_version() {
            Some(version) => Err(Error::invalid(format!(
                "the session reads version {version}: RESET plexus.read_version before changing rows"
            ))),
            None => Ok(()),
        }
    }

    /// The zone of times that are written without one.
    pub(crate) fn time_zone(&self) -> String {
        self.lock().get(TIME_ZONE).cloned().unwrap_or_else(|| DEFAULT_ZONE.into())
    }

    /// How long a statement may run; `None` for no limit.
    pub(crate) fn statement_timeout(&self) -> Option<Duration> {
        self.duration(STATEMENT_TIMEOUT, STATEMENT_TIMEOUT_DEFAULT)
    }

    /// How long a transaction that has changed rows may be idle.
    pub fn idle_in_transaction_timeout(&self) -> Duration {
        self.duration(IDLE_TIMEOUT, IDLE_TIMEOUT_DEFAULT).unwrap_or(IDLE_TIMEOUT_MAX)
    }

    fn duration(&self, name: &str, default: Duration) -> Option<Duration> {
        match self.lock().get(name) {
            // Checked when it was set.
            Some(value) => timeout(value).unwrap_or(Some(default)),
            None => Some(default),
        }
    }

    /// Whether text columns are sent as string views.
    pub fn string_view(&self) -> bool {
        self.lock().get("plexus.string_view").is_some_and(|v| v == "true")
    }

    /// The settings that the query engine reads: its own and those of searches.
    pub(crate) fn engine_settings(&self) -> Vec<(String, String)> {
        let lock = self.lock();
        lock.iter()
            .filter(|(name, _)| {
                name.starts_with(engine_settings::PREFIX)
                    || *name == TIME_ZONE
                    || SEARCH_SETTINGS.contains(&name.as_str())
            })
            .map(|(name, value)| match name.as_str() {
                TIME_ZONE => ("datafusion.execution.time_zone".to_owned(), value.clone()),
                _ => (name.clone(), value.clone()),
            })
            .collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, String>> {
        self.settings.lock().expect("no code panics while it holds this lock")
    }
}

/// The value of a setting that is a time.
fn timeout_of(name: &str, value: &str) -> Result<Option<Duration>> {
    timeout(value).map_err(|_| {
        Error::invalid(format!(
            "setting {name} = {value:?}: write milliseconds or a number and a unit, such as \
             '500ms', '30s' or '5 min'"
        ))
    })
}

/// The error for a setting that does not exist.
fn unknown(name: &str) -> Error {
    let known: Vec<&str> = SETTINGS.iter().map(|(name, _)| *name).collect();
    Error::invalid(format!(
        "setting {name:?} does not exist{}; there are {}",
        did_you_mean(name, known.iter().copied()),
        known.join(", ")
    ))
}

/// The canonical name of a setting: lower case, with aliases resolved.
pub(crate) fn canonical(name: &str) -> String {
    match name.to_ascii_lowercase().as_str() {
        "search_path" | "current_schema" => "schema".into(),
        "plexus.statement_timeout" => STATEMENT_TIMEOUT.into(),
        "idle_in_transaction_session_timeout" | "plexus.idle_in_transaction_timeout" => IDLE_TIMEOUT.into(),
        "timezone" | "time.zone" | "datafusion.execution.time_zone" => TIME_ZONE.into(),
        other => other.to_owned(),
    }
}

/// Parses the value of a setting.
pub(crate) fn parse<T: std::str::FromStr>(name: &str, value: &str) -> Result<T>
where
    T::Err: std::fmt::Display,
{
    value.parse().map_err(|e| Error::invalid(format!("setting {name} = {value:?}: {e}")))
}
