//! Which of several places of one name is meant: `Paris, TX`, `Paris, France`.
//! Knows nothing of how they were found.

use serde::Deserialize;

/// A place as the geocoding service describes it; the most important of a
/// name comes first.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Place {
    pub(super) name: String,
    pub(super) latitude: f64,
    pub(super) longitude: f64,
    #[serde(default)]
    country: String,
    #[serde(default)]
    country_code: String,
    /// The state or province.
    #[serde(default)]
    admin1: String,
    #[serde(default)]
    admin2: String,
}

/// Countries that measure the weather in Fahrenheit.
const FAHRENHEIT: [&str; 8] = ["US", "BS", "BZ", "KY", "LR", "PW", "FM", "MH"];

impl Place {
    /// The unit that is used there: the service's word for it, and how it is written.
    pub(super) fn unit(&self) -> (&'static str, &'static str) {
        if FAHRENHEIT.contains(&self.country_code.as_str()) {
            ("fahrenheit", "°F")
        } else {
            ("celsius", "°C")
        }
    }

    /// The name with what tells it from others of that name.
    pub(super) fn label(&self) -> String {
        let region = match self.country_code.as_str() {
            "US" if !self.admin1.is_empty() => &self.admin1,
            _ => &self.country,
        };
        if region.is_empty() || *region == self.name {
            self.name.clone()
        } else {
            format!("{}, {region}", self.name)
        }
    }

    /// Whether a qualifier (lower case) names something it lies in.
    fn lies_in(&self, qualifier: &str) -> bool {
        let is = |name: &str| name.to_lowercase() == qualifier;
        let state = STATES
            .iter()
            .find(|(code, _)| code.to_lowercase() == qualifier);
        let country = COUNTRIES.iter().find(|(name, _)| *name == qualifier);
        is(&self.country)
            || is(&self.country_code)
            || is(&self.admin1)
            || is(&self.admin2)
            || state.is_some_and(|(_, name)| self.country_code == "US" && *name == self.admin1)
            || country.is_some_and(|(_, code)| *code == self.country_code)
    }
}

/// `Dallas, TX, USA` is a name and what it lies in, which the service does
/// not take in one.
pub(super) fn split(city: &str) -> (&str, Vec<String>) {
    let mut parts = city.split(',').map(str::trim);
    let name = parts.next().unwrap_or("");
    let qualifiers = parts.filter(|part| !part.is_empty());
    (name, qualifiers.map(str::to_lowercase).collect())
}

/// The first place that lies in all of the qualifiers. None is better than
/// the wrong one.
pub(super) fn best<'a>(places: &'a [Place], qualifiers: &[String]) -> Option<&'a Place> {
    places
        .iter()
        .find(|place| qualifiers.iter().all(|name| place.lies_in(name)))
}

/// Short names of countries that are not their codes.
const COUNTRIES: [(&str, &str); 8] = [
    ("usa", "US"),
    ("u.s.", "US"),
    ("u.s.a.", "US"),
    ("united states of america", "US"),
    ("uk", "GB"),
    ("england", "GB"),
    ("uae", "AE"),
    ("korea", "KR"),
];

/// The states of the United States by their postal codes.
const STATES: [(&str, &str); 51] = [
    ("AL", "Alabama"),
    ("AK", "Alaska"),
    ("AZ", "Arizona"),
    ("AR", "Arkansas"),
    ("CA", "California"),
    ("CO", "Colorado"),
    ("CT", "Connecticut"),
    ("DE", "Delaware"),
    ("DC", "District of Columbia"),
    ("FL", "Florida"),
    ("GA", "Georgia"),
    ("HI", "Hawaii"),
    ("ID", "Idaho"),
    ("IL", "Illinois"),
    ("IN", "Indiana"),
    ("IA", "Iowa"),
    ("KS", "Kansas"),
    ("KY", "Kentucky"),
    ("LA", "Louisiana"),
    ("ME", "Maine"),
    ("MD", "Maryland"),
    ("MA", "Massachusetts"),
    ("MI", "Michigan"),
    ("MN", "Minnesota"),
    ("MS", "Mississippi"),
    ("MO", "Missouri"),
    ("MT", "Montana"),
    ("NE", "Nebraska"),
    ("NV", "Nevada"),
    ("NH", "New Hampshire"),
    ("NJ", "New Jersey"),
    ("NM", "New Mexico"),
    ("NY", "New York"),
    ("NC", "North Carolina"),
    ("ND", "North Dakota"),
    ("OH", "Ohio"),
    ("OK", "Oklahoma"),
    ("OR", "Oregon"),
    ("PA", "Pennsylvania"),
    ("RI", "Rhode Island"),
    ("SC", "South Carolina"),
    ("SD", "South Dakota"),
    ("TN", "Tennessee"),
    ("TX", "Texas"),
    ("UT", "Utah"),
    ("VT", "Vermont"),
    ("VA", "Virginia"),
    ("WA", "Washington"),
    ("WV", "West Virginia"),
    ("WI", "Wisconsin"),
    ("WY", "Wyoming"),
];
