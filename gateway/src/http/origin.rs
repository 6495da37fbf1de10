//! The check of a page's origin, and CORS.

use crate::{
    http::{
        problem::Problem,
        upgrade::{count_refusal, upgrade_key},
    },
    state::Shared,
};
use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use std::sync::Arc;

/// Refuses requests of pages of other origins, and lets pages of allowed origins read the responses (CORS).
pub async fn check_origin(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let Some(origin) = request.headers().get(header::ORIGIN).cloned() else { return next.run(request).await };
    if !allowed(&shared.allowed_origins, request.headers(), &origin) {
        if upgrade_key(&request).is_some() {
            count_refusal("origin");
        }
        let detail = "pages of this origin may not connect";
        return Problem::new(StatusCode::FORBIDDEN, "origin_not_allowed", detail).into_response();
    }
    let preflight = request.method() == Method::OPTIONS
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let mut response =
        if preflight { StatusCode::NO_CONTENT.into_response() } else { next.run(request).await };
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
    if preflight {
        let methods = HeaderValue::from_static("GET, POST, PUT, PATCH, DELETE");
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
        let allowed = HeaderValue::from_static("authorization, content-type");
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    }
    response
}

fn allowed(origins: &[String], headers: &HeaderMap, origin: &HeaderValue) -> bool {
    let Ok(origin) = origin.to_str() else { return false };
    let own = origin.split_once("://").map(|(_, authority)| authority);
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    (own.is_some() && own == host)
        || origins
            .iter()
            .map(|allowed| allowed.trim().trim_end_matches('/'))
            .any(|allowed| allowed == "*" || allowed.eq_ignore_ascii_case(origin))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_must_be_named_or_be_our_own() {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, "shop.example:8000".parse().unwrap());
        let allows = |origins: &[&str], origin: &'static str| {
            let origins: Vec<String> = origins.iter().map(|origin| (*origin).to_owned()).collect();
            allowed(&origins, &headers, &HeaderValue::from_static(origin))
        };
        assert!(allows(&[], "http://shop.example:8000"));
        assert!(!allows(&[], "http://evil.example"));
        assert!(!allows(&[], "null"));
        assert!(allows(&["https://www.shop.example/"], "https://www.shop.example"));
        assert!(!allows(&["https://www.shop.example"], "https://www.shop.example.evil.example"));
        assert!(allows(&["*"], "http://evil.example"));
    }
}
