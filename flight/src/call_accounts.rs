//! Memory accounts of requests: of clients, and of tasks that this node runs for queries of other nodes.
//! Statements have accounts of their own; these are for messages that are received and decoded, and for
//! tasks. One that holds too much ends with the reason.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Either};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body as HttpBody, Frame};
use plexus_memory::{Account, Overrun};
use tokio::sync::watch;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::NamedService;
use tonic::{Code, Status};

use crate::whole_messages::WholeMessages;

/// A gRPC service, each of whose calls has an account.
#[derive(Clone, Debug)]
pub struct AccountedCalls<S>(S);

impl<S> AccountedCalls<S> {
    /// Counts what the calls of `service` hold, and ends those that hold too much.
    pub fn new(service: S) -> Self {
        Self(service)
    }
}

impl<S: NamedService> NamedService for AccountedCalls<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for AccountedCalls<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let request = request.map(|body| Body::new(WholeMessages::new(body)));
        let (sender, receiver) = watch::channel(None);
        let account = Account::open(move |overrun| {
            // Once is enough.
            sender.send_replace(Some(*overrun)).is_none()
        });
        let call = account.scope(account.enter(|| self.0.call(request).boxed()));
        async move {
            let ended = ended(receiver).boxed();
            match futures::future::select(call, ended).await {
                Either::Left((response, ended)) => {
                    let accounted = |body| Body::new(AccountedBody { body: Some(body), account, ended });
                    response.map(|response| blame_sender(response).map(accounted))
                }
                Either::Right((status, _)) => Ok(status.into_http()),
            }
        }
        .boxed()
    }
}

/// How the error of a message starts that is not one of the protocol, in tonic, and in `arrow-flight` for the
/// command in a descriptor or ticket. They take that for a fault of the server.
const UNDECODABLE: [&str; 2] = ["failed to decode Protobuf message", "ParseError("];

/// A response that says that the message of the client was wrong, if that is what failed.
fn blame_sender(mut response: Response<Body>) -> Response<Body> {
    let is_undecodable = Status::from_header_map(response.headers()).is_some_and(|status| {
        status.code() == Code::Internal && UNDECODABLE.iter().any(|start| status.message().starts_with(start))
    });
    if is_undecodable {
        let code = HeaderValue::from(Code::InvalidArgument as i32);
        response.headers_mut().insert(Status::GRPC_STATUS, code);
    }
    response
}

/// Waits until the account ends. The status says why.
async fn ended(mut overrun: watch::Receiver<Option<Overrun>>) -> Status {
    match overrun.wait_for(Option::is_some).await.ok().and_then(|overrun| *overrun) {
        Some(overrun) => Status::resource_exhausted(format!("a request {overrun}")),
        // Its account lives as long as the call.
        None => std::future::pending().await,
    }
}

/// The result of a call. Once the account ends, the rest of it is the reason.
struct AccountedBody {
    /// `None` once it has ended.
    body: Option<Body>,
    account: Account,
    ended: BoxFuture<'static, Status>,
}

impl HttpBody for AccountedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let Some(body) = &mut this.body else {
            return Poll::Ready(None);
        };
        if let Poll::Ready(status) = this.ended.poll_unpin(context) {
            let body = this.body.take();
            this.account.enter(|| drop(body));
            let mut trailers = HeaderMap::new();
            return Poll::Ready(Some(status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))));
        }
        let frame = this.account.enter(|| Pin::new(body).poll_frame(context));
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let Some(data) = frame.data_ref()
        {
            // Whoever sends it frees it.
            this.account.release(data.len());
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }
}

impl Drop for AccountedBody {
    fn drop(&mut self) {
        let body = self.body.take();
        self.account.enter(|| drop(body));
    }
}
