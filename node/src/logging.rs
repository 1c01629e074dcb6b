//! Logs on standard error, as text for people or as JSON for programs.

use plexus_model::{Error, Result};
use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// Libraries whose info level is as detailed as our debug level. Consensus reports each message to a member
/// that does not answer, several times a second: what matters of that is in our own messages.
const QUIET: [&str; 4] = ["openraft=off", "raft_log=warn", "chunked_wal=warn", "quinn=warn"];

/// Starts logging. `filter` has the syntax of `tracing_subscriber::EnvFilter`.
///
/// # Errors
/// `InvalidArgument` when the filter does not parse.
pub(crate) fn init(format: LogFormat, filter: &str) -> Result<()> {
    let filter = EnvFilter::try_new(filter).map_err(|e| Error::invalid(format!("log = {filter:?}: {e}")))?;
    let filter = QUIET.iter().fold(filter, |filter, rule| {
        filter.add_directive(rule.parse().expect("the rules above are valid directives"))
    });
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|e| Error::internal(format!("logging: {e}")))
}
