//! The tables of the TPC-H benchmark, generated on the fly.
//!
//! Specification: <https://www.tpc.org/tpch/>, section 1.4 (schema) and 4.2 (data generation).

use arrow::array::RecordBatchReader;
use tpchgen::generators::{
    CustomerGenerator, LineItemGenerator, NationGenerator, OrderGenerator, PartGenerator, PartSuppGenerator,
    RegionGenerator, SupplierGenerator,
};
use tpchgen_arrow::{
    CustomerArrow, LineItemArrow, NationArrow, OrderArrow, PartArrow, PartSuppArrow, RegionArrow,
    SupplierArrow,
};

/// Names of the tables.
pub(crate) const TPCH_TABLES: [&str; 8] =
    ["region", "nation", "supplier", "customer", "part", "partsupp", "orders", "lineitem"];

/// Below this scale factor the generator yields some pairs of part and supplier twice.
const UNIQUE_PARTSUPP_SCALE_MIN: f64 = 0.01;

/// A TPC-H table. Its rows are generated as they are read.
pub struct TpchTable {
    /// Name of the table.
    pub name: &'static str,
    /// Primary key columns; empty for none.
    pub key: &'static [&'static str],
    /// Expected number of rows; approximate for `lineitem`.
    pub rows: u64,
    /// The rows.
    pub reader: Box<dyn RecordBatchReader + Send>,
}

/// The eight tables of TPC-H at a scale factor. Scale factor 1 is about 1 GB of text.
pub fn tpch(scale: f64) -> Vec<TpchTable> {
    const BATCH_ROWS: usize = 65_536;
    let rows = |base: f64| (base * scale) as u64;
    macro_rules! table {
        ($name:literal, $key:expr, $rows:expr, $arrow:ident, $generator:ident) => {
            TpchTable {
                name: $name,
                key: $key,
                rows: $rows,
                reader: Box::new($arrow::new($generator::new(scale, 1, 1)).with_batch_size(BATCH_ROWS)),
            }
        };
    }
    let partsupp_key: &[&str] =
        if scale < UNIQUE_PARTSUPP_SCALE_MIN { &[] } else { &["ps_partkey", "ps_suppkey"] };
    vec![
        table!("region", &["r_regionkey"], 5, RegionArrow, RegionGenerator),
        table!("nation", &["n_nationkey"], 25, NationArrow, NationGenerator),
        table!("supplier", &["s_suppkey"], rows(10_000.0), SupplierArrow, SupplierGenerator),
        table!("customer", &["c_custkey"], rows(150_000.0), CustomerArrow, CustomerGenerator),
        table!("part", &["p_partkey"], rows(200_000.0), PartArrow, PartGenerator),
        table!("partsupp", partsupp_key, rows(800_000.0), PartSuppArrow, PartSuppGenerator),
        table!("orders", &["o_orderkey"], rows(1_500_000.0), OrderArrow, OrderGenerator),
        // Without a key, rows are assigned to shards batch by batch, which preserves the order of their
        // dates.
        table!("lineitem", &[], rows(6_000_000.0), LineItemArrow, LineItemGenerator),
    ]
}
