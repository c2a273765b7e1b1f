//! Everything a request can come to but an answer: the status, and the one
//! sentence the client reads. The sentences carry nothing from inside; what
//! went wrong there is for the log.

use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode};

use super::request_body::BodyError;
use crate::chat::ChatError;
use crate::session::SessionError;

/// When a client may try again, in seconds.
const RETRY_AFTER: &str = "5";

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("{0}")]
    BadRequest(String),
    #[error(transparent)]
    Body(#[from] BodyError),
    #[error("There is nothing at this path; prompts are taken by POST at /.")]
    NotFound,
    #[error("This path takes {allow} only.")]
    MethodNotAllowed { allow: &'static str },
    #[error("The server is busy and its queue is full; try again later.")]
    QueueFull,
    #[error("The server is shutting down; try again later.")]
    Draining,
    #[error("The answer was not ready within {} seconds.", .0.as_secs_f64())]
    Deadline(Duration),
    #[error("{sentence}")]
    Internal {
        sentence: &'static str,
        /// For the log.
        cause: String,
    },
}

impl Failure {
    /// The failure that a panic is to the client.
    pub(super) fn panic() -> Self {
        Self::Internal {
            sentence: "The server failed while it worked on the request; its log says why.",
            cause: "a panic".to_owned(),
        }
    }

    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::Body(error) => error.status(),
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::QueueFull | Self::Draining => StatusCode::SERVICE_UNAVAILABLE,
            Self::Deadline(_) => StatusCode::GATEWAY_TIMEOUT,
            Self::Internal { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// What the log is told beyond the sentence.
    pub(super) fn cause(&self) -> Option<&str> {
        match self {
            Self::Internal { cause, .. } => Some(cause),
            _ => None,
        }
    }

    /// The response the client gets.
    pub(super) fn response(&self) -> Response<Full<Bytes>> {
        let mut response = json(self.status(), &error_body(&self.to_string()));
        let headers = response.headers_mut();
        if self.status() == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
        }
        if let Self::MethodNotAllowed { allow } = self {
            headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        if matches!(self, Self::Body(_) | Self::Draining) {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

impl From<SessionError> for Failure {
    fn from(error: SessionError) -> Self {
        let cause = error.to_string();
        match error {
            SessionError::PromptTooLong { needed, limit } => Self::BadRequest(format!(
                "The prompt is too long: with the system prompt and the tools it needs {needed} \
                 tokens, and the model's context holds {limit}."
            )),
            SessionError::Model(ChatError::ContextExceeded { .. }) => Self::Internal {
                sentence: "The conversation with the tools outgrew the model's context.",
                cause,
            },
            SessionError::Model(ChatError::Template(_) | ChatError::Engine(_)) => Self::Internal {
                sentence: "The model failed while it made the answer; the server's log says why.",
                cause,
            },
        }
    }
}

/// The body of an error.
pub(super) fn error_body(sentence: &str) -> serde_json::Value {
    serde_json::json!({ "Error": sentence })
}

/// A response with a JSON body.
pub(super) fn json(status: StatusCode, body: &serde_json::Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}
