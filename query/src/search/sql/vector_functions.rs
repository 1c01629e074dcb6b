//! Arithmetic of vectors: `a + b`, `a - b`, `a * b`, `2 * a`, and functions of one vector. They compute in
//! single precision, as vectors are stored, and are null where a vector or a component of it is.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeListArray, Float32Array, Float32Builder, Float64Builder, Int32Builder,
    ListArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::cast;
use arrow::datatypes::{Float64Type, Int64Type};
use arrow_schema::DataType;
use datafusion::common::{DFSchema, DataFusionError, Result, exec_err, plan_err};
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
    cast as cast_to,
};
use datafusion::sql::sqlparser::ast::BinaryOperator;
use plexus_model::Error;

use crate::bounded_functions::check_result;
use crate::context::external;
use crate::search::sql::vector_operand::{VectorOperand, component, result_type, vector_type};

/// What a function computes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Operation {
    /// Component by component.
    Add,
    Subtract,
    Multiply,
    /// A vector times a number.
    Scale,
    /// A vector of length one in the same direction. That of zero is zero.
    Normalize,
    /// `subvector(vector, start, count)`: components from `start`, counted from one.
    Subvector,
    /// The sum of the absolute differences.
    L1Distance,
    /// The Euclidean length.
    Norm,
    Dimensions,
}

const FUNCTIONS: [(&str, &[&str], Operation); 9] = [
    ("vector_add", &[], Operation::Add),
    ("vector_subtract", &[], Operation::Subtract),
    ("vector_multiply", &[], Operation::Multiply),
    ("vector_scale", &[], Operation::Scale),
    ("l2_normalize", &["normalize"], Operation::Normalize),
    ("subvector", &[], Operation::Subvector),
    ("l1_distance", &[], Operation::L1Distance),
    ("vector_norm", &["l2_norm"], Operation::Norm),
    ("vector_dims", &[], Operation::Dimensions),
];

/// A function of vectors.
#[derive(PartialEq, Eq, Hash, Debug)]
pub(crate) struct VectorFunction {
    name: &'static str,
    aliases: Vec<String>,
    operation: Operation,
    /// Bytes that the results for one batch may take.
    bytes_max: u64,
    signature: Signature,
}

impl VectorFunction {
    /// All functions.
    pub(crate) fn all(bytes_max: u64) -> Vec<Arc<ScalarUDF>> {
        let function = |(name, aliases, operation): (&'static str, &[&str], Operation)| {
            Arc::new(ScalarUDF::from(Self {
                name,
                aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
                operation,
                bytes_max,
                signature: Signature::user_defined(Volatility::Immutable),
            }))
        };
        FUNCTIONS.into_iter().map(function).collect()
    }

    /// The components of the result for a row.
    fn components<'a>(&self, a: &'a [f32], second: Second<'a>) -> Result<Vec<f32>> {
        let pairs = |b: &'a [f32], of: fn(f32, f32) -> f32| -> Result<Vec<f32>> {
            check_lengths(self.name, a, b)?;
            Ok(a.iter().zip(b).map(|(a, b)| of(*a, *b)).collect())
        };
        match (self.operation, second) {
            (Operation::Add, Second::Vector(b)) => pairs(b, |a, b| a + b),
            (Operation::Subtract, Second::Vector(b)) => pairs(b, |a, b| a - b),
            (Operation::Multiply, Second::Vector(b)) => pairs(b, |a, b| a * b),
            (Operation::Scale, Second::Number(factor)) => {
                Ok(a.iter().map(|a| (f64::from(*a) * factor) as f32).collect())
            }
            (Operation::Normalize, _) => {
                let norm = norm(a);
                let divisor = if norm > 0.0 { norm } else { 1.0 };
                Ok(a.iter().map(|a| (f64::from(*a) / divisor) as f32).collect())
            }
            (Operation::Subvector, Second::Range(start, count)) => {
                let first = usize::try_from(start.saturating_sub(1)).ok().filter(|first| *first < a.len());
                match (first, usize::try_from(count)) {
                    (Some(first), Ok(count @ 1..)) => {
                        Ok(a[first..first.saturating_add(count).min(a.len())].to_vec())
                    }
                    _ => Err(external(Error::invalid(format!(
                        "{}: a vector of {} components has none from {start}, {count} of them",
                        self.name,
                        a.len()
                    )))),
                }
            }
            _ => exec_err!("{} takes other arguments", self.name),
        }
    }

    /// The vectors of all rows.
    fn vectors(&self, args: &ScalarFunctionArgs) -> Result<ArrayRef> {
        let rows = args.number_rows;
        let first = VectorOperand::new(&args.args[0])?;
        let seconds = Seconds::new(self.operation, args)?;
        let (mut values, mut lengths, mut valid) =
            (Vec::new(), Vec::with_capacity(rows), Vec::with_capacity(rows));
        let fixed = match args.return_field.data_type() {
            DataType::FixedSizeList(_, length) => Some(*length as usize),
            _ => None,
        };
        for row in 0..rows {
            let found = match (first.vector(row), seconds.of_row(row)) {
                (Some(a), Some(second)) => Some(self.components(a, second)?),
                _ => None,
            };
            if let Some(infinite) = found.iter().flatten().find(|value| !value.is_finite()) {
                let text = format!("{}: a component becomes {infinite}, which is no number", self.name);
                return Err(external(Error::invalid(text)));
            }
            valid.push(found.is_some());
            let found = found.unwrap_or_else(|| vec![0.0; fixed.unwrap_or(0)]);
            lengths.push(found.len());
            check_result(self.name, 4 * (values.len() + found.len()) as u64, self.bytes_max)?;
            values.extend(found);
        }
        let (values, nulls): (ArrayRef, _) = (Arc::new(Float32Array::from(values)), NullBuffer::from(valid));
        Ok(match fixed {
            Some(length) => {
                let length = i32::try_from(length).map_err(|e| DataFusionError::External(Box::new(e)))?;
                Arc::new(FixedSizeListArray::try_new(component(), length, values, Some(nulls))?)
            }
            None => {
                let offsets = OffsetBuffer::from_lengths(lengths);
                Arc::new(ListArray::try_new(component(), offsets, values, Some(nulls))?)
            }
        })
    }
}

/// Fails for vectors of different lengths.
fn check_lengths(function: &str, a: &[f32], b: &[f32]) -> Result<()> {
    match a.len() == b.len() {
        true => Ok(()),
        false => Err(external(Error::invalid(format!(
            "{function}: the vectors have {} and {} components",
            a.len(),
            b.len()
        )))),
    }
}

fn norm(vector: &[f32]) -> f64 {
    vector.iter().map(|value| f64::from(*value) * f64::from(*value)).sum::<f64>().sqrt()
}

/// What a function takes beside the first vector, for one row.
#[derive(Clone, Copy)]
enum Second<'a> {
    Nothing,
    Vector(&'a [f32]),
    Number(f64),
    /// The first component, from one, and how many.
    Range(i64, i64),
}

/// The same for all rows.
enum Seconds {
    Nothing,
    Vectors(VectorOperand),
    Numbers(ArrayRef),
    Ranges(ArrayRef, ArrayRef),
}

impl Seconds {
    fn new(operation: Operation, args: &ScalarFunctionArgs) -> Result<Self> {
        let array = |index: usize, data_type: &DataType| -> Result<ArrayRef> {
            Ok(cast(&args.args[index].to_array(args.number_rows)?, data_type)?)
        };
        Ok(match operation {
            Operation::Normalize | Operation::Norm | Operation::Dimensions => Self::Nothing,
            Operation::Scale => Self::Numbers(array(1, &DataType::Float64)?),
            Operation::Subvector => Self::Ranges(array(1, &DataType::Int64)?, array(2, &DataType::Int64)?),
            Operation::Add | Operation::Subtract | Operation::Multiply | Operation::L1Distance => {
                Self::Vectors(VectorOperand::new(&args.args[1])?)
            }
        })
    }

    /// Those of a row; `None` where they are null.
    fn of_row(&self, row: usize) -> Option<Second<'_>> {
        let integer =
            |array: &ArrayRef| array.is_valid(row).then(|| array.as_primitive::<Int64Type>().value(row));
        match self {
            Self::Nothing => Some(Second::Nothing),
            Self::Vectors(vectors) => vectors.vector(row).map(Second::Vector),
            Self::Numbers(numbers) => numbers
                .is_valid(row)
                .then(|| Second::Number(numbers.as_primitive::<Float64Type>().value(row))),
            Self::Ranges(starts, counts) => Some(Second::Range(integer(starts)?, integer(counts)?)),
        }
    }
}

impl ScalarUDFImpl for VectorFunction {
    fn name(&self) -> &str {
        self.name
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let vector = |data_type: &DataType| vector_type(self.name, data_type);
        let is_number = |data_type: &DataType| data_type.is_numeric() || data_type.is_null();
        match (self.operation, types) {
            (Operation::Normalize | Operation::Norm | Operation::Dimensions, [a]) => Ok(vec![vector(a)?]),
            (Operation::Scale, [a, factor]) if is_number(factor) => Ok(vec![vector(a)?, DataType::Float64]),
            (Operation::Subvector, [a, start, count])
                if [start, count].iter().all(|number| number.is_integer() || number.is_null()) =>
            {
                Ok(vec![vector(a)?, DataType::Int64, DataType::Int64])
            }
            (Operation::Scale, _) => plan_err!("{} takes a vector and a number", self.name),
            (Operation::Subvector, _) => plan_err!("{} takes a vector and two integers", self.name),
            (Operation::Normalize | Operation::Norm | Operation::Dimensions, _) => {
                plan_err!("{} takes a vector", self.name)
            }
            (_, [a, b]) => Ok(vec![vector(a)?, vector(b)?]),
            _ => plan_err!("{} takes two vectors", self.name),
        }
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        Ok(match self.operation {
            Operation::L1Distance => DataType::Float32,
            Operation::Norm => DataType::Float64,
            Operation::Dimensions => DataType::Int32,
            Operation::Subvector => DataType::List(component()),
            _ => {
                let fixed = types.iter().find(|data_type| matches!(data_type, DataType::FixedSizeList(..)));
                result_type(fixed.unwrap_or(&DataType::Null))
            }
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let result: ArrayRef = match self.operation {
            Operation::Dimensions => {
                let first = VectorOperand::new(&args.args[0])?;
                let mut found = Int32Builder::with_capacity(rows);
                (0..rows).for_each(|row| found.append_option(first.vector(row).map(|v| v.len() as i32)));
                Arc::new(found.finish())
            }
            Operation::Norm => {
                let first = VectorOperand::new(&args.args[0])?;
                let mut found = Float64Builder::with_capacity(rows);
                (0..rows).for_each(|row| found.append_option(first.vector(row).map(norm)));
                Arc::new(found.finish())
            }
            Operation::L1Distance => {
                let (first, second) =
                    (VectorOperand::new(&args.args[0])?, VectorOperand::new(&args.args[1])?);
                let mut found = Float32Builder::with_capacity(rows);
                for row in 0..rows {
                    found.append_option(match (first.vector(row), second.vector(row)) {
                        (Some(a), Some(b)) => {
                            check_lengths(self.name, a, b)?;
                            let sum: f64 = a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs())).sum();
                            Some(sum as f32).filter(|sum| sum.is_finite())
                        }
                        _ => None,
                    });
                }
                Arc::new(found.finish())
            }
            _ => self.vectors(&args)?,
        };
        Ok(ColumnarValue::Array(result))
    }
}

/// Plans operators between vectors as calls of these functions.
#[derive(Debug)]
pub(crate) struct VectorOperators {
    functions: Vec<Arc<ScalarUDF>>,
}

impl VectorOperators {
    /// Operators whose results for one batch take `bytes_max` together.
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self { functions: VectorFunction::all(bytes_max) }
    }

    /// The function that an operator stands for, between two vectors or with a number.
    fn function(&self, op: &BinaryOperator, with_number: bool) -> Option<&Arc<ScalarUDF>> {
        let name = match op {
            BinaryOperator::Multiply if with_number => "vector_scale",
            _ if with_number => return None,
            BinaryOperator::Plus => "vector_add",
            BinaryOperator::Minus => "vector_subtract",
            BinaryOperator::Multiply => "vector_multiply",
            _ => return None,
        };
        self.functions.iter().find(|function| function.name() == name)
    }
}

/// Whether a type is that of vectors, not of lists of any numbers.
fn is_vector(data_type: &DataType) -> bool {
    match data_type {
        DataType::FixedSizeList(item, _) | DataType::List(item) => {
            matches!(item.data_type(), DataType::Float16 | DataType::Float32)
        }
        _ => false,
    }
}

fn is_list_of_numbers(data_type: &DataType) -> bool {
    match data_type {
        DataType::FixedSizeList(item, _) | DataType::List(item) | DataType::LargeList(item) => {
            item.data_type().is_numeric()
        }
        _ => false,
    }
}

impl ExprPlanner for VectorOperators {
    fn plan_binary_op(&self, expr: RawBinaryExpr, schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        if !matches!(expr.op, BinaryOperator::Plus | BinaryOperator::Minus | BinaryOperator::Multiply) {
            return Ok(PlannerResult::Original(expr));
        }
        let type_of = |side: &Expr| match side {
            Expr::Placeholder(_) => DataType::Null,
            side => side.get_type(schema).unwrap_or(DataType::Null),
        };
        let types = (type_of(&expr.left), type_of(&expr.right));
        // What is beside a vector, and before it if it is a number.
        let (other, is_first) = match &types {
            (left, right) if is_vector(left) => (right, false),
            (left, right) if is_vector(right) => (left, true),
            _ => return Ok(PlannerResult::Original(expr)),
        };
        // A parameter or null is a vector where only a vector can be, and a number where both can.
        let is_unknown = other.is_null();
        let scales = expr.op == BinaryOperator::Multiply && (other.is_numeric() || is_unknown);
        let function = match scales || is_list_of_numbers(other) || is_unknown {
            true => self.function(&expr.op, scales),
            false => None,
        };
        let Some(function) = function else {
            return Ok(PlannerResult::Original(expr));
        };
        let RawBinaryExpr { left, right, .. } = expr;
        let args = match scales {
            true => {
                let (vector, number) = if is_first { (right, left) } else { (left, right) };
                vec![vector, cast_to(number, DataType::Float64)]
            }
            false => vec![left, right],
        };
        Ok(PlannerResult::Planned(function.call(args)))
    }
}
