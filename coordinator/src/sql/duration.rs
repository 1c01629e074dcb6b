//! Durations as users write them in SQL.

use plexus_model::{Error, Result};

/// Parses a duration, a whole number and a unit from seconds to weeks, into microseconds.
///
/// # Errors
/// `InvalidArgument` when the text has another form, or the duration overflows.
pub(crate) fn duration_us(text: &str) -> Result<u64> {
    let invalid =
        || Error::invalid(format!("{text:?} is no span of time: write '7 days', '12 hours', '30 minutes'"));
    let digits = text.trim_start().find(|c: char| !c.is_ascii_digit()).ok_or_else(invalid)?;
    let (number, unit) = text.trim_start().split_at(digits);
    let seconds = match unit.trim().to_ascii_lowercase().trim_end_matches('s') {
        "second" | "sec" => 1,
        "minute" | "min" => 60,
        "hour" | "h" => 60 * 60,
        "day" | "d" => 24 * 60 * 60,
        "week" => 7 * 24 * 60 * 60,
        _ => return Err(invalid()),
    };
    let micros = number.parse::<u64>().ok().and_then(|n| n.checked_mul(seconds * 1_000_000));
    micros.ok_or_else(invalid)
}
