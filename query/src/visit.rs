//! Visits syntax trees through pointers to visitors.
//!
//! The parser's library generates its code for each type of visitor: hundreds of functions for a whole tree,
//! and there are dozens of visitors. Here they share one type for each type of result.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, ObjectName, Query, Select, Statement, TableFactor, ValueWithSpan, Visit, VisitMut, Visitor,
    VisitorMut,
};

/// Visits a part of a statement.
pub fn visit<B>(part: &impl Visit, visitor: &mut dyn Visitor<Break = B>) -> ControlFlow<B> {
    part.visit(&mut Shared(visitor))
}

/// Visits a part of a statement and changes it.
pub fn visit_mut<B>(part: &mut impl VisitMut, visitor: &mut dyn VisitorMut<Break = B>) -> ControlFlow<B> {
    part.visit(&mut SharedMut(visitor))
}

/// Calls a function with every expression in a part of a statement, each before those inside of it.
pub fn visit_expressions<B>(
    part: &impl Visit,
    function: &mut dyn FnMut(&Expr) -> ControlFlow<B>,
) -> ControlFlow<B> {
    struct Expressions<'a, B>(&'a mut dyn FnMut(&Expr) -> ControlFlow<B>);
    impl<B> Visitor for Expressions<'_, B> {
        type Break = B;

        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<B> {
            (self.0)(expr)
        }
    }
    visit(part, &mut Expressions(function))
}

/// Calls a function, which may change it, with every expression in a part of a statement, each after those
/// inside of it.
pub fn visit_expressions_mut<B>(
    part: &mut impl VisitMut,
    function: &mut dyn FnMut(&mut Expr) -> ControlFlow<B>,
) -> ControlFlow<B> {
    struct Expressions<'a, B>(&'a mut dyn FnMut(&mut Expr) -> ControlFlow<B>);
    impl<B> VisitorMut for Expressions<'_, B> {
        type Break = B;

        fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<B> {
            (self.0)(expr)
        }
    }
    visit_mut(part, &mut Expressions(function))
}

/// A visitor behind a pointer.
struct Shared<'a, B>(&'a mut dyn Visitor<Break = B>);

/// A visitor behind a pointer that changes what it visits.
struct SharedMut<'a, B>(&'a mut dyn VisitorMut<Break = B>);

/// Methods that delegate to the visitor behind the pointer.
macro_rules! delegate {
    ($($name:ident: $node:ty),* $(,)?) => {
        $(fn $name(&mut self, node: $node) -> ControlFlow<B> {
            self.0.$name(node)
        })*
    };
}

impl<B> Visitor for Shared<'_, B> {
    type Break = B;

    delegate! {
        pre_visit_query: &Query, post_visit_query: &Query,
        pre_visit_select: &Select, post_visit_select: &Select,
        pre_visit_relation: &ObjectName, post_visit_relation: &ObjectName,
        pre_visit_table_factor: &TableFactor, post_visit_table_factor: &TableFactor,
        pre_visit_expr: &Expr, post_visit_expr: &Expr,
        pre_visit_statement: &Statement, post_visit_statement: &Statement,
        pre_visit_value: &ValueWithSpan, post_visit_value: &ValueWithSpan,
    }
}

impl<B> VisitorMut for SharedMut<'_, B> {
    type Break = B;

    delegate! {
        pre_visit_query: &mut Query, post_visit_query: &mut Query,
        pre_visit_select: &mut Select, post_visit_select: &mut Select,
        pre_visit_relation: &mut ObjectName, post_visit_relation: &mut ObjectName,
        pre_visit_table_factor: &mut TableFactor, post_visit_table_factor: &mut TableFactor,
        pre_visit_expr: &mut Expr, post_visit_expr: &mut Expr,
        pre_visit_statement: &mut Statement, post_visit_statement: &mut Statement,
        pre_visit_value: &mut ValueWithSpan, post_visit_value: &mut ValueWithSpan,
    }
}
