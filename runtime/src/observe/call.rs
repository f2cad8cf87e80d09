//! Every call of a client: its span, its metrics.
//!
//! A layer around the gRPC services, below which no call knows of it. A call lasts until its answer has been sent, a
//! stream's end included, or until its client has gone away, which is the code CANCELLED.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use husk_proto::CRI_PATHS;
use hyper::body::{Body, Frame, SizeHint};
use tonic::codegen::http::{HeaderMap, Request, Response};
use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::{Instrument, Span};

use super::{Metrics, span, traces};

/// What calls have for a name that are none of the CRI's: clients must not be able to make up any.
const UNKNOWN: &str = "unknown";

/// Watches the calls of the services that it is laid around.
#[derive(Clone)]
pub struct CallLayer(pub Metrics);

impl<S> Layer<S> for CallLayer {
    type Service = CallService<S>;

    fn layer(&self, inner: S) -> CallService<S> {
        CallService { inner, metrics: self.0.clone() }
    }
}

/// See [`CallLayer`].
#[derive(Clone)]
pub struct CallService<S> {
    inner: S,
    metrics: Metrics,
}

impl<S, B, R> Service<Request<B>> for CallService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
    S::Error: 'static,
    R: 'static,
{
    type Response = Response<CallBody<R>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let mut call = Call::begin(request.uri().path(), request.headers(), &self.metrics);
        let answer = call.span.in_scope(|| self.inner.call(request));
        let span = call.span.clone();
        Box::pin(async move {
            let response = answer.instrument(span).await?;
            // A refusal says so at once.
            call.code = code(response.headers());
            Ok(response.map(|body| CallBody { body, call: Some(call) }))
        })
    }
}

fn code(headers: &HeaderMap) -> Option<Code> {
    Status::from_header_map(headers).map(|status| status.code())
}

/// One call. Its end is that of this value.
struct Call {
    metrics: Metrics,
    method: &'static str,
    begun: Instant,
    span: Span,
    code: Option<Code>,
}

impl Call {
    fn begin(path: &str, headers: &HeaderMap, metrics: &Metrics) -> Call {
        let (method, name) = known(path);
        let span = span::call(method, name);
        traces::continue_trace(&span, headers);
        Call { metrics: metrics.clone(), method, begun: Instant::now(), span, code: None }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let code = self.code.unwrap_or(Code::Cancelled);
        self.span.record("code", name(code));
        if is_servers(code) {
            self.span.record("otel.status_code", "ERROR");
        }
        self.metrics.called(self.method, name(code), self.begun.elapsed());
    }
}

/// An answer on its way to the client.
pub struct CallBody<B> {
    body: B,
    call: Option<Call>,
}

impl<B: Body + Unpin> Body for CallBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(trailers) = frame.trailers_ref()
            && let Some(mut call) = self.call.take()
        {
            call.code = code(trailers).or(call.code);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A method of the CRI, and the same with its service, by the path of a request.
fn known(path: &str) -> (&'static str, &'static str) {
    let known = CRI_PATHS.iter().find(|known| **known == path);
    let name = known.map(|known| &known[1..]);
    name.and_then(|name| Some((name.rsplit_once('/')?.1, name))).unwrap_or((UNKNOWN, UNKNOWN))
}

/// Codes that say that the server failed, and not its client (OpenTelemetry's semantic conventions for gRPC).
fn is_servers(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}

fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::task::Waker;

    use bytes::Bytes;
    use futures_util::FutureExt;
    use http_body_util::combinators::UnsyncBoxBody;
    use http_body_util::{BodyExt, Empty, Full};

    use super::*;

    type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

    /// One call of a service that answers so; what it was counted as, before and after the answer was read.
    fn called(path: &str, answer: impl Fn() -> Answer + Clone + Send + 'static) -> [Vec<String>; 2] {
        let metrics = Metrics::default();
        let inner = tower::service_fn(move |_: Request<()>| {
            let answer = answer.clone();
            async move { Ok::<_, Infallible>(answer()) }
        });
        let mut service = CallLayer(metrics.clone()).layer(inner);
        let request = Request::builder().uri(path).body(()).unwrap();
        let answer = service.call(request).now_or_never().unwrap().unwrap();
        let counted = || {
            let text = metrics.text();
            let lines = text.lines().filter(|line| line.starts_with("husk_cri_calls_total{"));
            lines.map(str::to_owned).collect()
        };
        let before = counted();
        answer.into_body().collect().now_or_never().unwrap().unwrap();
        [before, counted()]
    }

    fn trailers(code: &'static str) -> Answer {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", code.parse().unwrap());
        let body = Full::new(Bytes::from("x")).with_trailers(async move { Some(Ok(trailers)) });
        Response::new(body.boxed_unsync())
    }

    fn counted(method: &str, code: &str) -> Vec<String> {
        vec![format!("husk_cri_calls_total{{method=\"{method}\",code=\"{code}\"}} 1")]
    }

    #[test]
    fn a_call_has_the_code_that_its_answer_ends_with() {
        let path = "/runtime.v1.ImageService/ListImages";
        assert_eq!(called(path, || trailers("0")), [Vec::new(), counted("ListImages", "OK")]);
        assert_eq!(called(path, || trailers("8"))[1], counted("ListImages", "RESOURCE_EXHAUSTED"));
        let refused = || {
            let mut answer = Response::new(Empty::new().boxed_unsync());
            answer.headers_mut().insert("grpc-status", "5".parse().unwrap());
            answer
        };
        assert_eq!(called(path, refused)[1], counted("ListImages", "NOT_FOUND"));
        // Its stream broke off.
        let broken = || Response::new(Empty::new().boxed_unsync());
        assert_eq!(called(path, broken)[1], counted("ListImages", "CANCELLED"));
    }

    #[test]
    fn a_client_that_goes_away_is_counted() {
        let metrics = Metrics::default();
        let never = tower::service_fn(|_: Request<()>| std::future::pending::<Result<Answer, Infallible>>());
        let mut service = CallLayer(metrics.clone()).layer(never);
        let request = Request::builder().uri("/runtime.v1.RuntimeService/Status").body(()).unwrap();
        let mut call = service.call(request);
        assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        assert!(!metrics.text().contains("husk_cri_calls_total{"));
        drop(call);
        assert!(metrics.text().contains(&counted("Status", "CANCELLED")[0]), "{}", metrics.text());
    }

    #[test]
    fn clients_make_up_no_names() {
        for path in
            ["/", "/x", "/runtime.v1.RuntimeService/Nope", "//Version", "/runtime.v1.RuntimeService/Version/"]
        {
            assert_eq!(called(path, || trailers("12"))[1], counted("unknown", "UNIMPLEMENTED"), "{path}");
        }
        assert_eq!(CRI_PATHS.len(), 43);
        assert!(CRI_PATHS.iter().all(|path| known(path).0 != UNKNOWN));
    }
}
