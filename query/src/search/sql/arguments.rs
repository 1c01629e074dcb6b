//! The arguments of a search call: their types, ranges and defaults, and the requests that they describe.

use std::collections::BTreeMap;
use std::ops::Add;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, FixedSizeListArray};
use arrow::compute;
use arrow_schema::DataType;
use datafusion::common::ScalarValue;
use plexus_index::VectorQuery;
use plexus_index::text::{
    EDIT_DISTANCE_MAX, MinimumShouldMatch, QueryField, QueryOptions, Syntax, TextQuery, parse_query,
};
use plexus_model::{Column, Error, IndexDefinition, IndexKind, Metric, Result, Table};

use crate::plain_errors::plain;
use crate::search::exec::cursor::Cursor;
use crate::search::exec::diversity::Diversity;
use crate::search::exec::fusion::{Fusion, Normalization};
use crate::search::exec::request::{GroupBy, Highlight, Request, Threshold};
use crate::search::exec::retriever::Retriever;
use crate::search::exec::text_binding::IndexChoice;
use crate::search::params::EF_SEARCH_MAX;
use crate::search::snapshot::text_fields::{TextFields, name_of, no_column};
use crate::search::sql::search_function::SearchFunction;
use crate::search::sql::suggestions::Suggestion;

/// Rows that one search may return, since they are in memory at once. Cursors page through more.
pub(crate) const K_MAX: usize = 10_000;

/// Queries of a batch.
const QUERIES_MAX: usize = 1_000;

/// Rows that all queries of a batch may return together.
const BATCH_ROWS_MAX: usize = 100_000;

/// Retrievers of one search. Each of them ranks its own candidates.
const RETRIEVERS_MAX: usize = 16;

/// Rows of each retriever that may be fused. Fusion handles them one by one in memory.
const CANDIDATES_MAX: usize = 100_000;

/// Rows of each retriever that are fused by default.
const CANDIDATES_DEFAULT: usize = 100;

/// The constant `k` of reciprocal rank fusion, as in its paper (see [`Fusion::Rrf`]).
const RRF_K_DEFAULT: f64 = 60.0;

/// The largest weight of a retriever, so that sums of scores stay finite.
const WEIGHT_MAX: f64 = 1e6;

/// Terms that are suggested by default.
const SUGGESTIONS_DEFAULT: usize = 10;

/// Default length of an excerpt in bytes.
const HIGHLIGHT_BYTES_DEFAULT: usize = 200;

/// Largest length of an excerpt in bytes.
const HIGHLIGHT_BYTES_MAX: usize = 100_000;

/// The arguments of a call by name. Arguments whose values are not known yet have a name only.
#[derive(Clone, Debug)]
pub(crate) struct Arguments {
    /// The function that is called.
    pub function: SearchFunction,
    /// Names of all arguments that are given.
    pub names: Vec<String>,
    /// The values that are known.
    pub values: BTreeMap<String, ScalarValue>,
}

impl Arguments {
    /// The error for an argument.
    pub(super) fn fail(&self, name: &str, what: &str) -> Error {
        Error::invalid(format!("{}: {name} {what}", self.function.name()))
    }

    /// The value of an argument, unless it is null.
    pub(super) fn value(&self, name: &str) -> Option<&ScalarValue> {
        self.values.get(name).filter(|value| !value.is_null())
    }

    /// The text of an argument.
    ///
    /// # Errors
    /// `InvalidArgument` when the value is not text.
    pub(crate) fn text(&self, name: &str) -> Result<Option<&str>> {
        match self.value(name) {
            None => Ok(None),
            Some(
                ScalarValue::Utf8(Some(text))
                | ScalarValue::LargeUtf8(Some(text))
                | ScalarValue::Utf8View(Some(text)),
            ) => Ok(Some(text)),
            Some(other) => Err(self.fail(name, &format!("is {other}: text is needed"))),
        }
    }

    fn number(&self, name: &str) -> Result<Option<f64>> {
        let Some(value) = self.value(name) else {
            return Ok(None);
        };
        match value.cast_to(&DataType::Float64) {
            Ok(ScalarValue::Float64(Some(number)))
                if number.is_finite() && value.data_type().is_numeric() =>
            {
                Ok(Some(number))
            }
            _ => Err(self.fail(name, &format!("is {value}: a number is needed"))),
        }
    }

    /// A whole number from `least` to `most`.
    fn count(&self, name: &str, least: usize, most: usize) -> Result<Option<usize>> {
        let Some(value) = self.value(name) else {
            return Ok(None);
        };
        let count = match value.cast_to(&DataType::Int64) {
            Ok(ScalarValue::Int64(Some(count))) if is_whole(&value.data_type()) => {
                usize::try_from(count).ok()
            }
            _ => None,
        };
        match count.filter(|count| (least..=most).contains(count)) {
            Some(count) => Ok(Some(count)),
            None => {
                Err(self.fail(name, &format!("is {value}: a whole number from {least} to {most} is needed")))
            }
        }
    }

    /// Whether an argument is true.
    fn flag(&self, name: &str) -> Result<bool> {
        match self.value(name) {
            None => Ok(false),
            Some(ScalarValue::Boolean(Some(flag))) => Ok(*flag),
            Some(other) => Err(self.fail(name, &format!("is {other}: true or false is needed"))),
        }
    }

    /// A text, or an array of texts.
    fn texts(&self, name: &str) -> Result<Vec<String>> {
        match self.value(name).and_then(list) {
            None => Ok(self.text(name)?.into_iter().map(str::to_owned).collect()),
            Some(items) => {
                let texts = compute::cast(&items, &DataType::Utf8)
                    .map_err(|e| self.fail(name, &format!("is not an array of texts: {e}")))?;
                Ok(texts.as_string::<i32>().iter().flatten().map(str::to_owned).collect())
            }
        }
    }

    /// An array of numbers that are not negative.
    fn numbers(&self, name: &str) -> Result<Option<Vec<f64>>> {
        let Some(value) = self.value(name) else {
            return Ok(None);
        };
        let wrong = || self.fail(name, "is not an array of numbers");
        let numbers =
            compute::cast(&list(value).ok_or_else(wrong)?, &DataType::Float64).map_err(|_| wrong())?;
        let numbers = numbers.as_primitive::<arrow::datatypes::Float64Type>();
        if numbers.null_count() > 0 || numbers.values().iter().any(|n| !n.is_finite() || *n < 0.0) {
            return Err(self.fail(name, "has a number that is null, negative or not finite"));
        }
        Ok(Some(numbers.values().to_vec()))
    }

    /// The request of the call, or one request for each query of a batch.
    ///
    /// # Errors
    /// `InvalidArgument` names the argument and what it accepts. `NotFound` when there is no such index.
    pub(crate) fn requests(&self, table: &Table) -> Result<Vec<Request>> {
        if self.value("queries").is_none() {
            return Ok(vec![self.request(table)?]);
        }
        let others = ["vector", "search_after", "positive", "negative"];
        if let Some(other) = others.into_iter().find(|name| self.value(name).is_some()) {
            return Err(self.fail("queries", &format!("cannot be combined with {other}")));
        }
        let items = self.value("queries").and_then(list).filter(|items| !items.is_empty());
        let items = items.ok_or_else(|| self.fail("queries", "is needed: an array of vectors"))?;
        if items.len() > QUERIES_MAX {
            return Err(
                self.fail("queries", &format!("are {}: at most {QUERIES_MAX} are allowed", items.len()))
            );
        }
        let k = self.count("k", 1, K_MAX)?.unwrap_or(1);
        if items.len().saturating_mul(k) > BATCH_ROWS_MAX {
            return Err(self.fail(
                "queries",
                &format!("return {k} rows each: at most {BATCH_ROWS_MAX} are allowed in all"),
            ));
        }
        let requests = (0..items.len()).map(|at| {
            let query = ScalarValue::try_from_array(&items, at)
                .map_err(|e| self.fail("queries", &format!("is not an array of vectors: {}", plain(&e))))?;
            let mut one = self.clone();
            one.values.remove("queries");
            one.values.insert("vector".to_owned(), query);
            one.request(table)
        });
        requests.collect()
    }

    /// What `text_suggest` is asked for.
    ///
    /// # Errors
    /// `InvalidArgument` names the argument and what it accepts. `NotFound` when there is no such index.
    pub(crate) fn suggestion(&self, table: &Table) -> Result<Suggestion> {
        let name = self.text("column")?.ok_or_else(|| self.fail("column", "is needed: a text column"))?;
        let column = table.schema.columns[self.column(table, name)?].id;
        let fields = self.text_fields(table, &[column])?;
        let text = self.text("text")?.ok_or_else(|| self.fail("text", "is needed: the start of a term"))?;
        let distance = self.count("distance", 0, usize::from(EDIT_DISTANCE_MAX))?.unwrap_or(0) as u8;
        let (field, analyzer) = fields
            .field(column)
            .ok_or_else(|| Error::internal(format!("column {name:?} is not among the fields")))?;
        let form = analyzer.term_form(text, distance)?;
        let k = self.count("k", 1, K_MAX)?.unwrap_or(SUGGESTIONS_DEFAULT);
        Ok(Suggestion { fields, field, form, k })
    }

    fn request(&self, table: &Table) -> Result<Request> {
        let k = self
            .count("k", 1, K_MAX)?
            .ok_or_else(|| self.fail("k", "is needed: the number of rows to return"))?;
        let mut retrievers = Vec::new();
        let mut marks = Vec::new();
        if self.function != SearchFunction::Vector {
            let queries = self.texts("query")?;
            if queries.is_empty() {
                return Err(self.fail("query", "is needed: the text to search for"));
            }
            let (fields, searched) = self.fields(table)?;
            let syntax = if self.flag("strict")? { Syntax::Strict } else { Syntax::Lenient };
            let options = QueryOptions { syntax, minimum: self.minimum()? };
            for query in queries {
                let query = parse_query(&query, options, &searched)?;
                marks.push(query.clone());
                retrievers.push(Retriever::Text { fields: fields.clone(), query });
            }
        }
        if self.function != SearchFunction::Text {
            let column = self.vector_column(table)?;
            let metric = self.metric(table, column)?;
            let length = column.data_type.vector_dimensions().unwrap_or_default() as usize;
            let ef = self.count("ef", 1, EF_SEARCH_MAX)?;
            let vectors = self.query_vectors(metric)?;
            self.check_count(&vectors)?;
            for vector in vectors {
                if vector.len() != length {
                    return Err(self.fail(
                        "vector",
                        &format!("has {} components; column {:?} has {length}", vector.len(), column.name),
                    ));
                }
                retrievers.push(Retriever::Vector {
                    column: column.id,
                    query: VectorQuery::new(metric, vector)?,
                    ef,
                });
            }
        }
        if retrievers.len() > RETRIEVERS_MAX {
            return Err(self.fail(
                "query",
                &format!(
                    "and vector give {} retrievers: at most {RETRIEVERS_MAX} are allowed",
                    retrievers.len()
                ),
            ));
        }
        let highlight = self.highlight(table, &retrievers, marks)?;
        let weights = self.weights(retrievers.len())?;
        let search_after = match self.text("search_after")?.filter(|text| !text.is_empty()) {
            Some(text) => Some(Cursor::from_text(text)?),
            None => None,
        };
        let request = Request {
            retrievers: retrievers.into_iter().zip(weights).collect(),
            fusion: self.fusion()?,
            k,
            offset: self.count("offset", 0, K_MAX)?.unwrap_or(0),
            num_candidates: self.count("num_candidates", 1, CANDIDATES_MAX)?.unwrap_or(CANDIDATES_DEFAULT),
            group_by: self.group_by(table)?,
            threshold: self.threshold()?,
            diversity: self.diversity(table)?,
            highlight,
            filter: self.text("filter")?.map(str::to_owned),
            search_after,
            paged: self.names.iter().any(|name| name == "search_after"),
        };
        match request.search_after {
            Some(cursor) if cursor.ranking != request.ranking(table.id) => {
                Err(self.fail("search_after", "is a cursor of another search"))
            }
            _ => Ok(request),
        }
    }

    /// The weights of retrievers.
    fn weights(&self, retrievers: usize) -> Result<Vec<f64>> {
        match self.numbers("weights")? {
            None => Ok(vec![1.0; retrievers]),
            Some(weights) if weights.len() != retrievers => {
                Err(self.fail("weights", &format!("are {}, for {retrievers} retrievers", weights.len())))
            }
            Some(weights) if weights.iter().any(|weight| *weight > WEIGHT_MAX) => {
                Err(self.fail("weights", &format!("has a number above {WEIGHT_MAX}")))
            }
            Some(weights) => Ok(weights),
        }
    }

    /// How many of the words of a query a row must have.
    fn minimum(&self) -> Result<Option<MinimumShouldMatch>> {
        let Some(value) = self.value("minimum_should_match") else {
            return Ok(None);
        };
        let text = value.cast_to(&DataType::Utf8).ok();
        let text = text.as_ref().and_then(|text| text.try_as_str().flatten());
        match text.filter(|_| is_whole(&value.data_type())).and_then(MinimumShouldMatch::parse) {
            Some(minimum) => Ok(Some(minimum)),
            None => Err(self.fail(
                "minimum_should_match",
                &format!("is {value}: a whole number or a share such as '75%' is needed"),
            )),
        }
    }

    fn group_by(&self, table: &Table) -> Result<Option<GroupBy>> {
        let size = self.count("group_size", 1, K_MAX)?;
        match self.text("group_by")? {
            Some(name) => Ok(Some(GroupBy { column: self.column(table, name)?, size: size.unwrap_or(1) })),
            None if size.is_some() => Err(self.fail("group_size", "needs group_by")),
            None => Ok(None),
        }
    }

    fn threshold(&self) -> Result<Option<Threshold>> {
        let least = self.number("min_score")?.map(Threshold::Score);
        Ok(least.or(self.number("max_distance")?.map(Threshold::Distance)))
    }

    fn diversity(&self, table: &Table) -> Result<Option<Diversity>> {
        let Some(weight) = self.number("diversity")? else {
            return Ok(None);
        };
        if !(0.0..=1.0).contains(&weight) {
            return Err(self.fail("diversity", &format!("is {weight}: a number from 0 to 1 is needed")));
        }
        let others = ["group_by", "search_after", "offset"];
        if let Some(other) = others.into_iter().find(|name| self.value(name).is_some()) {
            return Err(self.fail("diversity", &format!("cannot be combined with {other}")));
        }
        let column = self.vector_column(table)?;
        let metric = self.metric(table, column)?;
        let position = table.schema.columns.iter().position(|other| other.id == column.id);
        Ok(position.map(|column| Diversity { column, metric, weight }))
    }

    fn fusion(&self) -> Result<Fusion> {
        let k = self.number("rrf_k")?.unwrap_or(RRF_K_DEFAULT);
        if k < 0.0 {
            return Err(self.fail("rrf_k", &format!("is {k}: a number that is not negative is needed")));
        }
        let normalization = match self.text("normalization")? {
            None | Some("minmax") => Normalization::MinMax,
            Some("distribution") => Normalization::Distribution,
            Some(other) => {
                return Err(self.fail("normalization", &format!("is {other:?}: minmax or distribution")));
            }
        };
        match self.text("fusion")? {
            None | Some("rrf") => Ok(Fusion::Rrf { k }),
            Some("weighted") => Ok(Fusion::Weighted(normalization)),
            Some(other) => Err(self.fail("fusion", &format!("is {other:?}: rrf or weighted"))),
        }
    }

    /// The position of a column in the table.
    fn column(&self, table: &Table, name: &str) -> Result<usize> {
        // A quoted identifier arrives with its quotes.
        let unquoted = name.strip_prefix('"').and_then(|name| name.strip_suffix('"'));
        let name = unquoted.map_or_else(|| name.to_owned(), |name| name.replace("\"\"", "\""));
        // An unquoted name in a text means what it means in a statement.
        let folded = || unquoted.is_none().then(|| name.to_ascii_lowercase());
        let position = table.schema.column_index(&name);
        let position = position.or_else(|| table.schema.column_index(&folded()?));
        let name = &name;
        position
            .ok_or_else(|| Error::invalid(format!("{}: {}", self.function.name(), no_column(table, name))))
    }

    /// The vector column that is named, or the only one of the table.
    fn vector_column<'t>(&self, table: &'t Table) -> Result<&'t Column> {
        let column = match self.text("column")? {
            Some(name) => &table.schema.columns[self.column(table, name)?],
            None => {
                let mut vectors =
                    table.schema.columns.iter().filter(|c| c.data_type.vector_dimensions().is_some());
                match (vectors.next(), vectors.next()) {
                    (Some(only), None) => only,
                    (None, _) => {
                        return Err(self.fail("column", "is needed: the table has no vector column"));
                    }
                    _ => {
                        return Err(self.fail("column", "is needed: the table has several vector columns"));
                    }
                }
            }
        };
        match column.data_type.vector_dimensions() {
            Some(_) => Ok(column),
            None => Err(self.fail("column", &format!("{:?} does not hold vectors", column.name))),
        }
    }

    /// The metric that is named, or that of the column.
    fn metric(&self, table: &Table, column: &Column) -> Result<Metric> {
        match self.text("metric")? {
            Some(name) => Metric::from_name(name),
            None => Ok(metric_of(table, column.id)),
        }
    }

    /// The fields for some columns, or all, by the index and the tokenizer that are named.
    fn text_fields(&self, table: &Table, wanted: &[u32]) -> Result<TextFields> {
        let text = |name: &str| Ok::<_, Error>(self.text(name)?.map(str::to_owned));
        IndexChoice { index: text("index")?, tokenizer: text("tokenizer")? }.fields(table, wanted)
    }

    /// The fields that the query searches, and how it sees them.
    fn fields(&self, table: &Table) -> Result<(TextFields, Vec<QueryField>)> {
        let boosted = self.text("columns")?.map(|text| self.boosted(table, text)).transpose()?;
        let wanted: Vec<u32> = boosted.iter().flatten().map(|(id, _)| *id).collect();
        let fields = self.text_fields(table, &wanted)?;
        // A column that is named twice counts twice.
        let boost_of = |id: u32| match &boosted {
            None => Some(1.0),
            Some(boosted) => {
                boosted.iter().filter(|(named, _)| *named == id).map(|(_, boost)| *boost).reduce(f32::add)
            }
        };
        let searched = fields.all().enumerate().map(|(at, (id, analyzer))| {
            // A column may be in several of the indexes: it is searched in the first.
            let is_first = fields.field(id).is_some_and(|(field, _)| field == at);
            let boost = boost_of(id).filter(|_| is_first);
            QueryField { name: name_of(table, id), analyzer: analyzer.clone(), boost }
        });
        let searched = searched.collect();
        Ok((fields, searched))
    }

    /// Parses `title^2, body`: columns by id, each with its boost.
    fn boosted(&self, table: &Table, text: &str) -> Result<Vec<(u32, f32)>> {
        text.split(',')
            .map(str::trim)
            .map(|part| {
                let (name, boost) = part.split_once('^').unwrap_or((part, "1"));
                let boost = boost.trim().parse::<f32>().ok().filter(|b| (0.0..=1e6).contains(b));
                let boost = boost.ok_or_else(|| {
                    self.fail("columns", &format!("has {part:?}: the format is title^2, body"))
                })?;
                let column = &table.schema.columns[self.column(table, name.trim())?];
                Ok((column.id, boost))
            })
            .collect()
    }

    /// The excerpt that is requested.
    fn highlight(
        &self,
        table: &Table,
        retrievers: &[Retriever],
        queries: Vec<TextQuery>,
    ) -> Result<Option<Highlight>> {
        let Some(name) = self.text("highlight")? else {
            return Ok(None);
        };
        let column = self.column(table, name)?;
        let length =
            self.count("highlight_length", 1, HIGHLIGHT_BYTES_MAX)?.unwrap_or(HIGHLIGHT_BYTES_DEFAULT);
        let id = table.schema.columns[column].id;
        let marks = retrievers.iter().zip(queries).filter_map(|(retriever, query)| match retriever {
            Retriever::Text { fields, .. } => {
                let (field, analyzer) = fields.field(id)?;
                Some((query, field, analyzer.clone()))
            }
            Retriever::Vector { .. } => None,
        });
        let marks: Vec<_> = marks.collect();
        if marks.is_empty() {
            return Err(self.fail("highlight", &format!("is {name:?}, which the query does not search")));
        }
        Ok(Some(Highlight { column, length, marks }))
    }
}

/// The metric of the first vector index on a column, or the cosine.
fn metric_of(table: &Table, column: u32) -> Metric {
    let metric = |index: &IndexDefinition| match index.kind {
        IndexKind::Vector { column: indexed, metric } if indexed == column => Some(metric),
        _ => None,
    };
    table.schema.indexes.iter().find_map(metric).unwrap_or(Metric::Cosine)
}

/// Whether values of a type are whole numbers, or texts of them.
fn is_whole(data_type: &DataType) -> bool {
    data_type.is_integer() || data_type.is_string()
}

/// The items of a list value.
pub(crate) fn list(value: &ScalarValue) -> Option<ArrayRef> {
    match value {
        ScalarValue::List(list) => list_at(&(Arc::clone(list) as ArrayRef), 0),
        ScalarValue::LargeList(list) => list_at(&(Arc::clone(list) as ArrayRef), 0),
        ScalarValue::FixedSizeList(list) => list_at(&(Arc::clone(list) as ArrayRef), 0),
        _ => None,
    }
}

/// The items of the list at an index of an array of lists, unless it is null.
pub(super) fn list_at(lists: &ArrayRef, at: usize) -> Option<ArrayRef> {
    if lists.len() <= at || lists.is_null(at) {
        return None;
    }
    match lists.data_type() {
        DataType::List(_) => Some(lists.as_list::<i32>().value(at)),
        DataType::LargeList(_) => Some(lists.as_list::<i64>().value(at)),
        DataType::FixedSizeList(..) => Some(lists.as_any().downcast_ref::<FixedSizeListArray>()?.value(at)),
        _ => None,
    }
}
