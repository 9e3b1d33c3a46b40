//! The page to try the server with, built into the binary.

use super::http::response;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue,
    IF_NONE_MATCH, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Response, StatusCode};
use twox_hash::XxHash3_64;

/// A file of the page.
struct Asset {
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

/// What browsers ask for beside health and metrics, which name no icon.
const ICON: (&str, &str) = ("/favicon.ico", "/favicon.svg");

/// The page's files, each with the tag by which a browser knows whether it has this one.
pub(super) struct Page {
    tags: Vec<HeaderValue>,
}

impl Page {
    pub(super) fn new() -> Self {
        let tag = |asset: &Asset| {
            let tag = format!("\"{:016x}\"", XxHash3_64::oneshot(asset.bytes));
            HeaderValue::try_from(tag).expect("quotes and digits may stand in a header")
        };
        Self {
            tags: ASSETS.iter().map(tag).collect(),
        }
    }

    /// The answer to a request for this path with these headers, if there is such a file.
    pub(super) fn answer(&self, path: &str, request: &HeaderMap) -> Option<Response<Full<Bytes>>> {
        let path = if path == ICON.0 { ICON.1 } else { path };
        let index = ASSETS.iter().position(|asset| asset.path == path)?;
        let (asset, tag) = (&ASSETS[index], &self.tags[index]);
        let mut response = if is_known(request, tag) {
            let mut response = response(StatusCode::NOT_MODIFIED, asset.kind, Bytes::new());
            response.headers_mut().remove(CONTENT_TYPE);
            response
        } else {
            response(StatusCode::OK, asset.kind, Bytes::from_static(asset.bytes))
        };
        let headers = response.headers_mut();
        headers.insert(ETAG, tag.clone());
        // It may be kept, but is asked for again each time: names of files outlive their content.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        Some(response)
    }
}

/// Whether the client says that it has what this tag is of. Proxies that compress make tags weak.
fn is_known(request: &HeaderMap, tag: &HeaderValue) -> bool {
    request.get_all(IF_NONE_MATCH).iter().any(|known| {
        known.as_bytes().split(|&byte| byte == b',').any(|known| {
            let known = known.trim_ascii();
            known == b"*" || known.strip_prefix(b"W/").unwrap_or(known) == tag.as_bytes()
        })
    })
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
            let answer = Page::new().answer(path, &HeaderMap::new());
            assert!(answer.is_some(), "{path}");
        }
    }

    #[test]
    fn a_tag_is_known_among_others_and_if_it_was_made_weak() {
        let tag = HeaderValue::from_static("\"12ab\"");
        for (known, header) in [
            (true, "\"12ab\""),
            (true, "W/\"12ab\""),
            (true, "\"77\" , \"12ab\",\"78\""),
            (true, "*"),
            (false, ""),
            (false, "12ab"),
            (false, "\"12abc\", \"77\""),
        ] {
            let headers = HeaderMap::from_iter([(IF_NONE_MATCH, HeaderValue::from_static(header))]);
            assert_eq!(is_known(&headers, &tag), known, "{header}");
        }
        assert!(!is_known(&HeaderMap::new(), &tag));
    }

    #[test]
    fn files_that_differ_have_tags_that_differ() {
        let mut tags = Page::new().tags;
        tags.sort();
        tags.dedup();
        assert_eq!(tags.len(), ASSETS.len());
    }
}
