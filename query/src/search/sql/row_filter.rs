//! The argument `filter` of a search: a condition over the columns of its table.

use std::sync::Arc;

use arrow_schema::DataType;
use datafusion::catalog::Session;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{DFSchema, DataFusionError, Result, plan_err};
use datafusion::execution::SessionState;
use datafusion::logical_expr::utils::split_conjunction_owned;
use datafusion::logical_expr::{Expr, ExprSchemable, ScalarUDF};
use plexus_model::{Error, Table, cut};

use crate::analysis::session_zone;
use crate::context::{external, plan_condition, simplify};
use crate::plain_errors::plain;
use crate::search::exec::search::select_rows;
use crate::search::exec::text_binding::Bindings;
use crate::search::snapshot::SearchSnapshot;
use crate::search::snapshot::selections::RowSelections;
use crate::search::sql::binding::{text_call, with_choice};
use crate::search::sql::scalar_functions::TextFunction;
use crate::search::sql::text_conditions::{TextCondition, has_text_call};

/// A filter in its parts, of which all have to be true.
pub(super) struct RowFilter {
    /// Predicates without full-text matches.
    predicates: Vec<Expr>,
    /// Conditions with them.
    conditions: Vec<TextCondition>,
}

impl RowFilter {
    /// Parses a filter over the columns of a table.
    ///
    /// # Errors
    /// `InvalidArgument` when it is not a deterministic condition over the columns, or has a full-text
    /// function in a place where it does not select rows.
    pub(super) fn parse(state: &dyn Session, table: &Table, sql: &str) -> Result<Self> {
        let Some(state) = state.as_any().downcast_ref::<SessionState>() else {
            return plan_err!("a filter cannot be planned in this session");
        };
        let invalid = |what: &str| external(Error::invalid(format!("filter {:?}{what}", cut(sql, 200))));
        let fail = |e: DataFusionError| invalid(&format!(": {}", plain(&e)));
        let schema = DFSchema::try_from(plexus_storage::types::to_arrow(&table.schema))?;
        let zone = session_zone::zone_of(state.config_options());
        let in_zone = session_zone::schema_in_zone(&schema, zone)?;
        let expr = plan_condition(sql, &in_zone, state).map_err(fail)?;
        let expr = session_zone::read_in_zone(expr, &schema, zone)?;
        let expr = simplify(expr, schema.clone(), state).map_err(fail)?;
        if expr.get_type(&schema).map_err(fail)? != DataType::Boolean {
            return Err(invalid(" is not true or false"));
        }
        let bindings = Bindings::default();
        let expr = bound(expr, table, &bindings)?;
        if expr.is_volatile() {
            return Err(invalid(" is not deterministic"));
        }
        let mut filter = Self { predicates: vec![], conditions: vec![] };
        for part in split_conjunction_owned(expr) {
            if !has_text_call(&part) {
                filter.predicates.push(part);
                continue;
            }
            let binding =
                |expr: &Expr| text_call(expr).filter(|(function, _)| !function.scores)?.0.binding.clone();
            let condition = TextCondition::of(&binding, &schema, &part);
            filter.conditions.push(condition.ok_or_else(|| {
                invalid(
                    ": text_match stands alone, or with AND, OR, NOT and conditions that cannot fail; \
                     bm25_score does not filter",
                )
            })?);
        }
        Ok(filter)
    }

    /// The rows for which it is true.
    ///
    /// # Errors
    /// When it cannot be evaluated, or a segment or an index cannot be read.
    pub(super) async fn select(
        &self,
        snapshot: &SearchSnapshot,
        state: &dyn Session,
    ) -> Result<RowSelections> {
        let mut selections = select_rows(snapshot, state, &self.predicates).await?;
        for condition in &self.conditions {
            selections = selections.within(condition.rows(snapshot, state).await?);
        }
        Ok(selections)
    }
}

/// An expression with its full-text functions bound to the columns that they name.
fn bound(expr: Expr, table: &Table, bindings: &Bindings) -> Result<Expr> {
    expr.transform_up(|expr| {
        let Some((function, args)) = text_call(&expr) else {
            return Ok(Transformed::no(expr));
        };
        let (args, choice) = with_choice(function, args)?;
        let names = args.iter().filter_map(|arg| match arg {
            Expr::Column(column) => Some(column.name.clone()),
            _ => None,
        });
        let names: Vec<String> = names.collect();
        let text = args.last().and_then(Expr::as_literal).and_then(|query| query.try_as_str().flatten());
        let Some(text) = text.filter(|_| names.len() + 1 == args.len()) else {
            return Ok(Transformed::no(expr));
        };
        let binding = bindings.bind(table, &names, text, choice).map_err(external)?;
        let function = ScalarUDF::from(TextFunction::new(function.scores, Some(binding)));
        Ok(Transformed::yes(Arc::new(function).call(args.to_vec())))
    })
    .data()
}
