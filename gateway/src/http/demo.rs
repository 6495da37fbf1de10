//! The demo page, which is part of the binary. Served only if `DEMO` is set.

use crate::state::Shared;
use axum::{
    Router,
    http::header,
    response::{IntoResponse, Redirect},
    routing::get,
};
use std::sync::Arc;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self' ws: wss:; \
     img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

macro_rules! file {
    ($name:literal, $kind:literal) => {
        get(async || page($kind, include_str!(concat!("../../demo/", $name))))
    };
}

macro_rules! module {
    ($name:literal) => {
        file!($name, "text/javascript; charset=utf-8")
    };
}

/// The routes of the page and its files.
pub fn router() -> Router<Arc<Shared>> {
    Router::new()
        .route("/demo", get(async || Redirect::permanent("/demo/")))
        .route("/demo/", file!("index.html", "text/html; charset=utf-8"))
        .route("/demo/demo.css", file!("demo.css", "text/css; charset=utf-8"))
        .route("/demo/actions.js", module!("actions.js"))
        .route("/demo/app.js", module!("app.js"))
        .route("/demo/bell.js", module!("bell.js"))
        .route("/demo/dom.js", module!("dom.js"))
        .route("/demo/kinds.js", module!("kinds.js"))
        .route("/demo/list.js", module!("list.js"))
        .route("/demo/presence.js", module!("presence.js"))
        .route("/demo/settings.js", module!("settings.js"))
        .route("/demo/thread.js", module!("thread.js"))
        .route("/demo/words.js", module!("words.js"))
}

fn page(kind: &'static str, content: &'static str) -> impl IntoResponse {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, content)
}
