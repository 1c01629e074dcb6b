//! `vector_sum` and `vector_avg`: the sum and the mean of vectors of one length, component by component. They
//! ignore vectors that are null or have a component that is, and are null without any other.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, FixedSizeListArray, Float32Array, Float64Array, ListArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{Float64Type, UInt64Type};
use arrow_schema::{DataType, Field, FieldRef};
use datafusion::common::{DataFusionError, Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility};
use plexus_model::Error;

use crate::context::external;
use crate::search::sql::vector_operand::{VectorOperand, component, result_type, vector_type};

/// One of the functions.
#[derive(PartialEq, Eq, Hash, Debug)]
pub(crate) struct VectorAggregate {
    name: &'static str,
    is_mean: bool,
    signature: Signature,
}

impl VectorAggregate {
    /// Both functions.
    pub(crate) fn all() -> [Arc<AggregateUDF>; 2] {
        [("vector_sum", false), ("vector_avg", true)].map(|(name, is_mean)| {
            let signature = Signature::user_defined(Volatility::Immutable);
            Arc::new(AggregateUDF::from(Self { name, is_mean, signature }))
        })
    }
}

/// The type of the sums in states.
fn sums_type() -> DataType {
    DataType::List(Arc::new(Field::new_list_field(DataType::Float64, false)))
}

impl AggregateUDFImpl for VectorAggregate {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match types {
            [vectors] => Ok(vec![vector_type(self.name, vectors)?]),
            _ => plan_err!("{} takes a vector", self.name),
        }
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types {
            [vectors] => Ok(result_type(vectors)),
            _ => plan_err!("{} takes a vector", self.name),
        }
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let field =
            |part: &str, data_type| Arc::new(Field::new(format!("{}[{part}]", args.name), data_type, true));
        Ok(vec![field("sums", sums_type()), field("count", DataType::UInt64)])
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        if args.is_distinct {
            return plan_err!("{}: DISTINCT is not supported: call it over a SELECT DISTINCT", self.name);
        }
        Ok(Box::new(Sums {
            name: self.name,
            is_mean: self.is_mean,
            data_type: args.return_field.data_type().clone(),
            sums: vec![],
            count: 0,
        }))
    }
}

/// The sums of the components of one group.
#[derive(Debug)]
struct Sums {
    name: &'static str,
    is_mean: bool,
    /// The type of the result.
    data_type: DataType,
    sums: Vec<f64>,
    /// How many vectors are in them.
    count: u64,
}

impl Sums {
    fn add(&mut self, components: impl ExactSizeIterator<Item = f64>, count: u64) -> Result<()> {
        if self.count == 0 {
            self.sums = vec![0.0; components.len()];
        }
        if self.sums.len() != components.len() {
            return Err(external(Error::invalid(format!(
                "{}: the vectors have {} and {} components",
                self.name,
                self.sums.len(),
                components.len()
            ))));
        }
        self.sums.iter_mut().zip(components).for_each(|(sum, component)| *sum += component);
        self.count += count;
        Ok(())
    }
}

impl Accumulator for Sums {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let [values] = values else {
            return exec_err!("{} takes one argument", self.name);
        };
        let vectors = VectorOperand::of(values, false)?;
        (0..values.len())
            .filter_map(|row| vectors.vector(row))
            .try_for_each(|vector| self.add(vector.iter().map(|value| f64::from(*value)), 1))
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        if self.count == 0 {
            return ScalarValue::try_new_null(&self.data_type);
        }
        let divisor = if self.is_mean { self.count as f64 } else { 1.0 };
        let values: Vec<f32> = self.sums.iter().map(|sum| (sum / divisor) as f32).collect();
        if let Some(infinite) = values.iter().find(|value| !value.is_finite()) {
            let text = format!("{}: a component becomes {infinite}, which is no number", self.name);
            return Err(external(Error::invalid(text)));
        }
        let length = values.len();
        let values: ArrayRef = Arc::new(Float32Array::from(values));
        let list: ArrayRef = match &self.data_type {
            DataType::FixedSizeList(..) => {
                let length = i32::try_from(length).map_err(|e| DataFusionError::External(Box::new(e)))?;
                Arc::new(FixedSizeListArray::try_new(component(), length, values, None)?)
            }
            _ => {
                Arc::new(ListArray::try_new(component(), OffsetBuffer::from_lengths([length]), values, None)?)
            }
        };
        ScalarValue::try_from_array(&list, 0)
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.sums.capacity() * size_of::<f64>()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        if self.count == 0 {
            return Ok(vec![ScalarValue::try_new_null(&sums_type())?, ScalarValue::UInt64(Some(0))]);
        }
        let item = Arc::new(Field::new_list_field(DataType::Float64, false));
        let sums = Arc::new(Float64Array::from(self.sums.clone()));
        let list = ListArray::try_new(item, OffsetBuffer::from_lengths([self.sums.len()]), sums, None)?;
        Ok(vec![ScalarValue::List(Arc::new(list)), ScalarValue::UInt64(Some(self.count))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let [sums, counts] = states else {
            return exec_err!("the state of {} has two columns", self.name);
        };
        let (sums, counts) = (sums.as_list::<i32>(), counts.as_primitive::<UInt64Type>());
        for row in (0..sums.len()).filter(|row| sums.is_valid(*row) && counts.value(*row) > 0) {
            let of_group = sums.value(row);
            let of_group = of_group.as_primitive::<Float64Type>();
            self.add(of_group.values().iter().copied(), counts.value(row))?;
        }
        Ok(())
    }
}
