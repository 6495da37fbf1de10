//! Answers to calls.

use crate::documented;
use serde_json::Value;

/// An answer: its status, and its JSON (`null` where it has none).
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The `Content-Type`.
    pub kind: String,
    /// The body.
    pub body: Value,
}

impl Answer {
    /// The answer to a request.
    ///
    /// # Panics
    /// When there is none, or it isn't as documented.
    pub async fn of(request: reqwest::RequestBuilder) -> Self {
        Self::try_of(request).await.expect("an answer")
    }

    /// The answer to a request, if there is one.
    ///
    /// # Errors
    /// When there is none.
    pub async fn try_of(request: reqwest::RequestBuilder) -> reqwest::Result<Self> {
        let (client, request) = request.build_split();
        let request = request?;
        let (method, url) = (request.method().to_string(), request.url().clone());
        let response = client.execute(request).await?;
        let status = response.status().as_u16();
        let kind = response.headers().get("content-type").and_then(|kind| kind.to_str().ok());
        let kind = kind.unwrap_or_default().to_owned();
        let text = response.text().await?;
        let body =
            if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap_or(text.into()) };
        documented::check_answer(&method, &url, status, &kind, &body).await;
        Ok(Self { status, kind, body })
    }

    /// The body, if the status is this one.
    ///
    /// # Panics
    /// When it is another.
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        self.body
    }

    /// Checks that this is a problem with this status and code.
    ///
    /// # Panics
    /// When it isn't.
    #[track_caller]
    pub fn expect_problem(&self, status: u16, code: &str) {
        assert_eq!((self.status, self.body["code"].as_str()), (status, Some(code)), "{self:?}");
        assert_eq!(self.kind, "application/problem+json");
        assert_eq!(self.body["status"], status);
    }
}
