//! TODO module docs.

use plexus_model::{Error, Result};

/// A span of time as people write it, a number and a unit from seconds to weeks, in microseconds.
pub fn duration_us(text: &str) -> Result<u64> {
    let wrong =
        || Error::invalid(format!("{text:?} is no span of time: write '7 days', '12 hours', '30 minutes'"));
    let digits = text.trim_start().find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.trim_start().split_at(digits);
    let seconds = match unit.trim().to_ascii_lowercase().trim_end_matches('s') {
        "second" | "sec" => 1,
        "minute" | "min" => 60,
        "hour" | "h" => 60 * 60,
        "day" | "d" => 24 * 60 * 60,
        "week" => 7 * 24 * 60 * 60,
        _ => return Err(wrong()),
    };
    let micros = number.parse::<u64>().ok().and_then(|n| n.checked_mul(seconds * 1_000_000));
    micros.ok_or_else(wrong)
}
