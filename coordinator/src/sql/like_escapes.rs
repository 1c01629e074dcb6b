//! `LIKE ... ESCAPE` with another character than a backslash, the only one that the engine knows.

use plexus_query::visit_mut;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Expr, Value, ValueWithSpan, VisitMut, VisitorMut};

/// Rewrites the patterns of a statement that are literals.
pub(crate) fn rewrite(part: &mut impl VisitMut) {
    let _: ControlFlow<()> = visit_mut(part, &mut Patterns);
}

struct Patterns;

impl VisitorMut for Patterns {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        let (Expr::Like { pattern, escape_char, .. } | Expr::ILike { pattern, escape_char, .. }) = expr
        else {
            return ControlFlow::Continue(());
        };
        if let Some(escape) = escape_char.as_ref().and_then(character).filter(|c| *c != '\\')
            && let Expr::Value(ValueWithSpan { value: Value::SingleQuotedString(text), .. }) =
                pattern.as_mut()
            && let Some(escaped) = with_backslashes(text, escape)
        {
            *text = escaped;
            *escape_char = None;
        }
        ControlFlow::Continue(())
    }
}

/// The single character of a literal.
fn character(value: &ValueWithSpan) -> Option<char> {
    let Value::SingleQuotedString(text) = &value.value else {
        return None;
    };
    let mut characters = text.chars();
    characters.next().filter(|_| characters.next().is_none())
}

/// A pattern with backslashes in place of its escape character. `None` if that is the last character, which
/// escapes nothing.
fn with_backslashes(pattern: &str, escape: char) -> Option<String> {
    let mut escaped = String::with_capacity(pattern.len());
    let mut characters = pattern.chars();
    while let Some(c) = characters.next() {
        match c {
            c if c == escape => {
                escaped.push('\\');
                escaped.push(characters.next()?);
            }
            '\\' => escaped.push_str("\\\\"),
            c => escaped.push(c),
        }
    }
    Some(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_escaped_with_backslashes() {
        assert_eq!(with_backslashes("50!%_\\", '!').as_deref(), Some("50\\%_\\\\"));
        assert_eq!(with_backslashes("a!!b", '!').as_deref(), Some("a\\!b"));
        assert_eq!(with_backslashes("a!", '!'), None);
    }
}
