//! Unnesting: a subquery for all combinations of outer values at once.

use std::sync::Arc;

use arrow_schema::DataType;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, Result, TableReference, not_impl_err};
use datafusion::functions_window::expr_fn::row_number;
use datafusion::logical_expr::expr::Sort as SortExpr;
use datafusion::logical_expr::{
    Aggregate, Distinct, DistinctOn, Expr, ExprFunctionExt, ExprSchemable, FetchType, Join, JoinType,
    LogicalPlan, LogicalPlanBuilder, SkipType, Sort, SubqueryAlias, Union, Window, lit,
};

use super::{Names, join_by, shape::outer_columns, whole_condition};

/// The outer values that a subquery refers to, as columns of its own.
///
/// An unnested plan has the columns of the plan and the *keys*, which say for which outer values a row is.
pub(super) struct Unnesting<'a> {
    /// The outer rows.
    base: &'a LogicalPlan,
    /// The outer columns that the subquery refers to, each with its key.
    keys: Vec<(Column, Column)>,
    names: &'a Names,
}

impl<'a> Unnesting<'a> {
    /// Prepares to unnest a plan that refers to columns of `base`.
    ///
    /// # Errors
    /// `NotImplemented` when `base` may have other rows each time that it is evaluated.
    pub(super) fn new(plan: &LogicalPlan, base: &'a LogicalPlan, names: &'a Names) -> Result<Self> {
        names.check(base)?;
        if !is_repeatable(base)? {
            return not_impl_err!(
                "a subquery that refers to a query with LIMIT, a window, an aggregate of floats or a call \
                 like random(), which may have other rows each time: store its rows in a table"
            );
        }
        let columns = outer_columns(plan)?;
        if let Some(column) = columns.iter().find(|column| !base.schema().has_column(column)) {
            return not_impl_err!(
                "a subquery inside of another one that refers to column {column} outside of both: \
                 write a join"
            );
        }
        let keys = columns.into_iter().map(|column| (column, names.next("outer"))).collect();
        Ok(Self { base, keys, names })
    }

    /// The keys.
    pub(super) fn keys(&self) -> impl Iterator<Item = Expr> + Clone + '_ {
        self.keys.iter().map(|(_, key)| Expr::Column(key.clone()))
    }

    /// Joins outer rows with the rows of an unnested plan that are for their values.
    pub(super) fn join(
        &self,
        outer: LogicalPlan,
        unnested: LogicalPlan,
        join_type: JoinType,
        filter: Option<Expr>,
    ) -> Result<LogicalPlan> {
        join_by(outer, unnested, self.keys.iter().cloned(), filter, join_type)
    }

    /// The rows of a plan for each combination of outer values.
    ///
    /// # Errors
    /// `NotImplemented` names the part of the plan that cannot be unnested.
    pub(super) fn unnest(&self, plan: &LogicalPlan) -> Result<LogicalPlan> {
        if outer_columns(plan)?.is_empty() {
            return LogicalPlanBuilder::from(self.domain(self.key_columns())?)
                .cross_join(plan.clone())?
                .build();
        }
        match plan {
            LogicalPlan::Projection(projection) => {
                let input = self.unnest(&projection.input)?;
                self.project(input, projection.expr.iter().cloned(), &projection.schema)
            }
            LogicalPlan::Filter(filter) => {
                let input = LogicalPlanBuilder::from(self.unnest(&filter.input)?);
                input.filter(self.inside(filter.predicate.clone())?)?.build()
            }
            LogicalPlan::SubqueryAlias(alias) => self.alias(alias),
            LogicalPlan::Sort(Sort { fetch: None, input, .. }) => self.unnest(input),
            LogicalPlan::Sort(Sort { fetch: Some(fetch), .. }) => self.limit(plan, 0, Some(*fetch)),
            LogicalPlan::Limit(limit) => match (limit.get_skip_type()?, limit.get_fetch_type()?) {
                (SkipType::Literal(skip), FetchType::Literal(fetch)) => self.limit(&limit.input, skip, fetch),
                _ => not_impl_err!(
                    "a computed LIMIT in a subquery that refers to the query around it: write a number"
                ),
            },
            LogicalPlan::Distinct(distinct) => self.distinct(distinct),
            LogicalPlan::Aggregate(aggregate) => self.aggregate(aggregate),
            LogicalPlan::Window(window) => self.window(window),
            LogicalPlan::Union(union) => self.union(union),
            LogicalPlan::Join(join) => self.join_inside(join),
            other => not_impl_err!(
                "a subquery that refers to the query around it, with {}: write a join",
                other.display()
            ),
        }
    }

    /// The combinations of outer values, in columns of these names.
    fn domain(&self, names: impl IntoIterator<Item = Column>) -> Result<LogicalPlan> {
        let columns = self.keys.iter().zip(names);
        let values = columns.map(|((outer, _), name)| Expr::Column(outer.clone()).alias(name.name));
        LogicalPlanBuilder::from(self.base.clone()).project(values)?.distinct()?.build()
    }

    fn key_columns(&self) -> impl Iterator<Item = Column> + '_ {
        self.keys.iter().map(|(_, key)| key.clone())
    }

    /// A key by another name for each key.
    fn other_keys(&self) -> Vec<Column> {
        self.keys.iter().map(|_| self.names.next("outer")).collect()
    }

    /// An expression of the subquery, with keys in the place of outer columns.
    fn inside(&self, expr: Expr) -> Result<Expr> {
        expr.transform(|expr| {
            let Expr::OuterReferenceColumn(_, column) = &expr else {
                return Ok(Transformed::no(expr));
            };
            let key = self.keys.iter().find(|(outer, _)| outer == column);
            Ok(match key {
                Some((_, key)) => Transformed::yes(Expr::Column(key.clone())),
                None => Transformed::no(expr),
            })
        })
        .data()
    }

    /// Projects expressions of the subquery to the names in `schema`, and the keys.
    fn project(
        &self,
        input: LogicalPlan,
        exprs: impl IntoIterator<Item = Expr>,
        schema: &DFSchema,
    ) -> Result<LogicalPlan> {
        let named = exprs.into_iter().zip(schema.iter()).map(|(expr, (relation, field))| {
            let column = Column::from((relation, field));
            let expr = self.inside(expr)?;
            Ok(if expr == Expr::Column(column.clone()) { expr } else { named(expr, column) })
        });
        let exprs = named.chain(self.keys().map(Ok)).collect::<Result<Vec<_>>>()?;
        LogicalPlanBuilder::from(input).project(exprs)?.build()
    }

    fn alias(&self, alias: &SubqueryAlias) -> Result<LogicalPlan> {
        let input = LogicalPlanBuilder::from(self.unnest(&alias.input)?).alias(alias.alias.clone())?;
        let keys = self.key_columns().map(|key| qualified(&alias.alias, &key).alias(key.name));
        let columns = alias.schema.columns().into_iter().map(Expr::Column);
        input.project(columns.chain(keys))?.build()
    }

    /// The first rows for each combination of outer values.
    fn limit(&self, plan: &LogicalPlan, skip: usize, fetch: Option<usize>) -> Result<LogicalPlan> {
        let rank = self.names.next("rank");
        let ranked = LogicalPlanBuilder::from(self.ranked(plan, &rank)?);
        let rank = || Expr::Column(rank.clone());
        let after = rank().gt(lit(skip as u64));
        let condition = match fetch {
            Some(fetch) => after.and(rank().lt_eq(lit(skip.saturating_add(fetch) as u64))),
            None => after,
        };
        let columns = plan.schema().columns().into_iter().map(Expr::Column);
        ranked.filter(condition)?.project(columns.chain(self.keys()))?.build()
    }

    /// An unnested plan, with the rank of each row among those for the same outer values.
    fn ranked(&self, plan: &LogicalPlan, rank: &Column) -> Result<LogicalPlan> {
        let (input, order): (_, &[SortExpr]) = match plan {
            LogicalPlan::Projection(projection) => {
                let input = self.ranked(&projection.input, rank)?;
                let own = projection.expr.iter().cloned().zip(projection.schema.iter());
                let own = own.map(|(expr, (relation, field))| {
                    Ok(named(self.inside(expr)?, Column::from((relation, field))))
                });
                let rest = self.keys().chain([Expr::Column(rank.clone())]).map(Ok);
                let exprs = own.chain(rest).collect::<Result<Vec<_>>>()?;
                return LogicalPlanBuilder::from(input).project(exprs)?.build();
            }
            LogicalPlan::Sort(sort) => (self.unnest(&sort.input)?, &sort.expr),
            LogicalPlan::Distinct(Distinct::On(on)) if on.sort_expr.is_some() => {
                return not_impl_err!(
                    "DISTINCT ON with LIMIT in a subquery that refers to the query around it: write a join"
                );
            }
            other => (self.unnest(other)?, &[]),
        };
        let order = order.iter().map(|sort| Ok(sort.with_expr(self.inside(sort.expr.clone())?)));
        let order = order.collect::<Result<Vec<_>>>()?;
        let number = row_number().partition_by(self.keys().collect());
        let number = if order.is_empty() { number } else { number.order_by(order) }.build()?;
        LogicalPlanBuilder::from(input).window([number.alias(&rank.name)])?.build()
    }

    fn distinct(&self, distinct: &Distinct) -> Result<LogicalPlan> {
        let DistinctOn { on_expr, select_expr, sort_expr, input, schema } = match distinct {
            Distinct::All(input) => return LogicalPlanBuilder::from(self.unnest(input)?).distinct()?.build(),
            Distinct::On(on) => on,
        };
        let all_inside = |exprs: &[Expr]| -> Result<Vec<Expr>> {
            self.keys().map(Ok).chain(exprs.iter().map(|expr| self.inside(expr.clone()))).collect()
        };
        let order = sort_expr.as_ref().map(|order| {
            let keys = self.keys().map(|key| Ok(key.sort(true, false)));
            let own = order.iter().map(|sort| Ok(sort.with_expr(self.inside(sort.expr.clone())?)));
            keys.chain(own).collect::<Result<Vec<_>>>()
        });
        let (on, selected) = (all_inside(on_expr)?, all_inside(select_expr)?);
        let unnested = self.unnest(input)?;
        let distinct =
            LogicalPlanBuilder::from(unnested).distinct_on(on, selected, order.transpose()?)?.build()?;
        let own = distinct.schema().columns().into_iter().skip(self.keys.len()).map(Expr::Column);
        self.project(distinct.clone(), own.collect::<Vec<_>>(), schema)
    }

    /// The groups of each combination of outer values. An aggregate without groups has a row for each
    /// combination, also if there is nothing to aggregate.
    fn aggregate(&self, aggregate: &Aggregate) -> Result<LogicalPlan> {
        if aggregate.group_expr.iter().any(|expr| matches!(expr, Expr::GroupingSet(_))) {
            return not_impl_err!(
                "GROUPING SETS, ROLLUP or CUBE in a subquery that refers to the query around it: write a join"
            );
        }
        let input = self.unnest(&aggregate.input)?;
        let (input, keys, is_row) = match aggregate.group_expr.as_slice() {
            [] => {
                let (keys, is_row) = (self.other_keys(), self.names.next("row"));
                let columns = input.schema().columns().into_iter().map(Expr::Column);
                let marked = columns.chain([lit(true).alias(&is_row.name)]).collect::<Vec<_>>();
                let rows = LogicalPlanBuilder::from(input).project(marked)?.build()?;
                let on = keys.iter().cloned().zip(self.key_columns());
                let input = join_by(self.domain(keys.clone())?, rows, on, None, JoinType::Left)?;
                (input, keys, Some(Expr::Column(is_row).is_not_null()))
            }
            _ => (input, self.key_columns().collect(), None),
        };
        let mut groups: Vec<Expr> = keys.into_iter().map(Expr::Column).collect();
        // Where each of the keys and of its own groups is: an outer column is a key already.
        let mut positions: Vec<usize> = (0..groups.len()).collect();
        for expr in &aggregate.group_expr {
            let group = self.inside(expr.clone())?;
            let known = groups.iter().position(|known| *known == group);
            positions.push(known.unwrap_or(groups.len()));
            if known.is_none() {
                groups.push(group);
            }
        }
        positions.extend(groups.len()..groups.len() + aggregate.aggr_expr.len());
        let values =
            aggregate.aggr_expr.iter().map(|expr| of_rows(self.inside(expr.clone())?, is_row.as_ref()));
        let values = values.collect::<Result<Vec<_>>>()?;
        let grouped = LogicalPlan::Aggregate(Aggregate::try_new(Arc::new(input), groups, values)?);
        let columns = grouped.schema().columns();
        let names = self.key_columns().chain(aggregate.schema.columns());
        let exprs = positions.into_iter().zip(names);
        let exprs = exprs.map(|(position, name)| named(Expr::Column(columns[position].clone()), name));
        LogicalPlanBuilder::from(grouped).project(exprs.collect::<Vec<_>>())?.build()
    }

    fn window(&self, window: &Window) -> Result<LogicalPlan> {
        let input = self.unnest(&window.input)?;
        let exprs = window.window_expr.iter().map(|expr| {
            let apart = self.inside(expr.clone())?.transform(|expr| match expr {
                Expr::WindowFunction(mut function) => {
                    function.params.partition_by.extend(self.keys());
                    Ok(Transformed::yes(Expr::WindowFunction(function)))
                }
                expr => Ok(Transformed::no(expr)),
            });
            apart.data()
        });
        let exprs = exprs.collect::<Result<Vec<_>>>()?;
        let before = input.schema().fields().len();
        let computed = LogicalPlan::Window(Window::try_new(exprs, Arc::new(input))?);
        let values = computed.schema().columns().into_iter().skip(before);
        let columns = window.input.schema().columns().into_iter().chain(values).map(Expr::Column);
        self.project(computed.clone(), columns.collect::<Vec<_>>(), &window.schema)
    }

    fn union(&self, union: &Union) -> Result<LogicalPlan> {
        let inputs = union.inputs.iter().map(|input| {
            let columns = input.schema().columns().into_iter().zip(union.schema.fields());
            let columns = columns.map(|(column, field)| Expr::Column(column).alias(field.name()));
            let exprs = columns.chain(self.keys()).collect::<Vec<_>>();
            LogicalPlanBuilder::from(self.unnest(input)?).project(exprs)?.build().map(Arc::new)
        });
        let all = LogicalPlan::Union(Union::try_new_with_loose_types(inputs.collect::<Result<Vec<_>>>()?)?);
        let columns: Vec<_> = all.schema().columns().into_iter().map(Expr::Column).collect();
        self.project(all, columns, &union.schema)
    }

    /// A join inside of the subquery. The side whose rows all count carries the keys.
    fn join_inside(&self, join: &Join) -> Result<LogicalPlan> {
        use JoinType::{Inner, Left, LeftAnti, LeftMark, LeftSemi, Right, RightAnti, RightMark, RightSemi};
        let (left, right, join_type) = match join.join_type {
            Inner | Left | LeftSemi | LeftAnti | LeftMark => (&join.left, &join.right, join.join_type),
            Right | RightSemi | RightAnti | RightMark => (&join.right, &join.left, join.join_type.swap()),
            other => {
                return not_impl_err!(
                    "a {other} JOIN in a subquery that refers to the query around it: write a join"
                );
            }
        };
        let condition = whole_condition(join).map(|condition| self.inside(condition)).transpose()?;
        if outer_columns(right)?.is_empty() {
            let left = self.unnest(left)?;
            return join_by(left, right.as_ref().clone(), [], condition, join_type);
        }
        let other_keys = self.other_keys();
        let renamed = self.keys().zip(&other_keys).map(|(key, other)| key.alias(&other.name));
        let columns = right.schema().columns().into_iter().map(Expr::Column);
        let exprs = columns.chain(renamed).collect::<Vec<_>>();
        let right = LogicalPlanBuilder::from(self.unnest(right)?).project(exprs)?.build()?;
        let on = self.key_columns().zip(other_keys);
        let joined = join_by(self.unnest(left)?, right, on, condition, join_type)?;
        let columns = join.schema.columns().into_iter().map(Expr::Column);
        LogicalPlanBuilder::from(joined).project(columns.chain(self.keys()))?.build()
    }
}

/// An expression by the name of a column.
fn named(expr: Expr, column: Column) -> Expr {
    expr.alias_qualified(column.relation, column.name)
}

fn qualified(relation: &TableReference, key: &Column) -> Expr {
    Expr::Column(Column::new(Some(relation.clone()), &key.name))
}

/// An aggregate of the rows for which a condition holds.
fn of_rows(expr: Expr, condition: Option<&Expr>) -> Result<Expr> {
    let Some(condition) = condition else {
        return Ok(expr);
    };
    expr.transform(|expr| match expr {
        Expr::AggregateFunction(mut function) => {
            let filter = match function.params.filter.take() {
                Some(filter) => condition.clone().and(*filter),
                None => condition.clone(),
            };
            function.params.filter = Some(Box::new(filter));
            Ok(Transformed::yes(Expr::AggregateFunction(function)))
        }
        expr => Ok(Transformed::no(expr)),
    })
    .data()
}

/// Whether a plan has the same rows each time that it is evaluated, also by several threads.
fn is_repeatable(plan: &LogicalPlan) -> Result<bool> {
    let mut is_repeatable = true;
    plan.apply_with_subqueries(|node| {
        is_repeatable &= match node {
            LogicalPlan::Limit(_) | LogicalPlan::Window(_) | LogicalPlan::Distinct(Distinct::On(_)) => false,
            LogicalPlan::Sort(sort) => sort.fetch.is_none(),
            LogicalPlan::Aggregate(aggregate) => {
                let schema = aggregate.input.schema();
                aggregate.aggr_expr.iter().all(|expr| !depends_on_order(expr, schema))
            }
            _ => !node.expressions().iter().any(Expr::is_volatile),
        };
        Ok(if is_repeatable { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    })?;
    Ok(is_repeatable)
}

/// Whether an aggregate may have another value for the same rows in another order.
fn depends_on_order(aggregate: &Expr, schema: &DFSchema) -> bool {
    aggregate
        .exists(|expr| {
            let Expr::AggregateFunction(function) = expr else {
                return Ok(false);
            };
            let has = |is_inexact: fn(&DataType) -> bool| {
                let mut args = function.params.args.iter();
                args.any(|arg| arg.get_type(schema).is_ok_and(|data_type| is_inexact(&data_type)))
            };
            Ok(match function.func.name() {
                "count" | "min" | "max" | "$single_row" | "bool_and" | "bool_or" | "bit_and" | "bit_or" => {
                    false
                }
                "sum" => has(DataType::is_floating),
                // Decimals are averaged as doubles.
                "avg" => has(DataType::is_floating) || has(DataType::is_decimal),
                _ => true,
            })
        })
        .unwrap_or(true)
}
