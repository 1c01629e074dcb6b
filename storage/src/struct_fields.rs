//! Fields of structs in conversions. Converting a struct to one with other fields would drop values, or store
//! them under another name.

use arrow_schema::{DataType, FieldRef, Fields};

/// The first field of a struct in a type that another type has no place for. Structs without names of their
/// own, whose fields are `c0`, `c1` and so on, are converted by position.
pub fn lost_field<'a>(from: &'a DataType, to: &DataType) -> Option<&'a str> {
    use DataType::{Dictionary, FixedSizeList, LargeList, LargeListView, List, ListView, Map, Struct};
    match (from, to) {
        (Struct(from), Struct(to)) if is_unnamed(from) && from.len() == to.len() => {
            from.iter().zip(to).find_map(|(from, to)| lost_field(from.data_type(), to.data_type()))
        }
        (Struct(from), Struct(to)) => {
            from.iter().find_map(|field| match to.iter().find(|other| other.name() == field.name()) {
                Some(other) => lost_field(field.data_type(), other.data_type()),
                None => Some(field.name().as_str()),
            })
        }
        (Map(from, _), Map(to, _)) => lost_entry(from, to),
        (Dictionary(_, from), to) => lost_field(from, to),
        (
            List(from) | LargeList(from) | FixedSizeList(from, _) | ListView(from) | LargeListView(from),
            List(to) | LargeList(to) | FixedSizeList(to, _) | ListView(to) | LargeListView(to),
        ) => lost_field(from.data_type(), to.data_type()),
        _ => None,
    }
}

/// The same in the keys and values of a map, which have no names that matter.
fn lost_entry<'a>(from: &'a FieldRef, to: &FieldRef) -> Option<&'a str> {
    match (from.data_type(), to.data_type()) {
        (DataType::Struct(from), DataType::Struct(to)) => {
            from.iter().zip(to).find_map(|(from, to)| lost_field(from.data_type(), to.data_type()))
        }
        _ => None,
    }
}

fn is_unnamed(fields: &Fields) -> bool {
    fields.iter().enumerate().all(|(index, field)| *field.name() == format!("c{index}"))
}

#[cfg(test)]
mod tests {
    use arrow_schema::Field;

    use super::*;

    fn of(names: &[&str]) -> DataType {
        let field = |name: &&str| Field::new(*name, DataType::Int32, true);
        DataType::Struct(names.iter().map(field).collect())
    }

    fn list(item: DataType) -> DataType {
        DataType::List(Field::new("item", item, true).into())
    }

    #[test]
    fn fields_without_a_place_are_found() {
        for (from, to, lost) in [
            (of(&["a", "b"]), of(&["b", "a"]), None),
            (of(&["a"]), of(&["b", "a"]), None),
            (of(&["a", "b"]), of(&["a", "c"]), Some("b")),
            (of(&["c0", "c1"]), of(&["x", "y"]), None),
            (of(&["c0", "c1"]), of(&["x"]), Some("c0")),
            (list(of(&["a"])), list(of(&["b"])), Some("a")),
            (list(list(of(&["a"]))), list(DataType::Utf8), None),
            (of(&["a"]), DataType::Utf8, None),
        ] {
            assert_eq!(lost_field(&from, &to), lost, "{from} {to}");
        }
    }
}
