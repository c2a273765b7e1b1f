#![allow(clippy::unwrap_used)]

use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// A Saturday in winter.
fn now() -> Timestamp {
    at("2026-11-21T01:13:24Z")
}

#[test]
fn the_time_in_a_zone() {
    for (zone, name, datetime) in [
        (
            "Asia/Tokyo",
            "Asia/Tokyo",
            "Saturday, 21 November 2026, 10:13",
        ),
        (
            "america/new york",
            "America/New_York",
            "Friday, 20 November 2026, 20:13",
        ),
        ("UTC", "UTC", "Saturday, 21 November 2026, 01:13"),
        ("UTC+5:45", "UTC+05:45", "Saturday, 21 November 2026, 06:58"),
        ("PST", "PST", "Friday, 20 November 2026, 17:13"),
    ] {
        let expected = format!(r#"{{"timezone":"{name}","datetime":"{datetime}"}}"#);
        assert_eq!(current(zone, now()).unwrap(), expected);
    }
    let summer = current("Paris", at("2026-07-01T10:00:00Z")).unwrap();
    assert!(summer.contains("Wednesday, 1 July 2026, 12:00"), "{summer}");
}

#[test]
fn a_time_elsewhere() {
    let convert = |time, from, to| convert(time, from, to, now()).unwrap();
    assert_eq!(convert("15:00", "Europe/Paris", "America/Chicago"), "08:00");
    assert_eq!(convert("18:45", "London", "Asia/Tokyo"), "03:45 (next day)");
    assert_eq!(
        convert("9am", "Asia/Tokyo", "New York"),
        "19:00 (previous day)"
    );
    assert_eq!(convert("12:00", "Etc/GMT+12", "UTC+14"), "14:00 (next day)");
    assert_eq!(convert("23:30", "Etc/GMT+12", "UTC+14"), "01:30 (+2 days)");
    assert_eq!(convert("00:30", "UTC+14", "Etc/GMT+12"), "22:30 (-2 days)");
    assert_eq!(convert("12:00:30", "UTC", "UTC"), "12:00:30");
}

#[test]
fn the_day_is_that_of_the_source() {
    // 26 October in Auckland while it is still the 25th in UTC, the day on
    // which Europe's clocks go back.
    let now = at("2026-10-25T12:00:00Z");
    let result = convert("12:00", "Pacific/Auckland", "Europe/Paris", now).unwrap();
    assert_eq!(result, "00:00");
}

#[test]
fn skipped_and_repeated_times() {
    let spring = at("2026-03-08T12:00:00Z");
    let error = convert("02:30", "New York", "UTC", spring).unwrap_err();
    assert_eq!(
        error.message(),
        "02:30 is skipped today in America/New_York, the clocks go forward"
    );
    assert_eq!(
        convert("03:30", "New York", "UTC", spring).unwrap(),
        "07:30"
    );
    assert_eq!(
        convert("01:59", "New York", "UTC", spring).unwrap(),
        "06:59"
    );

    let autumn = at("2026-11-01T12:00:00Z");
    let twice = convert("1:30 am", "New York", "UTC", autumn).unwrap();
    assert_eq!(twice.lines().next(), Some("05:30"));
    assert!(twice.contains("twice"), "{twice}");
    assert_eq!(
        convert("02:00", "New York", "UTC", autumn).unwrap(),
        "07:00"
    );
}

#[test]
fn there_and_back_is_the_same() {
    for minute in (0..24 * 60).step_by(7) {
        let time = format!("{:02}:{:02}", minute / 60, minute % 60);
        let there = convert(&time, "Asia/Kathmandu", "America/Lima", now()).unwrap();
        let back = convert(&there[..5], "America/Lima", "Asia/Kathmandu", now()).unwrap();
        assert_eq!(&back[..5], time);
    }
}

#[test]
fn ways_to_write_a_time() {
    for (text, hour, minute) in [
        ("14:30", 14, 30),
        ("2:30 PM", 14, 30),
        ("2:30 p.m.", 14, 30),
        ("9am", 9, 0),
        (" 9 AM ", 9, 0),
        ("12am", 0, 0),
        ("12 pm", 12, 0),
        ("12:15 AM", 0, 15),
        ("noon", 12, 0),
        ("Midnight", 0, 0),
        ("0:00", 0, 0),
        ("23:59", 23, 59),
    ] {
        assert_eq!(parse(text).unwrap(), Time::new(hour, minute, 0, 0).unwrap());
    }
    assert_eq!(
        parse("7:08:09 pm").unwrap(),
        Time::new(19, 8, 9, 0).unwrap()
    );
}

#[test]
fn what_is_no_time() {
    for text in [
        "",
        "9",
        "24:00",
        "12:60",
        "13pm",
        "0am",
        "am",
        ":30",
        "1:",
        "1:2:3:4",
        "-1:00",
        "+1:00",
        "12:3o",
        "soon",
        "123:00",
        "14:30:61",
        "१२:००",
        "9 9am",
    ] {
        let error = parse(text).map(|_| ()).unwrap_err();
        assert!(error.message().starts_with("invalid time"), "{text}");
    }
}
