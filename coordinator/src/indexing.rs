//! Indexes: their definitions, and making them for the segments that are there.
//!
//! A definition is a view of the schema, visible at once. The index of a segment is made in the background, from the
//! segment alone, copied to its replicas, and committed as a record beside it. Until then the segment is searched without.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use datafusion::sql::sqlparser::ast::{CreateIndex, Expr, IndexColumn, IndexType, ObjectName, Value};
use plexus_index::text::Analyzer;
use plexus_model::{
    AlterTable, ChangeKind, Command, Error, ErrorKind, FileData, IndexDefinition, IndexKind, Manifest,
    Metric, Result, Segment, SegmentIndex, Table, TableChange, TableName,
};
use plexus_query::search::{TextFields, blocking, build_texts};
use plexus_storage::{SegmentRef, SegmentStore};

use crate::coordinator::{Coordinator, Scope, find};
use crate::ddl;
use crate::ingest::Writer;
use crate::rewrite::identifier;

impl Coordinator {
    /// The command that `CREATE INDEX` stands for; `None` when the index is there and need not be made.
    pub(crate) fn create_index(&self, scope: &Scope<'_>, create: &CreateIndex) -> Result<Option<Command>> {
        let name = ddl::object_name(&create.table_name, &scope.session.schema())?;
        let table = find(&scope.manifest, &name)?;
        let index_name = create.name.as_ref().map(|name| identifier(&name.to_string()));
        let index_name =
            index_name.ok_or_else(|| Error::invalid("CREATE INDEX needs a name: CREATE INDEX i ON t"))?;
        if create.unique || create.predicate.is_some() || !create.include.is_empty() {
            return Err(Error::unsupported("an index is not unique, and of all rows and no other columns"));
        }
        if let Some(other) = with_index(&scope.manifest, &name.schema, &index_name) {
            if create.if_not_exists {
                return Ok(None);
            }
            return Err(Error::already_exists(format!(
                "index {index_name:?} exists already, on table {}",
                other.name
            )));
        }
        let mut schema = (*table.schema).clone();
        schema.last_index += 1;
        let kind = index_kind(create, &table)?;
        schema.indexes.push(IndexDefinition { id: schema.last_index, name: index_name, kind });
        schema.validate()?;
        let (table, schema_version) = (table.id, table.schema_version);
        Ok(Some(Command::AlterTable(AlterTable { table, schema_version, schema, base: None })))
    }

    /// The command that `DROP INDEX` stands for; `None` when there need not be one.
    pub(crate) fn drop_index(
        &self,
        scope: &Scope<'_>,
        name: &ObjectName,
        if_exists: bool,
    ) -> Result<Option<Command>> {
        let name: TableName = ddl::object_name(name, &scope.session.schema())?;
        let Some(table) = with_index(&scope.manifest, &name.schema, &name.table) else {
            return match if_exists {
                true => Ok(None),
                false => Err(Error::not_found(format!(
                    "index {:?} does not exist in schema {}",
                    name.table, name.schema
                ))),
            };
        };
        let mut schema = (*table.schema).clone();
        schema.indexes.retain(|index| index.name != name.table);
        let (table, schema_version) = (table.id, table.schema_version);
        Ok(Some(Command::AlterTable(AlterTable { table, schema_version, schema, base: None })))
    }
}

/// The table of a schema that has an index of that name: they are unique in it.
fn with_index<'a>(manifest: &'a Manifest, schema: &str, name: &str) -> Option<&'a Arc<Table>> {
    let tables = manifest.names.iter().filter(|(table, _)| table.schema == schema);
    tables
        .filter_map(|(_, id)| manifest.tables.get(id))
        .find(|table| table.schema.index_by_name(name).is_some())
}

fn index_kind(create: &CreateIndex, table: &Table) -> Result<IndexKind> {
    let columns =
        create.columns.iter().map(|column| column_id(column, table)).collect::<Result<Vec<u32>>>()?;
    let mut options = options(&create.with)?;
    let mut take = |name: &str| options.iter().position(|(n, _)| n == name).map(|at| options.remove(at).1);
    let kind = match &create.using {
        Some(IndexType::Custom(name)) => identifier(&name.to_string()),
        Some(other) => other.to_string().to_ascii_lowercase(),
        None => String::new(),
    };
    let kind = match kind.as_str() {
        "text" => {
            let tokenizer = take("tokenizer").unwrap_or_else(|| Analyzer::DEFAULT.to_owned());
            IndexKind::Text { columns, tokenizer: Analyzer::named(&tokenizer)?.name().to_owned() }
        }
        "vector" => {
            let [column] = columns.as_slice() else {
                return Err(Error::invalid("a vector index is of one column"));
            };
            let metric = take("metric").map_or(Ok(Metric::Cosine), |name| Metric::from_name(&name))?;
            IndexKind::Vector { column: *column, metric }
        }
        other => {
            return Err(Error::invalid(format!(
                "CREATE INDEX ... USING {other}: there are USING text and USING vector; keys and ranges need no index"
            )));
        }
    };
    match options.first() {
        Some((name, _)) => Err(Error::invalid(format!(
            "index option {name:?} does not exist; there are tokenizer, of text, and metric, of vector"
        ))),
        None => Ok(kind),
    }
}

fn column_id(column: &IndexColumn, table: &Table) -> Result<u32> {
    let expr = &column.column.expr;
    let order = &column.column.options;
    if column.operator_class.is_some() || order.asc.is_some() || order.nulls_first.is_some() {
        return Err(Error::unsupported(format!(
            "{column}: an index has no order and no operators; WITH (metric = 'l2') says how vectors are compared"
        )));
    }
    let name = match expr {
        Expr::Identifier(ident) => identifier(&ident.to_string()),
        _ => return Err(Error::invalid(format!("{expr}: an index is of columns"))),
    };
    let place = table.schema.column_index(&name);
    let place =
        place.ok_or_else(|| Error::not_found(format!("table {} has no column {name:?}", table.name)))?;
    Ok(table.schema.columns[place].id)
}

/// `WITH (name = value, ...)`.
fn options(with: &[Expr]) -> Result<Vec<(String, String)>> {
    let option = |expr: &Expr| {
        let wrong = || Error::invalid(format!("index option {expr}: write name = 'value'"));
        let Expr::BinaryOp { left, op: datafusion::sql::sqlparser::ast::BinaryOperator::Eq, right } = expr
        else {
            return Err(wrong());
        };
        let value = match right.as_ref() {
            Expr::Value(value) => match &value.value {
                Value::SingleQuotedString(text) | Value::Number(text, _) => text.clone(),
                _ => return Err(wrong()),
            },
            _ => return Err(wrong()),
        };
        Ok((identifier(&left.to_string()), value))
    };
    with.iter().map(option).collect()
}

/// Segments of a shard that lack an index: each with a definition. Those in the log are few, and leave it soon.
pub fn unindexed(table: &Table, shard: u32) -> Vec<(Arc<Segment>, IndexDefinition)> {
    let definitions = &table.schema.indexes;
    let segments =
        table.segments.values().filter(|s| s.shard == shard && s.removed.is_none() && !s.is_inline());
    let lacks = |segment: &Segment, id: u32| segment.indexes.iter().all(|index| index.index != id);
    segments
        .flat_map(|segment| {
            let lacking =
                definitions.iter().filter(|d| d.kind.applies_to(segment.rows) && lacks(segment, d.id));
            lacking.map(|d| (segment.clone(), (*d).clone())).collect::<Vec<_>>()
        })
        .collect()
}

/// Makes the index of a segment, and commits it. Whether it was taken: the segment or the definition may be gone.
#[tracing::instrument(level = "info", skip_all, fields(table = %table.name, segment = %segment.id, index = definition.name))]
pub async fn index_segment(
    writer: &Writer,
    manifest: &Manifest,
    table: &Arc<Table>,
    segment: &Arc<Segment>,
    definition: &IndexDefinition,
) -> Result<bool> {
    let started = Instant::now();
    let (bytes, checksum) = build(writer, manifest, table, segment, definition).await?;
    let data = FileData { bytes: bytes.len() as u64, checksum, column_bytes: 0 };
    let (file, acknowledged) = writer.replicate(table, segment.shard, bytes, checksum).await?;
    let index = SegmentIndex { index: definition.id, file, data, acknowledged };
    let change = TableChange::new(table.id, table.schema_version, manifest.version, ChangeKind::Relocate);
    let change = TableChange { index: vec![(segment.id, index)], ..change };
    match writer.commit(vec![change], "index", started).await {
        Ok(_) => {
            tracing::debug!(bytes = data.bytes, "indexed a segment");
            Ok(true)
        }
        Err(e) if e.kind() == ErrorKind::Conflict => {
            tracing::debug!(error = %e, "an index came too late");
            Ok(false)
        }
        Err(e) => Err(e),
    }
}

/// Makes an index again whose file is lost on all replicas. It is made of the segment alone, and so it is the same.
///
/// # Errors
/// `Corrupt` when it is another, since a newer version makes it: it is to be dropped then and created again.
#[tracing::instrument(level = "info", skip_all, fields(table = %table.name, segment = %segment.id, file = %file.id))]
pub async fn remake(
    writer: &Writer,
    manifest: &Manifest,
    table: &Arc<Table>,
    segment: &Arc<Segment>,
    file: &SegmentRef,
    store: &Arc<SegmentStore>,
) -> Result<()> {
    let index = segment.indexes.iter().find(|index| index.file == file.id);
    let definition = index.and_then(|index| table.schema.indexes.iter().find(|d| d.id == index.index));
    let definition = definition.ok_or_else(|| Error::not_found(format!("{} is no index", file.id)))?;
    let (bytes, checksum) = build(writer, manifest, table, segment, definition).await?;
    if checksum != file.data.checksum {
        return Err(Error::corrupt(format!(
            "index {:?} of segment {} is lost, and would be another now: drop it and create it again",
            definition.name, segment.id
        )));
    }
    let (store, id) = (store.clone(), file.id);
    blocking(move || store.put(id, &bytes, &checksum)).await?;
    tracing::info!("made a lost index again");
    Ok(())
}

/// The bytes of the index of a segment, with their checksum.
async fn build(
    writer: &Writer,
    manifest: &Manifest,
    table: &Arc<Table>,
    segment: &Arc<Segment>,
    definition: &IndexDefinition,
) -> Result<(Bytes, [u8; 32])> {
    let snapshot = writer.engine.search_snapshot(table.clone(), manifest.version, segment.clone());
    let view =
        snapshot.views.first().ok_or_else(|| Error::internal("a snapshot of one segment without it"))?;
    let bytes = match &definition.kind {
        IndexKind::Text { columns, tokenizer } => {
            let (columns, analyzer) = (columns.clone(), Analyzer::named(tokenizer)?);
            let fields = TextFields { columns, analyzer, index: Some(definition.id) };
            let texts = snapshot.texts(view, &fields).await?;
            blocking(move || build_texts(&texts, &fields.analyzer)).await?
        }
        IndexKind::Vector { column, metric } => {
            let vectors = snapshot.vectors(view, *column).await?;
            let metric = *metric;
            blocking(move || vectors.build_graph(metric)).await?
        }
    };
    blocking(move || {
        let checksum = *blake3::hash(&bytes).as_bytes();
        Ok((Bytes::from(bytes), checksum))
    })
    .await
}
