//! The functions of a session, also where an operator stands for one: the planner makes the engine's own
//! functions of `list @> list`, `list || list` and `[a, b]`, not those that took their place.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result};
use datafusion::config::ConfigOptions;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, LogicalPlan, ScalarUDF};
use datafusion::optimizer::AnalyzerRule;

use crate::analysis::concatenations::CONCATENATE;
use crate::analysis::{plan_has_expression, rewrite_expressions};

/// Functions that operators stand for.
const FUNCTIONS: [&str; 9] = [
    CONCATENATE,
    "array_append",
    "array_concat",
    "array_has",
    "array_has_all",
    "array_has_any",
    "array_prepend",
    "make_array",
    "map_extract",
];

/// Puts them in the place of those of the engine.
#[derive(Clone, Debug, Default)]
pub(crate) struct RegisteredFunctions(Arc<OnceLock<HashMap<String, Arc<ScalarUDF>>>>);

impl RegisteredFunctions {
    /// Notes the functions of a session, once.
    pub(crate) fn note(&self, state: &SessionState) {
        let registered = FUNCTIONS
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), state.scalar_functions().get(*name)?.clone())));
        let _ = self.0.set(registered.collect());
    }

    /// The function of the session with a name, which is one that an operator stands for.
    pub(crate) fn get(&self, name: &str) -> Option<&Arc<ScalarUDF>> {
        self.0.get()?.get(name)
    }

    /// The function that takes the place of one that is called.
    fn other<'a>(&'a self, expr: &Expr) -> Option<&'a Arc<ScalarUDF>> {
        let Expr::ScalarFunction(call) = expr else {
            return None;
        };
        let registered = self.get(call.name())?;
        (!Arc::ptr_eq(registered, &call.func)).then_some(registered)
    }
}

impl AnalyzerRule for RegisteredFunctions {
    fn name(&self) -> &str {
        "registered_functions"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        if !plan_has_expression(&plan, |expr| self.other(expr).is_some())? {
            return Ok(plan);
        }
        let rewrite = |expr: Expr, _: &DFSchema| {
            let Some(registered) = self.other(&expr).cloned() else {
                return Ok(Transformed::no(expr));
            };
            match expr {
                Expr::ScalarFunction(call) => Ok(Transformed::yes(registered.call(call.args))),
                other => Ok(Transformed::no(other)),
            }
        };
        rewrite_expressions(plan, &rewrite, &|plan| Ok(Transformed::no(plan)))
    }
}
