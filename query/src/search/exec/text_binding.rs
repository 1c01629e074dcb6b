//! Full-text queries in plain SQL, bound to the table whose columns they name.

use std::sync::{Arc, Mutex};

use plexus_index::text::{Analyzer, GlobalStatistics, QueryField, Syntax, TextQuery, parse_query};
use plexus_model::{Error, Result, Table};
use tokio::sync::OnceCell;

use crate::search::snapshot::text_fields::{TextFields, check_unambiguous, text_fields};

/// A bound query of `text_match` or `bm25_score`, with the statistics that its scores depend on.
#[derive(Debug)]
pub(crate) struct TextBinding {
    /// The columns of the indexes that serve the query, or those of the call.
    pub fields: TextFields,
    /// Names of the fields.
    pub names: Vec<String>,
    /// Ids of the columns in the call, in order.
    pub called: Vec<u32>,
    /// The query text.
    pub text: String,
    /// Which of several indexes is meant.
    pub choice: IndexChoice,
    /// The parsed query.
    pub query: TextQuery,
    /// Set when the table is scanned, which happens before rows are scored.
    pub statistics: OnceCell<GlobalStatistics>,
}

impl TextBinding {
    /// Parses a query over the columns of a call.
    ///
    /// # Errors
    /// `InvalidArgument` when the query has a syntax error or names a column that is not in the call.
    pub(crate) fn parse(
        fields: &TextFields,
        names: &[String],
        called: &[u32],
        text: &str,
    ) -> Result<TextQuery> {
        // Columns of the indexes that are not in the call are neither searched nor named.
        let field = |(at, (id, analyzer)): (usize, (u32, &Analyzer))| {
            let is_called = called.contains(&id) && fields.field(id).is_some_and(|(field, _)| field == at);
            let name = names.get(at).filter(|_| is_called).cloned().unwrap_or_default();
            QueryField { name, analyzer: analyzer.clone(), boost: is_called.then_some(1.0) }
        };
        let fields: Vec<QueryField> = fields.all().enumerate().map(field).collect();
        parse_query(text, Syntax::Lenient, &fields)
    }
}

/// What a call says of the index that it means.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct IndexChoice {
    /// Name of the index.
    pub index: Option<String>,
    /// Its tokenizer.
    pub tokenizer: Option<String>,
}

impl IndexChoice {
    /// The fields for some columns, or for all that are indexed.
    ///
    /// # Errors
    /// `NotFound` when there is no such index; `InvalidArgument` when several could serve with different
    /// results, the index does not have the columns, or one does not hold text.
    pub(crate) fn fields(&self, table: &Table, columns: &[u32]) -> Result<TextFields> {
        let index = self.index.as_ref().map(|name| {
            let index = table.schema.index_by_name(name);
            let index = index.or_else(|| table.schema.index_by_name(&name.to_ascii_lowercase()));
            index.ok_or_else(|| Error::not_found(format!("table {} has no index {name:?}", table.name)))
        });
        let analyzer = self.tokenizer.as_deref().map(Analyzer::named).transpose()?;
        let tokenizer = analyzer.as_ref().map(Analyzer::name);
        let index = index.transpose()?;
        if index.is_none() {
            check_unambiguous(table, columns, tokenizer)?;
        }
        text_fields(table, index, columns, tokenizer)
    }
}

/// The bound full-text queries of a statement on one table. The statistics are filled in when the table is
/// scanned.
#[derive(Debug, Default)]
pub(crate) struct Bindings(Mutex<Vec<Arc<TextBinding>>>);

impl Bindings {
    /// The binding of a query over columns. Calls with the same columns, text and choice share one.
    ///
    /// # Errors
    /// `InvalidArgument` when the columns cannot be searched or the query has a syntax error.
    pub(crate) fn bind(
        &self,
        table: &Table,
        names: &[String],
        text: &str,
        choice: IndexChoice,
    ) -> Result<Arc<TextBinding>> {
        let schema = &table.schema;
        let columns = names.iter().filter_map(|name| Some(&schema.columns[schema.column_index(name)?]));
        let called: Vec<u32> = columns.map(|column| column.id).collect();
        let mut known = self.0.lock().expect("no code panics while it holds this lock");
        let same = |b: &&Arc<TextBinding>| b.called == called && b.text == text && b.choice == choice;
        if let Some(binding) = known.iter().find(same) {
            return Ok(binding.clone());
        }
        let fields = choice.fields(table, &called)?;
        let name = |id: u32| schema.columns.iter().find(|c| c.id == id).map(|c| c.name.clone());
        let names: Vec<String> = fields.all().filter_map(|(id, _)| name(id)).collect();
        let query = TextBinding::parse(&fields, &names, &called, text)?;
        let (text, statistics) = (text.to_owned(), OnceCell::new());
        let binding = Arc::new(TextBinding { fields, names, called, text, choice, query, statistics });
        known.push(binding.clone());
        Ok(binding)
    }

    /// All bindings.
    pub(crate) fn all(&self) -> Vec<Arc<TextBinding>> {
        self.0.lock().expect("no code panics while it holds this lock").clone()
    }

    /// Whether a binding is one of these.
    pub(crate) fn has(&self, binding: &Arc<TextBinding>) -> bool {
        self.all().iter().any(|known| Arc::ptr_eq(known, binding))
    }
}
