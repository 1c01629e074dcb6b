//! Durations as users write them in SQL.

use std::time::Duration;

use plexus_model::{Error, Result};

/// Parses the value of a setting that is a duration: a number of milliseconds, or a number and a unit. `None`
/// for zero, which switches the limit off.
///
/// # Errors
/// `InvalidArgument` when the text has another form.
pub(crate) fn timeout(text: &str) -> Result<Option<Duration>> {
    let micros = match text.trim().parse::<u64>() {
        Ok(milliseconds) => milliseconds.saturating_mul(1_000),
        Err(_) => duration_us(text)?,
    };
    Ok((micros > 0).then(|| Duration::from_micros(micros)))
}

/// Parses a duration, a whole number and a unit from milliseconds to weeks, into microseconds.
///
/// # Errors
/// `InvalidArgument` when the text has another form, or the duration overflows.
pub(crate) fn duration_us(text: &str) -> Result<u64> {
    let invalid =
        || Error::invalid(format!("{text:?} is no span of time: write '7 days', '12 hours', '30 minutes'"));
    let digits = text.trim_start().find(|c: char| !c.is_ascii_digit()).ok_or_else(invalid)?;
    let (number, unit) = text.trim_start().split_at(digits);
    let micros_of_unit = match unit.trim().to_ascii_lowercase().as_str() {
        "ms" | "millisecond" | "milliseconds" => 1_000,
        "s" | "sec" | "secs" | "second" | "seconds" => 1_000_000,
        "min" | "mins" | "minute" | "minutes" => 60 * 1_000_000,
        "h" | "hour" | "hours" => 60 * 60 * 1_000_000,
        "d" | "day" | "days" => 24 * 60 * 60 * 1_000_000,
        "week" | "weeks" => 7 * 24 * 60 * 60 * 1_000_000,
        _ => return Err(invalid()),
    };
    let micros = number.parse::<u64>().ok().and_then(|n| n.checked_mul(micros_of_unit));
    micros.ok_or_else(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_parsed_and_others_are_refused() {
        for (text, milliseconds) in
            [("250", 250), ("250ms", 250), ("5 s", 5_000), ("2min", 120_000), ("1h", 3_600_000)]
        {
            assert_eq!(timeout(text).unwrap(), Some(Duration::from_millis(milliseconds)), "{text}");
        }
        assert_eq!(timeout("0").unwrap(), None);
        assert_eq!(timeout("0 s").unwrap(), None);
        for text in ["", "s", "-1", "1.5", "5 parsecs", "99999999999999999999", "18446744073709551615 weeks"]
        {
            assert!(timeout(text).is_err(), "{text}");
        }
    }
}
