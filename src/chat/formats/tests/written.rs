//! Calls written as the models' templates write them.

use serde_json::{Map, Value as Json};

use super::ways::Call;

pub(super) fn each(calls: &[Call<'_>], one: impl Fn(&str, &Map<String, Json>) -> String) -> String {
    joined(calls, "", one)
}

pub(super) fn joined(
    calls: &[Call<'_>],
    between: &str,
    one: impl Fn(&str, &Map<String, Json>) -> String,
) -> String {
    let calls: Vec<String> = calls.iter().map(|(name, args)| one(name, args)).collect();
    calls.join(between)
}

pub(super) fn json(arguments: &Map<String, Json>) -> String {
    Json::Object(arguments.clone()).to_string()
}

pub(super) fn object(name: &str, key: &str, arguments: &Map<String, Json>) -> String {
    format!("{{\"name\": \"{name}\", \"{key}\": {}}}", json(arguments))
}

/// Fields with commas between them.
pub(super) fn fields(
    arguments: &Map<String, Json>,
    (between, comma): (&str, &str),
    value: impl Fn(&Json) -> String,
) -> String {
    let fields = arguments
        .iter()
        .map(|(key, field)| format!("{key}{between}{}", value(field)));
    fields.collect::<Vec<_>>().join(comma)
}

/// A value as text without quotes.
pub(super) fn raw(value: &Json) -> String {
    match value {
        Json::String(text) => text.clone(),
        other => other.to_string(),
    }
}

pub(super) fn function(name: &str, arguments: &Map<String, Json>) -> String {
    let parameters = arguments
        .iter()
        .map(|(key, value)| format!("<parameter={key}>\n{}\n</parameter>\n", raw(value)));
    format!(
        "<function={name}>\n{}</function>",
        parameters.collect::<String>()
    )
}

pub(super) fn arguments(arguments: &Map<String, Json>, between: &str) -> String {
    let arguments = arguments.iter().map(|(key, value)| {
        let value = raw(value);
        format!("<arg_key>{key}</arg_key>{between}<arg_value>{value}</arg_value>{between}")
    });
    arguments.collect()
}

pub(super) fn minimax(name: &str, arguments: &Map<String, Json>) -> String {
    let parameters = arguments
        .iter()
        .map(|(key, value)| format!("<parameter name=\"{key}\">{}</parameter>\n", raw(value)));
    let parameters: String = parameters.collect();
    format!("<invoke name=\"{name}\">\n{parameters}</invoke>\n")
}

/// As MiniCPM5's template says: what has tags or line breaks is CDATA.
pub(super) fn params(name: &str, arguments: &Map<String, Json>) -> String {
    let parameters = arguments.iter().map(|(key, value)| {
        let value = match raw(value) {
            text if text.contains(['<', '&', '\n']) => format!("<![CDATA[{text}]]>"),
            text => text,
        };
        format!("<param name=\"{key}\">{value}</param>")
    });
    let parameters: String = parameters.collect();
    format!("<function name=\"{name}\">{parameters}</function>")
}

pub(super) fn dsml(name: &str, arguments: &Map<String, Json>) -> String {
    let parameters = arguments.iter().map(|(key, value)| {
        let (text, is_text) = (raw(value), value.is_string());
        format!(
            "<｜DSML｜parameter name=\"{key}\" string=\"{is_text}\">{text}</｜DSML｜parameter>\n"
        )
    });
    let parameters: String = parameters.collect();
    format!("<｜DSML｜invoke name=\"{name}\">\n{parameters}</｜DSML｜invoke>\n")
}

pub(super) fn gemma_fields(arguments: &Map<String, Json>, quote: &str) -> String {
    format!(
        "{{{}}}",
        fields(arguments, (":", ","), |value| gemma(value, quote))
    )
}

pub(super) fn gemma(value: &Json, quote: &str) -> String {
    match value {
        Json::String(text) => format!("{quote}{text}{quote}"),
        Json::Array(items) => {
            let items: Vec<String> = items.iter().map(|item| gemma(item, quote)).collect();
            format!("[{}]", items.join(","))
        }
        Json::Object(fields) => gemma_fields(fields, quote),
        other => other.to_string(),
    }
}

pub(super) fn python(value: &Json) -> String {
    match value {
        Json::Bool(true) => "True".to_owned(),
        Json::Bool(false) => "False".to_owned(),
        Json::Null => "None".to_owned(),
        Json::Array(items) => {
            let items: Vec<String> = items.iter().map(python).collect();
            format!("[{}]", items.join(", "))
        }
        Json::Object(items) => {
            let items = items
                .iter()
                .map(|(key, item)| format!("'{key}': {}", python(item)));
            format!("{{{}}}", items.collect::<Vec<_>>().join(", "))
        }
        Json::String(text) => {
            let text = text
                .replace('\\', "\\\\")
                .replace('\n', "\\n")
                .replace('\'', "\\'");
            format!("'{text}'")
        }
        other => other.to_string(),
    }
}
