//! Conditions that combine full-text matches with each other and with predicates: `text_match(...) OR
//! text_match(...)`, `NOT text_match(...)`. Each part selects rows, and the parts are combined as sets, so
//! that no text is read.

use std::sync::Arc;

use datafusion::catalog::Session;
use datafusion::common::{DFSchema, DataFusionError, Result};
use datafusion::logical_expr::utils::disjunction;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator, not};
use futures::FutureExt;
use futures::future::BoxFuture;
use plexus_model::{RowSelection, RowSet};

use crate::analysis::fallible::can_fail;
use crate::context::external;
use crate::search::exec::report::note_retriever;
use crate::search::exec::retriever::Retriever;
use crate::search::exec::search::select_rows;
use crate::search::exec::text_binding::TextBinding;
use crate::search::params::SearchParams;
use crate::search::snapshot::SearchSnapshot;
use crate::search::snapshot::selections::RowSelections;
use crate::search::sql::binding::text_call;
use crate::search::sql::rule::{depends_on_row_only, matching};

/// A condition over the columns of a table.
#[derive(Clone, Debug)]
pub(super) enum TextCondition {
    /// Rows that match.
    Matches(Arc<TextBinding>),
    /// Rows that have a text, which a predicate says, but do not match.
    NoMatch(Arc<TextBinding>, Expr),
    /// Rows for which a predicate is true.
    Rows(Expr),
    All(Vec<TextCondition>),
    Any(Vec<TextCondition>),
}

impl TextCondition {
    /// The condition that an expression is, if it has a full-text match in it and each part can be evaluated
    /// for all rows: what may fail is left where it stands, behind the parts that decide before it.
    ///
    /// `binding` knows the query of a match over columns of the table with `schema`.
    pub(super) fn of(
        binding: &dyn Fn(&Expr) -> Option<Arc<TextBinding>>,
        schema: &DFSchema,
        expr: &Expr,
    ) -> Option<Self> {
        has_text_call(expr).then(|| Self::part(binding, schema, expr, false)).flatten()
    }

    /// The condition that an expression is true, or false if it is `negated`.
    fn part(
        binding: &dyn Fn(&Expr) -> Option<Arc<TextBinding>>,
        schema: &DFSchema,
        expr: &Expr,
        negated: bool,
    ) -> Option<Self> {
        match expr {
            Expr::Alias(alias) => Self::part(binding, schema, &alias.expr, negated),
            Expr::Not(inner) => Self::part(binding, schema, inner, !negated),
            Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::And | Operator::Or), right }) => {
                let parts = [left, right].map(|side| Self::part(binding, schema, side, negated));
                let parts = parts.into_iter().collect::<Option<Vec<_>>>()?;
                // Not both is either not.
                Some(if (*op == Operator::And) == negated { Self::Any(parts) } else { Self::All(parts) })
            }
            expr if text_call(expr).is_some() => {
                let binding = binding(expr)?;
                let (_, columns) = text_call(expr)?.1.split_last()?;
                let has_text = disjunction(columns.iter().cloned().map(Expr::is_not_null))?;
                Some(if negated { Self::NoMatch(binding, has_text) } else { Self::Matches(binding) })
            }
            expr if depends_on_row_only(expr) && !can_fail(expr, schema) => {
                Some(Self::Rows(if negated { not(expr.clone()) } else { expr.clone() }))
            }
            _ => None,
        }
    }

    /// The rows of each segment for which it is true.
    ///
    /// # Errors
    /// When a segment or an index cannot be read.
    pub(super) fn rows<'a>(
        &'a self,
        snapshot: &'a SearchSnapshot,
        state: &'a dyn Session,
    ) -> BoxFuture<'a, Result<Vec<RowSet>>> {
        async move {
            match self {
                Self::Matches(binding) => matches(snapshot, binding, state).await,
                Self::NoMatch(binding, has_text) => {
                    let filter = std::slice::from_ref(has_text);
                    let mut rows = sets(snapshot, &select_rows(snapshot, state, filter).await?);
                    let found = matches(snapshot, binding, state).await?;
                    rows.iter_mut().zip(&found).for_each(|(rows, found)| *rows -= found);
                    Ok(rows)
                }
                Self::Rows(filter) => {
                    let selected = select_rows(snapshot, state, std::slice::from_ref(filter)).await?;
                    Ok(sets(snapshot, &selected))
                }
                Self::All(parts) => combined(snapshot, state, parts, |rows, others| *rows &= others).await,
                Self::Any(parts) => combined(snapshot, state, parts, |rows, others| *rows |= others).await,
            }
        }
        .boxed()
    }
}

/// Whether there is a full-text function in an expression.
pub(crate) fn has_text_call(expr: &Expr) -> bool {
    use datafusion::common::tree_node::TreeNode;
    expr.exists(|part| Ok(text_call(part).is_some())).unwrap_or(false)
}

/// The rows of parts, combined one after the other.
async fn combined(
    snapshot: &SearchSnapshot,
    state: &dyn Session,
    parts: &[TextCondition],
    combine: impl Fn(&mut RowSet, &RowSet),
) -> Result<Vec<RowSet>> {
    let mut found: Option<Vec<RowSet>> = None;
    for part in parts {
        let rows = part.rows(snapshot, state).await?;
        match &mut found {
            Some(found) => found.iter_mut().zip(&rows).for_each(|(found, rows)| combine(found, rows)),
            None => found = Some(rows),
        }
    }
    Ok(found.unwrap_or_default())
}

/// The visible rows that match a full-text query.
async fn matches(
    snapshot: &SearchSnapshot,
    binding: &TextBinding,
    state: &dyn Session,
) -> Result<Vec<RowSet>, DataFusionError> {
    let retriever = Retriever::Text { fields: binding.fields.clone(), query: binding.query.clone() };
    let all = RowSelections::all(snapshot);
    note_retriever(state, snapshot, &retriever, &all, 0, SearchParams::of(state));
    let found = matching(snapshot, binding, all).await.map_err(external)?;
    Ok(sets(snapshot, &found))
}

/// The selected rows of each segment.
pub(super) fn sets(snapshot: &SearchSnapshot, selections: &RowSelections) -> Vec<RowSet> {
    let of_view = |(at, rows): (usize, u64)| match selections.get(at) {
        RowSelection::Only(rows) => (**rows).clone(),
        RowSelection::AllExcept(invisible) => {
            let mut all = RowSet::new();
            all.insert_range(0..rows as u32);
            all - &**invisible
        }
    };
    snapshot.views.iter().map(|view| view.segment.rows).enumerate().map(of_view).collect()
}
