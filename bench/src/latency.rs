//! Latency histograms, in microseconds.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use plexus_model::{Error, Result};

/// Latencies of one kind of request, from 1 µs to 60 s with three significant digits.
pub(crate) struct Latencies(Histogram<u64>);

impl Latencies {
    pub(crate) fn new() -> Self {
        Self(Histogram::new_with_bounds(1, 60_000_000, 3).expect("the bounds are valid"))
    }

    /// Records the time since `started`.
    pub(crate) fn record_since(&mut self, started: Instant) {
        self.0.saturating_record(started.elapsed().as_micros() as u64);
    }

    /// Records a duration.
    pub(crate) fn record(&mut self, latency: Duration) {
        self.0.saturating_record(latency.as_micros() as u64);
    }

    /// The median, the 99th percentile and the largest, for the printed table.
    pub(crate) fn extremes(&self) -> String {
        let ms = |us: u64| us as f64 / 1000.0;
        let (median, p99) = (self.0.value_at_quantile(0.5), self.0.value_at_quantile(0.99));
        format!("p50 {:.0} ms, p99 {:.0} ms, max {:.0} ms", ms(median), ms(p99), ms(self.0.max()))
    }

    /// Adds all latencies of another client.
    pub(crate) fn merge(&mut self, other: &Self) -> Result<()> {
        self.0.add(&other.0).map_err(|e| Error::internal(e.to_string()))
    }

    /// How many requests were recorded.
    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    /// The latency in microseconds that a share of the requests stays below.
    pub(crate) fn quantile_us(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64
    }

    /// The usual percentiles, for the printed table.
    pub(crate) fn percentiles(&self) -> String {
        let ms = |q: f64| self.quantile_us(q) / 1000.0;
        format!("p50 {:.2} ms, p95 {:.2} ms, p99 {:.2} ms", ms(0.5), ms(0.95), ms(0.99))
    }
}
