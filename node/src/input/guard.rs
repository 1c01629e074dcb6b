//! Readers of binary formats may panic on damaged files. A panic becomes an error that names the file.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::Once;

use arrow::array::RecordBatch;
use plexus_model::Result;

use super::{Batches, damaged};

thread_local! {
    static IS_GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs a reader. Its panics are errors, and print nothing.
///
/// # Errors
/// `InvalidArgument` when the reader fails or panics.
pub(super) fn guard<T>(path: &Path, read: impl FnOnce() -> Result<T>) -> Result<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let report = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !IS_GUARDED.get() {
                report(info);
            }
        }));
    });
    let was_guarded = IS_GUARDED.replace(true);
    let outcome = panic::catch_unwind(AssertUnwindSafe(read));
    IS_GUARDED.set(was_guarded);
    outcome.unwrap_or_else(|_| Err(damaged(path, "it contradicts itself")))
}

/// Batches that end with an error where their reader panics.
pub(super) fn guard_batches(path: PathBuf, batches: Batches) -> Batches {
    let mut batches = Some(batches);
    Box::new(std::iter::from_fn(move || {
        let reader = batches.as_mut()?;
        let next: Option<Result<RecordBatch>> = guard(&path, || reader.next().transpose()).transpose();
        // A reader is not used again after it failed.
        if !matches!(next, Some(Ok(_))) {
            batches = None;
        }
        next
    }))
}

#[cfg(test)]
mod tests {
    use plexus_model::Error;

    use super::*;

    #[test]
    fn a_panic_is_an_error_that_names_the_file_and_ends_the_rows() {
        let path = Path::new("rows.parquet");
        let error = guard::<()>(path, || panic!("index out of bounds")).unwrap_err();
        assert!(error.message().contains("rows.parquet"), "{error}");
        let mut reads = 0;
        let reader = std::iter::from_fn(move || {
            reads += 1;
            assert!(reads < 2, "damaged");
            Some(Ok(RecordBatch::new_empty(std::sync::Arc::new(arrow_schema::Schema::empty()))))
        });
        let mut batches = guard_batches(path.to_owned(), Box::new(reader));
        assert!(batches.next().unwrap().is_ok());
        let error: Error = batches.next().unwrap().unwrap_err();
        assert!(error.message().contains("rows.parquet"), "{error}");
        assert!(batches.next().is_none());
    }
}
