//! The HTTP side: health, metrics, the page.

use super::passed::Prebuffered;
use super::{State, metrics};
use crate::runtime::{Passed, UNAVAILABLE};
use crate::validity::UnixSeconds;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderMap, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

/// Bounds on connections of the control plane, so that no client keeps others from it for long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Connections at once; a further one is answered 503.
    pub connections_max: usize,
    /// Time for a request head to arrive, also between requests.
    pub head: Duration,
    /// Time of a connection after which it ends with the answer that is under way.
    pub connection: Duration,
    /// Time for that answer, after which it is closed at all events.
    pub end: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connections_max: 512,
            head: Duration::from_secs(10),
            connection: Duration::from_secs(60),
            end: Duration::from_secs(10),
        }
    }
}

pub(super) fn serve_passed(state: &Arc<State>, passed: Passed) {
    let Passed {
        socket,
        paired,
        bytes,
    } = passed;
    // A socket that cannot be registered is dropped, which closes it.
    if paired {
        if let Ok(stream) = tokio::net::UnixStream::from_std(socket.into()) {
            // The address is the core's; a server that is particular about it has loopback ones only,
            // which may be named in any case.
            serve(state, Prebuffered::new(stream, bytes), None);
        }
    } else if let Ok(stream) = tokio::net::TcpStream::from_std(socket.into()) {
        let stream = Prebuffered::new(stream, bytes);
        let address = stream.local_ip();
        serve(state, stream, address);
    }
}

/// Serves a connection to this address, if it is known.
pub(super) fn serve(
    state: &Arc<State>,
    mut stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    address: Option<IpAddr>,
) {
    let Ok(place) = state.places.clone().try_acquire_owned() else {
        // Best effort: whoever does not take it at once is closed all the same.
        let mut context = Context::from_waker(Waker::noop());
        let _ = Pin::new(&mut stream).poll_write(&mut context, UNAVAILABLE);
        return;
    };
    let (state, bounds) = (state.clone(), state.bounds);
    tokio::spawn(async move {
        let service = service_fn(move |request| {
            let state = state.clone();
            async move { Ok::<_, Infallible>(answer(&state, &request, address).await) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(bounds.head)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        // An error here is the client's: it went away or spoke no HTTP.
        if timeout(bounds.connection, connection.as_mut())
            .await
            .is_err()
        {
            connection.as_mut().graceful_shutdown();
            let _ = timeout(bounds.end, connection).await;
        }
        drop(place);
    });
}

/// Whether the request names this server as it may be named.
fn is_for_us(state: &State, request: &Request<Incoming>, address: Option<IpAddr>) -> bool {
    let allowed = |host: &str| state.hosts.allow(host, address);
    // None at all comes from no browser.
    let mut headers = request.headers().get_all(HOST).iter();
    headers.all(|host| host.to_str().is_ok_and(allowed)) && request.uri().host().is_none_or(allowed)
}

/// Whether somebody is to read the answer: whatever scrapes does not ask for a page.
fn is_browser(headers: &HeaderMap) -> bool {
    let mut accepted = headers.get_all(ACCEPT).iter();
    accepted.any(|kinds| {
        kinds
            .to_str()
            .is_ok_and(|kinds| kinds.contains("text/html"))
    })
}

async fn answer(
    state: &State,
    request: &Request<Incoming>,
    address: Option<IpAddr>,
) -> Response<Full<Bytes>> {
    if !is_for_us(state, request, address) {
        return text(
            StatusCode::MISDIRECTED_REQUEST,
            "this server serves its own machine, as localhost or by the address it listens on; to serve it under \
             another name, list that origin in allowed_origins or set access = \"open\"\n",
        );
    }
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
            let expires = state.certificate.borrow().map(|dates| dates.not_after);
            let body = metrics::text(&stats, state.shards.count(), expires);
            response(
                StatusCode::OK,
                metrics::content_type(is_browser(request.headers())),
                body.into(),
            )
        }
        path => match state.page.answer(path, request.headers()) {
            Some(answer) => answer,
            None => not_found(path),
        },
    }
}

/// Rooms are WebSockets; the page opens one by another address.
fn not_found(path: &str) -> Response<Full<Bytes>> {
    let mut why = String::from(
        "nothing is served here over plain HTTP; rooms are WebSockets: ws://<host>/<room>",
    );
    let room = path.strip_prefix('/').unwrap_or_default();
    // Of other names the page's address has other letters.
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b);
    if !room.is_empty() && room.bytes().all(plain) && !crate::edge::http::is_reserved(path) {
        why += &format!("; in the page: /?room={room}");
    }
    why.push('\n');
    response(
        StatusCode::NOT_FOUND,
        "text/plain; charset=utf-8",
        why.into(),
    )
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
                "turn_us_p99": s.runtime.turn_ns.value_at_quantile(0.99) / 1000,
                "turn_us_max": s.runtime.turn_ns.max() / 1000,
            }),
        })
        .collect();
    let certificate = state.certificate.borrow().map(|dates| {
        json!({
            "not_before": dates.not_before.to_string(),
            "not_after": dates.not_after.to_string(),
            "expires_in_s": dates.not_after.0 - UnixSeconds::now().0,
        })
    });
    let body = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_s": state.started.elapsed().as_secs(),
        "draining": state.draining.load(Ordering::SeqCst),
        "tls_certificate": certificate,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{Hosts, Shards};
    use crate::shard::{ControlReply, ControlRequest, ShardId, Stats};
    use crate::validity::Validity;
    use std::sync::atomic::AtomicU32;
    use std::time::Instant;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

    /// One shard that answers at once, and counts.
    struct Prompt {
        asked: Arc<AtomicU32>,
        replies: UnboundedSender<(ShardId, ControlReply)>,
    }

    impl Shards for Prompt {
        fn show_certificate(&self, _: &rustls::ServerConfig) -> bool {
            unreachable!("there is none")
        }

        fn count(&self) -> u16 {
            1
        }

        fn ask(&self, shard: ShardId, request: ControlRequest) {
            if let ControlRequest::Stats { id } = request {
                self.asked.fetch_add(1, Ordering::SeqCst);
                let stats = Box::new(Stats::default());
                let reply = ControlReply::Stats { id, stats };
                self.replies.send((shard, reply)).unwrap();
            }
        }
    }

    fn state(hosts: Hosts, bounds: Bounds) -> (Arc<State>, Arc<AtomicU32>) {
        with_certificate(hosts, bounds, None)
    }

    fn with_certificate(
        hosts: Hosts,
        bounds: Bounds,
        dates: Option<Validity>,
    ) -> (Arc<State>, Arc<AtomicU32>) {
        let asked = Arc::new(AtomicU32::new(0));
        let (replies, coming) = unbounded_channel();
        let shards = Prompt {
            asked: asked.clone(),
            replies,
        };
        let dates = tokio::sync::watch::channel(dates).1;
        let state = State::new(Box::new(shards), coming, hosts, dates, bounds);
        (Arc::new(state), asked)
    }

    fn connect(state: &Arc<State>) -> DuplexStream {
        let (ours, theirs) = duplex(64);
        serve(state, theirs, None);
        ours
    }

    async fn ask(state: &Arc<State>, request: &str) -> String {
        let mut stream = connect(state);
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    fn run(test: impl Future<Output = ()>) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().build().unwrap().block_on(test);
    }

    #[test]
    fn a_page_that_was_made_to_resolve_here_reads_nothing() {
        run(async {
            let (state, _) = state(Hosts::local(&[]), Bounds::default());
            let close = "Connection: close\r\n\r\n";
            for path in [
                "/metrics",
                "/health/ready",
                "/health/detail",
                "/",
                "/nothing",
            ] {
                let get = |host: &str| format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{close}");
                let answer = ask(&state, &get("evil.example:8080")).await;
                assert!(answer.starts_with("HTTP/1.1 421 "), "{path}: {answer}");
                assert!(answer.contains("allowed_origins"), "{path}: {answer}");
                let answer = ask(&state, &get("localhost:8080")).await;
                assert!(!answer.starts_with("HTTP/1.1 421 "), "{path}: {answer}");
            }
            let absolute =
                format!("GET http://evil.example/metrics HTTP/1.1\r\nHost: localhost\r\n{close}");
            assert!(ask(&state, &absolute).await.starts_with("HTTP/1.1 421 "));
            let twice =
                format!("GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n{close}");
            assert!(ask(&state, &twice).await.starts_with("HTTP/1.1 421 "));
            // Simple probes name no host.
            let old = "GET /health/live HTTP/1.0\r\n\r\n";
            assert!(ask(&state, old).await.starts_with("HTTP/1.0 200 "));
        });
    }

    #[test]
    fn who_looks_for_a_room_is_shown_the_page() {
        run(async {
            let (state, _) = state(Hosts::local(&[]), Bounds::default());
            for (path, shown) in [
                ("/my-room", true),
                ("/a%20b", false),
                ("/api", false),
                ("/a/b", false),
            ] {
                let get =
                    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
                let answer = ask(&state, &get).await;
                assert!(answer.starts_with("HTTP/1.1 404 "), "{path}: {answer}");
                let page = format!("in the page: /?room={}\n", &path[1..]);
                assert_eq!(answer.ends_with(&page), shown, "{path}: {answer}");
            }
        });
    }

    #[test]
    fn the_certificates_dates_are_told() {
        run(async {
            let get = |path: &str| format!("GET {path} HTTP/1.1\r\nConnection: close\r\n\r\n");
            let now = UnixSeconds::now().0;
            let dates = Validity {
                not_before: UnixSeconds(0),
                not_after: UnixSeconds(now + 3_000_000),
            };
            let (state, _) = with_certificate(Hosts::Any, Bounds::default(), Some(dates));
            let detail = ask(&state, &get("/health/detail")).await;
            let (_, body) = detail.split_once("\r\n\r\n").unwrap();
            let body: serde_json::Value = serde_json::from_str(body).unwrap();
            let told = &body["tls_certificate"];
            assert_eq!(told["not_before"], "1970-01-01T00:00:00Z");
            let left = told["expires_in_s"].as_i64().unwrap();
            assert!((2_999_000..=3_000_000).contains(&left), "{left}");
            let metrics = ask(&state, &get("/metrics")).await;
            let wanted = format!("{} {}", metrics::CERTIFICATE_EXPIRY, now + 3_000_000);
            assert!(metrics.lines().any(|line| line == wanted), "{metrics}");

            let (state, _) = self::state(Hosts::Any, Bounds::default());
            let detail = ask(&state, &get("/health/detail")).await;
            assert!(detail.contains("\"tls_certificate\": null"), "{detail}");
            let metrics = ask(&state, &get("/metrics")).await;
            assert!(!metrics.contains(metrics::CERTIFICATE_EXPIRY), "{metrics}");
        });
    }

    #[test]
    fn the_page_is_sent_once_and_then_only_if_it_changed() {
        run(async {
            let (state, _) = state(Hosts::Any, Bounds::default());
            let get = |path: &str, more: &str| {
                format!("GET {path} HTTP/1.1\r\n{more}Connection: close\r\n\r\n")
            };
            for path in ["/", "/assets/page.js", "/favicon.svg", "/favicon.ico"] {
                let answer = ask(&state, &get(path, "")).await;
                assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
                let (head, body) = answer.split_once("\r\n\r\n").unwrap();
                assert!(!body.is_empty(), "{path}");
                let tag = head.lines().find_map(|line| line.strip_prefix("etag: "));
                let tag = tag.unwrap_or_else(|| panic!("{path} has no tag: {head}"));

                let known = format!("If-None-Match: {tag}\r\n");
                let again = ask(&state, &get(path, &known)).await;
                assert!(again.starts_with("HTTP/1.1 304 "), "{path}: {again}");
                assert!(again.contains(&format!("etag: {tag}\r\n")), "{again}");
                assert!(again.contains("cache-control: no-cache\r\n"), "{again}");
                assert!(again.ends_with("\r\n\r\n"), "{again}");

                let older = ask(&state, &get(path, "If-None-Match: \"0\"\r\n")).await;
                assert!(older.starts_with("HTTP/1.1 200 "), "{path}: {older}");
            }
        });
    }

    #[test]
    fn a_browser_shows_metrics_and_a_scraper_gets_their_own_type() {
        run(async {
            let (state, _) = state(Hosts::Any, Bounds::default());
            let browser = "text/html,application/xhtml+xml,*/*;q=0.8";
            let scraper = "application/openmetrics-text;version=1.0.0,text/plain;q=0.2,*/*;q=0.1";
            let openmetrics = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            let accepts = |accept| format!("Accept: {accept}\r\n");
            for (more, kind) in [
                (accepts(browser), "text/plain; charset=utf-8"),
                (accepts(scraper), openmetrics),
                (String::new(), openmetrics),
            ] {
                let get = format!("GET /metrics HTTP/1.1\r\n{more}Connection: close\r\n\r\n");
                let answer = ask(&state, &get).await;
                let wanted = format!("content-type: {kind}\r\n");
                assert!(answer.contains(&wanted), "{more}: {answer}");
                assert!(answer.ends_with("# EOF\n"), "{answer}");
            }
        });
    }

    #[test]
    fn probes_by_address_are_answered_by_an_open_server() {
        run(async {
            let (state, _) = state(Hosts::Any, Bounds::default());
            let probe =
                "GET /health/ready HTTP/1.1\r\nHost: 10.1.2.3:8080\r\nConnection: close\r\n\r\n";
            assert!(ask(&state, probe).await.starts_with("HTTP/1.1 200 "));
        });
    }

    #[test]
    fn connections_are_bounded_in_number_and_time() {
        run(async {
            let bounds = Bounds {
                connections_max: 3,
                head: Duration::from_millis(150),
                connection: Duration::from_millis(300),
                end: Duration::from_millis(100),
            };
            let (state, _) = state(Hosts::Any, bounds);
            let began = Instant::now();
            // One says nothing, one begins, and one takes none of its answers.
            let mut idle = connect(&state);
            let mut slow = connect(&state);
            slow.write_all(b"GET / HTTP/1.1\r\nHo").await.unwrap();
            let mut deaf = connect(&state);
            let asks = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
            deaf.write_all(asks).await.unwrap();
            let mut refused = String::new();
            connect(&state).read_to_string(&mut refused).await.unwrap();
            assert!(UNAVAILABLE.starts_with(refused.as_bytes()), "{refused}");
            assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
            let mut rest = Vec::new();
            idle.read_to_end(&mut rest).await.unwrap();
            slow.read_to_end(&mut rest).await.unwrap();
            assert!(began.elapsed() >= bounds.head && began.elapsed() < Duration::from_secs(10));
            while state.places.available_permits() < bounds.connections_max {
                assert!(
                    began.elapsed() < Duration::from_secs(10),
                    "one is still served"
                );
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            assert!(began.elapsed() >= bounds.connection + bounds.end);
        });
    }

    #[test]
    fn however_many_ask_the_shards_are_asked_once_in_a_while() {
        run(async {
            let (state, asked) = state(Hosts::Any, Bounds::default());
            let began = Instant::now();
            for _ in 0..200 {
                state.stats().await;
            }
            let asked = asked.load(Ordering::SeqCst);
            let most = 1 + began.elapsed().as_millis() / 100;
            assert!(
                asked >= 1 && u128::from(asked) <= most,
                "asked {asked} times"
            );
        });
    }
}
