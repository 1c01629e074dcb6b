//! Bound full-text functions in plans for other nodes.
//!
//! The plans of a distributed query name their functions, and have no place for what a function is bound to.
//! The binding travels as the last argument of the call: the query as text, which is parsed again, and the
//! statistics that scores depend on, which the other node cannot know.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{DataFusionError, Result};
use datafusion::datasource::source_as_provider;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{ColumnarValue, Expr, LogicalPlan, ScalarUDF, lit};
use plexus_index::text::{Analyzer, GlobalStatistics, ScoredTerm};
use plexus_model::Error;
use prost::Message;
use tokio::sync::OnceCell;

use crate::search::exec::text_binding::{IndexChoice, TextBinding};
use crate::search::snapshot::text_fields::{FieldGroup, TextFields};
use crate::search::sql::binding::text_call;
use crate::search::sql::rule::pinned_table;
use crate::search::sql::scalar_functions::TextFunction;

#[derive(Clone, PartialEq, prost::Message)]
struct WireBinding {
    #[prost(message, repeated, tag = "1")]
    groups: Vec<WireGroup>,
    #[prost(string, repeated, tag = "3")]
    names: Vec<String>,
    #[prost(uint32, repeated, tag = "4")]
    called: Vec<u32>,
    #[prost(string, tag = "5")]
    text: String,
    #[prost(uint64, tag = "6")]
    rows: u64,
    #[prost(uint64, repeated, tag = "7")]
    tokens: Vec<u64>,
    #[prost(message, repeated, tag = "8")]
    frequencies: Vec<WireFrequency>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireGroup {
    #[prost(string, tag = "1")]
    tokenizer: String,
    #[prost(uint32, repeated, tag = "2")]
    columns: Vec<u32>,
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

/// Lets the bound full-text functions of an optimized plan run on other nodes.
///
/// # Errors
/// When the statistics of a table cannot be read.
pub(crate) async fn carry_bindings(plan: LogicalPlan) -> Result<LogicalPlan> {
    let mut calls = false;
    let mut sources = Vec::new();
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            sources.push(source_as_provider(&scan.source)?);
        }
        node.apply_expressions(|expr| {
            calls |= expr.exists(|expr| Ok(bound_call(expr).is_some()))?;
            Ok(TreeNodeRecursion::Continue)
        })
    })?;
    if !calls {
        return Ok(plan);
    }
    for provider in sources {
        if let Some(pinned) = pinned_table(&*provider) {
            pinned.collect_statistics().await?;
        }
    }
    let carried = plan.transform_up_with_subqueries(|node| {
        let preserver = NamePreserver::new(&node);
        node.map_expressions(|expr| {
            let name = preserver.save(&expr);
            let carried = expr.transform_up(|expr| match bound_call(&expr) {
                Some((scores, binding, args)) => carry(scores, binding, args).map(Transformed::yes),
                None => Ok(Transformed::no(expr)),
            });
            Ok(carried?.update_data(|expr| name.restore(expr)))
        })
    });
    carried.data()
}

/// A call of a bound function.
fn bound_call(expr: &Expr) -> Option<(bool, &TextBinding, &[Expr])> {
    let (function, args) = text_call(expr)?;
    Some((function.scores, function.binding.as_deref()?, args))
}

/// A call with its binding as a further argument.
fn carry(scores: bool, binding: &TextBinding, args: &[Expr]) -> Result<Expr> {
    let binding = format!("{CARRIED}{}", BASE64.encode(encode(binding)));
    let args = args.iter().cloned().chain([lit(binding)]).collect();
    Ok(ScalarUDF::from(TextFunction::new(scores, None)).call(args))
}

/// The binding that a call carries as its last argument; `None` if it carries none.
///
/// # Errors
/// When the argument is damaged.
pub(crate) fn carried(args: &[ColumnarValue]) -> Result<Option<Arc<TextBinding>>> {
    let Some(ColumnarValue::Scalar(last)) = args.last() else {
        return Ok(None);
    };
    let Some(text) = last.try_as_str().flatten().and_then(|text| text.strip_prefix(CARRIED)) else {
        return Ok(None);
    };
    let bytes = BASE64.decode(text).map_err(|e| DataFusionError::External(Box::new(e)))?;
    decode(&bytes).map(Arc::new).map(Some)
}

/// A description of a plan without the bindings that its calls carry.
pub(crate) fn without_carried(text: &str) -> String {
    let separator = format!(", {CARRIED}");
    let mut parts = text.split(separator.as_str());
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        plain.push_str(part.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || "+/=".contains(c)));
    }
    plain
}

/// The start of an argument that is a binding. A query that starts like this is an error on decoding.
const CARRIED: &str = "$binding\u{1}";

fn encode(binding: &TextBinding) -> Vec<u8> {
    let known = binding.statistics.get().cloned().unwrap_or_default();
    let frequency =
        |(term, rows): (ScoredTerm, u64)| WireFrequency { field: term.field as u64, term: term.term, rows };
    let group = |group: &FieldGroup| WireGroup {
        tokenizer: group.analyzer.name().to_owned(),
        columns: group.columns.clone(),
    };
    let wire = WireBinding {
        groups: binding.fields.groups.iter().map(group).collect(),
        names: binding.names.clone(),
        called: binding.called.clone(),
        text: binding.text.clone(),
        rows: known.rows,
        tokens: known.tokens,
        frequencies: known.document_frequencies.into_iter().map(frequency).collect(),
    };
    wire.encode_to_vec()
}

fn decode(bytes: &[u8]) -> Result<TextBinding> {
    let external = |e: Error| DataFusionError::External(Box::new(e));
    let wire = WireBinding::decode(bytes).map_err(|e| DataFusionError::External(Box::new(e)))?;
    let group = |group: WireGroup| {
        let analyzer = Analyzer::named(&group.tokenizer).map_err(external)?;
        Ok(FieldGroup { columns: group.columns, analyzer, index: None })
    };
    let fields = TextFields { groups: wire.groups.into_iter().map(group).collect::<Result<_>>()? };
    let query = TextBinding::parse(&fields, &wire.names, &wire.called, &wire.text).map_err(external)?;
    let frequency = |f: WireFrequency| (ScoredTerm { field: f.field as usize, term: f.term }, f.rows);
    let document_frequencies: BTreeMap<ScoredTerm, u64> =
        wire.frequencies.into_iter().map(frequency).collect();
    let statistics = GlobalStatistics { rows: wire.rows, tokens: wire.tokens, document_frequencies };
    Ok(TextBinding {
        fields,
        names: wire.names,
        called: wire.called,
        text: wire.text,
        choice: IndexChoice::default(),
        query,
        statistics: OnceCell::new_with(Some(statistics)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_carry_their_binding() {
        let group = |columns: &[u32], analyzer: &str| FieldGroup {
            columns: columns.to_vec(),
            analyzer: Analyzer::named(analyzer).unwrap(),
            index: Some(7),
        };
        let fields = TextFields { groups: vec![group(&[2], "keyword"), group(&[3], "en_stem")] };
        let names = vec!["title".to_owned(), "body".to_owned()];
        let query = TextBinding::parse(&fields, &names, &[3], "wings -low").unwrap();
        let term = ScoredTerm { field: 1, term: "wing".to_owned() };
        let statistics = GlobalStatistics {
            rows: 9,
            tokens: vec![0, 70],
            document_frequencies: BTreeMap::from([(term, 4)]),
        };
        let statistics = OnceCell::new_with(Some(statistics));
        let (text, choice) = ("wings -low".to_owned(), IndexChoice::default());
        let original = TextBinding { fields, names, called: vec![3], text, choice, query, statistics };
        let call = carry(true, &original, &[lit("wings -low")]).unwrap();
        let (_, args) = text_call(&call).unwrap();
        let value = |arg: &Expr| match arg {
            Expr::Literal(value, _) => ColumnarValue::Scalar(value.clone()),
            other => panic!("{other} is not a literal"),
        };
        let args: Vec<ColumnarValue> = args.iter().map(value).collect();
        let decoded = carried(&args).unwrap().unwrap();
        assert_eq!(decoded.query, original.query);
        assert_eq!(decoded.statistics.get(), original.statistics.get());
        assert_eq!((&decoded.names, &decoded.called), (&original.names, &original.called));
        assert!(carried(&args[..1]).unwrap().is_none());
        let shown = |arg: &ColumnarValue| match arg {
            ColumnarValue::Scalar(value) => value.to_string(),
            ColumnarValue::Array(_) => panic!("{arg} is not constant"),
        };
        let explained = format!("f(bm25_score(body@1, {}, {}) > 0)", shown(&args[0]), shown(&args[1]));
        assert_eq!(without_carried(&explained), "f(bm25_score(body@1, wings -low) > 0)");
    }
}
