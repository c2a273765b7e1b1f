#![allow(clippy::unwrap_used)]

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpListener;

use super::*;

/// The two services on one local port, with a world of a few places.
struct Service {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

async fn service(answer: fn(&str, &str) -> (u16, String)) -> Service {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let log = Arc::clone(&log);
            let respond = service_fn(move |request: Request<Incoming>| {
                let (path, query) = (request.uri().path(), request.uri().query());
                let (status, body) = answer(path, query.unwrap_or(""));
                log.lock().unwrap().push(request.uri().to_string());
                async move {
                    let body = Full::new(Bytes::from(body));
                    Ok::<_, Infallible>(Response::builder().status(status).body(body).unwrap())
                }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), respond));
        }
    });
    Service { url, asked }
}

fn world(path: &str, query: &str) -> (u16, String) {
    let place = |name: &str, country: &str, code: &str, admin1: &str, latitude: f64| {
        json!({"id": 1, "name": name, "latitude": latitude, "longitude": 2.35, "country": country,
               "country_code": code, "admin1": admin1, "population": 1, "timezone": "Europe/Paris"})
    };
    let answer = match path {
        "/v1/search" if query.starts_with("name=Paris&") => json!({"results": [
            place("Paris", "France", "FR", "Île-de-France", 48.85),
            place("Paris", "United States", "US", "Texas", 33.66),
            place("Paris", "United States", "US", "Tennessee", 36.3),
        ], "generationtime_ms": 0.5}),
        "/v1/search" if query.starts_with("name=Singapore&") => {
            json!({"results": [place("Singapore", "Singapore", "SG", "", 1.29)]})
        }
        "/v1/search" => json!({"generationtime_ms": 0.2}),
        "/v1/forecast" => {
            let temperature = match query {
                _ if query.contains("latitude=33.66") => json!(72.0),
                _ if query.contains("latitude=36.3") => json!(70.3),
                _ if query.contains("latitude=1.29") => json!(31),
                _ => json!(-3.5),
            };
            json!({"latitude": 1.0, "current_units": {"temperature_2m": "°C"},
                   "current": {"time": "2026-11-21T10:00", "interval": 900, "temperature_2m": temperature}})
        }
        _ => return (404, String::new()),
    };
    (200, answer.to_string())
}

fn weather(url: &str) -> Weather {
    Weather::new(url.to_owned(), url.to_owned())
}

#[tokio::test]
async fn the_temperature_of_the_place_that_is_meant() {
    let service = service(world).await;
    let weather = weather(&service.url);
    for (city, expected) in [
        ("Paris", "Paris, France: -3.5°C"),
        (" Paris , france ", "Paris, France: -3.5°C"),
        ("Paris, Île-de-France, France", "Paris, France: -3.5°C"),
        ("Paris, TX", "Paris, Texas: 72°F"),
        ("Paris, tx, USA", "Paris, Texas: 72°F"),
        ("Paris, Tennessee", "Paris, Tennessee: 70.3°F"),
        ("Paris, United States", "Paris, Texas: 72°F"),
        ("Singapore", "Singapore: 31°C"),
    ] {
        assert_eq!(weather.temperature(city).await.unwrap(), expected, "{city}");
    }
    let asked = service.asked.lock().unwrap().join("\n");
    assert!(asked.contains("/v1/search?name=Paris&count=50&language=en\n"));
    assert!(asked.contains(
        "/v1/forecast?latitude=33.66&longitude=2.35&current=temperature_2m&temperature_unit=fahrenheit"
    ));
    assert!(asked.contains("temperature_unit=celsius"));
}

#[tokio::test]
async fn unknown_places() {
    let service = service(world).await;
    let weather = weather(&service.url);
    for (city, expected) in [
        ("Atlantis", "no place named Atlantis is known"),
        ("Paris, Germany", "no place named Paris, Germany is known"),
        ("Paris, OH", "no place named Paris, OH is known"),
        ("", "city is empty"),
        (" , TX", "city is empty"),
    ] {
        let error = weather.temperature(city).await.unwrap_err();
        assert_eq!(error.message(), expected);
    }
    // What the user writes stays inside the one parameter.
    weather.temperature("a&count=1#x/../y").await.unwrap_err();
    let asked = service.asked.lock().unwrap();
    assert!(
        asked
            .last()
            .unwrap()
            .contains("name=a%26count%3D1%23x%2F..%2Fy&count=50")
    );
}

#[tokio::test]
async fn a_service_that_fails() {
    let error = |answer: fn(&str, &str) -> (u16, String)| async move {
        let service = service(answer).await;
        let outcome = weather(&service.url).temperature("Paris").await;
        outcome.unwrap_err().message().to_owned()
    };
    assert_eq!(
        error(|_, _| (503, "<html>".to_owned())).await,
        "the weather service answers with HTTP 503"
    );
    let unreadable = "the weather service gives an answer that cannot be read";
    assert_eq!(error(|_, _| (200, "<html>".to_owned())).await, unreadable);
    assert_eq!(error(|_, _| (200, " ".repeat(3 << 20))).await, unreadable);
    let halfway = |path: &str, query: &str| match path {
        "/v1/search" => world(path, query),
        _ => (200, r#"{"current": {}}"#.to_owned()),
    };
    assert_eq!(error(halfway).await, unreadable);
}

#[tokio::test]
async fn a_service_that_is_not_there() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    // Listening, but never answering.
    let weather_silent = weather(&url);
    let error = weather_silent.temperature("Paris").await.unwrap_err();
    assert_eq!(
        error.message(),
        "the weather service cannot be reached: timeout"
    );
    drop(listener);
    let error = weather(&url).temperature("Paris").await.unwrap_err();
    assert_eq!(error.message(), "the weather service cannot be reached");
    let error = weather("no address")
        .temperature("Paris")
        .await
        .unwrap_err();
    assert_eq!(error.message(), "the weather service cannot be reached");
}
