//! The description of a statement.

use std::sync::Arc;

use arrow_schema::{Schema, SchemaRef};
use plexus_model::Version;

/// The description of a statement that has been planned but not run.
#[derive(Clone, Debug)]
pub struct Described {
    /// Schema of the result rows; `None` for statements that return no rows.
    pub schema: Option<SchemaRef>,
    /// One field per parameter, named by its number, starting at 1.
    pub parameters: SchemaRef,
    /// Version of the manifest that the statement was planned against; zero if it was not planned.
    pub version: Version,
}

impl Described {
    /// The description of a statement without result rows and parameters.
    pub(crate) fn without_rows() -> Self {
        Self { schema: None, parameters: Arc::new(Schema::empty()), version: Version(0) }
    }
}
