//! The names that a pinned session sees.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, CatalogProviderList, SchemaProvider, TableProvider};
use datafusion::common::Result;
use plexus_model::{Manifest, TableName};

use crate::CATALOG;
use crate::scan::ScanContext;
use crate::system::{self, ClusterView, SYSTEM_SCHEMA};
use crate::table::PinnedTable;

/// The database at one version of the manifest.
#[derive(Clone, Debug)]
pub struct PinnedCatalog {
    pub manifest: Arc<Manifest>,
    pub view: Arc<ClusterView>,
    pub context: ScanContext,
}

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
        let known = self.manifest.schemas.contains_key(name);
        known.then(|| Arc::new(PinnedSchema { name: name.to_owned(), catalog: self.clone() }) as _)
    }
}

#[derive(Debug)]
struct PinnedSchema {
    name: String,
    catalog: PinnedCatalog,
}

impl PinnedSchema {
    fn find(&self, table: &str) -> Option<Arc<plexus_model::Table>> {
        self.catalog.manifest.table(&TableName::new(&self.name, table)).cloned()
    }
}

#[async_trait]
impl SchemaProvider for PinnedSchema {
    fn table_names(&self) -> Vec<String> {
        let names = self.catalog.manifest.names.keys();
        names.filter(|n| n.schema == self.name).map(|n| n.table.clone()).collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let version = self.catalog.manifest.version;
        Ok(self
            .find(name)
            .map(|table| Arc::new(PinnedTable::new(table, version, self.catalog.context.clone())) as _))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.find(name).is_some()
    }
}

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
