//! `text_suggest`: terms of a column that begin with a text, or that a mistyped one may have meant.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, RecordBatch, RecordBatchOptions, StringArray, UInt64Array};
use arrow_schema::{DataType, Field};
use datafusion::catalog::Session;
use datafusion::common::Result;
use plexus_index::text::{TermForm, edit_distance};
use plexus_model::Version;

use crate::context::{external, query_id};
use crate::search::exec::terms::terms_of;
use crate::search::snapshot::SearchSnapshot;
use crate::search::snapshot::text_fields::TextFields;
use crate::search::sql::relation::SearchCall;

/// What is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Suggestion {
    /// The fields of the index.
    pub fields: TextFields,
    /// The one that is looked into.
    pub field: usize,
    /// The terms that are wanted.
    pub form: TermForm,
    /// How many at most.
    pub k: usize,
}

/// The columns of the result.
pub(crate) fn result_fields() -> Vec<Field> {
    vec![
        Field::new("term", DataType::Utf8, false),
        Field::new("rows", DataType::UInt64, false),
        Field::new("distance", DataType::Int32, false),
    ]
}

/// The terms that are found: the nearest first, then those that most rows have.
#[derive(Debug)]
pub(crate) struct Suggestions {
    /// The call.
    pub call: Arc<SearchCall>,
    /// The table at `version`.
    pub table: Arc<plexus_model::Table>,
    /// The version that is read.
    pub version: Version,
    /// What is asked for.
    pub suggestion: Suggestion,
}

impl Suggestions {
    /// Looks for the terms, and returns columns of the result by their positions.
    ///
    /// # Errors
    /// When a segment or its index cannot be read.
    pub(crate) async fn rows(&self, state: &dyn Session, columns: &[usize]) -> Result<RecordBatch> {
        let context = self.call.context.clone();
        let snapshot =
            SearchSnapshot::open(self.table.clone(), self.version, context).await.map_err(external)?;
        let snapshot = snapshot.for_query(query_id(state));
        let Suggestion { fields, field, form, k } = &self.suggestion;
        let found: BTreeMap<String, u64> =
            terms_of(&snapshot, fields, *field, form).await.map_err(external)?;
        let distance = |term: &str| match form {
            TermForm::Prefix(_) => 0,
            TermForm::Similar(wanted, _) => edit_distance(wanted, term),
        };
        let mut ranked: Vec<(u32, u64, String)> =
            found.into_iter().map(|(term, rows)| (distance(&term), rows, term)).collect();
        ranked.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)).then_with(|| a.2.cmp(&b.2)));
        ranked.truncate(*k);
        let all: [ArrayRef; 3] = [
            Arc::new(StringArray::from_iter_values(ranked.iter().map(|(_, _, term)| term))),
            Arc::new(UInt64Array::from_iter_values(ranked.iter().map(|(_, rows, _)| *rows))),
            Arc::new(Int32Array::from_iter_values(ranked.iter().map(|(distance, ..)| *distance as i32))),
        ];
        let schema = Arc::new(self.call.schema.project(columns)?);
        let columns = columns.iter().map(|column| all[*column].clone()).collect();
        let count = RecordBatchOptions::new().with_row_count(Some(ranked.len()));
        Ok(RecordBatch::try_new_with_options(schema, columns, &count)?)
    }
}
