//! The catalog of a pinned session: the schemas of one manifest version, of older versions, and of the
//! statement.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, CatalogProviderList, SchemaProvider, TableProvider};
use datafusion::common::Result;
use plexus_model::{Manifest, STAGING_SCHEMA, TableName, Version};

use crate::CATALOG;
use crate::tables::context::TableContext;
use crate::tables::dml_target::{TargetTable, schema_of_target};
use crate::tables::information_schema::{InformationSchema, TableFunctions};
use crate::tables::pinned::PinnedTable;
use crate::tables::system::{self, ClusterView, SYSTEM_SCHEMA};

/// Prefix of the schema names that [`as_of_schema`] makes.
const AS_OF_PREFIX: &str = "$as_of:";

/// The name under which a session sees the tables of `schema` as they were at `version`. If the manifest no
/// longer has that version, the session has no such schema.
pub fn as_of_schema(version: Version, schema: &str) -> String {
    format!("{AS_OF_PREFIX}{version}:{schema}")
}

/// The version and schema of a name that [`as_of_schema`] made.
fn schema_as_of(name: &str) -> Option<(Version, &str)> {
    let (version, schema) = name.strip_prefix(AS_OF_PREFIX)?.split_once(':')?;
    Some((Version(version.parse().ok()?), schema))
}

/// The catalog at one version of the manifest.
#[derive(Clone, Debug)]
pub(crate) struct PinnedCatalog {
    /// The pinned version.
    pub manifest: Arc<Manifest>,
    /// What the system tables show beside the manifest.
    pub view: Arc<ClusterView>,
    /// What tables need of this node.
    pub context: TableContext,
    /// The relations of the statement.
    pub relations: Relations,
    /// The table functions of the session.
    pub functions: Arc<TableFunctions>,
}

/// Relations that exist for one statement only, by name.
pub type Relations = Arc<HashMap<String, Arc<dyn TableProvider>>>;

/// The schema of the [`Relations`] of a statement. The `$` keeps it apart from the schemas of users.
pub const STATEMENT_SCHEMA: &str = "$statement";

impl CatalogProviderList for PinnedCatalog {
    fn register_catalog(&self, _: String, _: Arc<dyn CatalogProvider>) -> Option<Arc<dyn CatalogProvider>> {
        None
    }

    fn catalog_names(&self) -> Vec<String> {
        vec![CATALOG.to_owned()]
    }

    fn catalog(&self, name: &str) -> Option<Arc<dyn CatalogProvider>> {
        (name == CATALOG).then(|| Arc::new(self.clone()) as _)
    }
}

impl CatalogProvider for PinnedCatalog {
    fn schema_names(&self) -> Vec<String> {
        let user = self.manifest.schemas.keys().cloned();
        user.chain([SYSTEM_SCHEMA.to_owned()]).collect()
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        if name == SYSTEM_SCHEMA {
            return Some(Arc::new(SystemSchema(self.clone())));
        }
        if name == InformationSchema::NAME {
            return Some(Arc::new(InformationSchema::new(self.clone())));
        }
        if name == STATEMENT_SCHEMA {
            return Some(Arc::new(StatementSchema(self.relations.clone())));
        }
        let (catalog, name) = match schema_as_of(name) {
            // The coordinator rejects versions that cannot be read with a better message.
            Some((version, name)) => {
                let manifest = Arc::new(self.manifest.as_of(version).ok()?);
                (Self { manifest, ..self.clone() }, name)
            }
            None => (self.clone(), name),
        };
        let target = schema_of_target(name);
        let name = target.unwrap_or(name).to_owned();
        let known = catalog.manifest.schemas.contains_key(&name) || name == STAGING_SCHEMA;
        known.then(|| Arc::new(PinnedSchema { name, catalog, target: target.is_some() }) as _)
    }
}

/// A user schema, or the DML targets of its tables.
#[derive(Debug)]
struct PinnedSchema {
    name: String,
    catalog: PinnedCatalog,
    /// Whether its tables are DML targets.
    target: bool,
}

impl PinnedSchema {
    fn find(&self, table: &str) -> Option<Arc<plexus_model::Table>> {
        self.catalog.manifest.table(&TableName::new(&self.name, table)).cloned()
    }
}

#[async_trait]
impl SchemaProvider for PinnedSchema {
    fn table_names(&self) -> Vec<String> {
        let names = self.catalog.manifest.names.range(TableName::new(&self.name, "")..);
        let names = names.map(|(name, _)| name).take_while(|name| name.schema == self.name);
        names.map(|name| name.table.clone()).collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let version = self.catalog.manifest.version;
        let pinned = |table| PinnedTable::new(table, version, self.catalog.context.clone());
        Ok(self.find(name).map(pinned).map(|table| -> Arc<dyn TableProvider> {
            match self.target {
                true => Arc::new(TargetTable::new(table)),
                false => Arc::new(table),
            }
        }))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.find(name).is_some()
    }
}

/// The schema of the relations of a statement.
#[derive(Debug)]
struct StatementSchema(Relations);

#[async_trait]
impl SchemaProvider for StatementSchema {
    fn table_names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        Ok(self.0.get(name).cloned())
    }

    fn table_exist(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}

/// The schema of the system tables.
#[derive(Debug)]
struct SystemSchema(PinnedCatalog);

#[async_trait]
impl SchemaProvider for SystemSchema {
    fn table_names(&self) -> Vec<String> {
        system::TABLES.iter().map(|t| (*t).to_owned()).collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        system::table(name, &self.0.manifest, &self.0.view)
    }

    fn table_exist(&self, name: &str) -> bool {
        system::TABLES.contains(&name)
    }
}
