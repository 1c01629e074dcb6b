//! Functions whose results may be much larger than their arguments: `repeat('x', 1000000000)`. Their memory
//! is taken before any limit of queries knows of it, so a call that would return too much fails by itself.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{Int64Type, IntervalMonthDayNanoType};
use arrow_schema::{DataType, FieldRef, IntervalUnit, TimeUnit};
use datafusion::common::{Result, resources_err};
use datafusion::execution::SessionState;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature,
};
use regex::Regex;

use crate::constants::check_constant;
use crate::inner_function::{inner_arguments, inner_function};
use crate::pool::check_growth;

/// Most bytes of the result of one call, which has the rows of one batch: 8,192 at most. Less on a node with
/// little memory for queries, of which a call may take [`MEMORY_PART`].
const RESULT_BYTES_MAX: u64 = 256 * 1024 * 1024;
const RESULT_BYTES_MIN: u64 = 16 * 1024 * 1024;
const MEMORY_PART: u64 = 16;

/// How many times the bytes of its lists a function of sets takes, which makes rows of their items.
const SET_FACTOR: u64 = 12;

/// Longest form of a character in UTF-8, in bytes.
const CHARACTER_BYTES_MAX: u64 = 4;

const ITEM_BYTES: u64 = 8;

/// A bound of the bytes of the result for one row, and of what it takes to compute it.
type Estimate = fn(&[ArrayRef], usize) -> u64;

/// A bound of the bytes of the results for all rows. It ends when they are more than the last argument.
type Count = fn(&[ArrayRef], u64) -> u64;

/// The functions, each with a bound of its results where it could exceed the arguments many times over. The
/// results of the others are sums of arguments, and become too large by calls in each other only.
const FUNCTIONS: [(&str, Option<Estimate>); 25] = [
    ("array_append", None),
    ("array_concat", None),
    ("array_distinct", Some(sets)),
    ("array_except", Some(sets)),
    ("array_intersect", Some(sets)),
    ("array_prepend", None),
    (
        "array_repeat",
        Some(|args, row| bytes(&args[0], row).max(ITEM_BYTES).saturating_mul(count(&args[1], row))),
    ),
    ("array_resize", Some(|args, row| ITEM_BYTES.saturating_mul(count(&args[1], row)))),
    ("array_sort", Some(|args, row| bytes(&args[0], row).saturating_mul(4))),
    ("array_to_string", Some(|args, row| bytes(&args[0], row).saturating_mul(4))),
    ("array_union", Some(sets)),
    ("concat", None),
    ("concat_ws", None),
    ("decode", None),
    ("encode", None),
    ("flatten", None),
    ("generate_series", Some(steps)),
    ("lpad", Some(|args, row| CHARACTER_BYTES_MAX.saturating_mul(count(&args[1], row)))),
    ("make_array", None),
    ("range", Some(steps)),
    ("regexp_replace", Some(replaced_matches)),
    ("repeat", Some(|args, row| bytes(&args[0], row).saturating_mul(count(&args[1], row)))),
    ("replace", Some(replaced)),
    ("rpad", Some(|args, row| CHARACTER_BYTES_MAX.saturating_mul(count(&args[1], row)))),
    (SPLIT, Some(split)),
];

/// Functions whose bound is far above what they return mostly, with one that is close to it and takes longer
/// to compute.
const COUNTED: [(&str, Count); 3] = [("regexp_replace", matches), ("replace", occurrences), (SPLIT, items)];

/// Functions that copy all of their arguments, of which there may be many.
const COPYING: [&str; 4] = ["array_concat", "concat", "concat_ws", "make_array"];

/// Takes a null for the delimiter of characters, and as the text that makes nulls.
const SPLIT: &str = "string_to_array";

/// Functions that make room for a row before they look whether another argument is null.
const ROOM_OF_NULLS: [&str; 4] = ["array_repeat", "array_resize", "lpad", "rpad"];

/// Functions that compare each character or item of an argument with each of another, by which one call may
/// take hours.
const PRODUCTS: [&str; 3] = ["array_has_all", "array_has_any", "levenshtein"];

/// Most of these comparisons of one call. They take some seconds.
const PRODUCT_MAX: u64 = 4_000_000_000;

/// Most bytes of the result of one call on a node whose queries have `memory_bytes` together.
pub(crate) fn result_bytes_max(memory_bytes: usize) -> u64 {
    (memory_bytes as u64 / MEMORY_PART).clamp(RESULT_BYTES_MIN, RESULT_BYTES_MAX)
}

/// The functions of a session, made to fail in time. Queries have `memory_bytes` together.
pub(crate) fn bounded_functions(state: &SessionState, memory_bytes: usize) -> Vec<Arc<ScalarUDF>> {
    let bytes_max = result_bytes_max(memory_bytes);
    let wrap = |(name, estimate): (&str, Option<Estimate>)| {
        let inner = state.scalar_functions().get(name)?.clone();
        let has_product = PRODUCTS.contains(&name);
        let needed = if ROOM_OF_NULLS.contains(&name) { 0 } else { usize::MAX };
        let needed = if name == SPLIT { 1 } else { needed };
        let estimate = Estimated(estimate);
        let bounded = Bounded { inner, estimate, bytes_max, has_product, needed };
        Some(Arc::new(ScalarUDF::from(bounded)))
    };
    FUNCTIONS.into_iter().chain(PRODUCTS.map(|name| (name, None))).filter_map(wrap).collect()
}

/// Bytes of a text or of any other value.
fn bytes(values: &ArrayRef, row: usize) -> u64 {
    let length = match values.data_type() {
        DataType::Utf8 => values.as_string::<i32>().value_length(row).try_into().ok(),
        DataType::LargeUtf8 => values.as_string::<i64>().value_length(row).try_into().ok(),
        DataType::Utf8View => Some(values.as_string_view().value(row).len() as u64),
        _ => values.to_data().slice(row, 1).get_slice_memory_size().ok().map(|size| size as u64),
    };
    length.unwrap_or(u64::MAX)
}

/// Characters of a text, at most, or items of a list.
fn length(values: &ArrayRef, row: usize) -> u64 {
    match values.data_type() {
        DataType::List(_) => values.as_list::<i32>().value_length(row) as u64,
        DataType::LargeList(_) => values.as_list::<i64>().value_length(row) as u64,
        _ => bytes(values, row),
    }
}

/// Bytes that a function of sets takes.
fn sets(args: &[ArrayRef], row: usize) -> u64 {
    let lists = args.iter().map(|list| bytes(list, row)).fold(0, u64::saturating_add);
    lists.saturating_mul(SET_FACTOR)
}

/// A number of repetitions, at least zero.
fn count(values: &ArrayRef, row: usize) -> u64 {
    whole_number(values, row).and_then(|number| u64::try_from(number).ok()).unwrap_or(0)
}

/// An integer, which is of 64 bits here; `None` for null and other types.
fn whole_number(values: &ArrayRef, row: usize) -> Option<i64> {
    let numbers = values.as_primitive_opt::<Int64Type>()?;
    numbers.is_valid(row).then(|| numbers.value(row))
}

/// Bytes of the numbers or times from the first argument to the second.
fn steps(args: &[ArrayRef], row: usize) -> u64 {
    let number = |array: &ArrayRef| -> Option<i64> {
        whole_number(array, row).or_else(|| {
            let time = cast(&array.slice(row, 1), &DataType::Timestamp(TimeUnit::Microsecond, None)).ok()?;
            whole_number(&cast(&time, &DataType::Int64).ok()?, 0)
        })
    };
    let (start, stop) = match args {
        [stop] => (Some(0), number(stop)),
        [start, stop, ..] => (number(start), number(stop)),
        [] => (None, None),
    };
    let (Some(start), Some(stop)) = (start, stop) else {
        return 0;
    };
    let step = match args.get(2) {
        None => 1,
        Some(step) => match whole_number(step, row) {
            Some(step) => step.unsigned_abs(),
            None => microseconds(step, row),
        },
    };
    // A step of zero is an error of the function.
    ITEM_BYTES.saturating_mul(start.abs_diff(stop).checked_div(step).unwrap_or(0).saturating_add(1))
}

/// Length of an interval, of short months.
fn microseconds(intervals: &ArrayRef, row: usize) -> u64 {
    const DAY: u64 = 86_400_000_000;
    let Ok(intervals) = cast(&intervals.slice(row, 1), &DataType::Interval(IntervalUnit::MonthDayNano))
    else {
        return 1;
    };
    let interval = intervals.as_primitive::<IntervalMonthDayNanoType>().value(0);
    let days = (i64::from(interval.months) * 28 + i64::from(interval.days)).unsigned_abs();
    days.saturating_mul(DAY).saturating_add(interval.nanoseconds.unsigned_abs() / 1_000).max(1)
}

/// Bytes of a text in which each occurrence of another one is replaced.
fn replaced(args: &[ArrayRef], row: usize) -> u64 {
    let (text, from, to) = (bytes(&args[0], row), bytes(&args[1], row), bytes(&args[2], row));
    (text / from.max(1)).saturating_add(1).saturating_mul(to).saturating_add(text)
}

/// Bytes of a view of a text.
const VIEW_BYTES: u64 = 16;

/// Bytes of the items of a text if it has a delimiter at each place.
fn split(args: &[ArrayRef], row: usize) -> u64 {
    VIEW_BYTES.saturating_mul(bytes(&args[0], row).saturating_add(1))
}

/// Bytes of a text in which each match of a pattern is replaced if it matches at each place.
fn replaced_matches(args: &[ArrayRef], row: usize) -> u64 {
    let text = bytes(&args[0], row);
    with_replacements(args, row, if is_global(args, row) { text.saturating_add(1) } else { 1 })
}

/// Bytes of a text in which so many matches are replaced. Each reference of the replacement is a part of its
/// match, and matches do not overlap.
fn with_replacements(args: &[ArrayRef], row: usize, matches: u64) -> u64 {
    let replacement = text_of(&args[2], row);
    let references = replacement.matches("${").count() as u64;
    let copies = bytes(&args[0], row).saturating_mul(references.saturating_add(1));
    matches.saturating_mul(replacement.len() as u64).saturating_add(copies)
}

/// Whether all matches of a pattern are replaced, not only the first one.
fn is_global(args: &[ArrayRef], row: usize) -> bool {
    args.get(3).is_some_and(|flags| text_of(flags, row).contains('g'))
}

/// The bytes of all rows whose first `needed` arguments are not null, until they are more than `bytes_max`.
fn sum(args: &[ArrayRef], needed: usize, bytes_max: u64, mut bytes: impl FnMut(usize) -> u64) -> u64 {
    let mut taken = 0u64;
    for row in (0..args[0].len()).filter(|row| args.iter().take(needed).all(|arg| arg.is_valid(*row))) {
        taken = taken.saturating_add(bytes(row));
        if taken > bytes_max {
            break;
        }
    }
    taken
}

/// The bytes that [`split`] bounds, with the delimiters counted.
fn items(args: &[ArrayRef], bytes_max: u64) -> u64 {
    sum(args, 1, bytes_max, |row| {
        // Without a delimiter, each character is an item.
        let delimiter = if args[1].is_valid(row) { text_of(&args[1], row) } else { "" };
        let text = text_of(&args[0], row);
        VIEW_BYTES.saturating_mul((text.matches(delimiter).count() as u64).saturating_add(1))
    })
}

/// The bytes that [`replaced`] bounds, with the replaced texts counted.
fn occurrences(args: &[ArrayRef], bytes_max: u64) -> u64 {
    sum(args, args.len(), bytes_max, |row| {
        let count = text_of(&args[0], row).matches(text_of(&args[1], row)).count() as u64;
        count.saturating_mul(bytes(&args[2], row)).saturating_add(bytes(&args[0], row))
    })
}

/// The bytes that [`replaced_matches`] bounds, with the matches counted.
fn matches(args: &[ArrayRef], bytes_max: u64) -> u64 {
    let mut compiled: Option<(String, Regex)> = None;
    sum(args, args.len(), bytes_max, |row| {
        let flags = args.get(3).map_or("", |flags| text_of(flags, row)).replace('g', "");
        let pattern = match flags.as_str() {
            "" => text_of(&args[1], row).to_owned(),
            flags => format!("(?{flags}){}", text_of(&args[1], row)),
        };
        if compiled.as_ref().is_none_or(|(known, _)| *known != pattern) {
            compiled = Regex::new(&pattern).ok().map(|regex| (pattern, regex));
        }
        match &compiled {
            Some((_, regex)) if is_global(args, row) => {
                // No more than are too many.
                let most = bytes_max / (text_of(&args[2], row).len() as u64).max(1);
                let most = usize::try_from(most).unwrap_or(usize::MAX).saturating_add(1);
                with_replacements(
                    args,
                    row,
                    regex.find_iter(text_of(&args[0], row)).take(most).count() as u64,
                )
            }
            // Of a pattern that is none, the function says what is wrong.
            _ => with_replacements(args, row, 1),
        }
    })
}

/// A text of any of its types; empty for others, which the functions refuse.
fn text_of(values: &ArrayRef, row: usize) -> &str {
    match values.data_type() {
        DataType::Utf8 => values.as_string::<i32>().value(row),
        DataType::LargeUtf8 => values.as_string::<i64>().value(row),
        DataType::Utf8View => values.as_string_view().value(row),
        _ => "",
    }
}

/// An estimate. All of one function are the same.
#[derive(Clone, Copy)]
struct Estimated(Option<Estimate>);

impl PartialEq for Estimated {
    fn eq(&self, other: &Self) -> bool {
        self.0.is_some() == other.0.is_some()
    }
}

impl Eq for Estimated {}

impl std::hash::Hash for Estimated {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.is_some().hash(state);
    }
}

impl std::fmt::Debug for Estimated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Estimated")
    }
}

/// A function that fails if its result is too large.
#[derive(PartialEq, Eq, Hash, Debug)]
struct Bounded {
    inner: Arc<ScalarUDF>,
    estimate: Estimated,
    bytes_max: u64,
    has_product: bool,
    /// How many of its arguments have to be there for a row to take anything.
    needed: usize,
}

impl Bounded {
    fn check(&self, bytes: u64) -> Result<()> {
        check_result(self.name(), bytes, self.bytes_max)
    }

    /// Checks what the arguments take together, of a function that copies all of them.
    fn check_sum(&self, args: &ScalarFunctionArgs, is_constant: bool) -> Result<()> {
        let rows = if is_constant { 1 } else { args.number_rows as u64 };
        let size = |arg: &ColumnarValue| match arg {
            ColumnarValue::Scalar(value) => (value.size() as u64).saturating_mul(rows),
            ColumnarValue::Array(array) => array_bytes(array),
        };
        let all = args.args.iter().map(size).fold(0, u64::saturating_add);
        // A separator stands between each two.
        let separators = match args.args.first() {
            Some(separator) if self.name() == "concat_ws" => {
                size(separator).saturating_mul((args.args.len() as u64).saturating_sub(3))
            }
            _ => 0,
        };
        self.check(all.saturating_add(separators))
    }
}

/// Bytes of the values of an array, without those of others in the same buffers.
fn array_bytes(array: &ArrayRef) -> u64 {
    match array.data_type() {
        // The length of a view is in its first four bytes.
        DataType::Utf8View => {
            let lengths = array.as_string_view().views().iter().map(|view| u64::from(*view as u32));
            lengths.fold(0, u64::saturating_add)
        }
        _ => array.to_data().get_slice_memory_size().map_or(u64::MAX, |size| size as u64),
    }
}

/// Checks what a call takes, or an operator.
///
/// # Errors
/// When that is more than `bytes_max`.
pub(crate) fn check_result(name: &str, bytes: u64, bytes_max: u64) -> Result<()> {
    if bytes > bytes_max {
        return resources_err!(
            "{name} would take {bytes} bytes for one batch; at most {bytes_max} are possible, which depends \
             on --query-memory of the node"
        );
    }
    Ok(())
}

impl ScalarUDFImpl for Bounded {
    inner_function!();
    inner_arguments!();

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        check_growth()?;
        let rows_of_batch = args.number_rows;
        let is_constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        if !is_constant {
            // Constants are copied for each row.
            let copied = args.args.iter().map(|arg| match arg {
                ColumnarValue::Scalar(value) => (value.size() as u64).saturating_mul(rows_of_batch as u64),
                ColumnarValue::Array(_) => 0,
            });
            self.check(copied.fold(0, u64::saturating_add))?;
        }
        if COPYING.contains(&self.name()) {
            self.check_sum(&args, is_constant)?;
        }
        let Estimated(estimate) = self.estimate;
        if estimate.is_some() || self.has_product {
            let rows = if is_constant { 1 } else { args.number_rows };
            let array = |arg: &ColumnarValue| -> Result<ArrayRef> {
                let array = arg.to_array(rows)?;
                let is_integer = array.data_type().is_integer();
                Ok(if is_integer { cast(&array, &DataType::Int64)? } else { array })
            };
            let arrays = args.args.iter().map(array).collect::<Result<Vec<_>>>()?;
            let (mut taken, mut product) = (0u64, 0u64);
            let counts = |row: &usize| arrays.iter().take(self.needed).all(|array| array.is_valid(*row));
            for row in (0..rows).filter(counts) {
                if let Some(estimate) = estimate {
                    taken = taken.saturating_add(estimate(&arrays, row));
                }
                if let (true, [left, right, ..]) = (self.has_product, arrays.as_slice()) {
                    product = product.saturating_add(length(left, row).saturating_mul(length(right, row)));
                }
            }
            let counted = COUNTED.iter().find(|(name, _)| *name == self.name());
            if let Some((_, count)) = counted.filter(|_| taken > self.bytes_max) {
                taken = count(&arrays, self.bytes_max);
            }
            self.check(taken)?;
            if product > PRODUCT_MAX {
                return resources_err!(
                    "{} would compare {product} pairs for one batch; at most {PRODUCT_MAX} are possible",
                    self.name()
                );
            }
        }
        let result = self.inner.invoke_with_args(args)?;
        if let ColumnarValue::Array(array) = &result {
            self.check(array.get_array_memory_size() as u64)?;
        } else if let ColumnarValue::Scalar(value) = &result {
            self.check(value.size() as u64)?;
            check_constant(value, rows_of_batch, self.bytes_max)?;
        }
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::SessionContext;

    use super::*;

    async fn outcome(sql: &str) -> Result<()> {
        let context = SessionContext::new();
        for function in bounded_functions(&context.state(), usize::MAX) {
            context.register_udf(function.as_ref().clone());
        }
        context.sql(sql).await?.collect().await.map(|_| ())
    }

    #[tokio::test]
    async fn results_that_are_too_large_are_refused() {
        let doubling = (0..12).fold("SELECT repeat('x', 1000000) AS s".to_owned(), |sql, _| {
            format!("SELECT concat(s, s) AS s FROM ({sql}) t")
        });
        for sql in [
            "SELECT repeat('x', 1000000000000)",
            "SELECT repeat('x', v) FROM (VALUES (1000000000)) t(v)",
            "SELECT lpad('x', 2147483647, 'y')",
            "SELECT rpad('x', 2147483647, 'y')",
            "SELECT range(1, 1000000000000)",
            "SELECT range(1000000000)",
            "SELECT generate_series(1, 1000000000)",
            "SELECT range(DATE '0001-01-01', DATE '9999-01-01', INTERVAL '1 millisecond')",
            "SELECT array_repeat(1, 1000000000)",
            "SELECT array_resize([1], 1000000000, 0)",
            "SELECT array_distinct(range(1, 3000000))",
            "SELECT rpad('a', i, NULL) FROM (VALUES (9223372036854775807)) v(i)",
            "SELECT lpad(s, i, 'x') FROM (VALUES (9000000000000000000, NULL::VARCHAR)) v(i, s)",
            "SELECT array_repeat(s, i) FROM (VALUES (1000000000, NULL::VARCHAR)) v(i, s)",
            "SELECT array_resize(l, i, f) FROM (VALUES (1000000000, [1], NULL::BIGINT)) v(i, l, f)",
            "SELECT encode(concat(value, repeat('x', 1000000)), 'hex') FROM range(200)",
            "SELECT levenshtein(repeat('a', 200000), repeat('b', 200000))",
            "SELECT array_has_all(range(1, 3000000), range(2, 3000000))",
            "SELECT concat(value, repeat('x', 1000000)) FROM range(10000)",
            "SELECT array_union(range(1, 3000000), range(2, 3000000))",
            "SELECT replace(repeat('x', 1000000), 'x', repeat('y', 1000000))",
            "SELECT regexp_replace(repeat('a', 1000000), 'a', repeat('b', 1000), 'g')",
            "SELECT regexp_replace(repeat('a', 1000000), '(A)', repeat('${1}', 1000), 'gi')",
            "SELECT regexp_replace(s, '.+', repeat('${0}', 1000)) FROM (VALUES (repeat('a', 1000000))) v(s)",
            "SELECT string_to_array(repeat('a,', 20000000), ',')",
            "SELECT string_to_array(repeat('a', 40000000), NULL)",
            "SELECT string_to_array(repeat('a,', 20000000), ',', NULL)",
            doubling.as_str(),
        ] {
            let error = outcome(sql).await.expect_err(&sql[..sql.len().min(60)]).to_string();
            assert!(error.contains("at most"), "{error}");
        }
    }

    #[tokio::test]
    async fn large_results_are_fine() {
        for sql in [
            "SELECT repeat('x', 10000000)",
            "SELECT lpad('x', 10000000, 'yz')",
            "SELECT repeat('xyz', value % 1000) FROM range(100000)",
            "SELECT array_length(range(1, 10000000))",
            "SELECT range(DATE '2000-01-01', DATE '2024-01-01', INTERVAL '1' MONTH)",
            "SELECT replace(repeat('xy', 1000000), 'x', 'yyyy')",
            // Patterns that could match at each place, and do not.
            "SELECT replace(repeat('x', 10000000), 'y', repeat('y', 1000))",
            "SELECT regexp_replace(repeat('x', 10000000), '[a-w]', repeat('y', 1000), 'g')",
            "SELECT regexp_replace(s, f, 'y', 'g') FROM (VALUES (repeat('x', 10), NULL)) v(s, f)",
            "SELECT string_to_array(repeat('x', 100000000), ',')",
            "SELECT repeat(NULL, 5), lpad('x', NULL), rpad(NULL, 5), array_repeat(NULL, 3)",
            "SELECT repeat(s, i) FROM (VALUES (NULL::BIGINT, 'x'), (1000000000000, NULL)) v(i, s)",
            "SELECT levenshtein(repeat('a', 2000), repeat('b', 2000))",
            "SELECT array_has_all(range(1, 3000), range(2, 3000))",
            "SELECT array_length(array_except(range(1, 200000), range(2, 200000)))",
        ] {
            outcome(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
        }
    }
}
