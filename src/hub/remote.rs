//! What the hub says of a repository: its commit, its files and their
//! sizes, each file's ETag and bytes. hf-hub does the talking, with time-outs
//! of ours; one failed attempt is one error, and trying again is the caller's
//! business. Knows no cache.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::{Stream, StreamExt, TryStreamExt};
use hf_hub::repository::RepoTreeEntry;
use hf_hub::{HFClient, HFError, HFRepository, RepoTypeModel};
use reqwest::header::{ETAG, HeaderMap, LOCATION};
use reqwest::redirect::Policy;
use reqwest::{StatusCode, Url};

use super::cache::DEFAULT_REVISION;
use super::check::is_plain;
use super::env::HubEnv;
use super::error::{About, HubError};

/// The ETag of the content itself, where `ETag` is that of a redirect.
const LINKED_ETAG: &str = "x-linked-etag";

/// How long to wait, and how often.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// For a connection.
    pub(super) connect: Duration,
    /// For the next byte.
    pub(super) stall: Duration,
    /// Attempts at one thing without headway.
    pub(super) attempts: u32,
    /// Before the second attempt; doubled before each further one.
    pub(super) backoff: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(20),
            stall: Duration::from_secs(60),
            attempts: 5,
            backoff: Duration::from_secs(1),
        }
    }
}

/// One repository on the hub.
pub(super) struct Remote {
    repo: String,
    revision: Option<String>,
    host: String,
    endpoint: String,
    token: Option<String>,
    pace: Pace,
    hub: HFRepository<RepoTypeModel>,
    /// For the one thing hf-hub does not offer: a file's ETag, which is on
    /// the hub's own answer and lost behind the redirect to its store.
    direct: reqwest::Client,
}

impl Remote {
    /// Prepares to talk to `env`'s hub about `repo`. Connects to nothing.
    pub(super) fn new(
        env: &HubEnv,
        pace: Pace,
        repo: &str,
        revision: Option<&str>,
    ) -> Result<Self, HubError> {
        let bad_endpoint = || HubError::Endpoint {
            endpoint: env.endpoint.clone(),
        };
        let url = Url::parse(&env.endpoint).map_err(|_| bad_endpoint())?;
        let host = url.host_str().ok_or_else(bad_endpoint)?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(bad_endpoint());
        }
        let broken = |detail: String| HubError::Protocol {
            host: host.to_owned(),
            detail,
        };
        let client = |policy: Policy| {
            reqwest::Client::builder()
                .user_agent(concat!("llm-server/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(pace.connect)
                .read_timeout(pace.stall)
                .redirect(policy)
                .build()
                .map_err(|error| broken(error.to_string()))
        };
        let mut builder = HFClient::builder()
            .endpoint(&env.endpoint)
            .cache_dir(&env.cache)
            // Attempts are counted in one place, ours.
            .retry_max_attempts(0)
            .client(client(Policy::limited(10))?);
        if let Some(token) = &env.token {
            builder = builder.token(token);
        }
        let hub = builder.build().map_err(|error| broken(error.to_string()))?;
        let (owner, name) = hf_hub::split_id(repo);
        Ok(Self {
            repo: repo.to_owned(),
            revision: revision.map(str::to_owned),
            host: host.to_owned(),
            endpoint: env.endpoint.clone(),
            token: env.token.clone(),
            pace,
            hub: hub.model(owner, name),
            direct: client(Policy::none())?,
        })
    }

    fn about(&self) -> About<'_> {
        About {
            repo: &self.repo,
            revision: self.revision.as_deref().unwrap_or(DEFAULT_REVISION),
            host: &self.host,
            stall: self.pace.stall,
        }
    }

    /// Waits for `exchange` no longer than two stalls: enough for a small
    /// answer, and an end to one that trickles.
    async fn within<T>(
        &self,
        exchange: impl Future<Output = Result<T, HubError>>,
    ) -> Result<T, HubError> {
        let limit = self.pace.stall * 2;
        let late = |_| HubError::Stalled {
            host: self.host.clone(),
            after: limit,
        };
        tokio::time::timeout(limit, exchange).await.map_err(late)?
    }

    pub(super) fn protocol(&self, detail: impl Into<String>) -> HubError {
        HubError::Protocol {
            host: self.host.clone(),
            detail: detail.into(),
        }
    }

    /// The commit that the revision stands for.
    pub(super) async fn commit(&self) -> Result<String, HubError> {
        let ask = self.hub.info().maybe_revision(self.revision.clone());
        let ask = async { ask.send().await.map_err(|error| self.about().hub(&error)) };
        let sha = self.within(ask).await?.sha.unwrap_or_default();
        if super::cache::is_commit(&sha) {
            Ok(sha)
        } else {
            Err(self.protocol("it names no commit"))
        }
    }

    /// The files in the repository's root folder and their sizes.
    pub(super) async fn files(&self, commit: &str) -> Result<BTreeMap<String, u64>, HubError> {
        let about = self.about();
        self.within(async {
            let entries = self.hub.list_tree().revision(commit).send();
            let entries = entries.map_err(|error| about.hub(&error))?;
            entries
                .map_err(|error| about.hub(&error))
                .try_filter_map(|entry| async move {
                    Ok(match entry {
                        RepoTreeEntry::File { path, size, .. } if is_plain(&path) => {
                            Some((path, size))
                        }
                        _ => None,
                    })
                })
                .try_collect()
                .await
        })
        .await
    }

    /// The ETag of `file`, which names its bytes in the cache.
    pub(super) async fn etag(&self, commit: &str, file: &str) -> Result<String, HubError> {
        let headers = self.within(self.head(commit, file)).await?;
        let header = |name: &str| headers.get(name)?.to_str().ok();
        let raw = header(LINKED_ETAG).or_else(|| header(ETAG.as_str()));
        let etag = raw
            .unwrap_or_default()
            .trim_start_matches("W/")
            .trim_matches('"');
        if is_plain(etag) {
            Ok(etag.to_owned())
        } else {
            Err(self.protocol(format!("{file} has no usable ETag")))
        }
    }

    /// The headers of the hub's own answer about `file`. Follows redirects
    /// on the hub (a repository that was renamed) and none that leads away.
    async fn head(&self, commit: &str, file: &str) -> Result<HeaderMap, HubError> {
        let about = self.about();
        let address = format!("{}/{}/resolve/{commit}/{file}", self.endpoint, self.repo);
        let mut url = Url::parse(&address).map_err(|error| self.protocol(error.to_string()))?;
        for _ in 0..5 {
            let mut request = self.direct.head(url.clone());
            if let Some(token) = &self.token {
                request = request.bearer_auth(token);
            }
            let answer = request
                .send()
                .await
                .map_err(|error| about.transport(&error))?;
            let status = answer.status();
            let headers = answer.headers();
            if status.is_success() || (status.is_redirection() && headers.contains_key(LINKED_ETAG))
            {
                return Ok(headers.clone());
            }
            let text = |name: &str| headers.get(name)?.to_str().ok();
            if !status.is_redirection() {
                return Err(about.status(status.as_u16(), text("x-error-code")));
            }
            let next = text(LOCATION.as_str()).and_then(|location| url.join(location).ok());
            match next.filter(|next| next.origin() == url.origin()) {
                Some(next) => url = next,
                None => break,
            }
        }
        Err(self.protocol(format!("{file} redirects and has no ETag")))
    }

    /// The bytes of `file` from `start` on, and how many the server announces.
    pub(super) async fn open(
        &self,
        commit: &str,
        file: &str,
        start: u64,
        size: u64,
    ) -> Result<(Option<u64>, impl ByteStream + use<>), HubError> {
        let ask = self.hub.download_file_stream().filename(file);
        let ask = ask.revision(commit);
        let ask = ask.maybe_range((start > 0).then_some(start..size));
        let about = self.about();
        self.within(async { ask.send().await.map_err(|error| about.hub(&error)) })
            .await
    }

    /// The next bytes of `stream`, or `None` at its end.
    pub(super) async fn next<S: ByteStream>(
        &self,
        stream: &mut S,
    ) -> Result<Option<S::Chunk>, HubError> {
        let late = |_| HubError::Stalled {
            host: self.host.clone(),
            after: self.pace.stall,
        };
        let next = tokio::time::timeout(self.pace.stall, stream.next());
        let chunk = next.await.map_err(late)?;
        chunk.transpose().map_err(|error| self.about().hub(&error))
    }
}

/// The bytes of a file as hf-hub gives them, whose types it does not name.
pub(super) trait ByteStream:
    Stream<Item = Result<Self::Chunk, HFError>> + Send + Unpin
{
    /// Some of the bytes.
    type Chunk: AsRef<[u8]> + Send;
}

impl<S, C> ByteStream for S
where
    S: Stream<Item = Result<C, HFError>> + Send + Unpin,
    C: AsRef<[u8]> + Send,
{
    type Chunk = C;
}

/// Whether `error` says that there is nothing from the asked byte on.
pub(super) fn is_past_the_end(error: &HubError) -> bool {
    matches!(error, HubError::Status { status, .. }
        if *status == StatusCode::RANGE_NOT_SATISFIABLE.as_u16())
}
