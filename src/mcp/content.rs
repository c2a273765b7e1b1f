//! A tool's result as text for the model. Does not cut: how much the model is
//! shown is the session's business.

use rmcp::model::{CallToolResult, ContentBlock, ResourceContents};

use super::CallOutcome;

/// For what later versions of the protocol may bring.
const UNKNOWN: &str = "[content of a kind this host does not know]";

/// Text as it is, anything else described, one part a line.
pub(super) fn outcome(result: CallToolResult) -> CallOutcome {
    let mut has_text = false;
    let mut parts = Vec::new();
    for block in result.content {
        match block {
            ContentBlock::Text(text) => {
                has_text = true;
                parts.push(text.text);
            }
            ContentBlock::Resource(resource) => match resource.resource {
                ResourceContents::TextResourceContents { text, .. } => {
                    has_text = true;
                    parts.push(text);
                }
                ResourceContents::BlobResourceContents {
                    uri,
                    mime_type,
                    blob,
                    ..
                } => parts.push(describe(&format!("resource {uri}"), mime_type, &blob)),
                _ => parts.push(UNKNOWN.to_owned()),
            },
            ContentBlock::Image(image) => {
                parts.push(describe("image", Some(image.mime_type), &image.data));
            }
            ContentBlock::Audio(audio) => {
                parts.push(describe("audio", Some(audio.mime_type), &audio.data));
            }
            ContentBlock::ResourceLink(link) => {
                let mime_type = link
                    .mime_type
                    .map_or(String::new(), |kind| format!(", {kind}"));
                parts.push(format!("[link {}: {}{mime_type}]", link.name, link.uri));
            }
            _ => parts.push(UNKNOWN.to_owned()),
        }
    }
    if !has_text && let Some(structured) = result.structured_content.filter(|it| !it.is_null()) {
        parts.push(structured.to_string());
    }
    if parts.is_empty() {
        parts.push("(no content)".to_owned());
    }
    CallOutcome {
        text: parts.join("\n"),
        is_error: result.is_error.unwrap_or(false),
    }
}

fn describe(what: &str, mime_type: Option<String>, base64: &str) -> String {
    let kind = mime_type.map_or(String::new(), |kind| format!(", {kind}"));
    format!("[{what}{kind}, {}]", size(decoded_length(base64)))
}

/// How many bytes the base64 text stands for.
fn decoded_length(base64: &str) -> usize {
    base64.trim_end_matches('=').len() * 3 / 4
}

fn size(bytes: usize) -> String {
    match bytes {
        0..1_000 => format!("{bytes} bytes"),
        1_000..1_000_000 => format!("{} kB", (bytes + 500) / 1_000),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn text(result: serde_json::Value) -> (String, bool) {
        let outcome = outcome(serde_json::from_value(result).unwrap());
        (outcome.text, outcome.is_error)
    }

    #[test]
    fn results_become_text() {
        let table = [
            (
                json!({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}),
                "a\nb",
            ),
            (
                json!({"content": [{"type": "image", "mimeType": "image/png", "data": "A".repeat(16_000)}]}),
                "[image, image/png, 12 kB]",
            ),
            (
                json!({"content": [{"type": "audio", "mimeType": "audio/wav", "data": "AAA="}]}),
                "[audio, audio/wav, 2 bytes]",
            ),
            (
                json!({"content": [{"type": "resource", "resource": {"uri": "n://1", "text": "note"}}]}),
                "note",
            ),
            (
                json!({"content": [{"type": "resource", "resource": {"uri": "n://1", "mimeType": "application/zip", "blob": "AAAA"}}]}),
                "[resource n://1, application/zip, 3 bytes]",
            ),
            (
                json!({"content": [{"type": "resource_link", "uri": "file:///x", "name": "x"}]}),
                "[link x: file:///x]",
            ),
            (
                json!({"content": [], "structuredContent": {"b": 1, "a": [2]}}),
                r#"{"b":1,"a":[2]}"#,
            ),
            (
                json!({"content": [{"type": "text", "text": "t"}], "structuredContent": {"a": 1}}),
                "t",
            ),
            (json!({"content": []}), "(no content)"),
        ];
        for (result, expected) in table {
            assert_eq!(text(result), (expected.to_owned(), false));
        }
    }

    #[test]
    fn the_error_flag_is_carried() {
        let result = json!({"content": [{"type": "text", "text": "no"}], "isError": true});
        assert_eq!(text(result), ("no".to_owned(), true));
    }

    #[test]
    fn sizes_read_well() {
        let sizes = [0, 999, 1_000, 12_499, 999_499, 5_000_000].map(size);
        let expected = ["0 bytes", "999 bytes", "1 kB", "12 kB", "999 kB", "5.0 MB"];
        assert_eq!(sizes, expected);
    }
}
