//! Patterns of `SIMILAR TO`, which are those of the SQL standard: those of `LIKE` with alternatives,
//! repetition and sets. They match a text as a whole.

use std::sync::Arc;

use arrow::array::{AsArray, StringArray};
use arrow::compute::cast;
use arrow_schema::DataType;
use datafusion::common::{Result, exec_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};

/// Name of the function.
pub const SIMILAR_PATTERN: &str = "$similar_pattern";

/// `$similar_pattern(pattern, escape)`: the regular expression of a pattern.
#[derive(PartialEq, Eq, Hash, Debug)]
pub(crate) struct SimilarPattern(Signature);

impl Default for SimilarPattern {
    fn default() -> Self {
        Self(Signature::any(2, Volatility::Immutable))
    }
}

impl ScalarUDFImpl for SimilarPattern {
    fn name(&self) -> &str {
        SIMILAR_PATTERN
    }

    fn signature(&self) -> &Signature {
        &self.0
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [patterns, ColumnarValue::Scalar(escape)] = args.args.as_slice() else {
            return exec_err!("{} takes a pattern and a constant escape", self.name());
        };
        let escape = escape.try_as_str().flatten().unwrap_or_default();
        let mut characters = escape.chars();
        let (escape_character, more) = (characters.next(), characters.next());
        if more.is_some() {
            return exec_err!("ESCAPE {escape:?}: one character is needed");
        }
        let patterns = cast(&patterns.to_array(args.number_rows)?, &DataType::Utf8)?;
        let regexes = patterns.as_string::<i32>().iter().map(|pattern| match pattern {
            Some(pattern) => match regex_of(pattern, escape_character) {
                Some(regex) => Ok(Some(regex)),
                None => exec_err!("SIMILAR TO {pattern:?}: the escape at the end escapes nothing"),
            },
            None => Ok(None),
        });
        Ok(ColumnarValue::Array(Arc::new(regexes.collect::<Result<StringArray>>()?)))
    }
}

/// The regular expression of a pattern; `None` if an escape is at its end.
fn regex_of(pattern: &str, escape: Option<char>) -> Option<String> {
    let mut regex = String::from("^(?s:");
    let mut characters = pattern.chars();
    let mut in_set = false;
    while let Some(character) = characters.next() {
        match character {
            c if Some(c) == escape => {
                let escaped = characters.next()?;
                if !escaped.is_alphanumeric() {
                    regex.push('\\');
                }
                regex.push(escaped);
            }
            ']' => {
                in_set = false;
                regex.push(']');
            }
            c if in_set => regex.push(c),
            '[' => {
                in_set = true;
                regex.push('[');
            }
            '%' => regex.push_str(".*"),
            '_' => regex.push('.'),
            '.' | '^' | '$' | '\\' => {
                regex.push('\\');
                regex.push(character);
            }
            c => regex.push(c),
        }
    }
    regex.push_str(")$");
    Some(regex)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_the_standard_become_regular_expressions() {
        let regex = |pattern| regex_of(pattern, Some('\\'));
        assert_eq!(regex("(b|c.)%_[%a]").as_deref(), Some(r"^(?s:(b|c\.).*.[%a])$"));
        assert_eq!(regex(r"100\%").as_deref(), Some(r"^(?s:100\%)$"));
        assert_eq!(regex("a\\"), None);
    }
}
