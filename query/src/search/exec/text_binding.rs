//! TODO module docs.

use std::sync::{Arc, Mutex};

use plexus_index::text::{GlobalStatistics, TextQuery, parse_query};
use plexus_model::Table;
use tokio::sync::OnceCell;

use crate::search::snapshot::text_fields::{TextFields, text_fields};

/// How a query over texts is answered: the query, and what the table knows of its words.
#[derive(Debug)]
pub struct TextBinding {
    pub fields: TextFields,
    /// What the fields are called.
    pub names: Vec<String>,
    /// Ids of the columns that the functions are called with, in their order.
    pub called: Vec<u32>,
    /// The query as it was written.
    pub text: String,
    pub query: TextQuery,
    /// Filled in when the table is read, which comes before its rows are scored.
    pub statistics: OnceCell<GlobalStatistics>,
}

impl TextBinding {
    /// Reads a query over the columns that a function is called with.
    pub fn parse(
        fields: &TextFields,
        names: &[String],
        called: &[u32],
        text: &str,
    ) -> plexus_model::Result<TextQuery> {
        let place = |id: &u32| Some((fields.columns.iter().position(|column| column == id)?, 1.0));
        let defaults: Vec<(usize, f32)> = called.iter().filter_map(place).collect();
        // Other columns of the index are not the function's.
        let named =
            |(name, id): (&String, &u32)| if called.contains(id) { name.clone() } else { String::new() };
        let names: Vec<String> = names.iter().zip(&fields.columns).map(named).collect();
        parse_query(text, &fields.analyzer, &names, &defaults)
    }
}

/// The queries over texts that a statement asks a table. What their scores depend on is found out when the table is read.
#[derive(Debug, Default)]
pub struct Bindings(Mutex<Vec<Arc<TextBinding>>>);

impl Bindings {
    /// The binding of a query over columns: the same for the same query.
    pub fn bind(
        &self,
        table: &Table,
        names: &[String],
        text: &str,
    ) -> plexus_model::Result<Arc<TextBinding>> {
        let schema = &table.schema;
        let columns = names.iter().filter_map(|name| Some(&schema.columns[schema.column_index(name)?]));
        let called: Vec<u32> = columns.map(|column| column.id).collect();
        let mut known = self.0.lock().expect("no code panics while it holds this lock");
        if let Some(binding) = known.iter().find(|b| b.called == called && b.text == text) {
            return Ok(binding.clone());
        }
        let fields = text_fields(table, None, &called, None)?;
        let of_id = |id: &u32| schema.columns.iter().find(|c| c.id == *id).map(|c| c.name.clone());
        let names: Vec<String> = fields.columns.iter().filter_map(of_id).collect();
        let query = TextBinding::parse(&fields, &names, &called, text)?;
        let (text, statistics) = (text.to_owned(), OnceCell::new());
        let binding = Arc::new(TextBinding { fields, names, called, text, query, statistics });
        known.push(binding.clone());
        Ok(binding)
    }

    pub fn all(&self) -> Vec<Arc<TextBinding>> {
        self.0.lock().expect("no code panics while it holds this lock").clone()
    }

    pub fn has(&self, binding: &Arc<TextBinding>) -> bool {
        self.all().iter().any(|known| Arc::ptr_eq(known, binding))
    }
}
