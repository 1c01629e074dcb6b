//! Routing of rows to shards, by the hash of the primary key or in turn.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::compute;
use arrow::datatypes::*;
use plexus_model::placement::{hash_key, shard_of_slot, slot_of_hash};
use plexus_model::{Error, Result};

/// Splits batches by shard: by the hash of the primary key, or whole batches in turn when the table has no
/// key.
pub struct Router {
    key_columns: Vec<usize>,
    shards: u32,
    /// The shard of the next batch of a table without a key.
    next_shard: u32,
}

impl Router {
    /// A router for a table with `shards` shards. `key` holds the positions of the key columns. Without a
    /// key, the first batch goes to shard `first` modulo `shards`; vary it so that small writes spread over
    /// all shards.
    pub fn new(key: &[u32], shards: u32, first: u32) -> Self {
        Self { key_columns: key.iter().map(|&k| k as usize).collect(), shards, next_shard: first % shards }
    }

    /// Splits a batch into non-empty parts, each with its shard.
    ///
    /// # Errors
    /// `Unsupported` when a key column has no canonical form.
    pub fn route(&mut self, batch: RecordBatch) -> Result<Vec<(u32, RecordBatch)>> {
        if batch.num_rows() == 0 {
            return Ok(vec![]);
        }
        if self.key_columns.is_empty() {
            let shard = self.next_shard;
            self.next_shard = (self.next_shard + 1) % self.shards;
            return Ok(vec![(shard, batch)]);
        }
        let shards = self.shards_of_rows(&batch)?;
        let mut rows: Vec<Vec<u32>> = vec![Vec::new(); self.shards as usize];
        for (row, shard) in shards.into_iter().enumerate() {
            rows[shard as usize].push(row as u32);
        }
        let mut parts = Vec::new();
        for (shard, rows) in rows.into_iter().enumerate().filter(|(_, rows)| !rows.is_empty()) {
            let part = if rows.len() == batch.num_rows() {
                batch.clone()
            } else {
                compute::take_record_batch(&batch, &UInt32Array::from(rows))
                    .map_err(|e| Error::internal(format!("splitting a batch: {e}")).with_source(e))?
            };
            parts.push((shard as u32, part));
        }
        Ok(parts)
    }

    fn shards_of_rows(&self, batch: &RecordBatch) -> Result<Vec<u32>> {
        let key: Vec<ArrayRef> = self.key_columns.iter().map(|&k| batch.column(k).clone()).collect();
        let hashes = CanonicalKeys::new(&key)?.hashes();
        Ok(hashes.into_iter().map(|hash| shard_of_slot(slot_of_hash(hash), self.shards)).collect())
    }
}

/// The primary keys of rows in canonical form. The hash of the canonical form decides the shard of a row.
pub struct CanonicalKeys {
    columns: Vec<KeyColumn>,
    rows: usize,
}

impl CanonicalKeys {
    /// The keys that consist of the columns `key`, in key order.
    ///
    /// # Errors
    /// `Unsupported` when a column has a type without a canonical form.
    pub fn new(key: &[ArrayRef]) -> Result<Self> {
        let rows = key.first().map_or(0, |column| column.len());
        Ok(Self { columns: key.iter().map(KeyColumn::new).collect::<Result<_>>()?, rows })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// The canonical bytes of the key of one row. Two keys are equal exactly when their bytes are equal.
    pub fn bytes(&self, row: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.columns.iter().for_each(|column| column.write(row, &mut bytes));
        bytes
    }

    /// The hashes of all keys, in row order.
    pub fn hashes(&self) -> Vec<u64> {
        let mut hashes = Vec::with_capacity(self.rows);
        self.for_each_hash(|_, hash| hashes.push(hash));
        hashes
    }

    /// Calls `visit` with every row and the hash of its key.
    pub(crate) fn for_each_hash(&self, mut visit: impl FnMut(usize, u64)) {
        let mut bytes = Vec::new();
        for row in 0..self.rows {
            bytes.clear();
            self.columns.iter().for_each(|column| column.write(row, &mut bytes));
            visit(row, hash_key(&bytes));
        }
    }
}

/// The shard of one key, given as arrays of one row each, in key order.
///
/// # Errors
/// `Unsupported` when a column has a type without a canonical form.
pub fn shard_of_key(key: &[ArrayRef], shards: u32) -> Result<u32> {
    let bytes = CanonicalKeys::new(key)?.bytes(0);
    Ok(shard_of_slot(slot_of_hash(hash_key(&bytes)), shards))
}

/// A key column in canonical form: fixed-width values as little-endian bytes, variable-width values with
/// their length in front. The form is frozen, because it decides the shard of every row.
enum KeyColumn {
    Fixed { bytes: arrow::buffer::Buffer, width: usize, offset: usize },
    Boolean(arrow::array::BooleanArray),
    Binary(arrow::array::BinaryViewArray),
}

impl KeyColumn {
    fn new(array: &ArrayRef) -> Result<Self> {
        let cast_error = |e| Error::internal(format!("hashing a key of type {}: {e}", array.data_type()));
        match array.data_type() {
            DataType::Boolean => Ok(Self::Boolean(array.as_boolean().clone())),
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
                let text = compute::cast(array, &DataType::Utf8View).map_err(cast_error)?;
                Ok(Self::Binary(text.as_string_view().clone().to_binary_view()))
            }
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView => Ok(Self::Binary(
                compute::cast(array, &DataType::BinaryView).map_err(cast_error)?.as_binary_view().clone(),
            )),
            other => {
                let width = other
                    .primitive_width()
                    .ok_or_else(|| Error::unsupported(format!("a key of type {other} cannot be hashed")))?;
                let data = array.to_data();
                Ok(Self::Fixed { bytes: data.buffers()[0].clone(), width, offset: data.offset() })
            }
        }
    }

    fn write(&self, row: usize, out: &mut Vec<u8>) {
        match self {
            Self::Fixed { bytes, width, offset } => {
                let start = (offset + row) * width;
                out.extend_from_slice(&bytes.as_slice()[start..start + width]);
            }
            Self::Boolean(array) => out.push(u8::from(array.value(row))),
            Self::Binary(array) => {
                let value = array.value(row);
                out.extend_from_slice(&(value.len() as u32).to_le_bytes());
                out.extend_from_slice(value);
            }
        }
    }
}
