//! Rewrites search functions into a form that the planner accepts.
//!
//! The planner takes only positional arguments that are constants. So named arguments become marker calls,
//! table and column names become strings, and subqueries become placeholders until their results are put in.
//! Vector operators become function calls.

use std::ops::ControlFlow;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute;
use arrow::datatypes::Float32Type;
use arrow_schema::DataType;
use datafusion::sql::sqlparser::ast::{
    self, BinaryOperator, Expr, FunctionArg, FunctionArgExpr, Ident, ObjectName, TableFactor, Value,
    VisitorMut,
};
use plexus_model::{Error, Result};
use plexus_query::search::{NAMED_ARGUMENT, SearchFunction};

use crate::sql::common_tables::CommonTables;
use crate::sql::names::{name_of, quoted_name, unqualified};
use crate::sql::syntax::{self, call, text};
use plexus_query::{visit_expressions, visit_expressions_mut, visit_mut};

/// Functions that take named arguments behind the columns and the query.
const TEXT_FUNCTIONS: [&str; 2] = ["text_match", "bm25_score"];

/// Maximum number of vectors that a subquery argument may return, since they become part of the statement.
pub(crate) const SUBQUERY_ROWS_MAX: usize = 1_000;

/// Maximum length of them as text, in bytes: about two million components. Planning has several copies.
pub(crate) const SUBQUERY_BYTES_MAX: usize = 24 * 1024 * 1024;

/// A subquery whose result a search needs.
pub(crate) struct VectorSubquery {
    /// The subquery as it stands in the statement.
    pub(crate) query: ast::Query,
    /// The same with the common tables that it reads, so that it can be run alone. `None` if two of them have
    /// one name.
    pub(crate) alone: Option<ast::Query>,
    /// Whether it is an argument of a search relation, which has to be known. An operand of a distance may be
    /// any expression, and is one that only the engine can evaluate if it depends on the row.
    pub(crate) is_argument: bool,
}

/// Rewrites the search functions and vector operators of a statement. Returns the subqueries among the
/// arguments and operands, each replaced in the statement by its [`subquery_placeholder`].
///
/// # Errors
/// `InvalidArgument` for arguments that are no expressions, and for a search in a common table.
pub(crate) fn prepare(statement: &mut ast::Statement) -> Result<Vec<VectorSubquery>> {
    let mut searches = Searches::default();
    match visit_mut(statement, &mut searches) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(searches.subqueries),
    }
}

/// Visits the search functions and vector operators of a statement.
#[derive(Default)]
struct Searches {
    subqueries: Vec<VectorSubquery>,
    /// The common tables of the queries around the present place.
    scopes: CommonTables,
}

/// The search function of that name.
fn search_function(name: &ObjectName) -> Option<SearchFunction> {
    let name = unqualified(name).ok()?;
    SearchFunction::ALL.into_iter().find(|function| function.name() == name)
}

impl VisitorMut for Searches {
    type Break = Error;

    fn pre_visit_query(&mut self, query: &mut ast::Query) -> ControlFlow<Error> {
        self.scopes.enter(query);
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &mut ast::Query) -> ControlFlow<Error> {
        self.scopes.leave(query);
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Error> {
        let TableFactor::Table { name, args: Some(args), .. } = factor else {
            return ControlFlow::Continue(());
        };
        let Some(function) = search_function(name) else {
            return ControlFlow::Continue(());
        };
        // The planner looks functions up without case folding.
        *name = ObjectName::from(vec![Ident::new(function.name())]);
        if let Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Identifier(table)))) = args.args.first()
            && self.scopes.is_visible(&name_of(table))
        {
            return ControlFlow::Break(Error::unsupported(format!(
                "{}: {table} is a common table here, which has no indexes; write the schema of a table \
                 before its name",
                function.name()
            )));
        }
        for arg in &mut args.args {
            if let Err(error) = self.rewrite_argument(arg) {
                return ControlFlow::Break(error);
            }
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        if let Expr::BinaryOp { left, op: BinaryOperator::StringConcat, right } = expr {
            // What is concatenated is text, also if nothing else says what a parameter is.
            [left, right].into_iter().filter(|side| is_parameter(side)).for_each(|side| make_text(side));
        }
        if let Err(error) = vector_literal(expr) {
            return ControlFlow::Break(error);
        }
        if let Expr::BinaryOp { op, .. } = expr
            && let Some(name) = operator_function(op)
            && let Expr::BinaryOp { left, right, .. } = std::mem::replace(expr, syntax::null())
        {
            *expr = call(name, vec![vector_operand(*left), vector_operand(*right)]);
        }
        if let Err(error) = named_arguments(expr) {
            return ControlFlow::Break(error);
        }
        for operand in distance_operands(expr) {
            if is_text(operand) {
                *operand = vector_operand(std::mem::replace(operand, syntax::null()));
            }
            if let Expr::Subquery(query) = operand
                && !has_placeholder(query)
            {
                *operand = text(&self.placeholder(query, false));
            }
        }
        ControlFlow::Continue(())
    }
}

/// Makes the named arguments of a full-text function ones that the planner accepts.
///
/// # Errors
/// `InvalidArgument` for an argument that is no expression.
fn named_arguments(expr: &mut Expr) -> Result<()> {
    let Expr::Function(ast::Function { name, args: ast::FunctionArguments::List(list), .. }) = expr else {
        return Ok(());
    };
    if !unqualified(name).is_ok_and(|name| TEXT_FUNCTIONS.contains(&name.as_str())) {
        return Ok(());
    }
    for arg in &mut list.args {
        if let (Some(name), FunctionArgExpr::Expr(value)) = argument(arg)? {
            let value = std::mem::replace(value, syntax::null());
            *arg = named(&name, value);
        }
    }
    Ok(())
}

/// The name of an argument if it has one, and its value.
fn argument(arg: &mut FunctionArg) -> Result<(Option<String>, &mut FunctionArgExpr)> {
    match arg {
        FunctionArg::Unnamed(value) => Ok((None, value)),
        FunctionArg::Named { name, arg, .. } => Ok((Some(name_of(name)), arg)),
        FunctionArg::ExprNamed { name: Expr::Identifier(name), arg, .. } => Ok((Some(name_of(name)), arg)),
        FunctionArg::ExprNamed { name, .. } => {
            Err(Error::invalid(format!("{name} is not the name of an argument")))
        }
    }
}

/// An argument that carries its name as the planner accepts it.
fn named(name: &str, value: Expr) -> FunctionArg {
    FunctionArg::Unnamed(FunctionArgExpr::Expr(call(NAMED_ARGUMENT, vec![text(name), value])))
}

/// Makes a vector of `'[1, 2, 3]'::vector`, as pgvector's users write it.
///
/// # Errors
/// `InvalidArgument` for another text, and for another length than that of the type.
fn vector_literal(expr: &mut Expr) -> Result<()> {
    let Expr::Cast { expr: inner, data_type: ast::DataType::Custom(name, arguments), .. } = expr else {
        return Ok(());
    };
    if !is_text(inner) || !["vector", "halfvec"].contains(&name.to_string().to_ascii_lowercase().as_str()) {
        return Ok(());
    }
    let wanted = match arguments.as_slice() {
        [] => None,
        [length] => Some(length.parse::<usize>().map_err(|_| {
            Error::invalid(format!("{name}({length}): the length of a vector is a whole number"))
        })?),
        _ => return Err(Error::invalid(format!("{name} takes one length"))),
    };
    let vector = vector_operand(std::mem::replace(inner.as_mut(), syntax::null()));
    match &vector {
        Expr::Array(array) if wanted.is_none_or(|wanted| wanted == array.elem.len()) => {
            *expr = vector;
            Ok(())
        }
        Expr::Array(array) => Err(Error::invalid(format!(
            "the vector has {} components, {name}({}) has other",
            array.elem.len(),
            arguments.join(", ")
        ))),
        other => Err(Error::invalid(format!("{other:.60} is no vector: write '[1.0, 2.0]'"))),
    }
}

/// The operands of an expression that is a distance.
fn distance_operands(expr: &mut Expr) -> impl Iterator<Item = &mut Expr> {
    let arguments = match expr {
        Expr::Function(function) if unqualified(&function.name).is_ok_and(|name| is_distance(&name)) => {
            match &mut function.args {
                ast::FunctionArguments::List(list) => list.args.as_mut_slice(),
                _ => &mut [],
            }
        }
        _ => &mut [],
    };
    arguments.iter_mut().filter_map(|argument| match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(operand)) => Some(operand),
        _ => None,
    })
}

fn is_distance(name: &str) -> bool {
    ["cosine_distance", "l2_distance", "inner_product", "negative_inner_product"].contains(&name)
}

/// Whether an expression is a distance from the result of a subquery.
pub(crate) fn is_distance_from_subquery(expr: &Expr) -> bool {
    let is_subquery = |operand: &Expr| matches!(operand, Expr::Subquery(_));
    match expr {
        Expr::BinaryOp { left, op, right } => {
            operator_function(op).is_some() && (is_subquery(left) || is_subquery(right))
        }
        Expr::Function(function) => {
            let ast::FunctionArguments::List(list) = &function.args else {
                return false;
            };
            unqualified(&function.name).is_ok_and(|name| is_distance(&name))
                && list.args.iter().any(|argument| match argument {
                    FunctionArg::Unnamed(FunctionArgExpr::Expr(operand)) => is_subquery(operand),
                    _ => false,
                })
        }
        _ => false,
    }
}

/// The function that a vector operator denotes.
fn operator_function(op: &BinaryOperator) -> Option<&'static str> {
    match op {
        BinaryOperator::Spaceship => Some("cosine_distance"),
        BinaryOperator::Custom(op) if op == "<->" => Some("l2_distance"),
        BinaryOperator::Custom(op) if op == "<#>" => Some("negative_inner_product"),
        _ => None,
    }
}

fn is_text(expr: &Expr) -> bool {
    matches!(expr, Expr::Value(value) if matches!(value.value, Value::SingleQuotedString(_)))
}

fn is_parameter(expr: &Expr) -> bool {
    matches!(expr, Expr::Value(value) if matches!(value.value, Value::Placeholder(_)))
}

/// Casts an expression to text.
fn make_text(expr: &mut Expr) {
    let value = std::mem::replace(expr, syntax::null());
    *expr = syntax::cast(value, ast::DataType::Varchar(None));
}

/// An operand of a vector operator. A text such as `'[1, 2.5]'` is a vector, as in pgvector.
pub(crate) fn vector_operand(expr: Expr) -> Expr {
    let Expr::Value(value) = &expr else {
        return expr;
    };
    let Value::SingleQuotedString(text) = &value.value else {
        return expr;
    };
    let Some(inner) = text.trim().strip_prefix('[').and_then(|t| t.strip_suffix(']')) else {
        return expr;
    };
    let numbers: Vec<&str> = inner.split(',').map(str::trim).collect();
    if !numbers.iter().all(|number| number.parse::<f32>().is_ok()) {
        return expr;
    }
    let real = |number: &str| syntax::cast(syntax::text(number), ast::DataType::Real);
    array_of(numbers.into_iter().map(real).collect())
}

/// Makes the decimals in an array doubles. Beside small numbers with an exponent they would make the array
/// one of decimals, with as many digits as those have.
fn make_components_doubles(array: &mut Expr) {
    let _: ControlFlow<()> = visit_expressions_mut(array, &mut |expr| {
        if let Expr::Value(value) = expr
            && let Value::Number(digits, _) = &value.value
            && digits.contains('.')
        {
            let digits = syntax::text(digits);
            *expr = syntax::cast(digits, ast::DataType::Double(ast::ExactNumberInfo::None));
        }
        ControlFlow::Continue(())
    });
}

impl Searches {
    /// Keeps a subquery, and returns what stands for it.
    fn placeholder(&mut self, query: &ast::Query, is_argument: bool) -> String {
        let alone = self.scopes.with_common_tables(query);
        self.subqueries.push(VectorSubquery { query: query.clone(), alone, is_argument });
        subquery_placeholder(self.subqueries.len() - 1)
    }

    /// Rewrites one argument of a search function.
    fn rewrite_argument(&mut self, arg: &mut FunctionArg) -> Result<()> {
        let (name, value) = argument(arg)?;
        let FunctionArgExpr::Expr(value) = value else {
            return Err(Error::invalid(format!("{value} is not an argument of a search")));
        };
        match value {
            // A table or column name. It is parsed as a name again later, so quotes must stay.
            Expr::Identifier(ident) if ident.quote_style.is_some() => {
                *value = text(&quoted_name(&ident.value));
            }
            Expr::Identifier(ident) => *value = text(&name_of(ident)),
            Expr::CompoundIdentifier(parts) => {
                let parts: Vec<String> = parts.iter().map(|part| quoted_name(&name_of(part))).collect();
                *value = text(&parts.join("."));
            }
            Expr::Subquery(query) => *value = text(&self.placeholder(query, true)),
            Expr::Array(_) => make_components_doubles(value),
            _ => {}
        }
        if let Some(name) = name {
            let value = std::mem::replace(value, syntax::null());
            *arg = named(&name, value);
        }
        Ok(())
    }
}

/// The string that replaces a subquery until its result is known. The null character keeps it apart from user
/// text.
pub(crate) fn subquery_placeholder(subquery: usize) -> String {
    format!("\u{0}subquery {subquery}")
}

/// Whether a part of a query waits for the result of a subquery.
fn has_placeholder(query: &ast::Query) -> bool {
    let found = visit_expressions(query, &mut |expr| match expr {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) if text.starts_with('\u{0}') => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        },
        _ => ControlFlow::Continue(()),
    });
    found.is_break()
}

/// The vector in one row of a result, as the text that the search functions parse. Accepts lists of numbers
/// and text.
///
/// # Errors
/// `InvalidArgument` for nulls and other types.
pub(crate) fn vector_text(column: &ArrayRef, row: usize) -> Result<String> {
    let invalid =
        || Error::invalid(format!("the subquery returns {}, a vector is needed", column.data_type()));
    if column.is_null(row) {
        return Err(Error::invalid("the subquery returns null, a vector is needed"));
    }
    let items = match column.data_type() {
        DataType::FixedSizeList(..) => column.as_fixed_size_list().value(row),
        DataType::List(_) => column.as_list::<i32>().value(row),
        DataType::LargeList(_) => column.as_list::<i64>().value(row),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            let texts = compute::cast(&column.slice(row, 1), &DataType::Utf8).map_err(|_| invalid())?;
            return Ok(texts.as_string::<i32>().value(0).to_owned());
        }
        _ => return Err(invalid()),
    };
    let floats = compute::cast(&items, &DataType::Float32).map_err(|_| invalid())?;
    let floats = floats.as_primitive_opt::<Float32Type>().ok_or_else(invalid)?;
    if floats.null_count() > 0 {
        return Err(Error::invalid("the subquery returns a vector with a null component"));
    }
    // The shortest decimal text that parses back to the same float.
    let numbers: Vec<String> = floats.values().iter().map(|value| format!("{value:e}")).collect();
    Ok(format!("[{}]", numbers.join(",")))
}

/// An array literal.
pub(crate) fn array_of(elem: Vec<Expr>) -> Expr {
    Expr::Array(ast::Array { elem, named: true })
}
