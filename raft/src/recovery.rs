//! Opens the log and the snapshot of a member, also when they are damaged.
//!
//! Entries that this member acknowledged count as committed for the others. If they are lost here, the member
//! gets them from the others again. Until it has, it neither votes nor leads: it could help a leader to power
//! that lacks them, too. A member that is the only voter has nobody to get them from, and does not start.

use std::path::Path;

use plexus_model::{Error, ErrorKind, Result};

use crate::log::{End, LogStore};
use crate::state_machine::StateMachine;
use crate::types::LogId;

/// The opened storage of a member.
pub(crate) struct Stores {
    pub(crate) machine: StateMachine,
    pub(crate) log: LogStore,
    /// The entry up to which this member has lost entries. It votes again when it has applied this one.
    pub(crate) lost_until: Option<LogId>,
}

/// Opens the storage in `directory`. A log or a snapshot that is damaged is moved aside.
///
/// # Errors
/// `Corrupt` when something is damaged and no other member has it; otherwise the I/O error.
pub(crate) fn open(directory: &Path) -> Result<Stores> {
    let (opened, with_snapshot) = match StateMachine::open(&directory.join("snapshot")) {
        Ok(machine) => {
            let log = match open_log(directory, &machine) {
                Err(damage) if damage.kind() == ErrorKind::Corrupt => {
                    open_without_torn(directory, &machine, damage)
                }
                opened => opened,
            };
            (log.map(|log| (machine, log)), false)
        }
        Err(error) => (Err(error), true),
    };
    let (damage, end) = match opened {
        Ok((machine, log)) => {
            let end = log.end();
            let known = log.last().max(*machine.durable().borrow());
            let acknowledged = end.last.map(LogId::from);
            if known >= acknowledged {
                return Ok(Stores { machine, log, lost_until: None });
            }
            let damage = Error::corrupt(format!(
                "{}: the log ends at entry {}, and this node has acknowledged entries up to {}",
                directory.join("log").display(),
                index_of(known),
                index_of(acknowledged)
            ));
            check_not_alone(&end, &damage, directory)?;
            tracing::error!(
                error = %damage,
                "the metadata log has lost entries; getting them from other nodes"
            );
            return Ok(Stores { machine, log: log.untrusted(), lost_until: acknowledged });
        }
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            (error, LogStore::end_of(&directory.join("log"))?)
        }
        Err(error) => return Err(error),
    };
    check_not_alone(&end, &damage, directory)?;
    let aside = set_aside(directory, with_snapshot)?;
    tracing::error!(
        error = %damage, moved_to = %aside,
        "the metadata of this node is damaged; getting it from other nodes"
    );
    let machine = StateMachine::open(&directory.join("snapshot"))?;
    let log = open_log(directory, &machine)?.untrusted();
    Ok(Stores { machine, log, lost_until: end.last.map(LogId::from) })
}

fn index_of(id: Option<LogId>) -> u64 {
    id.map_or(0, |id| id.index)
}

fn open_log(directory: &Path, machine: &StateMachine) -> Result<LogStore> {
    let log = LogStore::open(&directory.join("log"), Some(machine.durable()))?;
    let covered = *machine.durable().borrow();
    if log.purged() > covered {
        // openraft does not check this. It would start with an incomplete manifest.
        return Err(Error::corrupt(format!(
            "{}: the log begins after entry {} but the snapshot ends at {}",
            directory.display(),
            index_of(log.purged()),
            index_of(covered)
        )));
    }
    log.check_complete()?;
    Ok(log)
}

/// Opens a log that cannot be read as it is, without what is behind its durable end. `damage` is the error
/// with it.
fn open_without_torn(directory: &Path, machine: &StateMachine, damage: Error) -> Result<LogStore> {
    let log = directory.join("log");
    if !log.exists() || !LogStore::cut_torn(&log)? {
        return Err(damage);
    }
    tracing::warn!(error = %damage, "cut off what a crash has left behind the end of the metadata log");
    open_log(directory, machine)
}

/// Fails if no other member has what this one has lost.
fn check_not_alone(end: &End, damage: &Error, directory: &Path) -> Result<()> {
    if end.last.is_some() && !end.is_alone {
        return Ok(());
    }
    Err(Error::corrupt(format!(
        "{}. No other node has a copy: restore {}",
        damage.message(),
        directory.display()
    )))
}

/// Moves the log aside, and the snapshot, too, if it is damaged or does not fit.
fn set_aside(directory: &Path, with_snapshot: bool) -> Result<String> {
    let mut names = (1..).map(|number| directory.join(format!("damaged-{number}")));
    let aside = names.find(|name| !name.exists()).unwrap_or_default();
    let rename = || {
        std::fs::create_dir_all(&aside)?;
        for name in ["log", "snapshot"] {
            if name == "log" || with_snapshot {
                match std::fs::rename(directory.join(name), aside.join(name)) {
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    renamed => renamed?,
                }
            }
        }
        std::fs::File::open(directory)?.sync_all()
    };
    rename().map_err(|e: std::io::Error| Error::io(aside.display(), e))?;
    Ok(aside.display().to_string())
}
