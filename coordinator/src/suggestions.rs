//! What a name that is not there was meant to be.

use plexus_model::TableName;

use crate::sql::names::quoted_name;

/// Names that are looked at. It takes about a microsecond each.
const NAMES_MAX: usize = 10_000;

/// The end of an error about a name: the known name that is most like it, if one is much like it.
pub(crate) fn did_you_mean<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let meant = nearest(name, known.into_iter().map(|known| (known, known)));
    meant.map(|(_, meant)| format!("; did you mean {meant}?")).unwrap_or_default()
}

/// The same for a table: one of its schema, or else one of another schema. `known` are those of statements.
pub(crate) fn did_you_mean_table<'a, I>(missing: &TableName, known: impl Fn() -> I) -> String
where
    I: Iterator<Item = &'a TableName>,
{
    let is_beside = |known: &TableName| known.schema == missing.schema;
    let named = |beside: bool| {
        let known = known().filter(move |known| is_beside(known) == beside);
        nearest(&missing.table, known.map(|known| (known.table.as_str(), known)))
    };
    let meant = named(true).or_else(|| named(false));
    let shown = |known: &TableName| match is_beside(known) {
        true => written(&known.table),
        false => format!("{}.{}", written(&known.schema), written(&known.table)),
    };
    meant.map(|(_, known)| format!("; did you mean {}?", shown(known))).unwrap_or_default()
}

/// A name as it has to be written.
fn written(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    match name.chars().all(is_plain) && !name.starts_with(|c: char| c.is_ascii_digit()) {
        true => name.to_owned(),
        false => quoted_name(name),
    }
}

/// The known name that is most like a name, with what belongs to it.
fn nearest<'a, T: Ord>(name: &str, known: impl Iterator<Item = (&'a str, T)>) -> Option<(&'a str, T)> {
    let name = name.to_lowercase();
    let letters = name.chars().count();
    // Edits that leave a name recognizable.
    let edits_max = (letters / 3).clamp(1, 3);
    let candidates = known
        .take(NAMES_MAX)
        // It is at least the difference of the lengths, and takes their product of time to compute.
        .filter(|(known, _)| known.chars().count().abs_diff(letters) <= edits_max)
        .map(|known| (strsim::damerau_levenshtein(&name, &known.0.to_lowercase()), known));
    let (edits, meant) = candidates.min()?;
    (edits <= edits_max && edits < letters).then_some(meant)
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
        let known = [("a", "part"), ("b", "parts"), ("b", "orders"), ("a", "Ids")];
        let known = known.map(|(schema, table)| TableName::new(schema, table));
        let meant =
            |schema: &str, table: &str| did_you_mean_table(&TableName::new(schema, table), || known.iter());
        assert_eq!(meant("a", "parts"), "; did you mean part?");
        assert_eq!(meant("a", "orders"), "; did you mean b.orders?");
        assert_eq!(meant("a", "ids"), "; did you mean \"Ids\"?");
        assert_eq!(meant("a", "customer"), "");
    }
}
