//! `get_temperature`: Open-Meteo's two public services, one that finds a
//! place by its name and one that knows the temperature there. Neither needs
//! a key. Where they cannot be reached, the answer says so.

mod places;
#[cfg(test)]
mod tests;

use std::time::Duration;

use reqwest::{Client, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::OnceCell;

use super::server::{Failure, Outcome, short};
use places::Place;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(10);

/// An answer has a few kilobytes.
const ANSWER_LIMIT: usize = 1 << 20;

/// Places of one name that are looked through for the right one.
const PLACES: &str = "50";

pub(super) struct Weather {
    geocoding_url: String,
    forecast_url: String,
    /// Made at the first call: it reads the system's certificates.
    client: OnceCell<Client>,
}

#[derive(Deserialize)]
struct Found {
    #[serde(default)]
    results: Vec<Place>,
}

#[derive(Deserialize)]
struct Forecast {
    current: Current,
}

#[derive(Deserialize)]
struct Current {
    temperature_2m: f64,
}

impl Weather {
    pub(super) fn new(geocoding_url: String, forecast_url: String) -> Self {
        Self {
            geocoding_url,
            forecast_url,
            client: OnceCell::new(),
        }
    }

    /// The temperature now: `Dallas, Texas: 72°F`, `Oslo, Norway: -3.5°C`.
    pub(super) async fn temperature(&self, city: &str) -> Outcome {
        let (name, qualifiers) = places::split(city);
        if name.is_empty() {
            return Err(Failure::new("city is empty"));
        }
        let query = [("name", name), ("count", PLACES), ("language", "en")];
        let found: Found = self.ask(&self.geocoding_url, "v1/search", &query).await?;
        let place = places::best(&found.results, &qualifiers)
            .ok_or_else(|| Failure::new(format_args!("no place named {} is known", short(city))))?;
        let (unit, shown) = place.unit();
        let query = [
            ("latitude", place.latitude.to_string()),
            ("longitude", place.longitude.to_string()),
            ("current", "temperature_2m".to_owned()),
            ("temperature_unit", unit.to_owned()),
        ];
        let query = query.each_ref().map(|(key, value)| (*key, value.as_str()));
        let forecast: Forecast = self.ask(&self.forecast_url, "v1/forecast", &query).await?;
        let degrees = forecast.current.temperature_2m;
        Ok(format!("{}: {degrees}{shown}", place.label()))
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        base: &str,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<T, Failure> {
        let url = format!("{}/{path}", base.trim_end_matches('/'));
        let client = self.client.get_or_try_init(client).await?;
        let answer = client.get(url).query(query).send().await;
        let mut answer = answer.map_err(|error| unreachable(&error))?;
        if answer.status() != StatusCode::OK {
            let status = answer.status().as_u16();
            return Err(Failure::new(format_args!(
                "the weather service answers with HTTP {status}"
            )));
        }
        let mut body = Vec::new();
        while let Some(part) = answer.chunk().await.map_err(|error| unreachable(&error))? {
            if body.len() + part.len() > ANSWER_LIMIT {
                return Err(nonsense());
            }
            body.extend_from_slice(&part);
        }
        serde_json::from_slice(&body).map_err(|_| nonsense())
    }
}

async fn client() -> Result<Client, Failure> {
    Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(TIMEOUT)
        .user_agent(concat!("llm-server/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|_| Failure::new("the weather service cannot be reached: no TLS here"))
}

fn unreachable(error: &reqwest::Error) -> Failure {
    Failure::new(if error.is_timeout() {
        "the weather service cannot be reached: timeout"
    } else {
        "the weather service cannot be reached"
    })
}

fn nonsense() -> Failure {
    Failure::new("the weather service gives an answer that cannot be read")
}
