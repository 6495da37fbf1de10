//! Extractors for the parts of calls: the caller, ids in paths, cursors and bodies.

use crate::{
    admission::tokens::{self, Identity},
    http::{problem::Problem, responses::Slot},
    state::Shared,
};
use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Request},
    http::{StatusCode, header, request::Parts},
};
use contract::{Code, MessageId, Refusal, frames, limits, log::Range};
use serde::de::DeserializeOwned;
use std::{str::FromStr, sync::Arc};
use utoipa::IntoParams;

/// The identity of the caller.
pub struct Caller(pub Identity);

impl FromRequestParts<Arc<Shared>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, Problem> {
        let identity = match tokens::bearer(&parts.headers) {
            Some(token) => shared.fetch_key_and_identify(token).await,
            None => Err(tokens::Rejected::Missing),
        };
        match identity {
            Ok(mut identity) => {
                shared.limits.call(identity.user_id)?;
                if let Some(slot) = parts.extensions.get::<Slot>() {
                    slot.begin(identity.user_id.into()).await?;
                }
                shared.languages.report(identity.user_id, identity.lang.take(), Some(&parts.headers));
                Ok(Self(identity))
            }
            Err(rejected) => {
                tracing::debug!(reason = %rejected, "refused a token");
                Err(Refusal::new(Code::Unauthorized, "the token is missing, invalid or expired").into())
            }
        }
    }
}

/// The id in a path. If it is not a valid id, the path does not exist.
pub struct Id<T>(pub T);

impl<T: FromStr> FromRequestParts<Arc<Shared>> for Id<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, Problem> {
        let path = Path::<String>::from_request_parts(parts, shared).await;
        path.ok().and_then(|Path(id)| id.parse().ok()).map(Self).ok_or_else(Problem::no_path)
    }
}

/// The two ids in a path. If one is not a valid id, the path does not exist.
pub struct Ids<S, T>(pub S, pub T);

impl<S: FromStr, T: FromStr> FromRequestParts<Arc<Shared>> for Ids<S, T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, Problem> {
        let path = Path::<(String, String)>::from_request_parts(parts, shared).await;
        let ids = path.ok().and_then(|Path((one, other))| Some(Self(one.parse().ok()?, other.parse().ok()?)));
        ids.ok_or_else(Problem::no_path)
    }
}

/// The requested part of a list.
pub struct Cursor {
    pub range: Range,
    pub limit: u16,
}

/// The query parameters of a [`Cursor`].
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(
    dead_code,
    reason = "only describes the parameters; they are parsed by hand for specific error texts"
)]
pub struct CursorQuery {
    /// Maximum number of items.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<u16>,
    /// Returns only items with smaller ids, largest id first.
    #[param(minimum = 0)]
    before: Option<i64>,
    /// Returns only items with larger ids, smallest id first; 0 for all. Cannot be combined with `before`.
    #[param(minimum = 0)]
    after: Option<i64>,
}

/// The requested part of a list whose items move. The cursor is the id of an item, or a position, which is negative.
pub struct MovingCursor(pub Cursor);

/// The query parameters of a [`MovingCursor`].
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(
    dead_code,
    reason = "only describes the parameters; they are parsed by hand for specific error texts"
)]
pub struct MovingCursorQuery {
    /// Maximum number of items.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<u16>,
    /// `next` of the previous page, or the id of one of the caller's conversations. Returns only conversations with
    /// older activity, latest activity first.
    before: Option<i64>,
    /// `next` of the previous page, or the id of one of the caller's conversations. Returns only conversations with
    /// newer activity, oldest activity first; 0 for all. Cannot be combined with `before`.
    after: Option<i64>,
}

impl FromRequestParts<Arc<Shared>> for Cursor {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Shared>) -> Result<Self, Problem> {
        Self::of(parts, 0)
    }
}

impl FromRequestParts<Arc<Shared>> for MovingCursor {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Shared>) -> Result<Self, Problem> {
        Cursor::of(parts, -i64::MAX).map(Self)
    }
}

impl Cursor {
    /// Parses the cursor in a query, whose numbers must be at least `lowest`.
    fn of(parts: &Parts, lowest: i64) -> Result<Self, Problem> {
        let query = parts.uri.query().unwrap_or_default();
        let limit = limit(query, limits::PAGE_DEFAULT, limits::PAGE_MAX)?;
        let number = |name| number(query, name, lowest);
        let range = match (number("before")?, number("after")?) {
            (None, None) => Range::Newest,
            (Some(before), None) => Range::Before(before),
            (None, Some(after)) => Range::After(after),
            (Some(_), Some(_)) => {
                return Err(Problem::invalid("\"before\" and \"after\" cannot be combined"));
            }
        };
        Ok(Self { range, limit })
    }
}

/// The requested part of a conversation, for backends.
pub struct Part {
    pub after: Option<i64>,
    pub before: Option<MessageId>,
    pub limit: u16,
}

/// The query parameters of a [`Part`].
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(
    dead_code,
    reason = "only describes the parameters; they are parsed by hand for specific error texts"
)]
pub struct PartQuery {
    /// Maximum number of items.
    #[param(minimum = 1, maximum = 50, default = 50)]
    limit: Option<u16>,
    /// Returns only messages with larger ids, smallest id first; 0 for all.
    #[param(minimum = 0)]
    after: Option<i64>,
    /// Returns only messages with smaller ids. Without `after`, largest id first.
    #[param(minimum = 1)]
    before: Option<i64>,
}

impl FromRequestParts<Arc<Shared>> for Part {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Shared>) -> Result<Self, Problem> {
        let query = parts.uri.query().unwrap_or_default();
        let before = number(query, "before", 1)?.map(MessageId::new).transpose();
        Ok(Self {
            after: number(query, "after", 0)?,
            before: before.map_err(|_| Problem::invalid("\"before\" must be the id of a message"))?,
            limit: limit(query, limits::LISTED_MESSAGES, limits::LISTED_MESSAGES)?,
        })
    }
}

/// Parses a number in a query, which must be at least `lowest`.
pub fn number(query: &str, name: &str, lowest: i64) -> Result<Option<i64>, Problem> {
    match tokens::parameter(query, name) {
        None => Ok(None),
        Some(text) => match text.parse::<i64>() {
            Ok(number) if number >= lowest => Ok(Some(number)),
            _ => Err(Problem::invalid(format!("{name:?} must be a whole number"))),
        },
    }
}

/// Parses the number of items of a page in a query.
fn limit(query: &str, default: u16, most: u16) -> Result<u16, Problem> {
    let Some(limit) = number(query, "limit", i64::MIN)? else { return Ok(default) };
    let limit = u16::try_from(limit).ok().filter(|limit| (1..=most).contains(limit));
    limit.ok_or_else(|| Problem::invalid(format!("\"limit\" must be 1 to {most}")))
}

/// The JSON body of a call.
pub struct Body<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Arc<Shared>> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, shared: &Arc<Shared>) -> Result<Self, Problem> {
        let JsonBytes(body) = JsonBytes::from_request(request, shared).await?;
        let text = std::str::from_utf8(&body)
            .map_err(|_| Refusal::new(Code::InvalidJson, "the body is not UTF-8"))?;
        Ok(Self(frames::from_json(text)?))
    }
}

/// The unparsed body of a call whose content type is JSON.
pub struct JsonBytes(pub Bytes);

impl FromRequest<Arc<Shared>> for JsonBytes {
    type Rejection = Problem;

    async fn from_request(request: Request, shared: &Arc<Shared>) -> Result<Self, Problem> {
        let kind = request
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|kind| kind.to_str().ok())
            .unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if kind != "application/json" && !(kind.starts_with("application/") && kind.ends_with("+json")) {
            let detail = "the body must be application/json";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail));
        }
        // `read_body` has enforced the limits of size and time.
        let body = Bytes::from_request(request, shared).await;
        body.map(Self).map_err(|_| Problem::invalid("the body cannot be read"))
    }
}
