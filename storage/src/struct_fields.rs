//! Fields of structs in conversions. Converting a struct to one with other fields would drop values, or store
//! them under another name.

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, StructArray, cast::AsArray, new_null_array};
use arrow_schema::{ArrowError, DataType, Field, FieldRef, Fields};

use crate::type_names::sql_name;

/// What a conversion between two types would drop, as text: a field that the second has no place for. `None`
/// if it has one for each. Structs without names of their own, whose fields are `c0`, `c1` and so on, are
/// converted by position.
pub fn dropped_field(from: &DataType, to: &DataType) -> Option<String> {
    let lost = lost_field(from, to)?;
    Some(format!("{} has a field {lost:?}, for which {} has no place", sql_name(from), sql_name(to)))
}

/// The first field of a struct in a type that another type has no place for.
fn lost_field<'a>(from: &'a DataType, to: &DataType) -> Option<&'a str> {
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

/// Structs with the fields of another type, in its order: each by its name, null where they lack it. Their
/// types stay what they were. `None` if the fields are those of the type already, or go by position.
///
/// # Errors
/// When they cannot be built, which only damaged structs could cause.
pub fn with_fields_of(array: &ArrayRef, to: &DataType) -> Result<Option<ArrayRef>, ArrowError> {
    let (DataType::Struct(from), DataType::Struct(to)) = (array.data_type(), to) else {
        return Ok(None);
    };
    let is_same = from.iter().map(|field| field.name()).eq(to.iter().map(|field| field.name()));
    if is_same || (is_unnamed(from) && from.len() == to.len()) {
        return Ok(None);
    }
    let structs = array.as_struct();
    let columns = to.iter().map(|field| match structs.column_by_name(field.name()) {
        Some(column) => column.clone(),
        None => new_null_array(field.data_type(), array.len()),
    });
    let columns: Vec<ArrayRef> = columns.collect();
    let fields = to.iter().zip(&columns);
    let fields = fields.map(|(field, column)| Field::new(field.name(), column.data_type().clone(), true));
    let aligned =
        StructArray::try_new_with_length(fields.collect(), columns, structs.nulls().cloned(), array.len());
    aligned.map(|structs| Some(Arc::new(structs) as ArrayRef))
}

fn is_unnamed(fields: &Fields) -> bool {
    fields.iter().enumerate().all(|(index, field)| *field.name() == format!("c{index}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(names: &[&str]) -> DataType {
        let field = |name: &&str| Field::new(*name, DataType::Int32, true);
        DataType::Struct(names.iter().map(field).collect())
    }

    fn list(item: DataType) -> DataType {
        DataType::List(Field::new("item", item, true).into())
    }

    #[test]
    fn fields_go_to_their_names() {
        use arrow_array::{Int32Array, StructArray};
        let numbers = |values: [i32; 2]| Arc::new(Int32Array::from(values.to_vec())) as ArrayRef;
        let DataType::Struct(fields) = of(&["b", "a"]) else { unreachable!() };
        let structs = StructArray::new(fields, vec![numbers([1, 2]), numbers([3, 4])], None);
        let structs: ArrayRef = Arc::new(structs);
        let aligned = with_fields_of(&structs, &of(&["a", "x", "b"])).unwrap().unwrap();
        let aligned = aligned.as_struct();
        assert_eq!(aligned.column(0), &numbers([3, 4]));
        assert_eq!(aligned.column(1).null_count(), 2);
        assert_eq!(aligned.column(2), &numbers([1, 2]));
        assert!(with_fields_of(&structs, &of(&["b", "a"])).unwrap().is_none());
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
