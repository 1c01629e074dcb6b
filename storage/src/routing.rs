//! Which rows of a batch go to which shard.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::compute;
use arrow::datatypes::*;
use plexus_model::placement::{hash_key, shard_of_slot, slot_of_hash};
use plexus_model::{Error, Result};

/// Splits batches by the hash of their key columns, or hands whole batches to the shards in turn when
/// the table has no key.
pub struct Router {
    key: Vec<usize>,
    shards: u32,
    next: u32,
}

impl Router {
    /// `key`: column indexes. `first`: where the turn starts, so that small writes spread as well.
    pub fn new(key: &[u32], shards: u32, first: u32) -> Self {
        Self { key: key.iter().map(|&k| k as usize).collect(), shards, next: first % shards }
    }

    /// The parts of the batch that are not empty, each with its shard.
    pub fn route(&mut self, batch: RecordBatch) -> Result<Vec<(u32, RecordBatch)>> {
        if batch.num_rows() == 0 {
            return Ok(vec![]);
        }
        if self.key.is_empty() {
            let shard = self.next;
            self.next = (self.next + 1) % self.shards;
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
        let key: Vec<ArrayRef> = self.key.iter().map(|&k| batch.column(k).clone()).collect();
        let hashes = Keys::new(&key)?.hashes();
        Ok(hashes.into_iter().map(|hash| shard_of_slot(slot_of_hash(hash), self.shards)).collect())
    }
}

/// The keys of rows, in the canonical form whose hash decides where a row lives.
pub struct Keys {
    columns: Vec<KeyColumn>,
    rows: usize,
}

impl Keys {
    /// `key`: the key columns, in key order.
    ///
    /// # Errors
    /// `Unsupported` for a type that has no canonical form.
    pub fn new(key: &[ArrayRef]) -> Result<Self> {
        let rows = key.first().map_or(0, |column| column.len());
        Ok(Self { columns: key.iter().map(KeyColumn::new).collect::<Result<_>>()?, rows })
    }

    pub fn len(&self) -> usize {
        self.rows
    }

    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// The canonical bytes of the key of one row: equal for equal keys, and only for those.
    pub fn bytes(&self, row: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.columns.iter().for_each(|column| column.write(row, &mut bytes));
        bytes
    }

    pub fn hashes(&self) -> Vec<u64> {
        let mut hashes = Vec::with_capacity(self.rows);
        self.for_each_hash(|_, hash| hashes.push(hash));
        hashes
    }

    /// Calls `found` with every row and the hash of its key.
    pub fn for_each_hash(&self, mut found: impl FnMut(usize, u64)) {
        let mut bytes = Vec::new();
        for row in 0..self.rows {
            bytes.clear();
            self.columns.iter().for_each(|column| column.write(row, &mut bytes));
            found(row, hash_key(&bytes));
        }
    }
}

/// The shard of one key, given as arrays of one row each in key order.
pub fn shard_of_key(key: &[ArrayRef], shards: u32) -> Result<u32> {
    let bytes = Keys::new(key)?.bytes(0);
    Ok(shard_of_slot(slot_of_hash(hash_key(&bytes)), shards))
}

/// A key column in the canonical form that is hashed: fixed-width values as little-endian bytes,
/// variable ones with their length in front. The form is frozen: it decides where every row lives.
enum KeyColumn {
    Fixed { bytes: arrow::buffer::Buffer, width: usize, offset: usize },
    Boolean(arrow::array::BooleanArray),
    Binary(arrow::array::BinaryViewArray),
}

impl KeyColumn {
    fn new(array: &ArrayRef) -> Result<Self> {
        let fail = |e| Error::internal(format!("hashing a key of type {}: {e}", array.data_type()));
        match array.data_type() {
            DataType::Boolean => Ok(Self::Boolean(array.as_boolean().clone())),
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
                let text = compute::cast(array, &DataType::Utf8View).map_err(fail)?;
                Ok(Self::Binary(text.as_string_view().clone().to_binary_view()))
            }
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView => Ok(Self::Binary(
                compute::cast(array, &DataType::BinaryView).map_err(fail)?.as_binary_view().clone(),
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
