#![allow(clippy::unwrap_used)]

use jiff::Timestamp;

use super::*;

fn name(text: &str) -> String {
    resolve(text).unwrap().name
}

fn minutes(text: &str) -> i32 {
    let winter: Timestamp = "2026-01-15T12:00:00Z".parse().unwrap();
    resolve(text).unwrap().zone.to_offset(winter).seconds() / 60
}

#[test]
fn every_name_of_the_database_is_itself() {
    let mut count = 0;
    for zone in INDEX.database.available() {
        assert_eq!(name(zone.as_str()), zone.as_str());
        assert_eq!(name(&zone.as_str().to_lowercase()), zone.as_str());
        count += 1;
    }
    assert!(count > 500, "{count}");
}

#[test]
fn every_place_of_the_database_is_found_by_its_last_part() {
    for (place, zone) in &INDEX.places {
        let bare = last_part(zone).replace('_', " ");
        // Names such as `Jamaica` and `Singapore` are zones themselves.
        let found = resolve(&bare).unwrap();
        assert_eq!(fold(last_part(&found.name)), *place);
        assert_eq!(name(&format!("Nowhere/{bare}")), *zone);
    }
}

#[test]
fn places_in_any_spelling() {
    for (text, expected) in [
        ("Tokyo", "Asia/Tokyo"),
        ("new york", "America/New_York"),
        ("America/Tokyo", "Asia/Tokyo"),
        ("Europe/Tokyo", "Asia/Tokyo"),
        ("  asia / tokyo ", "Asia/Tokyo"),
        ("ASIA/HO CHI MINH", "Asia/Ho_Chi_Minh"),
        ("São Paulo", "America/Sao_Paulo"),
        ("Bogotá", "America/Bogota"),
        ("Zürich", "Europe/Zurich"),
        ("Buenos Aires", "America/Argentina/Buenos_Aires"),
        ("Tokyo, Japan", "Asia/Tokyo"),
        ("Dallas, TX", "America/Chicago"),
        ("America/Dallas", "America/Chicago"),
        ("Asia/Beijing", "Asia/Shanghai"),
        ("St. Petersburg", "Europe/Moscow"),
        ("Washington D.C.", "America/New_York"),
        ("GMT", "GMT"),
        ("utc", "UTC"),
        ("EST", "EST"),
        ("Etc/GMT+5", "Etc/GMT+5"),
    ] {
        assert_eq!(name(text), expected, "{text}");
    }
}

#[test]
fn offsets_and_abbreviations() {
    for (text, expected) in [
        ("UTC+2", 120),
        ("UTC-5", -300),
        ("UTC-3:30", -210),
        ("gmt +05:30", 330),
        ("+0530", 330),
        ("-08:00", -480),
        ("UTC−3", -180),
        ("UTC+14", 840),
        // Counted west, as the database does.
        ("Etc/GMT+5", -300),
        ("EST", -300),
        ("PST", -480),
        ("pdt", -420),
        ("CEST", 120),
        ("JST", 540),
        ("Z", 0),
    ] {
        assert_eq!(minutes(text), expected, "{text}");
    }
    assert_eq!(name("UTC-5"), "UTC-05:00");
}

#[test]
fn all_aliases_lead_to_zones() {
    for (place, zone) in PLACES {
        assert_eq!(fold(place), *place, "is not folded");
        assert_eq!(name(place), *zone, "{place}");
    }
    for (abbreviation, offset) in ABBREVIATIONS {
        assert_eq!(minutes(abbreviation), *offset, "{abbreviation}");
    }
}

#[test]
fn unknown_zones_get_suggestions() {
    let message = |text| resolve(text).unwrap_err().message().to_owned();
    assert_eq!(
        message("Tokio"),
        "unknown timezone Tokio, did you mean Asia/Tokyo"
    );
    assert!(message("America/New_Yrok").contains("America/New_York"));
    assert_eq!(
        message("qqqqq"),
        "unknown timezone qqqqq, use a name like Asia/Tokyo"
    );
    for text in [
        "UTC+15", "UTC+2:60", "+", "UTC+-2", "/", "../UTC", "\0", "💥",
    ] {
        assert!(resolve(text).is_err() || text == "../UTC", "{text}");
    }
    assert_eq!(message(" "), "timezone is empty");
    assert!(message(&"x\n".repeat(10_000)).len() < 200);
}
