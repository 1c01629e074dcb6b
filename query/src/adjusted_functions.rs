//! Functions of the engine that fail for some arguments, or take one row for all. The arguments are adjusted
//! before the function sees them.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Int64Array, ListArray, NullArray, StringArray, new_empty_array,
};
use arrow::buffer::OffsetBuffer;
use arrow::compute::{cast, concat, is_null, nullif};
use arrow::datatypes::Int64Type;
use arrow_schema::{DataType, Field, FieldRef, TimeUnit};
use datafusion::common::{Result, ScalarValue};
use datafusion::execution::SessionState;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature,
};

use crate::inner_function::inner_function;

/// The functions, each with what is done to its arguments.
const FUNCTIONS: [(&str, Adjustment); 17] = [
    ("array_sort", Adjustment::OrderOfRows),
    ("coalesce", Adjustment::TypedNulls),
    ("lpad", Adjustment::NoNegativeLength),
    ("rpad", Adjustment::NoNegativeLength),
    ("make_array", Adjustment::NullItems),
    ("regexp_like", Adjustment::NoEmptyFlags(2)),
    ("regexp_match", Adjustment::NoEmptyFlags(2)),
    ("regexp_replace", Adjustment::NoEmptyFlags(3)),
    ("split_part", Adjustment::PartsFromTheLeft),
    ("to_char", Adjustment::ConstantAsRows),
    ("to_date", Adjustment::ConstantAsRows),
    ("to_timestamp", Adjustment::ConstantAsRows),
    ("to_timestamp_micros", Adjustment::ConstantAsRows),
    ("to_timestamp_millis", Adjustment::ConstantAsRows),
    ("to_timestamp_nanos", Adjustment::ConstantAsRows),
    ("to_timestamp_seconds", Adjustment::ConstantAsRows),
    ("to_unixtime", Adjustment::WholeSeconds),
];

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Adjustment {
    /// A negative length, the second argument, becomes zero: the function allocates by it.
    NoNegativeLength,
    /// Orders of each row are not those of the first (apache/datafusion#24132).
    OrderOfRows,
    /// Items of columns that are null in every row make a list for each row, not one of all rows
    /// (apache/datafusion#21841). The rest as with `TypedNulls`.
    NullItems,
    /// Arguments that are null have the type of the others: there is none that bytes and null have in common.
    TypedNulls,
    /// Empty flags, the argument at a position, are no flags (apache/datafusion#25021).
    NoEmptyFlags(usize),
    /// Negative positions count the parts from the end; the parts are those from the left all the same:
    /// `split_part('aaa', 'aa', -1)` is `a`.
    PartsFromTheLeft,
    /// Seconds of a time are rounded down, also before 1970. The rest as with `ConstantAsRows`.
    WholeSeconds,
    /// A constant value beside formats that are columns becomes a column: the function would take the format
    /// of the first row for all rows, or fail.
    ConstantAsRows,
}

/// The functions of a session, with their adjustments.
pub(crate) fn adjusted_functions(state: &SessionState) -> Vec<Arc<ScalarUDF>> {
    let wrap = |&(name, adjustment): &(&str, Adjustment)| {
        let mut inner = state.scalar_functions().get(name)?.clone();
        if name == "coalesce" {
            // Those of the engine make texts of dates and doubles of decimals.
            inner = Arc::new(inner.as_ref().clone().with_aliases(["ifnull", "nvl"]));
        }
        Some(Arc::new(ScalarUDF::from(Adjusted { inner, adjustment })))
    };
    FUNCTIONS.iter().filter_map(wrap).collect()
}

#[derive(PartialEq, Eq, Hash, Debug)]
struct Adjusted {
    inner: Arc<ScalarUDF>,
    adjustment: Adjustment,
}

impl Adjusted {
    /// Adjusts the arguments, or computes the result where that is not enough.
    fn adjust(&self, args: &mut ScalarFunctionArgs) -> Result<Option<ColumnarValue>> {
        let is_column = |arg: &ColumnarValue| matches!(arg, ColumnarValue::Array(_));
        match self.adjustment {
            Adjustment::OrderOfRows if args.args.iter().skip(1).any(is_column) => {
                return self.by_runs(args).map(Some);
            }
            Adjustment::NullItems
                if args.args.iter().any(is_column)
                    && args.args.iter().all(|arg| arg.data_type().is_null()) =>
            {
                return lists_of_nulls(args.args.len(), args.number_rows).map(Some);
            }
            Adjustment::NoNegativeLength => {
                if let Some(length) = args.args.get_mut(1) {
                    *length = not_negative(length)?;
                }
            }
            Adjustment::PartsFromTheLeft => {
                if let [text, delimiter, position] = args.args.as_mut_slice() {
                    *position = from_the_left([text, delimiter, position], args.number_rows)?;
                }
            }
            Adjustment::WholeSeconds | Adjustment::ConstantAsRows => {
                if let (Adjustment::WholeSeconds, [time]) = (self.adjustment, args.args.as_slice())
                    && let DataType::Timestamp(unit, _) = time.data_type()
                {
                    return seconds(time, unit).map(Some);
                }
                if let [value, rest @ ..] = args.args.as_mut_slice()
                    && rest.iter().any(is_column)
                {
                    *value = ColumnarValue::Array(value.to_array(args.number_rows)?);
                }
            }
            Adjustment::NoEmptyFlags(position) => {
                if let Some(flags) = args.args.get_mut(position) {
                    *flags = not_empty(flags)?;
                    return self.null_where_flags_are(args, position);
                }
            }
            Adjustment::OrderOfRows | Adjustment::NullItems | Adjustment::TypedNulls => {}
        }
        Ok(None)
    }

    /// The result of the function, which is null where the flags are; `None` if none is.
    fn null_where_flags_are(
        &self,
        args: &ScalarFunctionArgs,
        position: usize,
    ) -> Result<Option<ColumnarValue>> {
        let rows = args.number_rows;
        let flags = args.args[position].to_array(rows)?;
        if flags.null_count() == 0 {
            return Ok(None);
        }
        let result = self.inner.invoke_with_args(args.clone())?.into_array(rows)?;
        Ok(Some(ColumnarValue::Array(nullif(&result, &is_null(&flags)?)?)))
    }

    /// Calls the function for each run of rows with the same arguments behind the first.
    fn by_runs(&self, args: &ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let columns = args.args.iter().map(|arg| arg.to_array(rows)).collect::<Result<Vec<_>>>()?;
        let scalar = |index: usize, row: usize| ScalarValue::try_from_array(&columns[index], row);
        let settings =
            |row: usize| (1..columns.len()).map(|index| scalar(index, row)).collect::<Result<Vec<_>>>();
        let (mut results, mut start) = (Vec::new(), 0);
        while start < rows {
            let of_run = settings(start)?;
            let mut end = start + 1;
            while end < rows && settings(end)? == of_run {
                end += 1;
            }
            let mut run = args.clone();
            run.number_rows = end - start;
            run.args[0] = ColumnarValue::Array(columns[0].slice(start, end - start));
            run.args[1..].iter_mut().zip(of_run).for_each(|(arg, value)| *arg = ColumnarValue::Scalar(value));
            results.push(self.inner.invoke_with_args(run)?.into_array(end - start)?);
            start = end;
        }
        if results.is_empty() {
            return Ok(ColumnarValue::Array(new_empty_array(args.return_field.data_type())));
        }
        let results: Vec<&dyn Array> = results.iter().map(AsRef::as_ref).collect();
        Ok(ColumnarValue::Array(concat(&results)?))
    }
}

/// A list of nulls for each row.
fn lists_of_nulls(items: usize, rows: usize) -> Result<ColumnarValue> {
    let field = Arc::new(Field::new_list_field(DataType::Null, true));
    let offsets = OffsetBuffer::from_repeated_length(items, rows);
    let lists = ListArray::try_new(field, offsets, Arc::new(NullArray::new(items * rows)), None)?;
    Ok(ColumnarValue::Array(Arc::new(lists)))
}

/// The same flags of regular expressions, with one that changes nothing for those that are empty.
fn not_empty(flags: &ColumnarValue) -> Result<ColumnarValue> {
    const UNICODE: &str = "u";
    let data_type = flags.data_type();
    if !data_type.is_string() {
        return Ok(flags.clone());
    }
    let is_constant = matches!(flags, ColumnarValue::Scalar(_));
    let texts = cast(&flags.to_array(1)?, &DataType::Utf8)?;
    let texts = texts.as_string::<i32>().iter();
    let texts: StringArray =
        texts.map(|text| text.map(|text| if text.is_empty() { UNICODE } else { text })).collect();
    let flags = cast(&texts, &data_type)?;
    Ok(match is_constant {
        true => ColumnarValue::Scalar(ScalarValue::try_from_array(&flags, 0)?),
        false => ColumnarValue::Array(flags),
    })
}

/// The same positions, with those from the left for negative ones, and a place behind the last part for those
/// before the first.
fn from_the_left(args: [&ColumnarValue; 3], rows: usize) -> Result<ColumnarValue> {
    let position = args[2];
    let is_positive = |value: &ScalarValue| matches!(value, ScalarValue::Int64(Some(number)) if *number > 0);
    if matches!(position, ColumnarValue::Scalar(value) if is_positive(value))
        || !args[..2].iter().all(|arg| arg.data_type().is_string())
        || !position.data_type().is_integer()
    {
        return Ok(position.clone());
    }
    let is_constant = args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
    let rows = if is_constant { 1 } else { rows };
    let text =
        |arg: &ColumnarValue| -> Result<ArrayRef> { Ok(cast(&arg.to_array(rows)?, &DataType::LargeUtf8)?) };
    let (texts, delimiters) = (text(args[0])?, text(args[1])?);
    let (texts, delimiters) = (texts.as_string::<i64>(), delimiters.as_string::<i64>());
    let positions = cast(&position.to_array(rows)?, &DataType::Int64)?;
    let parts = |row: usize| match (texts.value(row), delimiters.value(row)) {
        (_, "") => 1,
        (text, delimiter) => text.matches(delimiter).count() as i64 + 1,
    };
    let positions = positions.as_primitive::<Int64Type>().iter().enumerate().map(|(row, position)| {
        position.map(|position| match position < 0 && texts.is_valid(row) && delimiters.is_valid(row) {
            true => {
                Some(parts(row).saturating_add(position) + 1).filter(|left| *left > 0).unwrap_or(i64::MAX)
            }
            false => position,
        })
    });
    let positions: ArrayRef = Arc::new(positions.collect::<Int64Array>());
    Ok(match is_constant {
        true => ColumnarValue::Scalar(ScalarValue::try_from_array(&positions, 0)?),
        false => ColumnarValue::Array(positions),
    })
}

/// The seconds of times since 1970, rounded down.
fn seconds(times: &ColumnarValue, unit: TimeUnit) -> Result<ColumnarValue> {
    let per_second = match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    };
    let is_constant = matches!(times, ColumnarValue::Scalar(_));
    let counts = cast(&times.to_array(1)?, &DataType::Int64)?;
    let counts = counts.as_primitive::<Int64Type>();
    let seconds: ArrayRef = Arc::new(counts.unary::<_, Int64Type>(|count: i64| count.div_euclid(per_second)));
    Ok(match is_constant {
        true => ColumnarValue::Scalar(ScalarValue::try_from_array(&seconds, 0)?),
        false => ColumnarValue::Array(seconds),
    })
}

/// The same integers, with zero for negative ones.
fn not_negative(lengths: &ColumnarValue) -> Result<ColumnarValue> {
    let data_type = lengths.data_type();
    if !data_type.is_signed_integer() {
        return Ok(lengths.clone());
    }
    let is_constant = matches!(lengths, ColumnarValue::Scalar(_));
    let wide = cast(&lengths.to_array(1)?, &DataType::Int64)?;
    let wide = wide.as_primitive::<Int64Type>().unary::<_, Int64Type>(|length| length.max(0));
    let lengths = cast(&wide, &data_type)?;
    Ok(match is_constant {
        true => ColumnarValue::Scalar(ScalarValue::try_from_array(&lengths, 0)?),
        false => ColumnarValue::Array(lengths),
    })
}

/// The types that arguments get, given the function that coerces those with a type.
fn with_typed_nulls(
    types: &[DataType],
    coerce: impl Fn(&[DataType]) -> Result<Vec<DataType>>,
) -> Result<Vec<DataType>> {
    let known: Vec<DataType> = types.iter().filter(|data_type| !data_type.is_null()).cloned().collect();
    if known.is_empty() || known.len() == types.len() {
        return coerce(types);
    }
    let mut coerced = coerce(&known)?.into_iter();
    let first = coerced.as_slice().first().cloned();
    let item = |data_type: &DataType| match data_type.is_null() {
        true => first.clone(),
        false => coerced.next(),
    };
    Ok(types.iter().filter_map(item).collect())
}

impl ScalarUDFImpl for Adjusted {
    inner_function!();

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match self.adjustment {
            Adjustment::NullItems | Adjustment::TypedNulls => {
                with_typed_nulls(types, |types| self.inner.coerce_types(types))
            }
            _ => self.inner.coerce_types(types),
        }
    }

    fn is_strict(&self) -> bool {
        self.inner.inner().is_strict()
    }

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        self.inner.simplify(args, info)
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        if let Some(result) = self.adjust(&mut args)? {
            return Ok(result);
        }
        self.inner.invoke_with_args(args)
    }

    fn with_updated_config(&self, config: &datafusion::config::ConfigOptions) -> Option<ScalarUDF> {
        let inner = Arc::new(self.inner.inner().with_updated_config(config)?);
        Some(ScalarUDF::from(Self { inner, adjustment: self.adjustment }))
    }
}
