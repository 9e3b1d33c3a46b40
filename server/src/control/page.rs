//! The page to try the server with, built into the binary.

use super::http::response;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::{Response, StatusCode};

/// A file of the page.
pub(super) struct Asset {
    path: &'static str,
    kind: &'static str,
    bytes: &'static [u8],
}

macro_rules! assets {
    ($($path:literal: $file:literal, $kind:literal;)*) => {
        &[$(Asset { path: $path, kind: $kind, bytes: include_bytes!(concat!("../../page/", $file)) },)*]
    };
}

const ASSETS: &[Asset] = assets! {
    "/": "index.html", "text/html; charset=utf-8";
    "/favicon.svg": "favicon.svg", "image/svg+xml";
    "/assets/page.js": "assets/page.js", "text/javascript; charset=utf-8";
    "/assets/index.css": "assets/index.css", "text/css; charset=utf-8";
    "/assets/licenses.txt": "assets/licenses.txt", "text/plain; charset=utf-8";
    "/assets/fonts-license.txt": "assets/fonts-license.txt", "text/plain; charset=utf-8";
    "/assets/newsreader-latin-wght-italic.woff2": "assets/newsreader-latin-wght-italic.woff2", "font/woff2";
    "/assets/newsreader-latin-wght-normal.woff2": "assets/newsreader-latin-wght-normal.woff2", "font/woff2";
    "/assets/schibsted-grotesk-latin-wght-normal.woff2": "assets/schibsted-grotesk-latin-wght-normal.woff2", "font/woff2";
};

/// Keeps the page out of other pages' frames; what it may load stands in the page itself.
const POLICY: &str = "frame-ancestors 'none'";

pub(super) fn asset(path: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.path == path)
}

pub(super) fn response_of(asset: &'static Asset) -> Response<Full<Bytes>> {
    let mut response = response(StatusCode::OK, asset.kind, Bytes::from_static(asset.bytes));
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn every_file_of_the_bundle_is_served() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("page");
        let mut files = Vec::new();
        for folder in ["", "assets"] {
            for entry in std::fs::read_dir(root.join(folder)).unwrap() {
                let path = entry.unwrap().path();
                if path.is_file() {
                    files.push(format!("/{}", path.strip_prefix(&root).unwrap().display()));
                }
            }
        }
        assert_eq!(files.len(), ASSETS.len(), "{files:?}");
        for file in files {
            let path = if file == "/index.html" { "/" } else { &file };
            assert!(asset(path).is_some(), "{path}");
        }
    }
}
