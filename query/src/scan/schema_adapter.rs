//! Schema evolution in scans: adapts expressions over the columns of a table to the columns of an older file.
//!
//! Files name columns by their ids. A column that is newer than a file has its initial value in all rows of
//! the file.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_schema::SchemaRef;
use datafusion::common::{DataFusionError, Result, ScalarValue};
use datafusion::physical_expr_adapter::{
    DefaultPhysicalExprAdapterFactory, PhysicalExprAdapter, PhysicalExprAdapterFactory,
    replace_columns_with_literals,
};
use datafusion::physical_plan::PhysicalExpr;
use plexus_model::TableSchema;
use plexus_storage::{inline, types};

/// Initial values of columns for rows that are older than the column: encoded, by the name of the column in
/// files. Attached to the files of a scan.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Initials(Arc<HashMap<String, Vec<u8>>>);

impl Initials {
    /// The initial values of the columns of a table.
    pub(crate) fn of(schema: &TableSchema) -> Self {
        let stored = types::to_stored(schema);
        let columns = stored.fields().iter().zip(&schema.columns);
        let initial = columns.filter_map(|(field, column)| {
            Some((field.name().clone(), schema.initial_default_of(column.id)?.to_vec()))
        });
        initial.collect::<HashMap<_, _>>().into()
    }

    /// The encoded values by the name of the column in files.
    pub(crate) fn values(&self) -> &HashMap<String, Vec<u8>> {
        &self.0
    }
}

impl From<HashMap<String, Vec<u8>>> for Initials {
    fn from(values: HashMap<String, Vec<u8>>) -> Self {
        Self(Arc::new(values))
    }
}

/// Adapts expressions over the stored schema of a table to the columns of a file.
#[derive(Debug)]
pub(crate) struct StoredAdapterFactory {
    /// The initial values of columns that a file lacks.
    pub initials: Initials,
}

impl PhysicalExprAdapterFactory for StoredAdapterFactory {
    fn create(&self, logical: SchemaRef, physical: SchemaRef) -> Result<Arc<dyn PhysicalExprAdapter>> {
        let missing = logical.fields().iter().filter(|f| physical.field_with_name(f.name()).is_err());
        let initials = missing
            .filter_map(|field| Some((field, self.initials.0.get(field.name())?)))
            .map(|(field, bytes)| Ok((field.name().clone(), initial(bytes)?.cast_to(field.data_type())?)))
            .collect::<Result<HashMap<_, _>>>()?;
        let inner = DefaultPhysicalExprAdapterFactory.create(logical, physical)?;
        Ok(Arc::new(StoredAdapter { initials, inner }))
    }
}

fn initial(bytes: &[u8]) -> Result<ScalarValue> {
    let value = inline::decode_value(bytes).map_err(|e| DataFusionError::External(Box::new(e)))?;
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
