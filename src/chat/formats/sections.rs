//! Calls that each have a marker before the name, one between the name and the
//! arguments' JSON, and one at the end, with a pair of markers around them all.
//!
//! Only the JSON and what is before it are needed: a missing end is forgiven.
//! Knows no form's markers.

use super::steps::{Look, Start, Step, malformed, start};
use super::tags::length_before;
use super::{ParsedCall, json};

/// The markers of a form.
pub(super) struct Markers {
    pub(super) call: &'static str,
    pub(super) separator: &'static str,
    /// What may stand behind the arguments.
    pub(super) call_ends: &'static [&'static str],
    /// What ends all calls.
    pub(super) end: &'static str,
    /// The name, from the texts on either side of the separator: the second
    /// goes up to the arguments.
    pub(super) name: fn(&str, &str) -> String,
    /// The call's id, from the text before the separator.
    pub(super) id: fn(&str) -> Option<String>,
}

/// Looks at a section.
pub(super) fn step(look: &Look<'_>, markers: &Markers) -> Step {
    let text = look.text.trim_start();
    let blanks = length_before(look.text, text);
    if text.is_empty() {
        return Step::More;
    }
    if !look.first {
        match start(text, look.ended, markers.call_ends) {
            Start::With(end) => return Step::Skip(blanks + end.len()),
            Start::Perhaps => return Step::More,
            Start::Other => {}
        }
    }
    match start(text, look.ended, &[markers.call, markers.end]) {
        Start::With(found) if found == markers.call => match call(text, markers) {
            Some((call, length)) => Step::Calls(vec![call], blanks + length),
            None => Step::More,
        },
        Start::With(end) => Step::Over(blanks + end.len()),
        Start::Perhaps => Step::More,
        Start::Other if look.first => Step::Unreadable,
        Start::Other => Step::Over(0),
    }
}

/// The name in a call that is cut short.
pub(super) fn name_in(text: &str, markers: &Markers) -> Option<String> {
    let text = text.trim_start();
    let text = text.strip_prefix(markers.call).unwrap_or(text);
    let (head, behind) = text.split_once(markers.separator)?;
    // Without its end, the name may be there in part only.
    let end = behind.find(['{', '`', '\n', '<'])?;
    let name = (markers.name)(head, &behind[..end]);
    (!name.is_empty()).then_some(name)
}

/// The call that `text` begins with, and its length. `None` is more to come.
fn call(text: &str, markers: &Markers) -> Option<(ParsedCall, usize)> {
    let behind_marker = &text[markers.call.len()..];
    let end = markers.call_ends.last().copied().unwrap_or(markers.end);
    let object = behind_marker.find('{');
    let ends = [end, markers.end, markers.call];
    let end = ends.iter().filter_map(|end| behind_marker.find(end)).min();
    match (object, end) {
        (Some(object), end) if end.is_none_or(|end| object < end) => {
            let length = json::extent(&behind_marker[object..])?;
            let arguments = &behind_marker[object..object + length];
            let whole = markers.call.len() + object + length;
            let call = match behind_marker[..object].split_once(markers.separator) {
                Some((head, between)) => ParsedCall {
                    id: (markers.id)(head),
                    ..json::with_arguments(&(markers.name)(head, between), arguments)
                },
                None => malformed(None, &text[..whole], "the tool call has no name"),
            };
            Some((call, whole))
        }
        (_, Some(end)) => {
            let reason = "the tool call has no JSON object with its arguments";
            let whole = &text[..markers.call.len() + end];
            Some((
                malformed(name_in(whole, markers), whole, reason),
                whole.len(),
            ))
        }
        (_, None) => None,
    }
}
