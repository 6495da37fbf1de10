//! Responses of the HTTP API.

use crate::documented;
use serde_json::Value;

/// A response whose body is JSON, text or empty.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// `Content-Type`; empty if there is none.
    pub kind: String,
    /// Body: JSON, another text as a string, or `null` if it is empty.
    pub body: Value,
}

impl Answer {
    /// Sends a request and returns the response.
    ///
    /// # Panics
    /// If there is no response, or it isn't documented.
    pub async fn of(request: reqwest::RequestBuilder) -> Self {
        Self::try_of(request).await.expect("a response")
    }

    /// Sends a request and returns the response.
    ///
    /// # Errors
    /// If there is no response.
    ///
    /// # Panics
    /// If the response isn't documented.
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
        documented::check_response(&method, &url, status, &kind, &body).await;
        Ok(Self { status, kind, body })
    }

    /// Returns the body after checking the status.
    ///
    /// # Panics
    /// If the status is different.
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        self.body
    }

    /// Checks that the response is a problem with this status and code.
    ///
    /// # Panics
    /// If it isn't.
    #[track_caller]
    pub fn expect_problem(&self, status: u16, code: &str) {
        assert_eq!((self.status, self.body["code"].as_str()), (status, Some(code)), "{self:?}");
        assert_eq!(self.kind, "application/problem+json");
        assert_eq!(self.body["status"], status);
    }
}
