//! Scalar functions of SQL over vectors and texts.

use std::any::Any;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float32Array, Float32Builder, new_null_array};
use arrow::compute;
use arrow::datatypes::Float32Type;
use arrow_schema::DataType;
use datafusion::common::{DataFusionError, Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use plexus_index::text::{GlobalStatistics, TextIndex, TextSearch};
use plexus_model::{Error, Metric, RowSelection};

use crate::search::exec::text_binding::TextBinding;
use crate::search::snapshot::texts::build_texts;
use crate::search::sql::arguments::list;
use crate::search::sql::function_codec::carried;
use crate::search::sql::vector_operand::{VectorOperand, vector_type};

/// `cosine_distance`, `l2_distance`, `inner_product` and `negative_inner_product`: the distance of two
/// vectors of the same length, as `Float32`. Null where a vector is null or has a component that is null or
/// not finite.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct DistanceFunction {
    name: &'static str,
    /// The metric that the function computes.
    pub metric: Metric,
    /// Whether a higher value is nearer.
    pub similarity: bool,
    signature: Signature,
}

impl DistanceFunction {
    fn new(name: &'static str, metric: Metric, similarity: bool) -> Self {
        Self { name, metric, similarity, signature: Signature::user_defined(Volatility::Immutable) }
    }

    /// The four functions.
    pub(crate) fn all() -> [ScalarUDF; 4] {
        [
            Self::new("cosine_distance", Metric::Cosine, false),
            Self::new("l2_distance", Metric::L2, false),
            Self::new("inner_product", Metric::Dot, true),
            Self::new("negative_inner_product", Metric::Dot, false),
        ]
        .map(ScalarUDF::from)
    }

    /// The value of the function; `None` when it is not finite.
    fn between(&self, a: &[f32], b: &[f32]) -> Option<f32> {
        let distance = plexus_index::distance(self.metric, a, b);
        let finite = distance.is_finite().then_some(distance);
        if self.similarity { finite.map(|d| -d) } else { finite }
    }
}

impl ScalarUDFImpl for DistanceFunction {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float32)
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        if types.len() != 2 {
            return plan_err!("{} takes two vectors", self.name);
        }
        types.iter().map(|data_type| vector_type(self.name, data_type)).collect()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let [a, b] = args.args.as_slice() else {
            return exec_err!("{} takes two vectors", self.name);
        };
        let (a, b) = (VectorOperand::new(a)?, VectorOperand::new(b)?);
        let mut distances = Float32Builder::with_capacity(rows);
        for row in 0..rows {
            let distance = match (a.vector(row), b.vector(row)) {
                (Some(x), Some(y)) if x.len() != y.len() => {
                    return Err(DataFusionError::External(Box::new(Error::invalid(format!(
                        "{}: the vectors have {} and {} components",
                        self.name,
                        x.len(),
                        y.len()
                    )))));
                }
                (Some(x), Some(y)) => self.between(x, y),
                _ => None,
            };
            distances.append_option(distance);
        }
        Ok(ColumnarValue::Array(Arc::new(distances.finish())))
    }
}

/// Memory of the index of the texts of one batch, in bytes. Several batches are computed at once.
const BATCH_BYTES_MAX: usize = 256 << 20;

/// `text_match(column, ..., query)`: whether a row matches a full-text query. `bm25_score(column, ...,
/// query)`: its BM25 score as `Float32`, or null where it does not match.
///
/// The planner binds a call to the table whose columns it names, see [`BindRule`](super::binding::BindRule).
#[derive(Debug, Clone)]
pub(crate) struct TextFunction {
    /// Whether the function is `bm25_score`.
    pub scores: bool,
    /// The query and its table, once the call is bound.
    pub binding: Option<Arc<TextBinding>>,
    signature: Signature,
}

impl TextFunction {
    /// One of the two functions.
    pub(crate) fn new(scores: bool, binding: Option<Arc<TextBinding>>) -> Self {
        Self { scores, binding, signature: Signature::user_defined(Volatility::Immutable) }
    }

    /// Both functions, unbound.
    pub(crate) fn all() -> [ScalarUDF; 2] {
        [false, true].map(|scores| ScalarUDF::from(Self::new(scores, None)))
    }

    /// Functions are equal if they share their binding.
    fn key(&self) -> (bool, usize) {
        (self.scores, self.binding.as_ref().map_or(0, |binding| Arc::as_ptr(binding) as usize))
    }
}

impl PartialEq for TextFunction {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for TextFunction {}

impl Hash for TextFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

impl ScalarUDFImpl for TextFunction {
    fn name(&self) -> &str {
        if self.scores { "bm25_score" } else { "text_match" }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(if self.scores { DataType::Float32 } else { DataType::Boolean })
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let text = |t: &DataType| {
            matches!(t, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null)
        };
        match types.iter().find(|t| !text(t)) {
            _ if types.len() < 2 => plan_err!("{} takes text columns and a query", self.name()),
            Some(other) => {
                plan_err!("{} takes text columns and a query, but got {other}", self.name())
            }
            None => Ok(types.iter().map(|t| if t.is_null() { DataType::Utf8 } else { t.clone() }).collect()),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let Some(binding) = (match &self.binding {
            Some(binding) => Some(binding.clone()),
            None => carried(&args.args)?,
        }) else {
            return Err(DataFusionError::External(Box::new(Error::unsupported(format!(
                "{} needs a constant query and columns of one table, in the WHERE, ORDER BY or \
                 select list of a query that reads this table directly",
                self.name()
            )))));
        };
        let external = |e: Error| DataFusionError::External(Box::new(e));
        // Fields of the index that are not in the call are null here. The query does not search them.
        let columns = binding.fields.all().map(|(id, _)| {
            match binding.called.iter().position(|called| *called == id) {
                Some(position) => {
                    let column = args.args[position].clone().into_array(args.number_rows)?;
                    Ok(compute::cast(&column, &DataType::LargeUtf8)?)
                }
                None => Ok(new_null_array(&DataType::LargeUtf8, args.number_rows)),
            }
        });
        let columns = columns.collect::<Result<Vec<ArrayRef>>>()?;
        if args.number_rows == 0 {
            let empty = new_null_array(&self.return_type(&[])?, 0);
            return Ok(ColumnarValue::Array(empty));
        }
        let mut columns = columns.into_iter();
        let indexes = binding.fields.groups.iter().map(|group| {
            let columns = columns.by_ref().take(group.columns.len()).collect();
            TextIndex::open(build_texts(&[columns], &group.analyzer, BATCH_BYTES_MAX)?.into())
        });
        let indexes: plexus_model::Result<Vec<_>> = indexes.collect();
        let index = indexes.and_then(TextIndex::together).map_err(external)?;
        let known = binding.statistics.get();
        if self.scores && known.is_none() {
            return Err(external(Error::internal("rows are scored before their table is scanned")));
        }
        let search = TextSearch::new(
            &binding.query,
            binding.fields.count(),
            known.unwrap_or(&GlobalStatistics::default()),
        );
        if !self.scores {
            let rows = search.matching_rows(&index).map_err(external)?;
            // A row without any text is neither a match nor none.
            let texts = args.args.iter().take(binding.called.len());
            let texts = texts.map(|column| column.to_array(args.number_rows)).collect::<Result<Vec<_>>>()?;
            let has_text = |row: usize| texts.iter().any(|column| column.is_valid(row));
            let matches: BooleanArray =
                (0..args.number_rows).map(|row| has_text(row).then(|| rows.contains(row as u32))).collect();
            return Ok(ColumnarValue::Array(Arc::new(matches)));
        }
        let mut scores: Vec<Option<f32>> = vec![None; args.number_rows];
        search
            .run(&index, &RowSelection::all(), usize::MAX, f32::NEG_INFINITY, &mut |hit| {
                scores[hit.row as usize] = Some(hit.score);
                f32::NEG_INFINITY
            })
            .map_err(external)?;
        Ok(ColumnarValue::Array(Arc::new(Float32Array::from(scores))))
    }
}

/// Carries the name of an argument through the planner to the table function, since the planner only knows
/// positional arguments.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct NamedArgument {
    signature: Signature,
}

/// The name of the function that wraps a named argument of a search. The `$` keeps it apart from the
/// functions that users call.
pub const NAMED_ARGUMENT: &str = "$named";

impl NamedArgument {
    /// The function.
    pub(crate) fn function() -> ScalarUDF {
        // Volatile, so that the planner does not fold it.
        ScalarUDF::from(Self { signature: Signature::variadic_any(Volatility::Volatile) })
    }
}

impl ScalarUDFImpl for NamedArgument {
    fn name(&self) -> &str {
        NAMED_ARGUMENT
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        Ok(types.last().cloned().unwrap_or(DataType::Null))
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        exec_err!("named arguments are not supported here")
    }
}

/// Whether a function is one of those of searches, which rules of searches look for in plans.
pub(crate) fn is_search_function(function: &ScalarUDF) -> bool {
    as_function::<DistanceFunction>(function).is_some() || as_function::<TextFunction>(function).is_some()
}

/// The implementation of a function, if it is of type `T`.
pub(crate) fn as_function<T: ScalarUDFImpl>(function: &ScalarUDF) -> Option<&T> {
    let inner: &dyn Any = function.inner().as_ref();
    inner.downcast_ref()
}

/// The components of a constant vector; `None` if it is not one.
pub(crate) fn vector_of(value: &ScalarValue) -> Option<Vec<f32>> {
    let items = compute::cast(&list(value)?, &DataType::Float32).ok()?;
    let floats = items.as_primitive_opt::<Float32Type>()?;
    (floats.null_count() == 0).then(|| floats.values().to_vec())
}
