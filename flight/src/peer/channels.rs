//! Channels to the workers of distributed queries: gRPC over TCP with the cluster's mutual TLS.
//!
//! Errors of the connection, unlike errors of the task, are wrapped with the worker's URL, so that the
//! coordinator can run the query again without that worker.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion_distributed::grpc::{BoxCloneSyncChannel, create_worker_client};
use datafusion_distributed::{
    ChannelResolver, CoordinatorToWorkerMsg, ExecuteTaskRequest, GetWorkerInfoRequest, GetWorkerInfoResponse,
    SetPlanRequest, WorkerChannel, WorkerToCoordinatorMsg,
};
use futures::StreamExt;
use futures::stream::BoxStream;
use http::HeaderMap;
use plexus_coordinator::WorkerUnavailable;
use plexus_model::Error;
use tokio::runtime::Handle;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Status};
use url::Url;

use crate::tls::{Identity, SERVER_NAME};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// HTTP/2 pings. A worker that does not answer within the timeout is considered dead. One whose machine is
/// busy is slow to answer.
const PING_INTERVAL: Duration = Duration::from_secs(2);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// Errors of tasks travel in headers and can contain whole plans.
const HEADER_BYTES_MAX: u32 = 1024 * 1024;

/// Channels by worker URL. A channel reconnects by itself.
#[derive(Clone)]
pub struct WorkerChannels {
    tls: ClientTlsConfig,
    channels: Arc<Mutex<HashMap<Url, Channel>>>,
    /// Serves the connections, also those of long queries: their own threads are served last, and would
    /// answer pings too late on a busy machine.
    runtime: Option<Handle>,
}

impl WorkerChannels {
    /// Channels that authenticate with this node's certificate, served by the runtime of the caller. Connects
    /// nothing yet.
    pub fn new(identity: &Identity) -> Self {
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&identity.authority))
            .identity(tonic::transport::Identity::from_pem(&identity.certificate, &identity.key))
            .domain_name(SERVER_NAME);
        Self { tls, channels: Arc::default(), runtime: Handle::try_current().ok() }
    }

    fn channel(&self, url: &Url) -> Result<Channel> {
        let mut channels = self.channels.lock().expect("no code panics while it holds this lock");
        if let Some(channel) = channels.get(url) {
            return Ok(channel.clone());
        }
        let external = |e: tonic::transport::Error| DataFusionError::External(Box::new(e));
        let _runtime = self.runtime.as_ref().map(Handle::enter);
        let channel = Endpoint::from_shared(url.to_string())
            .map_err(external)?
            .tls_config(self.tls.clone())
            .map_err(external)?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .initial_stream_window_size(8 * 1024 * 1024)
            .initial_connection_window_size(32 * 1024 * 1024)
            .http2_max_header_list_size(HEADER_BYTES_MAX)
            .connect_lazy();
        channels.insert(url.clone(), channel.clone());
        Ok(channel)
    }
}

#[async_trait]
impl ChannelResolver for WorkerChannels {
    async fn get_worker_client_for_url(&self, url: &Url) -> Result<Box<dyn WorkerChannel>> {
        let inner = create_worker_client(BoxCloneSyncChannel::new(self.channel(url)?));
        Ok(Box::new(NamedChannel { url: url.clone(), inner }))
    }
}

/// A channel whose connection errors name the worker.
struct NamedChannel {
    url: Url,
    inner: Box<dyn WorkerChannel>,
}

#[async_trait]
impl WorkerChannel for NamedChannel {
    async fn coordinator_channel(
        &mut self,
        headers: HeaderMap,
        request: SetPlanRequest,
        messages: BoxStream<'static, CoordinatorToWorkerMsg>,
        metrics: ExecutionPlanMetricsSet,
        context: &Arc<TaskContext>,
    ) -> Result<BoxStream<'static, Result<WorkerToCoordinatorMsg>>> {
        let url = self.url.clone();
        let responses = self.inner.coordinator_channel(headers, request, messages, metrics, context).await;
        let responses = responses.map_err(|e| name_worker(&self.url, e))?;
        Ok(responses.map(move |response| response.map_err(|e| name_worker(&url, e))).boxed())
    }

    async fn execute_task(
        &mut self,
        headers: HeaderMap,
        request: ExecuteTaskRequest,
        metrics: ExecutionPlanMetricsSet,
        context: &Arc<TaskContext>,
    ) -> Result<Vec<BoxStream<'static, Result<RecordBatch>>>> {
        let streams = self.inner.execute_task(headers, request, metrics, context).await;
        let streams = streams.map_err(|e| name_worker(&self.url, e))?;
        Ok(streams
            .into_iter()
            .map(|stream| {
                let url = self.url.clone();
                stream.map(move |batch| batch.map_err(|e| name_worker(&url, e))).boxed()
            })
            .collect())
    }

    async fn get_worker_info(&mut self, request: GetWorkerInfoRequest) -> Result<GetWorkerInfoResponse> {
        self.inner.get_worker_info(request).await.map_err(|e| name_worker(&self.url, e))
    }
}

/// Names the worker in a connection error, so that the coordinator runs the query again without it.
fn name_worker(url: &Url, error: DataFusionError) -> DataFusionError {
    if let Some(exhausted) = exhausted(&error) {
        return exhausted;
    }
    if !is_connection_error(&error) {
        return error;
    }
    WorkerUnavailable::engine_error(url, &error)
}

/// The error of a task that was ended because it held too much memory. Elsewhere it would as well.
fn exhausted(error: &DataFusionError) -> Option<DataFusionError> {
    let DataFusionError::External(inner) = error else {
        return None;
    };
    let status = inner.downcast_ref::<Status>().filter(|status| status.code() == Code::ResourceExhausted)?;
    Some(DataFusionError::External(Box::new(Error::exhausted(status.message()))))
}

/// Whether the connection failed rather than the task. Errors of tasks arrive as errors of the engine.
fn is_connection_error(error: &DataFusionError) -> bool {
    let DataFusionError::External(inner) = error else {
        return false;
    };
    inner.is::<tonic::transport::Error>()
        || inner.downcast_ref::<Status>().is_some_and(|status| {
            matches!(
                status.code(),
                Code::Unavailable
                    | Code::Unknown
                    | Code::Cancelled
                    | Code::DeadlineExceeded
                    | Code::Internal
                    | Code::Aborted
            )
        })
}
