//! The description of the HTTP API: an OpenAPI 3.1 document, and a page that shows it.

use crate::{http::problem::ProblemDetails, state::Shared};
use axum::{
    Router,
    body::Bytes,
    http::{HeaderName, header},
    response::{IntoResponse, Redirect},
    routing::get,
};
use std::{borrow::Cow, sync::Arc};
use utoipa::{
    OpenApi,
    openapi::{
        Content, OpenApi as Document, Ref, RefOr, Response, Server,
        path::{Operation, ParameterIn},
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};
use utoipa_swagger_ui::Config;

/// The page loads nothing from other origins and runs no inline scripts.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; \
     form-action 'none'; frame-ancestors 'none'";

/// The policy of the page. It also allows images, because Swagger UI's styles contain some.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const PAGE: &str = include_str!("../../docs/index.html");

/// The files of Swagger UI that the page loads.
const SWAGGER_UI: [&str; 6] = [
    "favicon-32x32.png",
    "index.css",
    "swagger-initializer.js",
    "swagger-ui-bundle.js",
    "swagger-ui-standalone-preset.js",
    "swagger-ui.css",
];

const ABOUT: &str = "Chat, notifications and typing indicators for a marketplace. Clients send and receive messages over \
WebSockets, which `docs/asyncapi.yaml` describes, and make these calls as well.

Ids are whole numbers. Times are RFC 3339 in UTC. Every error is `application/problem+json` with a stable `code`. Lists have \
pages: pass `next` as `before` to get the next page, or as `after` if the request had an `after`. Ignore unknown fields, \
because later versions may add some.";

/// Descriptions of problems that differ between documents.
pub struct Texts {
    pub unauthorized: &'static str,
    pub forbidden: &'static str,
    pub too_large: &'static str,
}

/// The descriptions for clients.
pub const CLIENTS: Texts = Texts {
    unauthorized: "`unauthorized`: the token is missing, invalid or expired",
    forbidden: "`forbidden`, `blocked`: the caller has no access; `origin_not_allowed`",
    too_large: "`payload_too_large`: the body is larger than `BODY_BYTES` (64 KiB by default)",
};

#[derive(OpenApi)]
#[openapi(
    info(title = "Vyzio Realtime", version = "1", license(name = "MIT", identifier = "MIT")),
    components(schemas(ProblemDetails)),
    tags(
        (name = "Conversations", description = "Conversations of the caller, with their participants and listings"),
        (name = "Messages", description = "Messages, read markers and unread counts"),
        (name = "Notifications", description = "The caller's inbox"),
        (name = "Presence", description = "Which users are online, and who may see it"),
        (name = "Preferences", description = "Which reminders the caller wants, and when"),
        (name = "Safety", description = "Blocks and reports"),
    ),
)]
struct Frame;

/// The document without its paths.
pub fn frame() -> Document {
    let mut document = Frame::openapi();
    document.info.description = Some(ABOUT.to_owned());
    document.servers = Some(vec![Server::new("/")]);
    document.security = Some(vec![SecurityRequirement::new("token", Vec::<String>::new())]);
    let token = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("JWT")
        .description(Some("The same token as for sockets"))
        .build();
    if let Some(components) = &mut document.components {
        components.add_security_scheme("token", SecurityScheme::Http(token));
    }
    document
}

/// The document, and the page that shows it, below a path such as `/api`.
pub fn router(prefix: &str, mut document: Document, texts: &Texts) -> Router<Arc<Shared>> {
    for item in document.paths.paths.values_mut() {
        for operation in [&mut item.get, &mut item.post, &mut item.put, &mut item.patch, &mut item.delete]
            .into_iter()
            .flatten()
        {
            add_problems(operation, texts);
        }
    }
    let document = document.to_json().expect("the document's types are all JSON");
    let document = Bytes::from(document);
    let page = format!("{prefix}/docs");
    let router = Router::new()
        .route(&format!("{prefix}/openapi.json"), get(async || file("application/json", POLICY, document)))
        .route(&format!("{prefix}/docs/"), get(async move || Redirect::permanent(&page)))
        .route(&format!("{prefix}/docs"), get(async || file("text/html; charset=utf-8", PAGE_POLICY, PAGE)));
    let config = Arc::new(Config::from("openapi.json").use_base_layout().validator_url("none"));
    SWAGGER_UI.into_iter().fold(router, |router, name| {
        let asset = utoipa_swagger_ui::serve(name, config.clone()).ok().flatten();
        let asset = asset.expect("Swagger UI has this file");
        let content = match asset.bytes {
            Cow::Borrowed(bytes) => Bytes::from_static(bytes),
            Cow::Owned(bytes) => bytes.into(),
        };
        let encoding = asset.gzpipped.then_some([(header::CONTENT_ENCODING, "gzip")]);
        let response = async move || (encoding, file(&asset.content_type, POLICY, content));
        router.route(&format!("{prefix}/docs/{name}"), get(response))
    })
}

fn file(kind: &str, policy: &str, content: impl IntoResponse) -> axum::response::Response {
    let headers: [(HeaderName, &str); 5] = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, content).into_response()
}

/// Adds the common problem responses that apply to an operation, unless it describes them itself.
fn add_problems(operation: &mut Operation, texts: &Texts) {
    let parameters: Vec<ParameterIn> = operation
        .parameters
        .iter()
        .flatten()
        .filter_map(|parameter| match parameter {
            RefOr::T(parameter) => Some(parameter.parameter_in.clone()),
            RefOr::Ref(_) => None,
        })
        .collect();
    let (body, path) = (operation.request_body.is_some(), parameters.contains(&ParameterIn::Path));
    let query = parameters.contains(&ParameterIn::Query);
    let problems = [
        (
            "400",
            body || query || path,
            "`invalid_request`, `invalid_message`, `invalid_json`: the request is invalid",
        ),
        ("401", true, texts.unauthorized),
        ("403", true, texts.forbidden),
        ("404", path || body, "`not_found`: it does not exist for this caller"),
        ("413", body, texts.too_large),
        ("415", body, "`unsupported_media_type`: the body must be `application/json`"),
        ("429", true, "`rate_limited`: try again after `Retry-After`"),
        ("500", true, "`internal`: an error of the server"),
        ("503", true, "`unavailable`: temporarily unavailable; it is safe to repeat the request"),
    ];
    for (status, _, description) in problems.into_iter().filter(|(_, applies, _)| *applies) {
        let problem = || {
            let content = Content::new(Some(Ref::from_schema_name("ProblemDetails")));
            let mut response = Response::new(description);
            response.content.insert("application/problem+json".to_owned(), RefOr::T(content));
            RefOr::T(response)
        };
        operation.responses.responses.entry(status.to_owned()).or_insert_with(problem);
    }
}
