//! `get_current_time` and `convert_time`. Which zone a text means is the
//! business of `zones`; what time it is, the caller's.

#[cfg(test)]
mod tests;

use jiff::civil::Time;
use jiff::tz::AmbiguousOffset;
use jiff::{Timestamp, Zoned};
use serde_json::json;

use super::server::{Failure, Outcome, short};
use super::zones;

/// The time at `now` in a zone, and which zone that is:
/// `{"timezone":"Asia/Tokyo","datetime":"Saturday, 21 November 2026, 10:13"}`.
/// With the zone behind the time instead, the bundled model loses its place
/// where a prompt needs two calls.
pub(super) fn current(timezone: &str, now: Timestamp) -> Outcome {
    let zone = zones::resolve(timezone)?;
    let time = now.to_zoned(zone.zone);
    let datetime = time.strftime("%A, %-d %B %Y, %H:%M").to_string();
    Ok(json!({"timezone": zone.name, "datetime": datetime}).to_string())
}

/// What a clock in `target` shows when one in `source` shows `time` on the
/// day that it is there at `now`: `23:30`, or `08:30 (next day)`.
pub(super) fn convert(time: &str, source: &str, target: &str, now: Timestamp) -> Outcome {
    let wall = parse(time)?;
    let source = zones::resolve(source)?;
    let target = zones::resolve(target)?;
    let today = now.to_zoned(source.zone.clone()).date();
    let ambiguous = source.zone.to_ambiguous_zoned(today.to_datetime(wall));
    let note = match ambiguous.offset() {
        AmbiguousOffset::Unambiguous { .. } => "",
        AmbiguousOffset::Fold { .. } => {
            "\nThe clocks go back today: this time comes twice there, and the first is meant."
        }
        AmbiguousOffset::Gap { .. } => {
            return Err(Failure::new(format_args!(
                "{} is skipped today in {}, the clocks go forward",
                written(wall),
                source.name
            )));
        }
    };
    let there = ambiguous
        .compatible()
        .map_err(|_| Failure::new("the time cannot be worked out"))?
        .with_time_zone(target.zone);
    let day = day(&there, today)?;
    Ok(format!("{}{day}{note}", written(there.time())))
}

/// On which day the result is, seen from the day of the question.
fn day(there: &Zoned, today: jiff::civil::Date) -> Result<&'static str, Failure> {
    let days = today
        .until(there.date())
        .map_err(|_| Failure::new("the time cannot be worked out"))?
        .get_days();
    Ok(match days {
        0 => "",
        1 => " (next day)",
        -1 => " (previous day)",
        days if days > 0 => " (+2 days)",
        _ => " (-2 days)",
    })
}

/// `14:30`, and the seconds only where there are any.
fn written(time: Time) -> String {
    match time.second() {
        0 => time.strftime("%H:%M").to_string(),
        _ => time.strftime("%H:%M:%S").to_string(),
    }
}

/// A time of day: `14:30`, `14:30:15`, `2:30 PM`, `9am`, `noon`, `midnight`.
fn parse(text: &str) -> Result<Time, Failure> {
    read(text).ok_or_else(|| {
        let text = short(text);
        Failure::new(format_args!(
            "invalid time {text}, write it like 14:30 or 2:30 PM"
        ))
    })
}

fn read(text: &str) -> Option<Time> {
    let text: String = text
        .chars()
        .filter(|c| !c.is_whitespace() && *c != '.')
        .flat_map(char::to_lowercase)
        .collect();
    match text.as_str() {
        "noon" | "midday" => return Time::new(12, 0, 0, 0).ok(),
        "midnight" => return Some(Time::midnight()),
        _ => {}
    }
    let (digits, half) = match (text.strip_suffix("am"), text.strip_suffix("pm")) {
        (Some(digits), _) => (digits, Some(0)),
        (_, Some(digits)) => (digits, Some(12)),
        _ => (text.as_str(), None),
    };
    let mut parts = digits.split(':').map(two_digits);
    let hour = parts.next()??;
    let minute = parts.next();
    let second = parts.next();
    if parts.next().is_some() {
        return None;
    }
    let hour = match half {
        Some(half) if (1..=12).contains(&hour) => hour % 12 + half,
        // A bare number is no time: `9` may be meant as either.
        None if minute.is_some() => hour,
        _ => return None,
    };
    let minute = minute.map_or(Some(0), |minute| minute)?;
    let second = second.map_or(Some(0), |second| second)?;
    Time::new(hour, minute, second, 0).ok()
}

fn two_digits(text: &str) -> Option<i8> {
    let fits = (1..=2).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    fits.then(|| text.parse().ok()).flatten()
}
