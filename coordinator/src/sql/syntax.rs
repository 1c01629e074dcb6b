//! Constructors of syntax trees.
//!
//! Rewriting composes trees and never SQL text: the printer of the parser cannot tell a quote from an escaped
//! one, so printed text may mean something else than its tree.

use plexus_query::visit_expressions;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::helpers::attached_token::AttachedToken;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, CaseWhen, CastKind, DataType, Expr, Function, FunctionArg, FunctionArgExpr,
    FunctionArgumentList, FunctionArguments, GroupByExpr, Ident, Join, JoinOperator, ObjectName, Query,
    Select, SelectFlavor, SelectItem, SetExpr, TableAlias, TableAliasColumnDef, TableFactor, TableWithJoins,
    Value, Visit, WildcardAdditionalOptions,
};
use plexus_model::{Error, Result};

/// An identifier that is not case folded.
pub(crate) fn ident(name: impl Into<String>) -> Ident {
    Ident::with_quote('"', name)
}

/// A qualified name with every part quoted, so that no part is case folded.
pub(crate) fn object_name<'a>(parts: impl IntoIterator<Item = &'a str>) -> ObjectName {
    ObjectName::from(parts.into_iter().map(ident).collect::<Vec<_>>())
}

/// A column of the relation that is called `of`.
pub(crate) fn column(of: &Ident, name: &str) -> Expr {
    Expr::CompoundIdentifier(vec![of.clone(), ident(name)])
}

/// A literal that has no position in the text.
pub(crate) fn literal(value: Value) -> Expr {
    Expr::Value(value.with_empty_span())
}

/// `NULL`.
pub(crate) fn null() -> Expr {
    literal(Value::Null)
}

/// A whole number.
pub(crate) fn number(value: i64) -> Expr {
    literal(Value::Number(value.to_string(), false))
}

/// A string literal.
pub(crate) fn text(text: &str) -> Expr {
    literal(Value::SingleQuotedString(text.to_owned()))
}

/// A function call with positional arguments.
pub(crate) fn call(name: &str, args: Vec<Expr>) -> Expr {
    Expr::Function(function(object_name([name]), args))
}

/// The call of a function, as an expression or as a procedure.
pub(crate) fn function(name: ObjectName, args: Vec<Expr>) -> Function {
    let args = args.into_iter().map(|e| FunctionArg::Unnamed(FunctionArgExpr::Expr(e))).collect();
    Function {
        name,
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList {
            duplicate_treatment: None,
            args,
            clauses: vec![],
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: vec![],
    }
}

/// `CAST(expr AS data_type)`.
pub(crate) fn cast(expr: Expr, data_type: DataType) -> Expr {
    Expr::Cast { kind: CastKind::Cast, expr: Box::new(expr), data_type, array: false, format: None }
}

/// Two expressions with an operator between them. Operands are put in parentheses, so that the tree is the
/// same however it is read.
pub(crate) fn binary(left: Expr, op: BinaryOperator, right: Expr) -> Expr {
    Expr::BinaryOp { left: Box::new(nested(left)), op, right: Box::new(nested(right)) }
}

/// An expression in parentheses.
pub(crate) fn nested(expr: Expr) -> Expr {
    match expr {
        Expr::Nested(_) | Expr::Value(_) | Expr::Identifier(_) | Expr::CompoundIdentifier(_) => expr,
        expr => Expr::Nested(Box::new(expr)),
    }
}

/// Most expressions that a rewrite may write twice. Rewrites in each other would double them at each level.
const COPIED_MAX: usize = 20_000;

/// Fails for a part of a statement that is too large to be written twice.
///
/// # Errors
/// `Unsupported` names the part.
pub(crate) fn check_copied(name: &str, part: &impl Visit) -> Result<()> {
    let mut count = 0;
    let counted = visit_expressions(part, &mut |_| {
        count += 1;
        if count > COPIED_MAX { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    match counted {
        ControlFlow::Break(()) => Err(Error::unsupported(format!(
            "{name} with more than {COPIED_MAX} expressions is not supported: pass a list as a parameter, or \
             store rows in a table"
        ))),
        ControlFlow::Continue(()) => Ok(()),
    }
}

/// All conditions together.
///
/// # Panics
/// Without a condition.
pub(crate) fn all(conditions: impl IntoIterator<Item = Expr>) -> Expr {
    let and = |a, b| binary(a, BinaryOperator::And, b);
    conditions.into_iter().reduce(and).expect("there is at least one condition")
}

/// `CASE WHEN condition THEN result ... ELSE otherwise END`.
pub(crate) fn case(branches: impl IntoIterator<Item = (Expr, Expr)>, otherwise: Expr) -> Expr {
    Expr::Case {
        case_token: AttachedToken::empty(),
        end_token: AttachedToken::empty(),
        operand: None,
        conditions: branches.into_iter().map(|(condition, result)| CaseWhen { condition, result }).collect(),
        else_result: Some(Box::new(otherwise)),
    }
}

/// An expression of a select list under a name.
pub(crate) fn item(expr: Expr, name: &str) -> SelectItem {
    SelectItem::ExprWithAlias { expr, alias: ident(name) }
}

/// `*`.
pub(crate) fn wildcard() -> SelectItem {
    SelectItem::Wildcard(WildcardAdditionalOptions::default())
}

/// A table under an alias.
pub(crate) fn table(name: ObjectName, alias: Ident) -> TableFactor {
    TableFactor::Table {
        name,
        alias: Some(alias_of(alias, vec![])),
        args: None,
        with_hints: vec![],
        version: None,
        with_ordinality: false,
        partitions: vec![],
        json_path: None,
        sample: None,
        index_hints: vec![],
    }
}

/// A subquery under an alias, with names for its columns if there are any.
pub(crate) fn derived(query: Query, alias: Ident, columns: Vec<Ident>) -> TableFactor {
    TableFactor::Derived {
        lateral: false,
        subquery: Box::new(query),
        alias: Some(alias_of(alias, columns)),
        sample: None,
    }
}

fn alias_of(name: Ident, columns: Vec<Ident>) -> TableAlias {
    let columns = columns.into_iter().map(|name| TableAliasColumnDef { name, data_type: None }).collect();
    TableAlias { explicit: true, name, columns, at: None }
}

/// A relation without joins.
pub(crate) fn relation(relation: TableFactor) -> TableWithJoins {
    TableWithJoins { relation, joins: vec![] }
}

/// A relation joined with another one.
pub(crate) fn join(left: TableFactor, right: TableFactor, join_operator: JoinOperator) -> TableWithJoins {
    TableWithJoins { relation: left, joins: vec![Join { relation: right, global: false, join_operator }] }
}

/// `SELECT items FROM from WHERE selection`.
pub(crate) fn select(items: Vec<SelectItem>, from: Vec<TableWithJoins>, selection: Option<Expr>) -> Query {
    query(SetExpr::Select(Box::new(Select {
        select_token: AttachedToken::empty(),
        optimizer_hints: vec![],
        distinct: None,
        select_modifiers: None,
        top: None,
        top_before_distinct: false,
        projection: items,
        exclude: None,
        into: None,
        from,
        lateral_views: vec![],
        prewhere: None,
        selection,
        connect_by: vec![],
        group_by: GroupByExpr::Expressions(vec![], vec![]),
        cluster_by: vec![],
        distribute_by: vec![],
        sort_by: vec![],
        having: None,
        named_window: vec![],
        qualify: None,
        window_before_qualify: false,
        value_table_mode: None,
        flavor: SelectFlavor::Standard,
    })))
}

/// A query without clauses around its body.
pub(crate) fn query(body: SetExpr) -> Query {
    Query {
        with: None,
        body: Box::new(body),
        order_by: None,
        limit_clause: None,
        fetch: None,
        locks: vec![],
        for_clause: None,
        settings: None,
        format_clause: None,
        pipe_operators: vec![],
    }
}
