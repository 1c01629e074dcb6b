//! The options of the query engine that a session may set. They change how a query is run, and never its
//! result. Others would let a statement take any amount of memory, or change what a query means.

use std::ops::RangeInclusive;

use plexus_model::{Error, Result};

/// The prefix of the engine's options.
pub(crate) const PREFIX: &str = "datafusion.";

/// Options that are numbers, with the values that they take.
const NUMBERS: [(&str, RangeInclusive<u64>); 4] = [
    // Rows. Operators make room for a batch in advance.
    ("datafusion.execution.batch_size", 16..=65_536),
    // Operators of a partition have buffers and tasks of their own.
    ("datafusion.execution.target_partitions", 1..=256),
    // Bytes and rows of the smaller side of a join that every partition reads as a whole.
    ("datafusion.optimizer.hash_join_single_partition_threshold", 0..=1_073_741_824),
    ("datafusion.optimizer.hash_join_single_partition_threshold_rows", 0..=100_000_000),
];

/// Options that are true or false.
const FLAGS: [&str; 11] = [
    "datafusion.optimizer.enable_dynamic_filter_pushdown",
    "datafusion.optimizer.enable_join_dynamic_filter_pushdown",
    "datafusion.optimizer.enable_round_robin_repartition",
    "datafusion.optimizer.enable_topk_dynamic_filter_pushdown",
    "datafusion.optimizer.filter_null_join_keys",
    "datafusion.optimizer.prefer_existing_sort",
    "datafusion.optimizer.prefer_hash_join",
    "datafusion.optimizer.repartition_aggregations",
    "datafusion.optimizer.repartition_joins",
    "datafusion.optimizer.repartition_sorts",
    "datafusion.optimizer.repartition_windows",
];

/// Whether a session may set an option.
pub(crate) fn exists(name: &str) -> bool {
    FLAGS.contains(&name) || NUMBERS.iter().any(|(known, _)| *known == name)
}

/// Checks the value of an option.
///
/// # Errors
/// `InvalidArgument` for an option that no session may set, or a value that it does not take.
pub(crate) fn check(name: &str, value: &str) -> Result<()> {
    if let Some((_, range)) = NUMBERS.iter().find(|(known, _)| *known == name) {
        let is_fine = value.parse::<u64>().is_ok_and(|number| range.contains(&number));
        let (least, most) = (range.start(), range.end());
        return is_fine.then_some(()).ok_or_else(|| {
            Error::invalid(format!("setting {name} = {value:?}: a number from {least} to {most} is needed"))
        });
    }
    if !FLAGS.contains(&name) {
        let known: Vec<&str> = NUMBERS.iter().map(|(name, _)| *name).chain(FLAGS).collect();
        return Err(Error::invalid(format!(
            "setting {name} cannot be set; of the query engine there are {}",
            known.join(", ")
        )));
    }
    match value {
        "true" | "false" => Ok(()),
        _ => Err(Error::invalid(format!("setting {name} = {value:?}: true or false is needed"))),
    }
}

#[cfg(test)]
mod tests {
    use datafusion::config::ConfigOptions;

    use super::*;

    #[test]
    fn all_options_are_those_of_the_engine_and_others_are_refused() {
        let engine = ConfigOptions::new().entries();
        let names = NUMBERS.iter().map(|(name, _)| *name).chain(FLAGS);
        for name in names {
            assert!(engine.iter().any(|entry| entry.key == name), "{name}");
            let value = if FLAGS.contains(&name) { "false" } else { "64" };
            check(name, value).unwrap();
            assert!(exists(name) && ConfigOptions::new().set(name, value).is_ok(), "{name}");
        }
        check("datafusion.execution.batch_size", "1024").unwrap();
        for (name, value) in [
            ("datafusion.execution.batch_size", "0"),
            ("datafusion.execution.batch_size", "9223372036854775807"),
            ("datafusion.execution.target_partitions", "-1"),
            ("datafusion.optimizer.prefer_hash_join", "maybe"),
            ("datafusion.optimizer.enable_aggregate_dynamic_filter_pushdown", "true"),
            ("datafusion.optimizer.enable_leaf_expression_pushdown", "true"),
            ("datafusion.sql_parser.parse_float_as_decimal", "false"),
            ("datafusion.explain.logical_plan_only", "true"),
        ] {
            assert!(check(name, value).is_err(), "{name} = {value}");
        }
    }
}
