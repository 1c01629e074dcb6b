//! The query vectors of a search call: given as arrays, texts or subqueries, or made of examples.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute;
use arrow::datatypes::Float32Type;
use arrow_schema::DataType;
use plexus_model::{Metric, Result};

use crate::search::sql::arguments::{Arguments, list, list_at};
use crate::search::sql::search_function::SearchFunction;

impl Arguments {
    /// The vectors to search for: those that are given, or the one that examples stand for.
    pub(super) fn query_vectors(&self, metric: Metric) -> Result<Vec<Vec<f32>>> {
        let (positive, negative) = (self.vectors("positive")?, self.vectors("negative")?);
        if positive.is_empty() && negative.is_empty() {
            return self.vectors("vector");
        }
        if self.value("vector").is_some() {
            return Err(self.fail("positive", "cannot be combined with vector"));
        }
        if positive.is_empty() {
            return Err(self.fail("positive", "is needed beside negative: vectors to be near to"));
        }
        recommended(metric, &positive, &negative)
            .map(|vector| vec![vector])
            .ok_or_else(|| self.fail("positive", "and negative have vectors of different lengths"))
    }

    /// Fails for no vector, and for several where they would be fused.
    pub(super) fn check_count(&self, vectors: &[Vec<f32>]) -> Result<()> {
        match vectors.len() {
            0 => Err(self.fail("vector", "is needed: the vector to search for")),
            1 => Ok(()),
            count if self.function == SearchFunction::Vector => {
                Err(self
                    .fail("vector", &format!("is {count} vectors, one is needed: pass several as queries")))
            }
            _ => Ok(()),
        }
    }

    /// A vector, or an array of vectors. A vector is an array of numbers or its text, as in `[0.1, 0.2]`.
    fn vectors(&self, name: &str) -> Result<Vec<Vec<f32>>> {
        let Some(value) = self.value(name) else {
            return Ok(vec![]);
        };
        let wrong =
            || self.fail(name, &format!("is {:.60}: an array of numbers is needed", value.to_string()));
        if let Some(text) = value.try_as_str().flatten() {
            return Ok(vec![parse_vector(text).ok_or_else(wrong)?]);
        }
        let items = list(value).ok_or_else(wrong)?;
        if items.is_empty() {
            return Ok(vec![]);
        }
        if let DataType::Utf8 = items.data_type() {
            let texts = items.as_string::<i32>().iter();
            return texts.map(|text| text.and_then(parse_vector).ok_or_else(wrong)).collect();
        }
        let inner: Vec<ArrayRef> = match items.data_type() {
            DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) => {
                (0..items.len()).map(|at| list_at(&items, at).ok_or_else(wrong)).collect::<Result<_>>()?
            }
            _ => vec![items],
        };
        let vector = |items: ArrayRef| {
            let floats = compute::cast(&items, &DataType::Float32).map_err(|_| wrong())?;
            let floats = floats.as_primitive_opt::<Float32Type>().ok_or_else(wrong)?;
            match floats.null_count() {
                0 => Ok(floats.values().to_vec()),
                _ => Err(self.fail(name, "has a component that is null")),
            }
        };
        inner.into_iter().map(vector).collect()
    }
}

/// A vector near to the positive examples and away from the negative ones: the mean of the first, and the way
/// to it from the mean of the others. `None` for vectors of different lengths.
fn recommended(metric: Metric, positive: &[Vec<f32>], negative: &[Vec<f32>]) -> Option<Vec<f32>> {
    let dimensions = positive.first()?.len();
    if positive.iter().chain(negative).any(|vector| vector.len() != dimensions) {
        return None;
    }
    // Directions are what the cosine compares.
    let length = |vector: &[f32]| match metric {
        Metric::Cosine => vector.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt(),
        Metric::L2 | Metric::Dot => 1.0,
    };
    let mean = |vectors: &[Vec<f32>]| {
        let mut mean = vec![0.0; dimensions];
        for vector in vectors {
            let divisor = length(vector).max(f64::MIN_POSITIVE) * vectors.len() as f64;
            mean.iter_mut().zip(vector).for_each(|(sum, value)| *sum += f64::from(*value) / divisor);
        }
        mean
    };
    let liked = mean(positive);
    if negative.is_empty() {
        return Some(liked.into_iter().map(|value| value as f32).collect());
    }
    let disliked = mean(negative);
    Some(liked.iter().zip(&disliked).map(|(liked, disliked)| (2.0 * liked - disliked) as f32).collect())
}

/// Parses a vector in text form: `[0.1, 0.2]`.
fn parse_vector(text: &str) -> Option<Vec<f32>> {
    let inner = text.trim().strip_prefix('[')?.strip_suffix(']')?;
    inner.split(',').map(|number| number.trim().parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_stand_for_a_vector_near_to_the_positive_ones() {
        let (east, north) = (vec![3.0, 0.0], vec![0.0, 5.0]);
        let both = [east.clone(), north.clone()];
        assert_eq!(recommended(Metric::L2, &both, &[]), Some(vec![1.5, 2.5]));
        assert_eq!(recommended(Metric::L2, &both[..1], &both[1..]), Some(vec![6.0, -5.0]));
        // The cosine compares directions, whatever the length.
        assert_eq!(recommended(Metric::Cosine, &both, &[]), Some(vec![0.5, 0.5]));
        assert_eq!(recommended(Metric::Cosine, &both[..1], &both[1..]), Some(vec![2.0, -1.0]));
        assert_eq!(recommended(Metric::Dot, &both, &[vec![1.0]]), None);
    }
}
