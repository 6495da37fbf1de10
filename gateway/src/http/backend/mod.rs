//! The HTTP API for backends: what they may do on NATS, with keys instead of NATS users.

mod call;
mod chat;
mod events;
mod preferences;
mod sessions;
mod users;

use crate::{
    admission::{
        backend_keys::{Backend, Scope},
        tokens,
    },
    http::{
        body::read_body_of,
        measured::measure,
        openapi::{self, Texts},
        problem::{Problem, ProblemDetails},
        responses::{self, Caller, Responses, Slot},
    },
    state::Shared,
};
use axum::{
    Router,
    extract::{DefaultBodyLimit, MatchedPath, Request, State},
    http::{StatusCode, header},
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
};
use contract::{Code, Refusal};
use service::trace;
use std::sync::Arc;
use utoipa::{
    OpenApi,
    openapi::{
        OpenApi as Document, Server,
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

/// Maximum size of a batch of events in bytes.
const BATCH_BYTES: usize = 1024 * 1024;
/// The route of batches.
const BATCH_ROUTE: &str = "/backend/events";

const ABOUT: &str = "For the backends of a marketplace: publish events, create conversations, send, read and correct \
messages, revoke sessions, erase and export users. Almost every call has an equivalent on NATS, which `docs/publishing.md` describes; \
the same `event_id` or `client_id` counts once, over HTTP, NATS or both.

Ids are whole numbers. Times are RFC 3339 in UTC. Every error is `application/problem+json` with a stable `code`. After a \
time-out, `429`, `500` or `503`, repeat the call with the same ids. Ignore unknown fields, because later versions may add \
some.";

const TEXTS: Texts = Texts {
    unauthorized: "`unauthorized`: the key is missing or unknown",
    forbidden: "`forbidden`, `blocked`: the key lacks the scope, or the user has no access; `origin_not_allowed`: the \
        request is from a page",
    too_large: "`payload_too_large`: the body is larger than `BODY_BYTES` (64 KiB by default), or a batch than 1 MiB",
};

#[derive(OpenApi)]
#[openapi(
    info(title = "Vyzio Realtime for backends", version = "1", license(name = "MIT", identifier = "MIT")),
    components(schemas(ProblemDetails)),
    tags(
        (name = "Events", description = "Events that become notifications; scope `events`"),
        (name = "Conversations", description = "Conversations of any users; scope `chat`"),
        (name = "Messages", description = "Messages of any users; scope `chat`"),
        (name = "Moderation", description = "Former texts of messages; scope `moderation`"),
        (name = "Sessions", description = "Sessions of users; scope `sessions`"),
        (name = "Users", description = "Erasure and export of users' data, and their preferences; scope `users`"),
        (name = "Keys", description = "The caller's key; no scope"),
    ),
)]
struct Frame;

fn frame() -> Document {
    let mut document = Frame::openapi();
    document.info.description = Some(ABOUT.to_owned());
    document.servers = Some(vec![Server::new("/")]);
    document.security = Some(vec![SecurityRequirement::new("key", Vec::<String>::new())]);
    let key = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("The secret of a key in `BACKEND_KEYS`"))
        .build();
    if let Some(components) = &mut document.components {
        components.add_security_scheme("key", SecurityScheme::Http(key));
    }
    document
}

/// The routes of the API, and of its OpenAPI document. `responses` are those of all callers, backends and users.
pub fn router(shared: &Arc<Shared>, responses: Responses) -> Router<Arc<Shared>> {
    let api = OpenApiRouter::with_openapi(frame())
        .routes(routes!(events::publish_event))
        .routes(routes!(events::publish_events))
        .routes(routes!(chat::create_conversation))
        .routes(routes!(chat::get_conversation))
        .routes(routes!(chat::list_messages, chat::send_message))
        .routes(routes!(chat::list_versions))
        .routes(routes!(chat::update_message, chat::remove_message))
        .routes(routes!(sessions::revoke_sessions))
        .routes(routes!(sessions::whoami))
        .routes(routes!(users::erase_user))
        .routes(routes!(users::export_user))
        .routes(routes!(
            preferences::get_user_preferences,
            preferences::put_user_preferences,
            preferences::patch_user_preferences
        ));
    let (router, document) = api.split_for_parts();
    router
        .layer(DefaultBodyLimit::disable())
        .route_layer(from_fn_with_state(shared.clone(), read_body))
        .route_layer(from_fn_with_state(shared.clone(), admit))
        .route_layer(from_fn_with_state(responses, responses::bound))
        .merge(openapi::router("/backend", document, &TEXTS))
        .method_not_allowed_fallback(Problem::method_not_allowed)
        .layer(from_fn(refuse_pages))
}

/// Refuses requests of pages, which must not have a backend's key.
async fn refuse_pages(request: Request, next: Next) -> Response {
    if request.headers().contains_key(header::ORIGIN) {
        let route = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str).to_owned();
        count(&route, StatusCode::FORBIDDEN);
        let detail = "pages may not use the API for backends";
        return Problem::new(StatusCode::FORBIDDEN, "origin_not_allowed", detail).into_response();
    }
    next.run(request).await
}

/// Reads the body of an admitted call.
async fn read_body(
    State(shared): State<Arc<Shared>>,
    path: MatchedPath,
    request: Request,
    next: Next,
) -> Response {
    let most = if path.as_str() == BATCH_ROUTE { BATCH_BYTES } else { shared.limits.body_bytes };
    read_body_of(most, &shared, request, next).await
}

/// Identifies the backend, checks its limits and its scopes, and measures and counts the call.
async fn admit(
    State(shared): State<Arc<Shared>>,
    path: MatchedPath,
    mut request: Request,
    next: Next,
) -> Response {
    let route = path.as_str().to_owned();
    let response = match admitted(&shared, &route, &mut request).await {
        Err(problem) => problem.into_response(),
        Ok(()) => {
            // Unlike those of clients, a backend's trace context is used.
            let parent = trace::parent(|name| request.headers().get(name)?.to_str().ok());
            measure(parent, path, request, next).await
        }
    };
    count(&route, response.status());
    response
}

async fn admitted(shared: &Shared, route: &str, request: &mut Request) -> Result<(), Problem> {
    let keys = shared.backend_keys.as_ref().ok_or_else(Problem::no_path)?;
    // A missing key gets the same answer as an unknown one.
    let backend = tokens::bearer(request.headers()).and_then(|secret| keys.find(secret));
    let backend =
        backend.cloned().ok_or_else(|| Refusal::new(Code::Unauthorized, "the key is missing or unknown"))?;
    shared.limits.backend_call(&backend.name)?;
    if !is_permitted(&backend, route) {
        // The Django package tells this from the refusal of a service by the text.
        return Err(Refusal::new(Code::Forbidden, "the key lacks the scope for this call").into());
    }
    if let Some(slot) = request.extensions().get::<Slot>().cloned() {
        slot.begin(Caller::Backend(backend.name.clone())).await?;
    }
    request.extensions_mut().insert(backend);
    Ok(())
}

/// Whether a key permits the calls of a route. A route that is not listed here is not permitted.
fn is_permitted(backend: &Backend, route: &str) -> bool {
    let mut segments = route.split('/').skip(2);
    let needed = match (segments.next(), segments.nth(1)) {
        (Some("events"), _) => Scope::Events,
        (Some("conversations"), Some("versions")) => Scope::Moderation,
        (Some("conversations"), _) => Scope::Chat,
        (Some("sessions"), _) => Scope::Sessions,
        (Some("users"), _) => Scope::Users,
        (Some("whoami"), _) => return true,
        _ => return false,
    };
    backend.scopes.contains(&needed)
}

fn count(route: &str, status: StatusCode) {
    let labels = [("route", route.to_owned()), ("status", status.as_u16().to_string())];
    metrics::counter!("backend_calls_total", &labels).increment(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_needs_its_scope_and_an_unknown_one_is_not_permitted() {
        let all = [Scope::Events, Scope::Chat, Scope::Users, Scope::Sessions, Scope::Moderation];
        let backend = |scopes: &[Scope]| Backend { name: "shop".into(), scopes: scopes.into() };
        for (route, scope) in [
            ("/backend/events/{type}", Scope::Events),
            ("/backend/events", Scope::Events),
            ("/backend/conversations/{conversation_id}/messages", Scope::Chat),
            ("/backend/conversations/{conversation_id}/messages/{message_id}", Scope::Chat),
            ("/backend/conversations/{conversation_id}/versions", Scope::Moderation),
            ("/backend/sessions/revoke", Scope::Sessions),
            ("/backend/users/{user_id}/erase", Scope::Users),
        ] {
            for held in all {
                assert_eq!(is_permitted(&backend(&[held]), route), held == scope, "{route}");
            }
        }
        assert!(is_permitted(&backend(&[]), "/backend/whoami"));
        assert!(!is_permitted(&backend(&all), "/backend/other"));
    }
}
