//! Bounds on the responses to calls that are in progress, from the request until the response is written: in number and
//! in bytes, for each caller and for the process.
//!
//! Without them, a client that requests pages and does not read them would fill the gateway's memory. Responses of a
//! few KiB are bounded only in number, so that large ones do not displace them.

use crate::http::problem::Problem;
use axum::{
    body::{Body, Bytes, to_bytes},
    extract::{Request, State},
    http::StatusCode,
    middleware::Next,
    response::{IntoResponse, Response},
};
use contract::UserId;
use futures_util::StreamExt;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

/// Number of responses in progress.
const ANSWERS: usize = 4_096;
/// Number of responses in progress for one user.
const USER_ANSWERS: usize = 32;
/// Number of responses in progress for one backend.
const BACKEND_ANSWERS: usize = 256;
/// Bytes of large responses in progress.
const BYTES: usize = 48 * 1024 * 1024;
/// Bytes of large responses in progress for one user.
const USER_BYTES: usize = 8 * 1024 * 1024;
/// Bytes of large responses in progress for one backend.
const BACKEND_BYTES: usize = 16 * 1024 * 1024;
/// Size above which a response counts as large, in bytes.
const LARGE: usize = 16 * 1024;
/// How long a call waits for a place.
const TURN: Duration = Duration::from_secs(2);

/// The responses in progress. Cheap to clone.
#[derive(Clone)]
pub struct Responses(Arc<Shared>);

/// The sender of a call.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Caller {
    /// A user.
    User(UserId),
    /// The backend with this name.
    Backend(Arc<str>),
}

impl From<UserId> for Caller {
    fn from(user: UserId) -> Self {
        Self::User(user)
    }
}

struct Shared {
    all: Budget,
    /// The callers with responses in progress.
    callers: Mutex<HashMap<Caller, Budget>>,
}

#[derive(Clone)]
struct Budget {
    answers: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
}

impl Budget {
    fn new(answers: usize, bytes: usize) -> Self {
        Self { answers: Arc::new(Semaphore::new(answers)), bytes: Arc::new(Semaphore::new(bytes)) }
    }

    fn of(caller: &Caller) -> Self {
        match caller {
            Caller::User(_) => Self::new(USER_ANSWERS, USER_BYTES),
            Caller::Backend(_) => Self::new(BACKEND_ANSWERS, BACKEND_BYTES),
        }
    }

    fn room_for(&self, bytes: u32) -> Option<OwnedSemaphorePermit> {
        self.bytes.clone().try_acquire_many_owned(bytes).ok()
    }
}

impl Default for Responses {
    fn default() -> Self {
        Self(Arc::new(Shared { all: Budget::new(ANSWERS, BYTES), callers: Mutex::default() }))
    }
}

/// The place of a response in progress.
struct Answer {
    responses: Responses,
    caller: Caller,
    /// The caller's budget. Dropped before the map of callers is read.
    budget: Option<Budget>,
    permits: Vec<OwnedSemaphorePermit>,
}

/// The bytes of a response, with its place. Both are dropped once the bytes are written.
struct Held {
    bytes: Bytes,
    _answer: Answer,
}

/// The place of a call: taken once its caller is known. Each request has one in its extensions.
#[derive(Clone)]
pub struct Slot {
    responses: Responses,
    answer: Arc<Mutex<Option<Answer>>>,
}

impl Slot {
    fn new(responses: Responses) -> Self {
        Self { responses, answer: Arc::default() }
    }

    /// Waits for a place for a call.
    ///
    /// # Errors
    /// `rate_limited` (429) or `unavailable` (503) if too many responses are in progress.
    pub async fn begin(&self, caller: Caller) -> Result<(), Problem> {
        let answer = self.responses.begin(caller).await?;
        *self.lock() = Some(answer);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Option<Answer>> {
        self.answer.lock().expect("no holder of this lock panics")
    }
}

impl Responses {
    fn callers(&self) -> MutexGuard<'_, HashMap<Caller, Budget>> {
        self.0.callers.lock().expect("no holder of this lock panics")
    }

    async fn begin(&self, caller: Caller) -> Result<Answer, Problem> {
        let budget = self.callers().entry(caller.clone()).or_insert_with_key(Budget::of).clone();
        let answers = budget.answers.clone();
        let mut answer =
            Answer { responses: self.clone(), caller, budget: Some(budget), permits: Vec::with_capacity(4) };
        let turn = timeout(TURN, answers.acquire_owned()).await;
        answer.permits.push(turn.ok().and_then(Result::ok).ok_or_else(|| refused("user_answers"))?);
        let turn = timeout(TURN, self.0.all.answers.clone().acquire_owned()).await;
        answer.permits.push(turn.ok().and_then(Result::ok).ok_or_else(|| refused("answers"))?);
        Ok(answer)
    }
}

/// Extension of a response that is sent as it is read: only a part of it is in memory.
#[derive(Debug, Clone, Copy)]
pub struct Streamed;

impl Answer {
    /// Keeps the place until the response is written. Without room for its bytes, the response becomes a problem.
    async fn hold(mut self, response: Response) -> Response {
        let (parts, body) = response.into_parts();
        if parts.extensions.get::<Streamed>().is_some() {
            let parts_of_body = body.into_data_stream().inspect(move |_| _ = &self);
            return Response::from_parts(parts, Body::from_stream(parts_of_body));
        }
        let bytes = match to_bytes(body, usize::MAX).await {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::error!(%error, "cannot read the body of a response");
                return StatusCode::INTERNAL_SERVER_ERROR.into_response();
            }
        };
        if bytes.len() > LARGE
            && let Err(problem) = self.make_room(bytes.len())
        {
            drop(bytes);
            return problem.into_response();
        }
        if bytes.is_empty() {
            return Response::from_parts(parts, Body::empty());
        }
        metrics::gauge!("gateway_response_bytes").increment(bytes.len() as f64);
        Response::from_parts(parts, Body::from(Bytes::from_owner(Held { bytes, _answer: self })))
    }

    fn make_room(&mut self, bytes: usize) -> Result<(), Problem> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let own = self.budget.as_ref().and_then(|budget| budget.room_for(bytes));
        self.permits.push(own.ok_or_else(|| refused("user_bytes"))?);
        let all = self.responses.0.all.room_for(bytes);
        self.permits.push(all.ok_or_else(|| refused("bytes"))?);
        Ok(())
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.permits.clear();
        let mut callers = self.responses.callers();
        self.budget = None;
        // Every clone of a budget is made under this lock.
        if callers.get(&self.caller).is_some_and(|budget| Arc::strong_count(&budget.bytes) == 1) {
            callers.remove(&self.caller);
        }
    }
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        metrics::gauge!("gateway_response_bytes").decrement(self.bytes.len() as f64);
    }
}

/// Bounds the responses of a router whose calls take their place with [`Slot::begin`].
pub async fn bound(State(responses): State<Responses>, mut request: Request, next: Next) -> Response {
    let slot = Slot::new(responses);
    request.extensions_mut().insert(slot.clone());
    let response = next.run(request).await;
    let answer = slot.lock().take();
    match answer {
        Some(answer) => answer.hold(response).await,
        None => response,
    }
}

fn refused(limit: &'static str) -> Problem {
    metrics::counter!("gateway_responses_limited_total", "limit" => limit).increment(1);
    let (status, code, detail) = match limit {
        "user_answers" | "user_bytes" => (
            StatusCode::TOO_MANY_REQUESTS,
            "rate_limited",
            "too many responses to this caller are in progress",
        ),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "unavailable", "too many responses are in progress"),
    };
    Problem::new(status, code, detail).retry_after(Duration::from_secs(fastrand::u64(1..=3)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(id: i64) -> Caller {
        UserId::new(id).unwrap().into()
    }

    async fn answer(responses: &Responses, id: i64, bytes: usize) -> Response {
        let answer = responses.begin(user(id)).await.unwrap();
        answer.hold(Response::new(Body::from(vec![0; bytes]))).await
    }

    #[tokio::test]
    async fn large_responses_are_bounded_for_a_user_and_for_the_process_until_they_are_written() {
        let responses = Responses::default();
        let mut held = Vec::new();
        for _ in 0..8 {
            held.push(answer(&responses, 1, 1024 * 1024).await);
        }
        assert!(held.iter().all(|response| response.status() == 200));
        assert_eq!(answer(&responses, 1, 1024 * 1024).await.status(), 429);
        // Small responses still have room.
        assert_eq!(answer(&responses, 1, LARGE).await.status(), 200);
        for id in 2..=6 {
            for _ in 0..8 {
                held.push(answer(&responses, id, 1024 * 1024).await);
            }
        }
        assert_eq!(answer(&responses, 7, 1024 * 1024).await.status(), 503);
        // The bytes hold the place even after the body has yielded them.
        let bytes = to_bytes(held.swap_remove(0).into_body(), usize::MAX).await.unwrap();
        assert_eq!(answer(&responses, 1, 1024 * 1024).await.status(), 429);
        drop(bytes);
        assert_eq!(answer(&responses, 1, 1024 * 1024).await.status(), 200);
        drop(held);
        assert!(responses.callers().is_empty());
        assert_eq!(responses.0.all.bytes.available_permits(), BYTES);
        assert_eq!(responses.0.all.answers.available_permits(), ANSWERS);
    }

    #[tokio::test(start_paused = true)]
    async fn a_user_has_a_bounded_number_of_responses_in_progress() {
        let responses = Responses::default();
        let mut answers = Vec::new();
        for _ in 0..USER_ANSWERS {
            answers.push(responses.begin(user(1)).await.unwrap());
        }
        assert_eq!(responses.begin(user(1)).await.err().unwrap().into_response().status(), 429);
        drop(responses.begin(user(2)).await.unwrap());
        drop(answers);
        drop(responses.begin(user(1)).await.unwrap());
        assert!(responses.callers().is_empty());
    }
}
