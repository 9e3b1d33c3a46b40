//! The HTTP side: health, metrics, the page.

use super::passed::Prebuffered;
use super::{State, metrics, page};
use crate::runtime::Passed;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// Time for a request head to arrive on a kept-alive connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) fn serve_passed(state: &Arc<State>, passed: Passed) {
    let Passed {
        socket,
        paired,
        bytes,
    } = passed;
    // A socket that cannot be registered is dropped, which closes it.
    if paired {
        if let Ok(stream) = tokio::net::UnixStream::from_std(socket.into()) {
            serve(state, Prebuffered::new(stream, bytes));
        }
    } else if let Ok(stream) = tokio::net::TcpStream::from_std(socket.into()) {
        serve(state, Prebuffered::new(stream, bytes));
    }
}

pub(super) fn serve(
    state: &Arc<State>,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) {
    let state = state.clone();
    tokio::spawn(async move {
        let service = service_fn(move |request| {
            let state = state.clone();
            async move { Ok::<_, Infallible>(answer(&state, &request).await) }
        });
        // An error here is the client's: it went away or spoke no HTTP.
        let _ = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service)
            .await;
    });
}

async fn answer(state: &State, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = text(
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET and HEAD are served here\n",
        );
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match request.uri().path() {
        "/health/live" => text(StatusCode::OK, "live\n"),
        "/health/ready" => ready(state).await,
        "/health/detail" => detail(state).await,
        "/metrics" => {
            let stats = state.stats().await;
            let body = metrics::text(&stats, state.shards.count());
            response(StatusCode::OK, metrics::CONTENT_TYPE, body.into())
        }
        path => match page::asset(path) {
            Some(asset) => page::response_of(asset),
            None => text(
                StatusCode::NOT_FOUND,
                "nothing is served here over plain HTTP; rooms are WebSockets: ws://<host>/<room>\n",
            ),
        },
    }
}

async fn ready(state: &State) -> Response<Full<Bytes>> {
    if state.draining.load(Ordering::SeqCst) {
        return text(StatusCode::SERVICE_UNAVAILABLE, "draining\n");
    }
    let answered = state.stats().await.len();
    if answered < usize::from(state.shards.count()) {
        let why = format!("{answered} of {} shards answer\n", state.shards.count());
        return response(
            StatusCode::SERVICE_UNAVAILABLE,
            "text/plain; charset=utf-8",
            why.into(),
        );
    }
    text(StatusCode::OK, "ready\n")
}

async fn detail(state: &State) -> Response<Full<Bytes>> {
    let all = state.stats().await;
    let shards: Vec<_> = (0..state.shards.count())
        .map(|id| match all.get(&id) {
            None => json!({ "shard": id, "answers": false }),
            Some(s) => json!({
                "shard": id,
                "answers": true,
                "connections": s.connections,
                "sessions": s.sessions,
                "sessions_behind": s.sessions_behind,
                "rooms_open": s.rooms,
                "rooms_loaded": s.engine.rooms_loaded,
                "rooms_known": s.engine.rooms_known,
                "document_bytes": s.engine.document_bytes,
                "updates_total": s.updates,
                "commits_total": s.engine.commits,
                "commit_us_p50": s.commit_ns.value_at_quantile(0.5) / 1000,
                "commit_us_p99": s.commit_ns.value_at_quantile(0.99) / 1000,
                "log_segments": s.engine.log_segments,
                "core_busy_share": metrics::busy_share(s),
            }),
        })
        .collect();
    let body = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_s": state.started.elapsed().as_secs(),
        "draining": state.draining.load(Ordering::SeqCst),
        "shards": shards,
    });
    let body = serde_json::to_string_pretty(&body).expect("a JSON value is serialisable");
    response(StatusCode::OK, "application/json", (body + "\n").into())
}

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    response(
        status,
        "text/plain; charset=utf-8",
        Bytes::from_static(body.as_bytes()),
    )
}

pub(super) fn response(
    status: StatusCode,
    kind: &'static str,
    body: Bytes,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
