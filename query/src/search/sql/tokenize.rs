//! `tokenize(tokenizer, text)`: the terms of a text, as full text has them.

use std::sync::Arc;

use arrow::array::{Array, AsArray, ListBuilder, StringBuilder};
use arrow::compute::cast;
use arrow_schema::{DataType, Field};
use datafusion::common::{Result, exec_err, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use plexus_index::text::Analyzer;

use crate::bounded_functions::check_result;
use crate::context::external;

/// The function.
#[derive(PartialEq, Eq, Hash, Debug)]
pub(crate) struct Tokenize {
    /// Bytes that the terms of one batch may take.
    bytes_max: u64,
    signature: Signature,
}

impl Tokenize {
    /// The function, whose results for one batch take `bytes_max` together.
    pub(crate) fn function(bytes_max: u64) -> Arc<ScalarUDF> {
        let signature = Signature::user_defined(Volatility::Immutable);
        Arc::new(ScalarUDF::from(Self { bytes_max, signature }))
    }
}

/// What a term takes beside its text: an offset.
const BYTES_PER_TERM: u64 = 4;

impl ScalarUDFImpl for Tokenize {
    fn name(&self) -> &str {
        "tokenize"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let is_text = |data_type: &DataType| data_type.is_string() || data_type.is_null();
        match types {
            [tokenizer, text] if is_text(tokenizer) && is_text(text) => Ok(vec![DataType::Utf8; 2]),
            _ => plan_err!("tokenize takes the name of a tokenizer and a text"),
        }
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true))))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [tokenizers, texts] = args.args.as_slice() else {
            return exec_err!("tokenize takes the name of a tokenizer and a text");
        };
        let text = |value: &ColumnarValue| -> Result<_> {
            Ok(cast(&value.to_array(args.number_rows)?, &DataType::Utf8)?)
        };
        let (tokenizers, texts) = (text(tokenizers)?, text(texts)?);
        let (tokenizers, texts) = (tokenizers.as_string::<i32>(), texts.as_string::<i32>());
        let mut lists = ListBuilder::new(StringBuilder::new());
        let (mut bytes, mut analyzer): (u64, Option<Analyzer>) = (0, None);
        for row in 0..args.number_rows {
            if tokenizers.is_null(row) || texts.is_null(row) {
                lists.append_null();
                continue;
            }
            let name = tokenizers.value(row);
            // The name is the same for all rows, mostly.
            let analyzer = match &mut analyzer {
                Some(analyzer) if analyzer.name() == name => analyzer,
                other => other.insert(Analyzer::named(name).map_err(external)?),
            };
            let mut fits = Ok(());
            analyzer.each_term(texts.value(row), |term| {
                bytes += term.len() as u64 + BYTES_PER_TERM;
                fits = check_result("tokenize", bytes, self.bytes_max);
                if fits.is_ok() {
                    lists.values().append_value(term);
                }
                fits.is_ok()
            });
            fits?;
            lists.append(true);
        }
        Ok(ColumnarValue::Array(Arc::new(lists.finish())))
    }
}
