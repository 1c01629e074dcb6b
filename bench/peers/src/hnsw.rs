//! The HNSW graph of the `hnsw_rs` crate.

use std::time::Instant;

use hnsw_rs::prelude::{DistL2, Hnsw};

use crate::{Data, Result};

const M: usize = 16;
/// The maximum of the crate. A graph of this size fills only a few layers.
const LAYERS: usize = 16;
const EF_CONSTRUCTION: usize = 200;
const BEAMS: [usize; 10] = [16, 32, 48, 60, 80, 100, 140, 200, 300, 500];

pub(crate) fn measure(data: &Data) -> Result<()> {
    let vectors: Vec<(&[f32], usize)> = data.vectors.chunks_exact(data.dimensions).zip(0..).collect();
    let started = Instant::now();
    let mut index = Hnsw::<f32, DistL2>::new(M, vectors.len(), LAYERS, EF_CONSTRUCTION, DistL2);
    index.parallel_insert_slice(&vectors);
    let build = started.elapsed().as_secs_f64();
    index.set_searching_mode(true);
    data.measure("hnsw_rs, M 16", build, &BEAMS, |query, beam| {
        let found = index.search(query, data.k, beam);
        Ok(found.iter().map(|neighbor| neighbor.get_origin_id() as u32).collect())
    })
}
