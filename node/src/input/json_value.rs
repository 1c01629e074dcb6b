//! JSON values.
//!
//! Texts are parsed with `simd-json`. It makes doubles of long numbers, so texts that have any are parsed
//! again with their numbers as text.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use simd_json::{Node, StaticNode};

/// Deepest accepted nesting.
const DEPTH_MAX: usize = 64;
/// Digits of numbers that a double holds exactly.
const DOUBLE_DIGITS: usize = 15;

/// A JSON value. The fields of an object are in the order of the text.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Json {
    Null,
    Bool(bool),
    /// The text of the number.
    Number(String),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Number(text) => f.write_str(text),
            Self::Text(text) => f.write_str(&serde_json::to_string(text).map_err(|_| fmt::Error)?),
            Self::List(items) => {
                f.write_str("[")?;
                for (index, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if index > 0 { "," } else { "" })?;
                }
                f.write_str("]")
            }
            Self::Object(fields) => {
                f.write_str("{")?;
                for (index, (name, value)) in fields.iter().enumerate() {
                    let name = serde_json::to_string(name).map_err(|_| fmt::Error)?;
                    write!(f, "{}{name}:{value}", if index > 0 { "," } else { "" })?;
                }
                f.write_str("}")
            }
        }
    }
}

/// Parses one value.
///
/// # Errors
/// What is wrong with the text.
pub(crate) fn parse(text: &[u8]) -> std::result::Result<Json, String> {
    check_depth(text)?;
    let value = if has_unusual_number(text) {
        let text = std::str::from_utf8(text).map_err(|_| "the text is not UTF-8".to_owned())?;
        parse_exactly(text)?
    } else {
        let mut bytes = text.to_vec();
        let tape = simd_json::to_tape(&mut bytes).map_err(|e| syntax_error(&e))?;
        let mut nodes = tape.0.iter();
        from_tape(&mut nodes).ok_or_else(|| "the value is incomplete".to_owned())?
    };
    check_names(&value)?;
    Ok(value)
}

/// What is wrong with a text, and where.
fn syntax_error(error: &simd_json::Error) -> String {
    use simd_json::ErrorType::*;
    let what = match error.error() {
        Eof | UnterminatedString => "it ends too early",
        InvalidUtf8 => "the text is not UTF-8",
        InvalidNumber | InvalidExponent | Overflow => "a number is malformed",
        InvalidEscape | InvalidUnicodeEscape | InvalidUnicodeCodepoint => "an escape is malformed",
        ExpectedMapComma | ExpectedMapEnd => "expected a comma or the end of the object",
        ExpectedArrayComma | ExpectedArrayContent => "expected a comma or the end of the array",
        ExpectedObjectColon => "expected a colon",
        ExpectedObjectContent | ExpectedObjectKey | KeyMustBeAString | BadKeyType => {
            "expected the name of a field"
        }
        TrailingData => "something follows the value",
        _ => "it is malformed",
    };
    match error.character() {
        Some(found) => format!("not valid JSON at byte {}, at {found:?}: {what}", error.index()),
        None => format!("not valid JSON at byte {}: {what}", error.index()),
    }
}

/// Refuses objects that have two fields of one name, of which one would be lost.
fn check_names(value: &Json) -> std::result::Result<(), String> {
    match value {
        Json::List(items) => items.iter().try_for_each(check_names),
        Json::Object(fields) => {
            let mut names = HashSet::with_capacity(fields.len());
            match fields.iter().find(|(name, _)| !names.insert(name.as_str())) {
                Some((name, _)) => Err(format!("the field {name:?} is given twice")),
                None => fields.iter().try_for_each(|(_, value)| check_names(value)),
            }
        }
        _ => Ok(()),
    }
}

/// Bounds the recursion of everything that walks a value.
fn check_depth(text: &[u8]) -> std::result::Result<(), String> {
    let (mut depth, mut in_text, mut escaped) = (0usize, false, false);
    for &byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'{' | b'[' if !in_text => {
                depth += 1;
                if depth > DEPTH_MAX {
                    return Err(format!("the value is nested deeper than {DEPTH_MAX}"));
                }
            }
            b'}' | b']' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

/// Whether a text has a number that is written otherwise than the shortest text of the double that it is:
/// with more digits than a double holds, zeros at the end, an exponent, or so small that it would get one.
fn has_unusual_number(text: &[u8]) -> bool {
    let is_part = |byte: &u8| byte.is_ascii_digit() || *byte == b'.';
    let mut rest = text;
    while let Some(start) = rest.iter().position(|byte| byte.is_ascii_digit() || *byte == b'"') {
        if rest[start] == b'"' {
            rest = behind_text(&rest[start + 1..]);
            continue;
        }
        let number = &rest[start..];
        let (number, after) =
            number.split_at(number.iter().position(|b| !is_part(b)).unwrap_or(number.len()));
        if let Some(point) = number.iter().position(|byte| *byte == b'.')
            && (number.ends_with(b"0") || number[point..].starts_with(b".0000"))
        {
            return true;
        }
        if number.len() > DOUBLE_DIGITS || after.first().is_some_and(|byte| matches!(byte, b'e' | b'E')) {
            return true;
        }
        rest = after;
    }
    false
}

/// What comes behind a text that has begun.
fn behind_text(rest: &[u8]) -> &[u8] {
    let mut escaped = false;
    let end = rest.iter().position(|byte| {
        let ends = *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        ends
    });
    end.map_or(&[], |end| &rest[end + 1..])
}

fn from_tape<'a>(nodes: &mut impl Iterator<Item = &'a Node<'a>>) -> Option<Json> {
    Some(match nodes.next()? {
        Node::String(text) => Json::Text((*text).to_owned()),
        Node::Array { len, .. } => Json::List((0..*len).map(|_| from_tape(nodes)).collect::<Option<_>>()?),
        Node::Object { len, .. } => {
            let mut fields = Vec::with_capacity(*len);
            for _ in 0..*len {
                let Node::String(name) = nodes.next()? else { return None };
                fields.push(((*name).to_owned(), from_tape(nodes)?));
            }
            Json::Object(fields)
        }
        Node::Static(StaticNode::Null) => Json::Null,
        Node::Static(StaticNode::Bool(value)) => Json::Bool(*value),
        Node::Static(StaticNode::I64(value)) => Json::Number(value.to_string()),
        Node::Static(StaticNode::U64(value)) => Json::Number(value.to_string()),
        // The shortest text of a double of at most fifteen digits is the number that was written.
        Node::Static(StaticNode::F64(value)) => Json::Number(format!("{value:?}")),
    })
}

/// Parses a value, and keeps the digits of its numbers.
fn parse_exactly(text: &str) -> std::result::Result<Json, String> {
    let text = text.trim();
    let failed = |e: serde_json::Error| e.to_string();
    Ok(match text.as_bytes().first() {
        Some(b'{') => {
            let Raw(fields) = serde_json::from_str(text).map_err(failed)?;
            let field = |(name, value): (String, Box<RawValue>)| Ok((name, parse_exactly(value.get())?));
            Json::Object(fields.into_iter().map(field).collect::<std::result::Result<_, String>>()?)
        }
        Some(b'[') => {
            let items: Vec<Box<RawValue>> = serde_json::from_str(text).map_err(failed)?;
            Json::List(
                items.iter().map(|item| parse_exactly(item.get())).collect::<std::result::Result<_, _>>()?,
            )
        }
        Some(b'"') => Json::Text(serde_json::from_str(text).map_err(failed)?),
        Some(b'-' | b'0'..=b'9') => {
            let _: &RawValue = serde_json::from_str(text).map_err(failed)?;
            Json::Number(text.to_owned())
        }
        _ => match serde_json::from_str::<Option<bool>>(text).map_err(failed)? {
            Some(value) => Json::Bool(value),
            None => Json::Null,
        },
    })
}

/// The fields of an object in their order.
struct Raw(Vec<(String, Box<RawValue>)>);

impl<'de> serde::Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Raw;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Raw, A::Error> {
                let mut fields = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    fields.push(entry);
                }
                Ok(Raw(fields))
            }
        }

        deserializer.deserialize_map(Fields)
    }
}
