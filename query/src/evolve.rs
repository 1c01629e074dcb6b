//! Stored columns in scans: called by their ids, and with an initial value where a file is older than they.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_schema::{Field, Schema, SchemaRef};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use datafusion::common::{DataFusionError, Result, ScalarValue};
use datafusion::physical_expr_adapter::{
    DefaultPhysicalExprAdapterFactory, PhysicalExprAdapter, PhysicalExprAdapterFactory,
    replace_columns_with_literals,
};
use datafusion::physical_plan::PhysicalExpr;
use plexus_model::TableSchema;
use plexus_storage::{inline, types};

/// Key in a field's metadata, which travels with a plan: the value of rows that are older than the column.
const INITIAL: &str = "plexus.initial";

/// The stored schema of a table, each field with its initial value if it has one.
pub fn scan_schema(schema: &TableSchema) -> SchemaRef {
    let stored = types::to_stored(schema);
    if schema.initials.is_empty() {
        return stored;
    }
    let fields = stored.fields().iter().zip(&schema.columns).map(|(field, column)| {
        let field: Field = field.as_ref().clone();
        match schema.initial_of(column.id) {
            Some(bytes) => field.with_metadata([(INITIAL.to_owned(), STANDARD.encode(bytes))].into()),
            None => field,
        }
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Fits expressions over the stored schema of a table to the columns that a file has.
#[derive(Debug)]
pub struct StoredAdapterFactory;

impl PhysicalExprAdapterFactory for StoredAdapterFactory {
    fn create(&self, logical: SchemaRef, physical: SchemaRef) -> Result<Arc<dyn PhysicalExprAdapter>> {
        let missing = logical.fields().iter().filter(|f| physical.field_with_name(f.name()).is_err());
        let initials = missing
            .filter_map(|field| Some((field.name().clone(), field.metadata().get(INITIAL)?, field)))
            .map(|(name, text, field)| Ok((name, initial(text)?.cast_to(field.data_type())?)))
            .collect::<Result<HashMap<_, _>>>()?;
        let inner = DefaultPhysicalExprAdapterFactory.create(logical, physical)?;
        Ok(Arc::new(StoredAdapter { initials, inner }))
    }
}

fn initial(text: &str) -> Result<ScalarValue> {
    let fail = |e: Box<dyn std::error::Error + Send + Sync>| DataFusionError::External(e);
    let bytes = STANDARD.decode(text).map_err(|e| fail(Box::new(e)))?;
    let value = inline::decode_value(&bytes).map_err(|e| fail(Box::new(e)))?;
    ScalarValue::try_from_array(&value, 0)
}

#[derive(Debug)]
struct StoredAdapter {
    initials: HashMap<String, ScalarValue>,
    inner: Arc<dyn PhysicalExprAdapter>,
}

impl PhysicalExprAdapter for StoredAdapter {
    fn rewrite(&self, expr: Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
        let expr = match self.initials.is_empty() {
            true => expr,
            false => replace_columns_with_literals(expr, &self.initials)?,
        };
        self.inner.rewrite(expr)
    }
}
