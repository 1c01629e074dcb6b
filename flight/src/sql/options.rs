//! Session options on the wire.
//!
//! `arrow-flight` does not generate these messages. Field numbers and enum values are those of `Flight.proto`
//! in the Arrow Flight RPC specification.

use std::collections::HashMap;

/// `SessionOptionValue` of the protocol. Without a value it resets the option.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SessionOptionValue {
    #[prost(oneof = "OptionValue", tags = "1, 2, 3, 4, 5")]
    pub(crate) option_value: Option<OptionValue>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum OptionValue {
    #[prost(string, tag = "1")]
    String(String),
    #[prost(bool, tag = "2")]
    Bool(bool),
    #[prost(sfixed64, tag = "3")]
    Int64(i64),
    #[prost(double, tag = "4")]
    Double(f64),
    #[prost(message, tag = "5")]
    StringList(StringList),
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct StringList {
    #[prost(string, repeated, tag = "1")]
    pub(crate) values: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SetSessionOptionsRequest {
    #[prost(map = "string, message", tag = "1")]
    pub(crate) session_options: HashMap<String, SessionOptionValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SessionOptionError {
    /// [`INVALID_NAME`] or [`INVALID_VALUE`].
    #[prost(int32, tag = "1")]
    pub(crate) value: i32,
}

/// The option does not exist.
pub(crate) const INVALID_NAME: i32 = 1;
/// The option does not accept the value.
pub(crate) const INVALID_VALUE: i32 = 2;

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SetSessionOptionsResult {
    #[prost(map = "string, message", tag = "1")]
    pub(crate) errors: HashMap<String, SessionOptionError>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct GetSessionOptionsResult {
    #[prost(map = "string, message", tag = "1")]
    pub(crate) session_options: HashMap<String, SessionOptionValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct CloseSessionResult {
    /// [`CLOSED`].
    #[prost(int32, tag = "1")]
    pub(crate) status: i32,
}

/// The session is closed.
pub(crate) const CLOSED: i32 = 1;

impl SessionOptionValue {
    /// A string value.
    pub(crate) fn string(value: impl Into<String>) -> Self {
        Self { option_value: Some(OptionValue::String(value.into())) }
    }

    /// The value as the text of a setting. `None` resets the setting to its default.
    pub(crate) fn to_text(&self) -> Option<String> {
        Some(match self.option_value.as_ref()? {
            OptionValue::String(v) => v.clone(),
            OptionValue::Bool(v) => v.to_string(),
            OptionValue::Int64(v) => v.to_string(),
            OptionValue::Double(v) => v.to_string(),
            OptionValue::StringList(v) => v.values.join(","),
        })
    }
}
