//! The forms of tags around raw text: blanks, missing tags, and types by schema.

use super::*;

#[test]
fn qwen_forgives_missing_outer_markers_and_other_blanks() {
    use ToolFormat::QwenXml;
    for text in [
        "<tool_call>\n<function=a>\n<parameter=x>\n1\n</parameter>\n</function>\n</tool_call>",
        "<tool_call><function=a><parameter=x>1</parameter></function></tool_call>",
        "<tool_call>  <function=a>\n\n<parameter=x> 1 </parameter>  \n</function>",
        "<function=a>\n<parameter=x>\n1\n</parameter>\n</function>\n</tool_call>",
        "<tool_call>\n<function=a>\n<parameter=x>\n1\n</parameter>\n</tool_call>",
        "<tool_call>\n<tool_call>\n{\"name\": \"a\", \"arguments\": {\"x\": 1}}\n</tool_call>",
    ] {
        let read = calls(
            QwenXml,
            text.strip_prefix("<tool_call>\n<tool_call>")
                .map_or(text, |_| &text[12..]),
        );
        assert_eq!(read, [a()], "{text}");
    }
    let lines = "<function=a>\n<parameter=x>\n\n  two\nlines\n\n</parameter>\n</function>";
    assert_eq!(
        calls(QwenXml, lines),
        [good("a", json!({"x": "\n  two\nlines\n"}))]
    );
    let two = "<tool_call>\n<function=a>\n<parameter=x>\n1\n</parameter>\n</function>\n<function=b>\n</function>\n</tool_call>";
    assert_eq!(calls(QwenXml, two), [a(), b()]);
    // One that is broken does not swallow the next.
    let broken = "<tool_call>\n<function=a>\n1\n</function>\n</tool_call>\n<tool_call>\n<function=b>\n</function>\n</tool_call>";
    let read = calls(QwenXml, broken);
    assert_eq!((malformed(&read[..1]), &read[1..]), (vec!["a"], &[b()][..]));
    let open = "<tool_call>\n<function=a>\n<parameter=x>\n1\n</tool_call>\n<tool_call>\n<function=b>\n</function>\n</tool_call>";
    let read = calls(QwenXml, open);
    assert_eq!(malformed(&read[..1]), ["a"]);
    assert_eq!(
        malformed(&calls(QwenXml, "<tool_call>get(x)</tool_call>")),
        [""]
    );
    assert_eq!(malformed(&calls(QwenXml, "<tool_call></tool_call>")), [""]);
    assert_eq!(malformed(&calls(QwenXml, "<function=>\n</function>")), [""]);
    // Behind a call, text is content and closing markers are nothing.
    let (content, _, read) = turn(
        QwenXml,
        "<function=b>\n</function>\n</tool_call>\n</tool_call>Well",
    );
    assert_eq!((content.as_str(), read), ("Well", vec![b()]));
}

#[test]
fn glm_reads_raw_values_and_hermes_json() {
    use ToolFormat::Glm;
    for text in [
        "<tool_call>a\n<arg_key>x</arg_key>\n<arg_value>1</arg_value>\n</tool_call>",
        "<tool_call>a<arg_key>x</arg_key><arg_value>1</arg_value></tool_call>",
        "<tool_call>\n a \n<arg_key> x </arg_key>  <arg_value>1</arg_value></tool_call>\n</tool_call>",
        "<tool_call>{\"name\": \"a\", \"arguments\": {\"x\": 1}}</tool_call>",
    ] {
        assert_eq!(calls(Glm, text), [a()], "{text}");
    }
    assert_eq!(
        calls(Glm, "<tool_call>b</tool_call><tool_call>b\n</tool_call>"),
        [b(), b()]
    );
    let text = "<tool_call>b<arg_key>x</arg_key><arg_value> two\nlines </arg_value></tool_call>";
    assert_eq!(calls(Glm, text), [good("b", json!({"x": " two\nlines "}))]);
    assert_eq!(
        malformed(&calls(Glm, "<tool_call>I call it</tool_call>")),
        [""]
    );
    assert_eq!(malformed(&calls(Glm, "<tool_call></tool_call>")), [""]);
    let read = calls(
        Glm,
        "<tool_call>a<arg_key>x</arg_value></tool_call><tool_call>b</tool_call>",
    );
    assert_eq!((malformed(&read[..1]), &read[1..]), (vec!["a"], &[b()][..]));
}

#[test]
fn minimax_types_values_by_the_schema() {
    use ToolFormat::MiniMax;
    let text = "<minimax:tool_call>\n<invoke name=\"get_it\">\n<parameter name=\"text\">7</parameter>\n\
                <parameter name=\"number\">7</parameter>\n<parameter name=list>[\"a\"]</parameter>\n\
                <parameter name='flag'>True</parameter>\n</invoke>\n</minimax:tool_call>";
    let tools = tools();
    let typed = Reading {
        tools: Some(&tools),
        ..reading(MiniMax)
    };
    let expected = json!({"text": "7", "number": 7, "list": ["a"], "flag": true});
    assert_eq!(
        typed.turn(text),
        (String::new(), None, vec![good("get_it", expected)])
    );
    let expected = json!({"text": 7, "number": 7, "list": ["a"], "flag": "True"});
    assert_eq!(calls(MiniMax, text), [good("get_it", expected)]);
    let broken = "<minimax:tool_call><invoke name=\"a\">x</invoke><invoke name=\"b\"></invoke></minimax:tool_call>";
    let read = calls(MiniMax, broken);
    assert_eq!((malformed(&read[..1]), &read[1..]), (vec!["a"], &[b()][..]));
    assert_eq!(
        malformed(&calls(
            MiniMax,
            "<minimax:tool_call>a(1)</minimax:tool_call>"
        )),
        [""]
    );
}
