//! Clauses of calls: those that only aggregates and windows obey.

use std::collections::HashSet;
use std::sync::{Arc, LazyLock};

use datafusion::logical_expr::{ScalarUDF, Volatility};
use datafusion::sql::sqlparser::ast::{self, FunctionArguments};
use datafusion::{functions, functions_aggregate, functions_nested, functions_window};
use plexus_model::{Error, Result};

use super::{refuse, unsupported};
use crate::sql::names::unqualified;

/// The names of functions of one row.
static SCALARS: LazyLock<HashSet<String>> = LazyLock::new(|| {
    let aggregates = functions_aggregate::all_default_aggregate_functions();
    let windows = functions_window::all_default_window_functions();
    let others: HashSet<String> = aggregates
        .iter()
        .flat_map(|f| names_of(f.name(), f.aliases()))
        .chain(windows.iter().flat_map(|f| names_of(f.name(), f.aliases())))
        .collect();
    scalars().flat_map(|f| names_of(f.name(), f.aliases())).filter(|name| !others.contains(name)).collect()
});

/// The names of functions that give another value for each row, such as `random`.
static VOLATILE: LazyLock<HashSet<String>> = LazyLock::new(|| {
    let volatile = scalars().filter(|f| f.signature().volatility == Volatility::Volatile);
    volatile.flat_map(|f| names_of(f.name(), f.aliases())).collect()
});

/// Functions of windows that look at no value.
const COUNTING: [&str; 7] =
    ["count", "row_number", "rank", "dense_rank", "percent_rank", "cume_dist", "ntile"];

fn scalars() -> impl Iterator<Item = Arc<ScalarUDF>> {
    let nested = functions_nested::all_default_nested_functions();
    functions::all_default_functions().into_iter().chain(nested)
}

fn names_of(name: &str, aliases: &[String]) -> Vec<String> {
    std::iter::once(name.to_owned()).chain(aliases.iter().cloned()).collect()
}

/// Whether a function is one of one row: neither an aggregate nor a window function.
pub(super) fn is_scalar(function: &ast::Function) -> bool {
    unqualified(&function.name).is_ok_and(|name| SCALARS.contains(&name))
}

/// Whether a call gives another value each time.
pub(crate) fn is_volatile(function: &ast::Function) -> bool {
    unqualified(&function.name).is_ok_and(|name| VOLATILE.contains(&name))
}

/// Whether an argument is `*` or `t.*`.
fn is_wildcard(arg: &ast::FunctionArg) -> bool {
    use ast::FunctionArgExpr::{QualifiedWildcard, Wildcard};
    matches!(arg, ast::FunctionArg::Unnamed(Wildcard | QualifiedWildcard(_)))
}

/// Refuses the clauses of aggregates and windows in the call of a function of one row, and a second list of
/// arguments in any call.
pub(super) fn check_call(function: &ast::Function) -> Result<()> {
    let ast::Function {
        name,
        uses_odbc_syntax: _,
        parameters,
        args,
        filter,
        null_treatment,
        over,
        within_group,
    } = function;
    // Those of the engine, which take only what its rules give them.
    if let Ok(internal) = unqualified(name)
        && internal.starts_with('$')
    {
        return Err(Error::invalid(format!("there is no function {name}")));
    }
    if let FunctionArguments::List(list) = args
        && list.duplicate_treatment == Some(ast::DuplicateTreatment::Distinct)
        && list.args.iter().any(is_wildcard)
    {
        return Err(Error::unsupported(format!(
            "{name}(DISTINCT *): write the columns, as in count(DISTINCT (a, b)), or count the rows of a \
             SELECT DISTINCT"
        )));
    }
    let none = matches!(parameters, FunctionArguments::None);
    refuse!("function": !none => "a second list of arguments");
    check_pattern(function)?;
    if null_treatment.is_some() && unqualified(name).is_ok_and(|name| COUNTING.contains(&name.as_str())) {
        return Err(unsupported(&name.to_string(), "IGNORE NULLS or RESPECT NULLS"));
    }
    let Some(name) = unqualified(name).ok().filter(|name| SCALARS.contains(name)) else {
        return Ok(());
    };
    let (distinct, clauses) = match args {
        FunctionArguments::List(ast::FunctionArgumentList { duplicate_treatment, args: _, clauses }) => {
            (duplicate_treatment.is_some(), !clauses.is_empty())
        }
        FunctionArguments::None | FunctionArguments::Subquery(_) => (false, false),
    };
    let given = [
        (filter.is_some(), "FILTER"),
        (over.is_some(), "OVER"),
        (null_treatment.is_some(), "IGNORE NULLS or RESPECT NULLS"),
        (!within_group.is_empty(), "WITHIN GROUP"),
        (distinct, "ALL or DISTINCT"),
        (clauses, "ORDER BY or another clause behind its arguments"),
    ];
    match given.into_iter().find(|(given, _)| *given) {
        Some((_, clause)) => {
            Err(Error::invalid(format!("{name} is a function of one row and takes no {clause}")))
        }
        None => Ok(()),
    }
}

/// Refuses patterns of other databases, which would be copied to the result.
fn check_pattern(function: &ast::Function) -> Result<()> {
    let FunctionArguments::List(list) = &function.args else {
        return Ok(());
    };
    let pattern = match list.args.as_slice() {
        [_, ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(ast::Expr::Value(value)))] => &value.value,
        _ => return Ok(()),
    };
    match pattern {
        ast::Value::SingleQuotedString(pattern)
            if !pattern.contains('%')
                && ["YY", "MM", "DD", "HH", "MI", "SS"].iter().any(|field| pattern.contains(field))
                && unqualified(&function.name).is_ok_and(|name| name == "to_char") =>
        {
            Err(Error::invalid(format!("to_char: {pattern:?} has no field: write a pattern like '%Y-%m-%d'")))
        }
        _ => Ok(()),
    }
}
