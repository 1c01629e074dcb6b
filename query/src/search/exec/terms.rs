//! The terms of a column that have a form, with the number of visible rows that have them.

use plexus_index::text::TermForm;
use plexus_model::Result;

use crate::search::remote::protocol::{ShardRequest, Terms};
use crate::search::remote::scatter_gather::scatter_gather;
use crate::search::snapshot::text_fields::TextFields;
use crate::search::snapshot::{SearchSnapshot, blocking};

/// The terms of a field in all segments, each counted where it is.
///
/// # Errors
/// When a segment or its text index cannot be read.
pub(crate) async fn terms_of(
    snapshot: &SearchSnapshot,
    fields: &TextFields,
    field: usize,
    form: &TermForm,
) -> Result<Terms> {
    let request = |_: &[u32]| {
        Some(ShardRequest::Terms { fields: fields.into(), field: field as u32, form: form.clone() })
    };
    let local = |views| local_terms(snapshot, views, fields, field, form);
    let all = 0..snapshot.views.len() as u32;
    let found = scatter_gather(snapshot, all, request, local, |response, _| response.into_terms()).await?;
    Ok(found.into_iter().fold(Terms::new(), add))
}

fn add(mut all: Terms, more: Terms) -> Terms {
    for (term, rows) in more {
        *all.entry(term).or_default() += rows;
    }
    all
}

/// The terms of some segments, read on this node.
///
/// # Errors
/// When a segment or its text index cannot be read.
pub(crate) async fn local_terms(
    snapshot: &SearchSnapshot,
    views: Vec<u32>,
    fields: &TextFields,
    field: usize,
    form: &TermForm,
) -> Result<Terms> {
    let mut all = Terms::new();
    for view in views {
        let view = &snapshot.views[view as usize];
        let index = snapshot.text(view, fields).await?;
        let (invisible, form) = (view.invisible.clone(), form.clone());
        let found = blocking(move || index.terms(field, &form, &invisible)).await?;
        all = add(all, found.into_iter().collect());
    }
    Ok(all)
}
