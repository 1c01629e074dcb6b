//! Encodes bound full-text functions for other nodes.
//!
//! The query travels as text and is parsed again. The statistics that scores depend on travel with it, since
//! the other node cannot know them.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::common::{DataFusionError, Result, internal_err};
use datafusion::logical_expr::ScalarUDF;
use plexus_index::text::{Analyzer, GlobalStatistics, ScoredTerm};
use plexus_model::Error;
use prost::Message;
use tokio::sync::OnceCell;

use crate::search::exec::text_binding::TextBinding;
use crate::search::snapshot::text_fields::TextFields;
use crate::search::sql::scalar_functions::{TextFunction, as_function};

#[derive(Clone, PartialEq, prost::Message)]
struct WireFunction {
    #[prost(bool, tag = "1")]
    scores: bool,
    #[prost(string, tag = "2")]
    tokenizer: String,
    #[prost(uint32, repeated, tag = "3")]
    columns: Vec<u32>,
    #[prost(string, repeated, tag = "4")]
    names: Vec<String>,
    #[prost(uint32, repeated, tag = "5")]
    called: Vec<u32>,
    #[prost(string, tag = "6")]
    text: String,
    #[prost(uint64, tag = "7")]
    rows: u64,
    #[prost(uint64, repeated, tag = "8")]
    tokens: Vec<u64>,
    #[prost(message, repeated, tag = "9")]
    frequencies: Vec<WireFrequency>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireFrequency {
    #[prost(uint64, tag = "1")]
    field: u64,
    #[prost(string, tag = "2")]
    term: String,
    #[prost(uint64, tag = "3")]
    rows: u64,
}

/// Encodes a bound full-text function. Other functions need no encoding; their names identify them.
///
/// # Errors
/// When the function cannot be encoded.
pub(crate) fn encode(function: &ScalarUDF, buffer: &mut Vec<u8>) -> Result<()> {
    let Some(function) = as_function::<TextFunction>(function) else {
        return Ok(());
    };
    let Some(binding) = &function.binding else {
        return Ok(());
    };
    let known = binding.statistics.get().cloned().unwrap_or_default();
    let frequency =
        |(term, rows): (ScoredTerm, u64)| WireFrequency { field: term.field as u64, term: term.term, rows };
    let wire = WireFunction {
        scores: function.scores,
        tokenizer: binding.fields.analyzer.name().to_owned(),
        columns: binding.fields.columns.clone(),
        names: binding.names.clone(),
        called: binding.called.clone(),
        text: binding.text.clone(),
        rows: known.rows,
        tokens: known.tokens,
        frequencies: known.document_frequencies.into_iter().map(frequency).collect(),
    };
    wire.encode(buffer).map_err(|e| DataFusionError::External(Box::new(e)))
}

/// Decodes what [`encode`] wrote.
///
/// # Errors
/// When the bytes are damaged, or encode a function of another name.
pub(crate) fn decode(name: &str, bytes: &[u8]) -> Result<Arc<ScalarUDF>> {
    let external = |e: Error| DataFusionError::External(Box::new(e));
    let wire = WireFunction::decode(bytes).map_err(|e| DataFusionError::External(Box::new(e)))?;
    let fields = TextFields {
        columns: wire.columns,
        analyzer: Analyzer::named(&wire.tokenizer).map_err(external)?,
        index: None,
    };
    let query = TextBinding::parse(&fields, &wire.names, &wire.called, &wire.text).map_err(external)?;
    let frequency = |f: WireFrequency| (ScoredTerm { field: f.field as usize, term: f.term }, f.rows);
    let document_frequencies: BTreeMap<ScoredTerm, u64> =
        wire.frequencies.into_iter().map(frequency).collect();
    let statistics = GlobalStatistics { rows: wire.rows, tokens: wire.tokens, document_frequencies };
    let binding = TextBinding {
        fields,
        names: wire.names,
        called: wire.called,
        text: wire.text,
        query,
        statistics: OnceCell::new_with(Some(statistics)),
    };
    let function = ScalarUDF::from(TextFunction::new(wire.scores, Some(Arc::new(binding))));
    if function.name() != name {
        return internal_err!("function {name} was encoded as {}", function.name());
    }
    Ok(Arc::new(function))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bound_functions_survive_a_round_trip() {
        let fields =
            TextFields { columns: vec![2, 3], analyzer: Analyzer::named("en_stem").unwrap(), index: Some(7) };
        let names = vec!["title".to_owned(), "body".to_owned()];
        let query = TextBinding::parse(&fields, &names, &[3], "wings -low").unwrap();
        let term = ScoredTerm { field: 1, term: "wing".to_owned() };
        let statistics = GlobalStatistics {
            rows: 9,
            tokens: vec![0, 70],
            document_frequencies: BTreeMap::from([(term, 4)]),
        };
        let statistics = OnceCell::new_with(Some(statistics));
        let binding =
            TextBinding { fields, names, called: vec![3], text: "wings -low".to_owned(), query, statistics };
        let function = ScalarUDF::from(TextFunction::new(true, Some(Arc::new(binding))));
        let mut bytes = Vec::new();
        encode(&function, &mut bytes).unwrap();
        let back = decode("bm25_score", &bytes).unwrap();
        let binding = |f: &ScalarUDF| as_function::<TextFunction>(f).unwrap().binding.clone().unwrap();
        let (decoded, original) = (binding(&back), binding(&function));
        assert_eq!(decoded.query, original.query);
        assert_eq!(decoded.statistics.get(), original.statistics.get());
        assert_eq!((&decoded.names, &decoded.called), (&original.names, &original.called));
        assert!(decode("text_match", &bytes).is_err());
    }
}
