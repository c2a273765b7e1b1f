//! `POST /`: `{"prompt": "…"}` in, `{"response": "…"}` out.

use std::time::Instant;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode};
use serde::Deserialize;
use serde::de::IgnoredAny;
use tracing::info;

use super::failure::{Failure, json};
use super::{Server, request_body};
use crate::excerpt::logged;

/// The request. Other keys are ignored, and never kept: a tree of all values
/// could take many times the body's own memory.
#[derive(Deserialize)]
struct PromptBody {
    prompt: Option<String>,
}

/// Answers one request.
pub(super) async fn answer(
    server: &Server,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Failure> {
    let limits = &server.settings.limits;
    let body = request_body::read(request.into_body(), limits, &server.bodies).await?;
    let prompt = prompt_of(&body.bytes).map_err(Failure::BadRequest)?;
    info!(prompt = ?logged(&prompt), "request");
    let arrived = Instant::now();
    let (answer, queued) = server
        .within_limits(async {
            let queued = arrived.elapsed();
            (server.sessions.answer(&prompt).await, queued)
        })
        .await?;
    let answer = answer?;
    info!(
        status = StatusCode::OK.as_u16(),
        response = ?logged(&answer.text),
        rounds = answer.rounds,
        prompt_tokens = answer.prompt_tokens,
        generated_tokens = answer.generated_tokens,
        first_token_ms = answer.time_to_first_token.as_millis(),
        queued_ms = queued.as_millis(),
        total_ms = arrived.elapsed().as_millis(),
        "response"
    );
    let body = serde_json::json!({ "response": answer.text });
    Ok(json(StatusCode::OK, &body))
}

/// The prompt in a request's body, or the sentence that says why there is none.
fn prompt_of(body: &[u8]) -> Result<String, String> {
    let Ok(text) = std::str::from_utf8(body) else {
        return Err("The request body is not UTF-8 text.".to_owned());
    };
    // Some editors and shells put a byte order mark first.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim().is_empty() {
        return Err(r#"The request body is empty; send {"prompt": "..."}."#.to_owned());
    }
    if !text.trim_start().starts_with('{') {
        return Err(match serde_json::from_str::<IgnoredAny>(text) {
            Ok(_) => r#"The request body is not a JSON object; send {"prompt": "..."}."#.to_owned(),
            Err(error) => not_json(&error),
        });
    }
    let refusal = match serde_json::from_str(text) {
        Ok(PromptBody { prompt: None }) => {
            r#"The request body has no "prompt"; send {"prompt": "..."}."#
        }
        Ok(PromptBody {
            prompt: Some(prompt),
        }) if prompt.trim().is_empty() => r#"The "prompt" is empty."#,
        Ok(PromptBody {
            prompt: Some(prompt),
        }) => return Ok(prompt),
        // The JSON is sound so far, but "prompt" is something else, or there twice.
        Err(error) if error.is_data() => r#"The "prompt" is not one string."#,
        Err(error) => return Err(not_json(&error)),
    };
    Err(refusal.to_owned())
}

fn not_json(error: &serde_json::Error) -> String {
    format!("The request body is not JSON: {error}.")
}
