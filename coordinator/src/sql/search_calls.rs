//! Searches as SQL writes them, made ready for the planner.
//!
//! The arguments of a search are given by name as well as by place, tables and columns are named as they are elsewhere, and
//! a query vector may come from a subquery, which is run first. The operators of vectors become functions.

use std::ops::ControlFlow;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute;
use arrow::datatypes::Float32Type;
use arrow_schema::DataType;
use datafusion::sql::sqlparser::ast::{
    self, BinaryOperator, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList,
    FunctionArguments, Ident, ObjectName, TableFactor, Value, VisitMut, VisitorMut,
};
use plexus_model::{Error, Result};
use plexus_query::search::{Function as SearchFunction, NAMED_ARGUMENT};

use crate::sql::names::identifier;

/// Rows that a subquery in the place of an argument may give, each a vector: they become a part of the statement.
pub const SUBQUERY_ROWS_MAX: usize = 1_000;

/// Prepares the searches of a statement, and gives the subqueries that are their arguments, each where
/// [`Coordinator::fill_arguments`] puts its result.
pub fn prepare(statement: &mut ast::Statement) -> Result<Vec<ast::Query>> {
    let mut searches = Searches::default();
    match VisitMut::visit(statement, &mut searches) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(searches.subqueries),
    }
}

#[derive(Default)]
pub struct Searches {
    subqueries: Vec<ast::Query>,
}

pub fn function_of(name: &ObjectName) -> Option<SearchFunction> {
    let name = identifier(&name.to_string());
    SearchFunction::ALL.into_iter().find(|function| function.name() == name)
}

impl VisitorMut for Searches {
    type Break = Error;

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Error> {
        let TableFactor::Table { name, args: Some(args), .. } = factor else {
            return ControlFlow::Continue(());
        };
        if function_of(name).is_none() {
            return ControlFlow::Continue(());
        }
        // The planner looks it up as it is written.
        *name = ObjectName::from(vec![Ident::new(identifier(&name.to_string()))]);
        for arg in &mut args.args {
            if let Err(error) = self.argument(arg) {
                return ControlFlow::Break(error);
            }
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        if let Expr::BinaryOp { op, .. } = expr
            && let Some(name) = function_of_operator(op)
            && let Expr::BinaryOp { left, right, .. } =
                std::mem::replace(expr, Expr::Value(Value::Null.into()))
        {
            *expr = call(name, vec![*left, *right]);
        }
        ControlFlow::Continue(())
    }
}

/// The function that an operator of vectors stands for.
pub fn function_of_operator(op: &BinaryOperator) -> Option<&'static str> {
    match op {
        BinaryOperator::Spaceship => Some("cosine_distance"),
        BinaryOperator::Custom(op) if op == "<->" => Some("l2_distance"),
        BinaryOperator::Custom(op) if op == "<#>" => Some("negative_inner_product"),
        _ => None,
    }
}

impl Searches {
    fn argument(&mut self, arg: &mut FunctionArg) -> Result<()> {
        let (name, value) = match arg {
            FunctionArg::Unnamed(value) => (None, value),
            FunctionArg::Named { name, arg, .. } => (Some(identifier(&name.to_string())), arg),
            FunctionArg::ExprNamed { name, arg, .. } => (Some(identifier(&name.to_string())), arg),
        };
        let FunctionArgExpr::Expr(value) = value else {
            return Err(Error::invalid(format!("{arg} is not an argument of a search")));
        };
        match value {
            // A table or a column. One in quotes keeps them, since it is read as a name again.
            Expr::Identifier(ident) if ident.quote_style.is_some() => *value = text(&ident.to_string()),
            Expr::Identifier(ident) => *value = text(&identifier(&ident.to_string())),
            Expr::CompoundIdentifier(parts) => {
                let parts: Vec<String> = parts.iter().map(ToString::to_string).collect();
                *value = text(&parts.join("."));
            }
            Expr::Subquery(query) => {
                let place = self.subqueries.len();
                self.subqueries.push((**query).clone());
                *value = text(&place_of(place));
            }
            _ => {}
        }
        if let Some(name) = name {
            let value = std::mem::replace(value, Expr::Value(Value::Null.into()));
            *arg =
                FunctionArg::Unnamed(FunctionArgExpr::Expr(call(NAMED_ARGUMENT, vec![text(&name), value])));
        }
        Ok(())
    }
}

/// What stands for a subquery until it has run. Not a text that people write.
pub fn place_of(subquery: usize) -> String {
    format!("\u{0}subquery {subquery}")
}

pub fn text(text: &str) -> Expr {
    Expr::Value(Value::SingleQuotedString(text.to_owned()).into())
}

pub fn call(name: &str, args: Vec<Expr>) -> Expr {
    let args = args.into_iter().map(|e| FunctionArg::Unnamed(FunctionArgExpr::Expr(e))).collect();
    let quoted = Ident::with_quote('"', name);
    Expr::Function(Function {
        name: ObjectName::from(vec![quoted]),
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
    })
}

/// One value of a column of vectors, or of texts.
pub fn vector(column: &ArrayRef, row: usize) -> Result<Expr> {
    let wrong = || Error::invalid(format!("it gives {}, and no vector", column.data_type()));
    if column.is_null(row) {
        return Err(Error::invalid("it gives null: a vector is needed"));
    }
    let items = match column.data_type() {
        DataType::FixedSizeList(..) => column.as_fixed_size_list().value(row),
        DataType::List(_) => column.as_list::<i32>().value(row),
        DataType::LargeList(_) => column.as_list::<i64>().value(row),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            let texts = compute::cast(column, &DataType::Utf8).map_err(|_| wrong())?;
            return Ok(text(texts.as_string::<i32>().value(row)));
        }
        _ => return Err(wrong()),
    };
    let floats = compute::cast(&items, &DataType::Float32).map_err(|_| wrong())?;
    let floats = floats.as_primitive_opt::<Float32Type>().ok_or_else(wrong)?;
    if floats.null_count() > 0 {
        return Err(Error::invalid("it gives a vector with a component that is null"));
    }
    // The shortest texts that are read as the same numbers.
    let numbers: Vec<String> = floats.values().iter().map(|value| format!("{value:e}")).collect();
    Ok(text(&format!("[{}]", numbers.join(","))))
}

pub fn array(elem: Vec<Expr>) -> Expr {
    Expr::Array(ast::Array { elem, named: true })
}
