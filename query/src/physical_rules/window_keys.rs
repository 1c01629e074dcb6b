//! Rows of windows are sorted by the keys of their partitions, in plans that may run on several nodes.
//!
//! DataFusion leaves out of a sort what it knows to be sorted already: keys that a filter makes constant, or
//! that equal other ones. A node that runs a part of the plan sees that part alone, and refuses a window
//! whose rows are not visibly sorted by all keys.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::config::ConfigOptions;
use datafusion::physical_expr::PhysicalSortExpr;
use datafusion::physical_expr::window::WindowExpr;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec};
use datafusion::physical_plan::{ExecutionPlanProperties, InputOrderMode};

use super::{Plan, sorted};
use crate::context::QueryContext;

/// The rule; runs after those of DataFusion.
#[derive(Debug)]
pub(super) struct WindowKeys;

impl PhysicalOptimizerRule for WindowKeys {
    fn name(&self) -> &str {
        "window_keys"
    }

    fn optimize(&self, plan: Plan, config: &ConfigOptions) -> Result<Plan> {
        if !config.extensions.get::<QueryContext>().is_some_and(|context| context.distributed) {
            return Ok(plan);
        }
        plan.transform_up(|plan| match Window::of(&plan).filter(|window| !window.is_visibly_sorted()) {
            Some(window) => window.with_sorted_input(&plan).map(Transformed::yes),
            None => Ok(Transformed::no(plan)),
        })
        .data()
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// A plan that computes window functions, all over the same partitions.
struct Window<'a> {
    exprs: &'a [Arc<dyn WindowExpr>],
    input: &'a Plan,
    /// How the rows are sorted by the keys of the partitions, for functions that see a bounded frame.
    bounded: Option<&'a InputOrderMode>,
}

impl<'a> Window<'a> {
    fn of(plan: &'a Plan) -> Option<Self> {
        if let Some(window) = plan.downcast_ref::<BoundedWindowAggExec>() {
            let bounded = Some(&window.input_order_mode);
            return Some(Self { exprs: window.window_expr(), input: window.input(), bounded });
        }
        let window = plan.downcast_ref::<WindowAggExec>()?;
        Some(Self { exprs: window.window_expr(), input: window.input(), bounded: None })
    }

    /// Whether a sort below names the keys by which the rows have to be sorted.
    fn is_visibly_sorted(&self) -> bool {
        let Some(keys) = self.exprs.first().map(|expr| expr.partition_by()) else {
            return true;
        };
        let sorted: Vec<_> = match self.bounded {
            Some(InputOrderMode::Linear) => return true,
            Some(InputOrderMode::PartiallySorted(indices)) => indices.iter().map(|&i| &keys[i]).collect(),
            Some(InputOrderMode::Sorted) | None => keys.iter().collect(),
        };
        let ordering = visible_ordering(self.input);
        let prefix = &ordering[..sorted.len().min(ordering.len())];
        sorted.iter().all(|key| prefix.iter().any(|sort| sort.expr.eq(key)))
    }

    /// The plan over rows that are sorted by all keys, with its rows in the order that they had.
    fn with_sorted_input(&self, plan: &Plan) -> Result<Plan> {
        let Some(first) = self.exprs.first() else {
            return Ok(plan.clone());
        };
        let keys = first.partition_by().iter().cloned().map(PhysicalSortExpr::new_default);
        let input = sorted(self.input.clone(), keys.chain(first.order_by().iter().cloned()));
        let exprs = self.exprs.to_vec();
        let window: Plan = match self.bounded {
            Some(_) => Arc::new(BoundedWindowAggExec::try_new(exprs, input, InputOrderMode::Sorted, true)?),
            None => Arc::new(WindowAggExec::try_new(exprs, input, true)?),
        };
        let order = plan.output_ordering().map(|ordering| ordering.to_vec()).unwrap_or_default();
        Ok(sorted(window, order))
    }
}

/// The keys of the sort below a plan, if nothing but windows is between: they keep the order of their input
/// and the positions of its columns.
fn visible_ordering(plan: &Plan) -> Vec<PhysicalSortExpr> {
    match Window::of(plan) {
        Some(window) => visible_ordering(window.input),
        None => plan.downcast_ref::<SortExec>().map(|sort| sort.expr().to_vec()).unwrap_or_default(),
    }
}
