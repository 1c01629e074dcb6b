//! The SQL dialect: sqlparser's generic dialect plus time travel and maintenance statements.

use std::any::TypeId;

use datafusion::sql::sqlparser::ast::{Expr, Ident, ObjectName, ObjectNamePart, Statement, Value};
use datafusion::sql::sqlparser::dialect::{Dialect, GenericDialect, Precedence};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::Token;

use crate::sql::names::{name_of, quoted_name};
use crate::sql::syntax::{self, literal};

/// The generic dialect with `VERSION AS OF`, `TIMESTAMP AS OF` and `FOR SYSTEM_TIME AS OF`, and with
/// `VACUUM`, `RESTORE`, `CHECK TABLE` and `KILL`, which are parsed as procedure calls.
#[derive(Debug)]
pub(crate) struct PlexusDialect;

/// The dialect that [`PlexusDialect`] extends.
const GENERIC: GenericDialect = GenericDialect;

/// Methods that delegate to the generic dialect.
macro_rules! as_generic {
    ($($name:ident),* $(,)?) => {
        $(fn $name(&self) -> bool {
            GENERIC.$name()
        })*
    };
}

impl Dialect for PlexusDialect {
    /// The parser compares dialects by type. Whatever it enables for the generic dialect applies here too.
    fn dialect(&self) -> TypeId {
        GENERIC.dialect()
    }

    fn is_delimited_identifier_start(&self, ch: char) -> bool {
        GENERIC.is_delimited_identifier_start(ch)
    }

    fn is_identifier_start(&self, ch: char) -> bool {
        GENERIC.is_identifier_start(ch)
    }

    fn is_identifier_part(&self, ch: char) -> bool {
        GENERIC.is_identifier_part(ch)
    }

    /// The parser of the library takes `ON` for a name: `INSERT INTO t SELECT 1 ON CONFLICT DO NOTHING`.
    fn is_column_alias(&self, kw: &Keyword, parser: &mut Parser) -> bool {
        *kw != Keyword::ON && GENERIC.is_column_alias(kw, parser)
    }

    /// `a IS DISTINCT FROM b AND c`: the parser of the library would take `b AND c` for the right side.
    fn parse_infix(&self, parser: &mut Parser, expr: &Expr, _: u8) -> Option<Result<Expr, ParserError>> {
        let negated = match () {
            () if parser.parse_keywords(&[Keyword::IS, Keyword::DISTINCT, Keyword::FROM]) => false,
            () if parser.parse_keywords(&[Keyword::IS, Keyword::NOT, Keyword::DISTINCT, Keyword::FROM]) => {
                true
            }
            () => return None,
        };
        let right = parser.parse_subexpr(self.prec_value(Precedence::Is));
        Some(right.map(|right| {
            let (left, right) = (Box::new(expr.clone()), Box::new(right));
            match negated {
                true => Expr::IsNotDistinctFrom(left, right),
                false => Expr::IsDistinctFrom(left, right),
            }
        }))
    }

    /// Vector operators bind tighter than sums and comparisons, so that a distance can be used in either.
    /// Powers bind tighter than products.
    fn get_next_precedence(&self, parser: &Parser) -> Option<Result<u8, ParserError>> {
        let is_distance = match &parser.peek_token_ref().token {
            Token::Spaceship => true,
            Token::CustomBinaryOperator(operator) => ["<->", "<#>"].contains(&operator.as_str()),
            _ => false,
        };
        match &parser.peek_token_ref().token {
            Token::Caret => Some(Ok(self.prec_value(Precedence::MulDivModOp) + 1)),
            _ => is_distance.then(|| Ok(self.prec_value(Precedence::PlusMinus) + 1)),
        }
    }

    fn parse_statement(&self, parser: &mut Parser) -> Option<Result<Statement, ParserError>> {
        if parser.parse_keyword(Keyword::VACUUM) {
            return Some(vacuum(parser));
        }
        if parser.parse_keywords(&[Keyword::CHECK, Keyword::TABLE]) {
            return Some(
                parser.parse_object_name(false).map(|t| call("check_table", vec![name_literal(&t)])),
            );
        }
        if parser.parse_keyword(Keyword::KILL) {
            return Some(kill(parser));
        }
        let restore = matches!(&parser.peek_token_ref().token, Token::Word(word)
            if word.quote_style.is_none() && word.value.eq_ignore_ascii_case("restore"));
        restore.then(|| {
            parser.advance_token();
            self::restore(parser)
        })
    }

    fn supports_table_versioning(&self) -> bool {
        true
    }

    fn supports_insert_table_alias(&self) -> bool {
        true
    }

    as_generic! {
        supports_unicode_string_literal, supports_partition_by_after_order_by, supports_array_join_syntax,
        supports_group_by_expr, supports_group_by_with_modifier,
        supports_left_associative_joins_without_parens, supports_connect_by, supports_match_recognize,
        supports_pipe_operator, supports_start_transaction_modifier,
        supports_window_function_null_treatment_arg, supports_dictionary_syntax,
        supports_window_clause_named_window_reference, supports_parenthesized_set_variables,
        supports_select_wildcard_except, support_map_literal_syntax, allow_extract_custom,
        allow_extract_single_quotes, supports_extract_comma_syntax, supports_create_view_comment_syntax,
        supports_parens_around_table_factor, supports_values_as_table_factor,
        supports_create_index_with_clause, supports_explain_with_utility_options, supports_limit_comma,
        supports_update_order_by, supports_from_first_select, supports_projection_trailing_commas,
        supports_asc_desc_in_column_definition, supports_try_convert, supports_bitwise_shift_operators,
        supports_comment_on, supports_load_extension, supports_named_fn_args_with_assignment_operator,
        supports_struct_literal, supports_empty_projections, supports_nested_comments,
        supports_multiline_comment_hints, supports_user_host_grantee, supports_string_escape_constant,
        supports_array_typedef_with_brackets, supports_match_against, supports_set_names,
        supports_comma_separated_set_assignments, supports_filter_during_aggregation,
        supports_select_wildcard_exclude, supports_data_type_signed_suffix, supports_interval_options,
        supports_quote_delimited_string, supports_select_wildcard_replace, supports_select_wildcard_ilike,
        supports_select_wildcard_rename, supports_optimize_table, supports_install, supports_detach,
        supports_prewhere, supports_with_fill, supports_limit_by, supports_interpolate, supports_settings,
        supports_select_format, supports_comment_optimizer_hint, supports_constraint_keyword_without_name,
        supports_key_column_option, supports_comma_separated_trim, supports_cte_without_as,
        supports_select_item_multi_column_alias, supports_xml_expressions,
    }
}

/// Parses the rest of `VACUUM`: `[TABLE] [t] [RETAIN '7 days' | RETAIN 7 DAYS] [DRY RUN]`
pub(crate) fn vacuum(parser: &mut Parser) -> Result<Statement, ParserError> {
    let required = parser.parse_keyword(Keyword::TABLE);
    let has_table = matches!(&parser.peek_token_ref().token, Token::Word(word)
        if !matches!(word.keyword, Keyword::RETAIN | Keyword::DRY));
    let table = match required || has_table {
        true => name_literal(&parser.parse_object_name(false)?),
        false => literal(Value::Null),
    };
    let retain = match parser.parse_keyword(Keyword::RETAIN) {
        true => match parser.parse_value()?.value {
            Value::Number(number, _) => {
                let unit = parser.parse_identifier()?;
                literal(Value::SingleQuotedString(format!("{number} {unit}")))
            }
            other => literal(other),
        },
        false => literal(Value::Null),
    };
    let dry_run = parser.parse_keywords(&[Keyword::DRY, Keyword::RUN]);
    Ok(call("vacuum", vec![table, retain, literal(Value::Boolean(dry_run))]))
}

/// Parses the rest of `RESTORE`: `[TABLE] t TO VERSION [AS OF] n` or `[TABLE] t TO TIMESTAMP [AS OF] '...'`
pub(crate) fn restore(parser: &mut Parser) -> Result<Statement, ParserError> {
    let _ = parser.parse_keyword(Keyword::TABLE);
    let table = name_literal(&parser.parse_object_name(false)?);
    parser.expect_keyword(Keyword::TO)?;
    let by_version =
        parser.expect_one_of_keywords(&[Keyword::VERSION, Keyword::TIMESTAMP])? == Keyword::VERSION;
    let _ = parser.parse_keywords(&[Keyword::AS, Keyword::OF]);
    let to = parser.parse_expr()?;
    let is_number = matches!(&to, Expr::Value(value) if matches!(value.value, Value::Number(..)));
    match (by_version, is_number) {
        (true, false) => {
            Err(ParserError::ParserError(format!("TO VERSION {to}: a version is a whole number")))
        }
        (false, true) => Err(ParserError::ParserError(format!("TO TIMESTAMP {to}: a time is text"))),
        _ => Ok(call("restore", vec![table, to])),
    }
}

/// Parses the rest of `KILL`: `[QUERY] 'id'`
fn kill(parser: &mut Parser) -> Result<Statement, ParserError> {
    let _ = parser.parse_keyword(Keyword::QUERY);
    match parser.next_token().token {
        Token::SingleQuotedString(id) => Ok(call("kill_query", vec![syntax::text(&id)])),
        other => Err(ParserError::ParserError(format!(
            "KILL QUERY {other}: write the query_id of plexus.queries as text"
        ))),
    }
}

/// A table name as a string argument.
fn name_literal(name: &ObjectName) -> Expr {
    let part = |part: &ObjectNamePart| match part.as_ident() {
        Some(ident) => quoted_name(&name_of(ident)),
        None => part.to_string(),
    };
    syntax::text(&name.0.iter().map(part).collect::<Vec<_>>().join("."))
}

/// A call of a procedure in schema `plexus`.
fn call(procedure: &str, arguments: Vec<Expr>) -> Statement {
    let name = ObjectName::from(vec![Ident::new("plexus"), Ident::new(procedure)]);
    Statement::Call(syntax::function(name, arguments))
}
