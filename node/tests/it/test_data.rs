//! Judged collections for relevance tests. They are not part of the project.
//!
//! `PLEXUS_TEST_DATA` names their folder, which is `../shared/data` beside the checkout by default. A test
//! whose data is absent fails, so that nobody takes a missing folder for a passed test.
//! `PLEXUS_TEST_DATA=skip` leaves these tests out: each of them says so on standard error.

use std::path::PathBuf;

const VARIABLE: &str = "PLEXUS_TEST_DATA";
const SKIP: &str = "skip";

/// The folder of a collection, or nothing where these tests are to be skipped.
pub(crate) fn collection(name: &str) -> Option<PathBuf> {
    let named = std::env::var_os(VARIABLE);
    if named.as_deref().is_some_and(|value| value == SKIP) {
        eprintln!("SKIPPED: {VARIABLE}={SKIP}, so the collection {name:?} was NOT tested");
        return None;
    }
    let beside = || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data"));
    let path = named.map_or_else(beside, PathBuf::from).join(name);
    assert!(
        path.join("docs.parquet").exists(),
        "the collection {name:?} is not at {}: set {VARIABLE} to the folder of the collections, or to \
         {SKIP:?} to leave these tests out",
        path.display()
    );
    Some(path)
}
