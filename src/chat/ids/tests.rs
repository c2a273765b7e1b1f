#![allow(clippy::unwrap_used)]

use serde_json::Map;

use super::*;
use crate::chat::Arguments;

fn parsed(name: &str, id: Option<&str>) -> ParsedCall {
    ParsedCall {
        name: name.to_owned(),
        arguments: Arguments::Object(Map::new()),
        id: id.map(str::to_owned),
    }
}

/// A conversation with calls of these ids.
fn had(ids: &[&str]) -> Vec<Message> {
    let call = |id: &&str| ToolCall {
        id: (*id).to_owned(),
        name: "t".to_owned(),
        arguments: Arguments::Object(Map::new()),
    };
    let one = |id| Message::Assistant {
        content: String::new(),
        reasoning: None,
        tool_calls: vec![call(id)],
        written: None,
    };
    ids.iter().map(one).collect()
}

fn ids(format: ToolFormat, before: &[&str], calls: &[(&str, Option<&str>)]) -> Vec<String> {
    let mut ids = Ids::new(format, &had(before));
    let calls = calls.iter().map(|(name, id)| parsed(name, *id));
    calls.map(|call| ids.named(call).id).collect()
}

#[test]
fn calls_without_an_id_get_the_next_of_ours() {
    use ToolFormat::Hermes;
    let two = [("t", None), ("t", None)];
    assert_eq!(ids(Hermes, &[], &two), ["call00000", "call00001"]);
    let before = ["call00003", "toolu_99", "callous", "call00001"];
    assert_eq!(ids(Hermes, &before, &two), ["call00004", "call00005"]);
}

#[test]
fn an_id_that_the_model_wrote_is_kept_if_it_is_shaped_and_free() {
    use ToolFormat::{Hermes, KimiK2, Mistral};
    for (format, name, id) in [
        (Mistral, "t", "a1B2c3D4e"),
        (KimiK2, "t", "functions.t:7"),
        (KimiK2, "my.t:c", "functions.my.t:c:0"),
        (Hermes, "t", "chatcmpl-tool_1.2:3"),
    ] {
        assert_eq!(ids(format, &[], &[(name, Some(id))]), [id]);
        let again = ids(format, &[id], &[(name, Some(id))]);
        assert_ne!(again, [id]);
        let twice = ids(format, &[], &[(name, Some(id)), (name, Some(id))]);
        assert_eq!(twice[0], id);
        assert_ne!(twice[1], id);
    }
    for (format, id, ours) in [
        (Mistral, "a1B2c3D4", "call00000"),
        (Mistral, "a1B2c3D4ee", "call00000"),
        (Mistral, "a1B2c3D4_", "call00000"),
        (Mistral, "é1B2c3D4", "call00000"),
        (KimiK2, "functions.other:0", "functions.t:0"),
        (KimiK2, "functions.t:", "functions.t:0"),
        (KimiK2, "functions.t:+1", "functions.t:0"),
        (KimiK2, "call00000", "functions.t:0"),
        (Hermes, "", "call00000"),
        (Hermes, "a b", "call00000"),
        (Hermes, "<x>", "call00000"),
        (Hermes, &"x".repeat(65), "call00000"),
    ] {
        assert_eq!(ids(format, &[], &[("t", Some(id))]), [ours], "{id}");
    }
}

/// Ours keep out of the way of those that the model writes, and the other way
/// round.
#[test]
fn ids_of_both_kinds_stay_apart() {
    use ToolFormat::{KimiK2, Mistral};
    let mixed = [("t", None), ("t", Some("call00000")), ("t", None)];
    let expected = ["call00000", "call00001", "call00002"];
    assert_eq!(ids(Mistral, &[], &mixed), expected);
    let mixed = [("t", Some("call00000")), ("t", None)];
    assert_eq!(ids(Mistral, &[], &mixed), ["call00000", "call00001"]);
    let before = ["functions.t:1", "functions.u:4", "call00009"];
    let mixed = [("t", None), ("u", Some("functions.u:6")), ("u", None)];
    assert_eq!(
        ids(KimiK2, &before, &mixed),
        ["functions.t:5", "functions.u:6", "functions.u:7"]
    );
    // The largest number there is.
    let last = format!("functions.t:{}", usize::MAX);
    assert_eq!(ids(KimiK2, &[&last], &[("u", None)]).len(), 1);
}
