//! Answers to calls that are under way, from their request until they are written: bounded in number and in bytes, for
//! each user and for the process.
//!
//! A client that asks for pages and does not read them would otherwise fill the gateway. Answers of a few KiB are
//! bounded by their number alone, so that large ones don't keep them out.

use crate::http::problem::Problem;
use axum::{
    body::{Body, Bytes, to_bytes},
    extract::Request,
    http::StatusCode,
    middleware::Next,
    response::{IntoResponse, Response},
};
use contract::UserId;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

/// Answers under way.
const ANSWERS: usize = 4_096;
/// Answers of one user under way.
const USER_ANSWERS: usize = 32;
/// Bytes of large answers under way.
const BYTES: usize = 48 * 1024 * 1024;
/// Bytes of one user's large answers under way.
const USER_BYTES: usize = 8 * 1024 * 1024;
/// Bytes of an answer that counts as large.
const LARGE: usize = 16 * 1024;
/// How long a call waits for its turn.
const TURN: Duration = Duration::from_secs(2);

/// The answers under way. Cheap to clone.
#[derive(Clone)]
pub struct Responses(Arc<Shared>);

struct Shared {
    all: Budget,
    /// The users with answers under way.
    users: Mutex<HashMap<UserId, Budget>>,
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

    fn room_for(&self, bytes: u32) -> Option<OwnedSemaphorePermit> {
        self.bytes.clone().try_acquire_many_owned(bytes).ok()
    }
}

impl Default for Responses {
    fn default() -> Self {
        Self(Arc::new(Shared { all: Budget::new(ANSWERS, BYTES), users: Mutex::default() }))
    }
}

/// An answer under way: its place among the others.
struct Answer {
    responses: Responses,
    user: UserId,
    /// Of this user. Dropped before the map is looked at.
    budget: Option<Budget>,
    permits: Vec<OwnedSemaphorePermit>,
}

/// The bytes of an answer, with its place: both go once they are written.
struct Held {
    bytes: Bytes,
    _answer: Answer,
}

/// Where a call puts its place once it is known whose call it is.
#[derive(Clone, Default)]
pub struct Slot(Arc<Mutex<Option<Answer>>>);

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Option<Answer>> {
        self.0.lock().expect("no holder of this lock panics")
    }
}

impl Responses {
    fn users(&self) -> MutexGuard<'_, HashMap<UserId, Budget>> {
        self.0.users.lock().expect("no holder of this lock panics")
    }

    /// Waits for the turn of a user's call.
    ///
    /// # Errors
    /// `rate_limited` (429) or `unavailable` (503), if as many are under way as allowed.
    pub async fn begin(&self, user: UserId, slot: Option<&Slot>) -> Result<(), Problem> {
        let budget =
            self.users().entry(user).or_insert_with(|| Budget::new(USER_ANSWERS, USER_BYTES)).clone();
        let answers = budget.answers.clone();
        let mut answer =
            Answer { responses: self.clone(), user, budget: Some(budget), permits: Vec::with_capacity(4) };
        let turn = timeout(TURN, answers.acquire_owned()).await;
        answer.permits.push(turn.ok().and_then(Result::ok).ok_or_else(|| refused("user_answers"))?);
        let turn = timeout(TURN, self.0.all.answers.clone().acquire_owned()).await;
        answer.permits.push(turn.ok().and_then(Result::ok).ok_or_else(|| refused("answers"))?);
        if let Some(slot) = slot {
            *slot.lock() = Some(answer);
        }
        Ok(())
    }
}

impl Answer {
    /// Keeps the place until the answer is written; an answer for which there is no room becomes a problem.
    async fn hold(mut self, response: Response) -> Response {
        let (parts, body) = response.into_parts();
        let bytes = match to_bytes(body, usize::MAX).await {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::error!(%error, "read an answer of our own");
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
        let mut users = self.responses.users();
        self.budget = None;
        // Whoever has a clone got it under this lock.
        if users.get(&self.user).is_some_and(|budget| Arc::strong_count(&budget.bytes) == 1) {
            users.remove(&self.user);
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

/// Bounds the answers of a router whose calls [`Responses::begin`].
pub async fn bound(mut request: Request, next: Next) -> Response {
    let slot = Slot::default();
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
        "user_answers" | "user_bytes" => {
            (StatusCode::TOO_MANY_REQUESTS, "rate_limited", "too many answers of this user are under way")
        }
        _ => (StatusCode::SERVICE_UNAVAILABLE, "unavailable", "too many answers are under way"),
    };
    Problem::new(status, code, detail).retry_after(Duration::from_secs(fastrand::u64(1..=3)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(id: i64) -> UserId {
        UserId::new(id).unwrap()
    }

    async fn answer(responses: &Responses, id: i64, bytes: usize) -> Response {
        let slot = Slot::default();
        responses.begin(user(id), Some(&slot)).await.unwrap();
        let answer = slot.lock().take().unwrap();
        answer.hold(Response::new(Body::from(vec![0; bytes]))).await
    }

    #[tokio::test]
    async fn a_user_and_all_together_hold_so_many_bytes_until_they_are_written() {
        let responses = Responses::default();
        let mut held = Vec::new();
        for _ in 0..8 {
            held.push(answer(&responses, 1, 1024 * 1024).await);
        }
        assert!(held.iter().all(|response| response.status() == 200));
        assert_eq!(answer(&responses, 1, 1024 * 1024).await.status(), 429);
        // Small answers have room all the same.
        assert_eq!(answer(&responses, 1, LARGE).await.status(), 200);
        for id in 2..=6 {
            for _ in 0..8 {
                held.push(answer(&responses, id, 1024 * 1024).await);
            }
        }
        assert_eq!(answer(&responses, 7, 1024 * 1024).await.status(), 503);
        // The bytes hold the place, also after the body has given them away.
        let bytes = to_bytes(held.swap_remove(0).into_body(), usize::MAX).await.unwrap();
        assert_eq!(answer(&responses, 1, 1024 * 1024).await.status(), 429);
        drop(bytes);
        assert_eq!(answer(&responses, 1, 1024 * 1024).await.status(), 200);
        drop(held);
        assert!(responses.users().is_empty());
        assert_eq!(responses.0.all.bytes.available_permits(), BYTES);
        assert_eq!(responses.0.all.answers.available_permits(), ANSWERS);
    }

    #[tokio::test(start_paused = true)]
    async fn a_user_has_so_many_answers_under_way() {
        let responses = Responses::default();
        let slots: Vec<Slot> = (0..USER_ANSWERS).map(|_| Slot::default()).collect();
        for slot in &slots {
            responses.begin(user(1), Some(slot)).await.unwrap();
        }
        assert_eq!(responses.begin(user(1), None).await.unwrap_err().into_response().status(), 429);
        responses.begin(user(2), None).await.unwrap();
        drop(slots);
        responses.begin(user(1), None).await.unwrap();
        assert!(responses.users().is_empty());
    }
}
