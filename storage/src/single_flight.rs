//! A cache that computes each value once.

use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use plexus_model::Result;
use tokio::sync::OnceCell;

/// Values that are not used for this long are dropped, and with them the memory-mapped file that they may
/// keep open.
const IDLE_MAX: Duration = Duration::from_secs(10 * 60);

/// Values that are computed at the same time. Beyond that, a value may be computed twice.
const IN_FLIGHT_MAX: u64 = 1_024;

/// A cache that is bounded in bytes. Concurrent requests for a missing value compute it once. Cheap to clone.
#[derive(Clone)]
pub struct SingleFlightCache<K, V> {
    ready: Cache<K, V>,
    in_flight: Cache<K, Arc<OnceCell<V>>>,
}

impl<K, V> SingleFlightCache<K, V>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// An empty cache for `capacity` bytes; `bytes` is the size of a value.
    pub fn new(capacity: u64, bytes: impl Fn(&V) -> usize + Send + Sync + 'static) -> Self {
        let weight = move |_: &K, value: &V| u32::try_from(bytes(value)).unwrap_or(u32::MAX);
        let ready = Cache::builder().max_capacity(capacity).weigher(weight).time_to_idle(IDLE_MAX).build();
        Self { ready, in_flight: Cache::new(IN_FLIGHT_MAX) }
    }

    /// The value of a key, computed by `make` if it is not cached.
    ///
    /// # Errors
    /// What `make` fails with. Failures are not cached.
    pub async fn get(&self, key: K, make: impl Future<Output = Result<V>>) -> Result<V> {
        if let Some(value) = self.ready.get(&key) {
            return Ok(value);
        }
        let cell = self.in_flight.get_with(key.clone(), Arc::default);
        // Another request may have computed it since the first look.
        let init = || async {
            match self.ready.get(&key) {
                Some(value) => Ok(value),
                None => make.await,
            }
        };
        let value = cell.get_or_try_init(init).await?.clone();
        self.ready.insert(key.clone(), value.clone());
        self.in_flight.invalidate(&key);
        Ok(value)
    }

    /// Drops idle values. They expire lazily, so without requests nothing else would.
    pub fn evict_idle(&self) {
        self.ready.run_pending_tasks();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use plexus_model::Error;

    use super::*;

    #[tokio::test]
    async fn values_are_computed_once_and_failures_again() {
        let (cache, computed) = (SingleFlightCache::new(1_000, |_: &u64| 8), AtomicUsize::new(0));
        let make = |result: Result<u64>| async {
            computed.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            result
        };
        cache.get("a", make(Err(Error::internal("failed")))).await.unwrap_err();
        let (one, other) = tokio::join!(cache.get("a", make(Ok(1))), cache.get("a", make(Ok(2))));
        assert_eq!(one.unwrap(), other.unwrap());
        assert_eq!(computed.load(Ordering::Relaxed), 2);
    }
}
