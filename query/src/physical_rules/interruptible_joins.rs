//! Makes joins yield to other work, and end when their query is interrupted.
//!
//! The engine makes leaves cooperative: they pause after some batches. A join may make many batches of one
//! batch of a leaf, or compare millions of rows for it and find none.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DataFusionError, Result};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::ScalarUDF;
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::joins::utils::JoinFilter;
use datafusion::physical_plan::joins::{
    CrossJoinExec, HashJoinExec, HashJoinExecBuilder, NestedLoopJoinExec, NestedLoopJoinExecBuilder,
    SortMergeJoinExec,
};
use datafusion::physical_plan::unnest::UnnestExec;

use crate::interrupts::{Interruptible, Interrupts};
use crate::physical_rules::Plan;

/// The rule.
#[derive(Debug)]
pub(crate) struct InterruptibleJoins {
    function: Arc<ScalarUDF>,
}

impl InterruptibleJoins {
    pub(crate) fn new(interrupts: Arc<Interrupts>) -> Self {
        Self { function: Arc::new(Interruptible::new(interrupts).into()) }
    }

    fn filter(&self, filter: &JoinFilter, config: &ConfigOptions) -> Result<JoinFilter> {
        let condition = filter.expression().clone();
        let field = condition.return_field(filter.schema())?;
        let checked: Arc<dyn PhysicalExpr> = Arc::new(ScalarFunctionExpr::new(
            Interruptible::NAME,
            self.function.clone(),
            vec![condition],
            field,
            Arc::new(config.clone()),
        ));
        Ok(JoinFilter::new(checked, filter.column_indices().to_vec(), filter.schema().clone()))
    }

    /// A join with its condition wrapped; `None` for other plans.
    fn join(&self, plan: &Plan, config: &ConfigOptions) -> Result<Option<Plan>> {
        let wrapped = |filter: Option<&JoinFilter>| filter.map(|f| self.filter(f, config)).transpose();
        if let Some(join) = plan.downcast_ref::<NestedLoopJoinExec>() {
            let filter = wrapped(join.filter())?;
            let join = NestedLoopJoinExecBuilder::from(join).with_filter(filter).build()?;
            return Ok(Some(Arc::new(join)));
        }
        if let Some(join) = plan.downcast_ref::<HashJoinExec>() {
            let Some(filter) = wrapped(join.filter())? else {
                return Ok(Some(plan.clone()));
            };
            return HashJoinExecBuilder::from(join).with_filter(Some(filter)).build_exec().map(Some);
        }
        if let Some(join) = plan.downcast_ref::<SortMergeJoinExec>() {
            let Some(filter) = wrapped(join.filter().as_ref())? else {
                return Ok(Some(plan.clone()));
            };
            let (left, right) = (join.left().clone(), join.right().clone());
            let (on, options) = (join.on().to_vec(), join.sort_options().to_vec());
            let kind = join.join_type();
            let join = SortMergeJoinExec::try_new(
                left,
                right,
                on,
                Some(filter),
                kind,
                options,
                join.null_equality(),
            )?;
            return Ok(Some(Arc::new(join)));
        }
        let is_other = plan.is::<CrossJoinExec>() || plan.is::<UnnestExec>();
        Ok(is_other.then(|| plan.clone()))
    }
}

impl PhysicalOptimizerRule for InterruptibleJoins {
    fn optimize(&self, plan: Plan, config: &ConfigOptions) -> Result<Plan> {
        let plan = plan.transform_up(|plan| match self.join(&plan, config)? {
            Some(join) => {
                Ok::<_, DataFusionError>(Transformed::yes(Arc::new(CooperativeExec::new(join)) as _))
            }
            None => Ok(Transformed::no(plan)),
        })?;
        Ok(plan.data)
    }

    fn name(&self) -> &str {
        "interruptible_joins"
    }

    fn schema_check(&self) -> bool {
        true
    }
}
