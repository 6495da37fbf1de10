//! What calls bring along: who calls, ids in paths, which part of a list, bodies.

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
use contract::{Code, Refusal, frames, limits, log::Range};
use serde::de::DeserializeOwned;
use std::{str::FromStr, sync::Arc};
use utoipa::IntoParams;

/// Whose call it is.
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
                    slot.begin(identity.user_id).await?;
                }
                shared.languages.report(identity.user_id, identity.lang.take(), Some(&parts.headers));
                Ok(Self(identity))
            }
            Err(rejected) => {
                tracing::debug!(reason = %rejected, "a token was refused");
                Err(Refusal::new(Code::Unauthorized, "the token is missing, invalid or expired").into())
            }
        }
    }
}

/// The id in a path. What can't be one is no path.
pub struct Id<T>(pub T);

impl<T: FromStr> FromRequestParts<Arc<Shared>> for Id<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, Problem> {
        let path = Path::<String>::from_request_parts(parts, shared).await;
        path.ok().and_then(|Path(id)| id.parse().ok()).map(Self).ok_or_else(Problem::no_path)
    }
}

/// Which part of a list.
pub struct Cursor {
    pub range: Range,
    pub limit: u16,
}

/// [`Cursor`], as it is written in a query.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only its description is used: what is wrong in a query gets a text of its own")]
pub struct CursorQuery {
    /// How many items, at most.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<u16>,
    /// Only what comes before this id, newest first.
    #[param(minimum = 0)]
    before: Option<i64>,
    /// Only what comes after this id, oldest first; 0 for all. Excludes `before`.
    #[param(minimum = 0)]
    after: Option<i64>,
}

/// Which part of a list whose items move: a cursor is an item, or a position, which is negative.
pub struct MovingCursor(pub Cursor);

/// [`MovingCursor`], as it is written in a query.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only its description is used: what is wrong in a query gets a text of its own")]
pub struct MovingCursorQuery {
    /// How many items, at most.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<u16>,
    /// `next` of the page before this one, or a conversation of the caller's: only older activity, newest first.
    before: Option<i64>,
    /// `next` of the page before this one, or a conversation of the caller's: only newer activity, oldest first; 0 for
    /// all. Excludes `before`.
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
    /// Reads the cursor in a query, in which no number may be lower than `lowest`.
    fn of(parts: &Parts, lowest: i64) -> Result<Self, Problem> {
        let query = parts.uri.query().unwrap_or_default();
        let number = |name: &str| match tokens::parameter(query, name) {
            None => Ok(None),
            Some(text) => match text.parse::<i64>() {
                Ok(number) if number >= lowest => Ok(Some(number)),
                _ => Err(Problem::invalid(format!("{name:?} is a whole number"))),
            },
        };
        let limit =
            match number("limit")? {
                None => limits::PAGE_DEFAULT,
                Some(limit) => u16::try_from(limit)
                    .ok()
                    .filter(|limit| (1..=limits::PAGE_MAX).contains(limit))
                    .ok_or_else(|| Problem::invalid(format!("\"limit\" is 1 to {}", limits::PAGE_MAX)))?,
            };
        let range = match (number("before")?, number("after")?) {
            (None, None) => Range::Newest,
            (Some(before), None) => Range::Before(before),
            (None, Some(after)) => Range::After(after),
            (Some(_), Some(_)) => {
                return Err(Problem::invalid("\"before\" and \"after\" exclude each other"));
            }
        };
        Ok(Self { range, limit })
    }
}

/// The JSON of a call.
pub struct Body<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Arc<Shared>> for Body<T> {
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
        // How much there may be, and how long it may take, was seen to before.
        let body = Bytes::from_request(request, shared).await;
        let body = body.map_err(|_| Problem::invalid("the body can't be read"))?;
        let text = std::str::from_utf8(&body).map_err(|_| Refusal::new(Code::InvalidJson, "not UTF-8"))?;
        Ok(Self(frames::from_json(text)?))
    }
}
