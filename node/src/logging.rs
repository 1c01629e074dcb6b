//! Logs, as text for people or JSON for programs, to standard error.

use plexus_model::{Error, Result};
use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

pub fn init(format: LogFormat, filter: &str) -> Result<()> {
    let filter = EnvFilter::try_new(filter).map_err(|e| Error::invalid(format!("log = {filter:?}: {e}")))?;
    // The consensus library reports at info what is of interest at debug.
    let quiet = ["openraft=warn", "raft_log=warn", "chunked_wal=warn", "quinn=warn"];
    let filter = quiet.iter().fold(filter, |filter, rule| {
        filter.add_directive(rule.parse().expect("the rules above are valid directives"))
    });
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|e| Error::internal(format!("logging: {e}")))
}
