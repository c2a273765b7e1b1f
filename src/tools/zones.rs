//! Which time zone a text means: a name of the tz database, a bare place
//! (`Tokyo`, `new york`), a place in the wrong region (`Europe/Tokyo`), a
//! large city or a country the database does not name, an abbreviation or an
//! offset (`EST`, `UTC+2`). Knows nothing of what the zone is for.

#[cfg(test)]
mod tests;

mod names;

use std::collections::HashMap;
use std::sync::LazyLock;

use jiff::tz::{Offset, TimeZone, TimeZoneDatabase};

use super::server::{Failure, short};
use names::{ABBREVIATIONS, PLACES};

/// The regions whose zones are named after places, the most likely first;
/// the others (`US/Pacific`, `Etc/GMT+5`, …) are only meant by their full names.
const REGIONS: [&str; 10] = [
    "Europe",
    "America",
    "Asia",
    "Africa",
    "Australia",
    "Pacific",
    "Atlantic",
    "Indian",
    "Antarctica",
    "Arctic",
];

/// How alike a name must be to be suggested, from 0 to 1, and how many are.
const ALIKE: f64 = 0.8;
const SUGGESTIONS: usize = 2;

/// A zone and what it is called.
#[derive(Debug, Clone)]
pub(super) struct Zone {
    pub(super) name: String,
    pub(super) zone: TimeZone,
}

struct Index {
    database: TimeZoneDatabase,
    /// The last part of a zone's name, folded, to the whole name.
    places: HashMap<String, String>,
}

/// The database that is compiled in, so that answers are the same everywhere.
static INDEX: LazyLock<Index> = LazyLock::new(|| {
    let database = TimeZoneDatabase::bundled();
    let mut ranked: Vec<(usize, String)> = database
        .available()
        .filter_map(|name| {
            let region = name.as_str().split('/').next()?;
            let rank = REGIONS.iter().position(|known| *known == region)?;
            Some((rank, name.as_str().to_owned()))
        })
        .collect();
    ranked.sort();
    let mut places = HashMap::new();
    for (_, name) in ranked {
        places.entry(fold(last_part(&name))).or_insert(name);
    }
    Index { database, places }
});

/// The zone that `text` means.
pub(super) fn resolve(text: &str) -> Result<Zone, Failure> {
    let text = text.trim();
    if text.is_empty() {
        return Err(Failure::new("timezone is empty"));
    }
    named(text)
        .or_else(|| offset(text))
        .or_else(|| place(last_part(text)))
        .or_else(|| place(text.split(',').next()?))
        .ok_or_else(|| unknown(text))
}

/// By its full name in the database, upper case or lower.
fn named(name: &str) -> Option<Zone> {
    let zone = INDEX.database.get(name).ok()?;
    let name = zone.iana_name().unwrap_or(name).to_owned();
    Some(Zone { name, zone })
}

/// By the name of a place or an abbreviation.
fn place(text: &str) -> Option<Zone> {
    let key = fold(text);
    if key == "local" || key == "localtime" {
        let zone = TimeZone::system();
        let name = zone.iana_name().unwrap_or("local time").to_owned();
        return Some(Zone { name, zone });
    }
    if let Some(name) = INDEX.places.get(&key) {
        return named(name);
    }
    if let Some((_, name)) = PLACES.iter().find(|(place, _)| *place == key) {
        return named(name);
    }
    let (name, minutes) = ABBREVIATIONS
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(&key))?;
    fixed((*name).to_owned(), *minutes)
}

/// `UTC+2`, `GMT-05:30`, `+0530`: hours and minutes east of Greenwich. (The
/// database's own `Etc/GMT+5` counts west and is met before this.)
fn offset(text: &str) -> Option<Zone> {
    let upper: String = text
        .chars()
        .filter(|c| !c.is_whitespace())
        .map(|c| {
            if c == '−' {
                '-'
            } else {
                c.to_ascii_uppercase()
            }
        })
        .collect();
    let rest = upper
        .strip_prefix("UTC")
        .or_else(|| upper.strip_prefix("GMT"))
        .unwrap_or(&upper);
    let (sign, digits) = match (rest.strip_prefix('+'), rest.strip_prefix('-')) {
        (Some(digits), _) => (1, digits),
        (_, Some(digits)) => (-1, digits),
        _ => return None,
    };
    let (hours, minutes) = match digits.split_once(':') {
        Some(parts) => parts,
        None if digits.len() == 4 && digits.is_ascii() => digits.split_at(2),
        None => (digits, "0"),
    };
    let number = |digits: &str| -> Option<i32> {
        let fits = (1..=2).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
        fits.then(|| digits.parse().ok()).flatten()
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    if hours > 14 || minutes > 59 {
        return None;
    }
    let sign_shown = if sign < 0 { '-' } else { '+' };
    let name = format!("UTC{sign_shown}{hours:02}:{minutes:02}");
    fixed(name, sign * (hours * 60 + minutes))
}

/// A zone that never changes, `minutes` east of Greenwich.
fn fixed(name: String, minutes: i32) -> Option<Zone> {
    let zone = TimeZone::fixed(Offset::from_seconds(minutes * 60).ok()?);
    Some(Zone { name, zone })
}

/// An error that names the nearest zones.
fn unknown(text: &str) -> Failure {
    let key = fold(last_part(text));
    let mut alike: Vec<(f64, &String)> = INDEX
        .places
        .iter()
        .map(|(place, name)| (strsim::jaro_winkler(place, &key), name))
        .filter(|(alike, _)| *alike >= ALIKE)
        .collect();
    alike.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(b.1)));
    alike.truncate(SUGGESTIONS);
    let text = short(text);
    let names: Vec<&str> = alike.iter().map(|(_, name)| name.as_str()).collect();
    if names.is_empty() {
        return Failure::new(format_args!(
            "unknown timezone {text}, use a name like Asia/Tokyo"
        ));
    }
    let names = names.join(" or ");
    Failure::new(format_args!(
        "unknown timezone {text}, did you mean {names}"
    ))
}

fn last_part(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// Letters and digits alone, in lower case and without accents, so that
/// `São Paulo`, `sao_paulo` and `SAO-PAULO` are one.
fn fold(text: &str) -> String {
    text.chars()
        .flat_map(char::to_lowercase)
        .filter(|c| c.is_alphanumeric())
        .map(|c| match c {
            'á' | 'à' | 'â' | 'ã' | 'ä' | 'å' => 'a',
            'ç' => 'c',
            'é' | 'è' | 'ê' | 'ë' => 'e',
            'í' | 'ì' | 'î' | 'ï' => 'i',
            'ñ' => 'n',
            'ó' | 'ò' | 'ô' | 'õ' | 'ö' | 'ø' => 'o',
            'ú' | 'ù' | 'û' | 'ü' => 'u',
            c => c,
        })
        .collect()
}
