//! Names of the columns of a result: as the user wrote them, and as often as they were written.
//!
//! The engine names an expression by its plan (`sum(t.x)`) and does not accept a name twice. So repeated
//! columns of a select list get hidden suffixes before the statement is planned, and the columns of the
//! result get their names back afterwards.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use arrow_schema::{Field, Schema, SchemaRef};
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    self, Expr, GroupByExpr, Ident, ObjectNamePart, OrderByKind, Query, Select, SelectItem, SetExpr,
    SetQuantifier, VisitorMut,
};
use plexus_model::cut;

use crate::sql::columns::replace_unqualified;
use crate::sql::names::{name_of, unqualified};
use crate::sql::syntax;
use plexus_query::{visit_expressions, visit_mut};

/// Starts a hidden suffix. No name has a control character.
pub(crate) const SUFFIX: char = '\u{1}';

/// Longest name of a column that is named by its expression, in bytes.
const NAME_BYTES_MAX: usize = 200;

/// What the columns of a result are called.
#[derive(Clone, Default, Debug)]
pub(crate) struct ResultNames {
    /// The first columns; `None` keeps the name that the engine gives.
    front: Vec<Option<String>>,
    /// The columns behind the last wildcard; `None` if there is none.
    back: Option<Vec<Option<String>>>,
}

impl ResultNames {
    /// The names in the select list of a query.
    pub(crate) fn of(query: &Query) -> Self {
        let Some(select) = first_select(&query.body) else {
            return Self::default();
        };
        let is_wildcard =
            |item: &SelectItem| matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..));
        let items = &select.projection;
        let names = |items: &[SelectItem]| items.iter().map(written_name).collect();
        match items.iter().position(is_wildcard) {
            None => Self { front: names(items), back: None },
            Some(first) => {
                let last = items.iter().rposition(is_wildcard).unwrap_or(first);
                Self { front: names(&items[..first]), back: Some(names(&items[last + 1..])) }
            }
        }
    }

    /// The names of a statement that is a query.
    pub(crate) fn of_statement(statement: &Statement) -> Self {
        match statement {
            Statement::Statement(statement) => match statement.as_ref() {
                ast::Statement::Query(query) => Self::of(query),
                _ => Self::default(),
            },
            _ => Self::default(),
        }
    }

    /// A schema with these names.
    pub(crate) fn apply(&self, schema: &Schema) -> SchemaRef {
        let count = schema.fields().len();
        let back = self.back.as_deref().unwrap_or_default();
        let fits = match self.back {
            None => self.front.len() == count,
            Some(_) => self.front.len() + back.len() <= count,
        };
        let name = |(index, field): (usize, &Arc<Field>)| -> Field {
            let written = match index.checked_sub(count - back.len().min(count)) {
                _ if !fits => None,
                Some(behind) => back[behind].as_ref(),
                None => self.front.get(index).and_then(Option::as_ref),
            };
            let name = match written {
                Some(name) => name,
                None => field.name().split(SUFFIX).next().unwrap_or_default(),
            };
            field.as_ref().clone().with_name(name)
        };
        let fields: Vec<Field> = schema.fields().iter().enumerate().map(name).collect();
        Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
    }
}

/// The select list that names the columns of a query.
fn first_select(body: &SetExpr) -> Option<&Select> {
    match body {
        SetExpr::Select(select) => Some(select),
        SetExpr::Query(query) => first_select(&query.body),
        SetExpr::SetOperation { left, .. } => first_select(left),
        _ => None,
    }
}

/// The names of the columns of a query, if it lists them.
pub(crate) fn output_names(body: &SetExpr) -> Option<Vec<String>> {
    let items = &first_select(body)?.projection;
    let name = |item: &SelectItem| match item {
        SelectItem::UnnamedExpr(expr) => Some(column_name(expr)),
        SelectItem::ExprWithAlias { alias, .. } => Some(name_of(alias)),
        _ => None,
    };
    items.iter().map(name).collect()
}

/// The name of a column as it is written; `None` where the engine gives the same.
fn written_name(item: &SelectItem) -> Option<String> {
    match item {
        SelectItem::UnnamedExpr(Expr::Identifier(_) | Expr::CompoundIdentifier(_)) => None,
        SelectItem::UnnamedExpr(expr) => Some(expression_name(expr)),
        _ => None,
    }
}

/// An expression as a name. Names of functions are in lower case.
fn expression_name(expr: &Expr) -> String {
    struct FoldFunctions;

    impl VisitorMut for FoldFunctions {
        type Break = ();

        fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
            if let Expr::Function(function) = expr {
                for part in &mut function.name.0 {
                    if let ObjectNamePart::Identifier(ident) = part
                        && ident.quote_style.is_none()
                    {
                        *ident = Ident::new(name_of(ident));
                    }
                }
            }
            ControlFlow::Continue(())
        }
    }

    let mut expr = expr.clone();
    let _: ControlFlow<()> = visit_mut(&mut expr, &mut FoldFunctions);
    cut(&expr.to_string(), NAME_BYTES_MAX)
}

/// Gives repeated columns of the select lists of a query hidden suffixes, and of the query of an insert.
pub(crate) fn tell_apart(statement: &mut Statement) {
    let Statement::Statement(statement) = statement else {
        return;
    };
    match statement.as_mut() {
        ast::Statement::Query(query) => {
            tell_apart_in(&mut query.body);
            tell_apart_from_order(query);
        }
        ast::Statement::Insert(insert) => {
            if let Some(source) = &mut insert.source {
                tell_apart_in(&mut source.body);
            }
        }
        _ => {}
    }
}

/// Gives computed columns hidden suffixes that have the name of a column of a table by which the rows are
/// ordered: `SELECT upper(name) AS name FROM t ORDER BY t.name`. The engine selects that column as well.
fn tell_apart_from_order(query: &mut Query) {
    let (SetExpr::Select(select), Some(ast::OrderBy { kind: OrderByKind::Expressions(keys), .. })) =
        (query.body.as_mut(), &mut query.order_by)
    else {
        return;
    };
    // Other clauses may refer to the column by its name.
    let is_grouped = !matches!(&select.group_by, GroupByExpr::Expressions(groups, _) if groups.is_empty());
    if is_grouped || select.having.is_some() || select.qualify.is_some() || select.distinct.is_some() {
        return;
    }
    let mut ordered = HashSet::new();
    let _: ControlFlow<()> = visit_expressions(keys, &mut |expr| {
        if let Expr::CompoundIdentifier(parts) = expr {
            ordered.extend(parts.last().map(name_of));
        }
        ControlFlow::Continue(())
    });
    for (index, item) in select.projection.iter_mut().enumerate() {
        let SelectItem::ExprWithAlias { expr, alias } = item else {
            continue;
        };
        let name = name_of(alias);
        if is_column(expr) || !ordered.contains(&name) {
            continue;
        }
        *alias = Ident::with_quote('"', format!("{name}{SUFFIX}{index}"));
        replace_unqualified(keys, |column| {
            (name_of(column) == name).then(|| Expr::Identifier(alias.clone()))
        });
    }
}

/// The same for the select lists of the body of a query.
pub(crate) fn tell_apart_in(body: &mut SetExpr) {
    match body {
        SetExpr::Select(select) => {
            let mut seen = HashSet::new();
            for (index, item) in select.projection.iter_mut().enumerate() {
                let (name, expr) = match item {
                    SelectItem::UnnamedExpr(expr) => (column_name(expr), expr),
                    SelectItem::ExprWithAlias { expr, alias } => (name_of(alias), expr),
                    _ => continue,
                };
                if !seen.insert(name.clone()) {
                    let expr = std::mem::replace(expr, syntax::null());
                    *item = syntax::item(expr, &format!("{name}{SUFFIX}{index}"));
                }
            }
        }
        SetExpr::Query(query) => tell_apart_in(&mut query.body),
        SetExpr::SetOperation { left, right, .. } => {
            tell_apart_in(left);
            tell_apart_in(right);
        }
        _ => {}
    }
}

/// Gives the expressions of all branches of set operations but the first, whose names do not matter, hidden
/// names. Columns keep theirs.
pub(crate) fn name_branches(body: &mut SetExpr) {
    match body {
        SetExpr::Query(query) => name_branches(&mut query.body),
        SetExpr::SetOperation { left, right, set_quantifier, .. } => {
            name_branches(left);
            if !is_by_name(*set_quantifier) {
                hide_names(right);
            }
        }
        _ => {}
    }
}

/// Gives the expressions of a select list the names that they have as they are written. The engine takes some
/// that are written differently for the same, such as `position('b' IN a)` and `strpos(a, 'b')`.
pub(crate) fn name_expressions(select: &mut Select) {
    for item in &mut select.projection {
        if let SelectItem::UnnamedExpr(expr) = item
            && !is_column(expr)
            && !is_unnest(expr)
        {
            let name = expression_name(expr);
            *item = syntax::item(std::mem::replace(expr, syntax::null()), &name);
        }
    }
}

fn is_by_name(quantifier: SetQuantifier) -> bool {
    use SetQuantifier::{AllByName, ByName, DistinctByName};
    matches!(quantifier, ByName | AllByName | DistinctByName)
}

fn hide_names(body: &mut SetExpr) {
    match body {
        SetExpr::Select(select) => {
            for (index, item) in select.projection.iter_mut().enumerate() {
                match item {
                    // Unnesting a struct makes several columns.
                    SelectItem::UnnamedExpr(expr) if !is_column(expr) && !is_unnest(expr) => {
                        let expr = std::mem::replace(expr, syntax::null());
                        *item = syntax::item(expr, &format!("{SUFFIX}{index}"));
                    }
                    _ => {}
                }
            }
        }
        SetExpr::SetOperation { left, right, set_quantifier, .. } if !is_by_name(*set_quantifier) => {
            hide_names(left);
            hide_names(right);
        }
        _ => {}
    }
}

fn is_column(expr: &Expr) -> bool {
    matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_))
}

fn is_unnest(expr: &Expr) -> bool {
    matches!(expr, Expr::Function(function) if unqualified(&function.name).is_ok_and(|name| name == "unnest"))
}

/// The name of the column of an expression without an alias. The engine ignores casts and parentheses.
fn column_name(expr: &Expr) -> String {
    match expr {
        Expr::Cast { expr, .. } | Expr::Nested(expr) => column_name(expr),
        Expr::Identifier(ident) => name_of(ident),
        Expr::CompoundIdentifier(parts) => parts.last().map(name_of).unwrap_or_default(),
        expr => expression_name(expr),
    }
}

#[cfg(test)]
mod tests {
    use arrow_schema::DataType;

    use super::*;
    use crate::sql::parse;

    /// The names of a query whose columns the engine calls `engine`.
    fn names(sql: &str, engine: &[&str]) -> Vec<String> {
        let statement = parse::statement(sql).unwrap();
        let fields: Vec<Field> = engine.iter().map(|name| Field::new(*name, DataType::Null, true)).collect();
        let schema = ResultNames::of_statement(&statement).apply(&Schema::new(fields));
        schema.fields().iter().map(|field| field.name().clone()).collect()
    }

    #[test]
    fn columns_are_named_as_they_are_written() {
        let engine = ["sum(t.x)", "a", "y", "Int64(1)"];
        assert_eq!(names("SELECT SUM(x), b AS a, t.y, 1 FROM t", &engine), ["sum(x)", "a", "y", "1"]);
        let engine = ["sum(t.x)", "p", "q", "Int64(1)"];
        assert_eq!(names("SELECT sum(x), *, 1 FROM t", &engine), ["sum(x)", "p", "q", "1"]);
        assert_eq!(names("SELECT 1 UNION ALL SELECT 2", &["Int64(1)"]), ["1"]);
        assert_eq!(names("VALUES (1)", &["column1"]), ["column1"]);
    }

    #[test]
    fn repeated_columns_are_told_apart_for_the_engine_only() {
        let mut statement = parse::statement("SELECT a, 2 AS a, count(*), t.a, COUNT(*) FROM t").unwrap();
        tell_apart(&mut statement);
        let engine = ["a", "a\u{1}1", "count(*)", "a\u{1}3", "count(*)\u{1}4"];
        let fields: Vec<Field> = engine.iter().map(|name| Field::new(*name, DataType::Null, true)).collect();
        let schema = ResultNames::of_statement(&statement).apply(&Schema::new(fields));
        let found: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        assert_eq!(found, ["a", "a", "count(*)", "a", "count(*)"]);
        for engine in engine {
            assert!(statement.to_string().contains(engine), "{statement}");
        }
    }
}
