//! The browser client, which is part of the binary: for pages that don't bundle it, of any origin.

use crate::state::Shared;
use axum::{
    Router,
    extract::Path,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use std::sync::Arc;

/// A file of the client, and the hash of its content.
struct File {
    text: &'static str,
    etag: u64,
}

impl File {
    const fn new(text: &'static str) -> Self {
        Self { text, etag: fnv1a(text.as_bytes()) }
    }
}

/// An ES module.
static MODULE: File = File::new(include_str!("../../../clients/js/dist/realtime.min.js"));
/// A classic script, which defines `VyzioRealtime`.
static SCRIPT: File = File::new(include_str!("../../../clients/js/dist/realtime.global.js"));

/// Parts of the client that pages load only if they use them.
static EDITS: File = File::new(include_str!("../../../clients/js/dist/edits.js"));
static KINDS: File = File::new(include_str!("../../../clients/js/dist/kinds.js"));
static LISTS: File = File::new(include_str!("../../../clients/js/dist/lists.js"));
static PERSIST: File = File::new(include_str!("../../../clients/js/dist/persist.js"));
static PRESENCE: File = File::new(include_str!("../../../clients/js/dist/presence.js"));
static SETTINGS: File = File::new(include_str!("../../../clients/js/dist/settings.js"));
static POLL: File = File::new(include_str!("../../../clients/js/dist/poll.js"));

/// The version in addresses that are cached for good.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Pages that name no version get an update within this time.
const LATEST: &str = "public, max-age=300, stale-while-revalidate=86400";
const IMMUTABLE: &str = "public, max-age=31536000, immutable";

/// The routes of the client's files.
pub fn router() -> Router<Arc<Shared>> {
    Router::new()
        .route("/client/{name}", get(async |Path(name): Path<String>, headers| file(&name, &headers, LATEST)))
        .route(
            "/client/{version}/{name}",
            get(async |Path((version, name)): Path<(String, String)>, headers| {
                // Another version may be what a gateway of the last or next release serves.
                let name = if version == VERSION { &name } else { "" };
                file(name, &headers, IMMUTABLE)
            }),
        )
}

fn file(name: &str, request: &HeaderMap, caching: &'static str) -> Response {
    let file = match name {
        "realtime.js" => &MODULE,
        "realtime.global.js" => &SCRIPT,
        "edits.js" => &EDITS,
        "kinds.js" => &KINDS,
        "lists.js" => &LISTS,
        "persist.js" => &PERSIST,
        "poll.js" => &POLL,
        "presence.js" => &PRESENCE,
        "settings.js" => &SETTINGS,
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    let etag = format!("\"{VERSION}-{:x}\"", file.etag);
    let known = request.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == etag.as_bytes());
    let headers = [
        (header::ETAG, etag.as_str()),
        (header::CACHE_CONTROL, caching),
        (header::CONTENT_TYPE, "text/javascript; charset=utf-8"),
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::HeaderName::from_static("cross-origin-resource-policy"), "cross-origin"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    if known {
        (StatusCode::NOT_MODIFIED, headers).into_response()
    } else {
        (headers, file.text).into_response()
    }
}

/// A hash that is the same in each build of the same files, and computed by the compiler.
const fn fnv1a(bytes: &[u8]) -> u64 {
    let (mut hash, mut at) = (0xcbf2_9ce4_8422_2325_u64, 0);
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0100_0000_01b3);
        at += 1;
    }
    hash
}
