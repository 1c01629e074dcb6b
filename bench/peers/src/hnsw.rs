//! The layered graph of the `hnsw_rs` crate.

use std::time::Instant;

use hnsw_rs::prelude::{DistL2, Hnsw};

use crate::{Data, Result};

const M: usize = 16;
/// As many as the crate allows; few of them are ever filled.
const LAYERS: usize = 16;
const BUILD_WIDTH: usize = 200;
const WIDTHS: [usize; 10] = [16, 32, 48, 60, 80, 100, 140, 200, 300, 500];

pub fn measure(data: &Data) -> Result<()> {
    let vectors: Vec<(&[f32], usize)> = data.vectors.chunks_exact(data.length).zip(0..).collect();
    let started = Instant::now();
    let mut index = Hnsw::<f32, DistL2>::new(M, vectors.len(), LAYERS, BUILD_WIDTH, DistL2);
    index.parallel_insert_slice(&vectors);
    let build = started.elapsed().as_secs_f64();
    index.set_searching_mode(true);
    data.measure("hnsw_rs, M 16", build, &WIDTHS, |query, width| {
        let found = index.search(query, data.k, width);
        Ok(found.iter().map(|neighbour| neighbour.get_origin_id() as u32).collect())
    })
}
