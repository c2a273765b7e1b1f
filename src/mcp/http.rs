//! The transport over streamable HTTP: `rmcp`'s, on a client of ours that
//! keeps URLs out of errors and follows no redirect to another host.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{HeaderName, HeaderValue};
use reqwest::redirect;
use rmcp::model::ClientJsonRpcMessage;
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::common::client_side_sse::BoxedSseResponse;
use rmcp::transport::streamable_http_client::{
    StreamableHttpClient, StreamableHttpClientTransportConfig, StreamableHttpError,
    StreamableHttpPostResponse,
};

/// The longest event a server may send, in bytes.
const EVENT: usize = 64 << 20;
/// A call holds one of these as long as it runs where the server answers
/// without a stream.
const CONCURRENT: usize = 256;
/// The most redirects followed for one request.
const REDIRECTS: usize = 5;

type Error = StreamableHttpError<reqwest::Error>;
type Headers = HashMap<HeaderName, HeaderValue>;

/// `reqwest`'s client, less the URLs in its errors: a query may hold a key, and
/// `rmcp` logs errors as they are.
#[derive(Clone)]
pub(super) struct Client(reqwest::Client);

/// A transport to `url` that sends `headers` with every request.
pub(super) fn transport(
    url: &str,
    headers: &BTreeMap<String, String>,
    connect_timeout: Duration,
) -> Result<StreamableHttpClientTransport<Client>, String> {
    let mut custom = Headers::new();
    for (name, value) in headers {
        let header: HeaderName = name
            .parse()
            .map_err(|_| format!("`{name}` in `headers` is not a header's name"))?;
        let mut value: HeaderValue = value
            .parse()
            .map_err(|_| format!("the value of `{name}` in `headers` is not valid in a header"))?;
        value.set_sensitive(true);
        custom.insert(header, value);
    }
    let client = reqwest::Client::builder()
        .connect_timeout(connect_timeout)
        .redirect(same_origin())
        .build()
        .map_err(|error| format!("the HTTP client cannot be built: {error}"))?;
    let config = StreamableHttpClientTransportConfig::with_uri(url)
        .custom_headers(custom)
        .max_concurrent_requests(CONCURRENT)
        .max_sse_event_size(EVENT);
    Ok(StreamableHttpClientTransport::with_client(
        Client(client),
        config,
    ))
}

/// Our headers are for the configured host alone, and only 307 and 308 keep a
/// request's body.
fn same_origin() -> redirect::Policy {
    redirect::Policy::custom(|attempt| {
        let keeps_body = matches!(attempt.status().as_u16(), 307 | 308);
        let from = attempt.previous();
        let same = from
            .last()
            .is_some_and(|url| url.origin() == attempt.url().origin());
        if keeps_body && same && from.len() <= REDIRECTS {
            attempt.follow()
        } else {
            attempt.stop()
        }
    })
}

/// Whether an error of the transport means that this connection has no future,
/// rather than that one request went wrong.
pub(super) fn ends_connection(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    match error.downcast_ref::<Error>() {
        Some(StreamableHttpError::Client(error)) => !error.is_body() && !error.is_decode(),
        Some(
            StreamableHttpError::SessionExpired
            | StreamableHttpError::SessionRecoveryTimeout
            | StreamableHttpError::ReinitializationFailed(_)
            | StreamableHttpError::TransportChannelClosed,
        ) => true,
        _ => false,
    }
}

/// The client's own error in one of the transport, which only repeats it.
pub(super) fn client_error<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> Option<&'a (dyn std::error::Error + 'static)> {
    match error.downcast_ref::<Error>() {
        Some(StreamableHttpError::Client(error)) => Some(error),
        _ => None,
    }
}

/// Whether the server wants other credentials than ours.
pub(super) fn is_unauthorized(error: &(dyn std::error::Error + 'static)) -> bool {
    match error.downcast_ref::<Error>() {
        Some(StreamableHttpError::AuthRequired(_) | StreamableHttpError::InsufficientScope(_)) => {
            true
        }
        Some(StreamableHttpError::UnexpectedServerResponse(text)) => {
            text.starts_with("HTTP 401") || text.starts_with("HTTP 403")
        }
        _ => false,
    }
}

fn without_url(error: Error) -> Error {
    match error {
        StreamableHttpError::Client(error) => StreamableHttpError::Client(error.without_url()),
        other => other,
    }
}

impl StreamableHttpClient for Client {
    type Error = reqwest::Error;

    async fn post_message(
        &self,
        uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session_id: Option<Arc<str>>,
        auth_header: Option<String>,
        custom_headers: Headers,
    ) -> Result<StreamableHttpPostResponse, Error> {
        self.post_message_with_max_sse_event_size(
            uri,
            message,
            session_id,
            auth_header,
            custom_headers,
            EVENT,
        )
        .await
    }

    async fn post_message_with_max_sse_event_size(
        &self,
        uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session_id: Option<Arc<str>>,
        auth_header: Option<String>,
        custom_headers: Headers,
        max_sse_event_size: usize,
    ) -> Result<StreamableHttpPostResponse, Error> {
        self.0
            .post_message_with_max_sse_event_size(
                uri,
                message,
                session_id,
                auth_header,
                custom_headers,
                max_sse_event_size,
            )
            .await
            .map_err(without_url)
    }

    async fn delete_session(
        &self,
        uri: Arc<str>,
        session_id: Arc<str>,
        auth_header: Option<String>,
        custom_headers: Headers,
    ) -> Result<(), Error> {
        self.0
            .delete_session(uri, session_id, auth_header, custom_headers)
            .await
            .map_err(without_url)
    }

    async fn get_stream(
        &self,
        uri: Arc<str>,
        session_id: Option<Arc<str>>,
        last_event_id: Option<String>,
        auth_header: Option<String>,
        custom_headers: Headers,
    ) -> Result<BoxedSseResponse, Error> {
        self.get_stream_with_max_sse_event_size(
            uri,
            session_id,
            last_event_id,
            auth_header,
            custom_headers,
            EVENT,
        )
        .await
    }

    async fn get_stream_with_max_sse_event_size(
        &self,
        uri: Arc<str>,
        session_id: Option<Arc<str>>,
        last_event_id: Option<String>,
        auth_header: Option<String>,
        custom_headers: Headers,
        max_sse_event_size: usize,
    ) -> Result<BoxedSseResponse, Error> {
        self.0
            .get_stream_with_max_sse_event_size(
                uri,
                session_id,
                last_event_id,
                auth_header,
                custom_headers,
                max_sse_event_size,
            )
            .await
            .map_err(without_url)
    }
}
