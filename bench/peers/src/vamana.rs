//! The Vamana graph of the `diskann` crate, searched with full-precision vectors and with codes of one bit
//! per dimension.
//!
//! Both searches use one graph, which is built from the vectors, so that they differ only in the distances
//! that they compute. Vectors are encoded on insertion: the first build time includes that, but not the
//! training.

use std::iter;
use std::time::Instant;

use diskann::graph::IdDistance;
use diskann::graph::config::{Builder, MaxDegree};
use diskann::graph::glue::{DefaultSearchStrategy, SearchAccessor};
use diskann::graph::search::Knn;
use diskann::graph::strategy::FullPrecision;
use diskann::provider::DefaultContext;
use diskann_providers::index::wrapped_async::DiskANNIndex;
use diskann_providers::model::graph::provider::async_::common::NoDeletes;
use diskann_providers::model::graph::provider::async_::inmem::spherical::{Quantized, SphericalStore};
use diskann_providers::model::graph::provider::async_::inmem::{
    CreateFullPrecision, DefaultProviderParameters, FullPrecisionProvider, SetStartPoints,
};
use diskann_providers::utils::create_rnd_from_seed;
use diskann_quantization::algorithms::TransformKind;
use diskann_quantization::algorithms::transforms::TargetDim;
use diskann_quantization::alloc::GlobalAllocator;
use diskann_quantization::spherical::iface::{Impl, QueryLayout};
use diskann_quantization::spherical::{PreScale, SphericalQuantizer, SupportedMetric};
use diskann_utils::sampling::medoid::ComputeMedoid;
use diskann_utils::views::rowmajor::Ref;
use diskann_vector::distance::Metric;
use rayon::prelude::*;

use crate::{Data, Result};

const DEGREE: usize = 32;
const BUILD_BEAM: usize = 100;
const ALPHA: f32 = 1.2;
const SEED: u64 = 1;
const BEAMS: [usize; 10] = [16, 24, 32, 48, 64, 96, 128, 192, 256, 384];

/// The vectors, the code of each, and the graph.
type Provider = FullPrecisionProvider<f32, SphericalStore>;
type Index = DiskANNIndex<Provider>;

pub(crate) fn measure(data: &Data) -> Result<()> {
    let started = Instant::now();
    // The error borrows the vectors, which do not live as long as the boxed error must.
    let vectors =
        Ref::try_from_data(&data.vectors, data.count(), data.dimensions).map_err(|e| e.as_static())?;
    let codes = train(vectors)?;
    let training = started.elapsed().as_secs_f64();
    let index = build(data, vectors, codes)?;
    let build = started.elapsed().as_secs_f64();

    data.measure("diskann, degree 32", build - training, &BEAMS, |query, beam| {
        nearest(&index, &FullPrecision, query, beam, data.k)
    })?;
    // Four bits per dimension of the query are more precise than one, and distances are still bit counts.
    let codes = Quantized::search(QueryLayout::FourBitTransposed);
    data.measure("diskann, degree 32, spherical 1 bit", build, &BEAMS, |query, beam| {
        nearest(&index, &codes, query, beam, data.k)
    })
}

fn train(vectors: Ref<'_, f32>) -> Result<Impl<1>> {
    let quantizer = SphericalQuantizer::train(
        vectors,
        // Does not pad to a power of two: a code has as many bits as the vector has dimensions.
        TransformKind::DoubleHadamard { target_dim: TargetDim::Same },
        SupportedMetric::SquaredL2,
        PreScale::ReciprocalMeanNorm,
        &mut create_rnd_from_seed(SEED),
        GlobalAllocator,
    )?;
    Ok(Impl::<1>::new(quantizer)?)
}

fn build(data: &Data, vectors: Ref<'_, f32>, codes: Impl<1>) -> Result<Index> {
    let slack = MaxDegree::default_slack();
    let config = Builder::new_with(DEGREE, slack, BUILD_BEAM, Metric::L2.into(), |builder| {
        builder.alpha(ALPHA);
    })
    .build()?;
    let degree_max = config.max_degree_u32().get();
    let parameters = DefaultProviderParameters::simple(data.count(), data.dimensions, Metric::L2, degree_max);
    let full_precision = CreateFullPrecision::<f32>::new(data.dimensions, None);
    let provider = Provider::new_empty(parameters, full_precision, codes, NoDeletes)?;
    let medoid = f32::compute_medoid(vectors);
    provider.set_start_points(iter::once(medoid.as_slice()))?;

    // In-memory providers never wait, so a runtime without threads of its own serves all inserting threads.
    let index = Index::new_with_current_thread_runtime(config, provider);
    (0..data.count() as u32)
        .into_par_iter()
        .try_for_each(|id| index.insert(&FullPrecision, &DefaultContext, &id, data.vector(id)))?;
    Ok(index)
}

/// The nearest rows by either strategy. The crate re-ranks the results of a search by codes.
fn nearest<'a, S>(
    index: &'a Index,
    strategy: &'a S,
    query: &'a [f32],
    beam: usize,
    k: usize,
) -> Result<Vec<u32>>
where
    S: DefaultSearchStrategy<'a, Provider, &'a [f32], SearchAccessor: SearchAccessor>,
{
    let (mut ids, mut distances) = (vec![0_u32; k], vec![0.0_f32; k]);
    let mut output = IdDistance::new(&mut ids, &mut distances);
    let found = index.search(Knn::new_default(beam)?, strategy, &DefaultContext, query, &mut output)?;
    ids.truncate(found.result_count as usize);
    Ok(ids)
}
