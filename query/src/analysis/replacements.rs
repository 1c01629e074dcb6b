//! `\1` to `\9` are groups in the replacement of `regexp_replace`, `\&` is the whole match, and a dollar sign
//! is itself, as in PostgreSQL. DataFusion takes `\10` for the tenth group and `$1` for the first one.

use std::sync::Arc;

use arrow::array::{AsArray, StringArray};
use arrow::compute::cast;
use arrow_schema::DataType;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result, exec_err};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use crate::analysis::is_call;

/// What the rule looks for.
pub(crate) fn concerns(expr: &Expr) -> bool {
    is_call(expr, &["regexp_replace"])
}

/// The rule.
pub(crate) fn rewrite(expr: Expr, _: &DFSchema) -> Result<Transformed<Expr>> {
    match expr {
        Expr::ScalarFunction(mut call) if call.name() == "regexp_replace" => {
            let is_rewritten = match call.args.get_mut(2) {
                Some(replacement) if !is_rewritten(replacement) => {
                    let function = ScalarUDF::from(GroupReferences::default());
                    *replacement = function.call(vec![std::mem::take(replacement)]);
                    true
                }
                _ => false,
            };
            Ok(Transformed::new_transformed(Expr::ScalarFunction(call), is_rewritten))
        }
        expr => Ok(Transformed::no(expr)),
    }
}

fn is_rewritten(replacement: &Expr) -> bool {
    matches!(replacement, Expr::ScalarFunction(call) if call.name() == GROUP_REFERENCES)
}

const GROUP_REFERENCES: &str = "$group_references";

/// `$group_references(replacement)`: the replacement as DataFusion reads it.
#[derive(PartialEq, Eq, Hash, Debug)]
pub(crate) struct GroupReferences(Signature);

impl Default for GroupReferences {
    fn default() -> Self {
        Self(Signature::any(1, Volatility::Immutable))
    }
}

impl ScalarUDFImpl for GroupReferences {
    fn name(&self) -> &str {
        GROUP_REFERENCES
    }

    fn signature(&self) -> &Signature {
        &self.0
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [replacements] = args.args.as_slice() else {
            return exec_err!("{GROUP_REFERENCES} takes a replacement");
        };
        let replacements = cast(&replacements.to_array(args.number_rows)?, &DataType::Utf8)?;
        let rewritten = replacements.as_string::<i32>().iter().map(|text| text.map(with_groups));
        Ok(ColumnarValue::Array(Arc::new(rewritten.collect::<StringArray>())))
    }
}

/// A replacement with groups as `${1}`. A doubled backslash before a digit counts as one, as in DataFusion.
fn with_groups(replacement: &str) -> String {
    let mut rewritten = String::new();
    let mut rest = replacement;
    while let Some(character) = rest.chars().next() {
        let group = rest.strip_prefix(r"\\").and_then(digit).or_else(|| {
            let rest = rest.strip_prefix('\\')?;
            digit(rest).or_else(|| rest.strip_prefix('&').map(|rest| ('0', rest)))
        });
        if let Some((number, behind)) = group {
            rewritten.extend(["${", number.encode_utf8(&mut [0; 4]), "}"]);
            rest = behind;
            continue;
        }
        rewritten.push_str(if character == '$' { "$$" } else { &rest[..character.len_utf8()] });
        rest = &rest[character.len_utf8()..];
    }
    rewritten
}

fn digit(text: &str) -> Option<(char, &str)> {
    let first = text.chars().next().filter(char::is_ascii_digit)?;
    Some((first, &text[1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_have_one_digit_and_dollars_are_themselves() {
        assert_eq!(with_groups(r"X\1Y\\2"), "X${1}Y${2}");
        assert_eq!(with_groups(r"\10$1"), "${1}0$$1");
        assert_eq!(with_groups(r"é\&\"), r"é${0}\");
    }
}
