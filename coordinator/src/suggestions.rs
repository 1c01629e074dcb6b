//! What a name that is not there was meant to be.

use plexus_model::TableName;

/// The end of an error about a name: the known name that is most like it, if one is much like it.
pub(crate) fn did_you_mean<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let meant = nearest(name, known.into_iter().map(|known| (known, known)));
    meant.map(|meant| format!("; did you mean {meant}?")).unwrap_or_default()
}

/// The same for a table: one of its schema, or else one of another schema. `known` are those of statements.
pub(crate) fn did_you_mean_table(missing: &TableName, known: &[TableName]) -> String {
    let (beside, others): (Vec<_>, Vec<_>) = known.iter().partition(|known| known.schema == missing.schema);
    let beside = beside.into_iter().map(|known| (known.table.as_str(), known.table.clone()));
    let meant = nearest(&missing.table, beside).or_else(|| {
        nearest(&missing.table, others.into_iter().map(|known| (known.table.as_str(), known.to_string())))
    });
    meant.map(|meant| format!("; did you mean {meant}?")).unwrap_or_default()
}

/// What stands beside the known name that is most like a name.
fn nearest<'a, T: Ord>(name: &str, known: impl Iterator<Item = (&'a str, T)>) -> Option<T> {
    let name = name.to_lowercase();
    let letters = name.chars().count();
    // Edits that leave a name recognizable.
    let edits_max = (letters / 3).clamp(1, 3);
    let candidates = known
        // It is at least the difference of the lengths, and takes their product of time to compute.
        .filter(|(known, _)| known.chars().count().abs_diff(letters) <= edits_max)
        .map(|(known, shown)| (strsim::damerau_levenshtein(&name, &known.to_lowercase()), shown));
    let (edits, shown) = candidates.min()?;
    (edits <= edits_max && edits < letters).then_some(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_much_alike_are_meant() {
        let known = ["lineitem", "orders", "part", "Ids", "naïve", "t"];
        for (name, meant) in [
            ("lineitme", "lineitem"),
            ("LINEITEMS", "lineitem"),
            ("order", "orders"),
            ("parts", "part"),
            ("ids", "Ids"),
            ("naive", "naïve"),
        ] {
            assert_eq!(did_you_mean(name, known), format!("; did you mean {meant}?"));
        }
        for name in ["customer", "x", "", &"part".repeat(10_000)] {
            assert_eq!(did_you_mean(name, known), "");
        }
    }

    #[test]
    fn tables_of_the_same_schema_come_first() {
        let known = [("a", "part"), ("b", "parts"), ("b", "orders")].map(|(s, t)| TableName::new(s, t));
        let meant = |schema: &str, table: &str| did_you_mean_table(&TableName::new(schema, table), &known);
        assert_eq!(meant("a", "parts"), "; did you mean part?");
        assert_eq!(meant("a", "orders"), "; did you mean b.orders?");
        assert_eq!(meant("a", "customer"), "");
    }
}
