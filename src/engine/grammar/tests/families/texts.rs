//! Families whose arguments are texts between tags, or literals.

use super::*;

pub(super) fn tagged() -> Vec<Family> {
    vec![
        Family {
            name: "qwen_xml",
            format: CallFormat::qwen_xml,
            special: &["<tool_call>", "</tool_call>"],
            right: &[
                "<tool_call>\n<function=weather>\n<parameter=city>\nOslo </para> \"x\"\n</parameter>\n<parameter=days>\n2\n</parameter>\n<parameter=unit>\nC\n</parameter>\n</function>\n</tool_call>",
                "Yes\n<tool_call>\n<function=now>\n</function>\n</tool_call>\n<tool_call><function=weather><parameter=city>\na\nb\n</parameter></function></tool_call> done",
            ],
            wrong: &[
                ("<tool_call>\n<function=", "other"),
                ("<tool_call>\n", "{"),
                ("<tool_call>\n<function=weather>\n<", "/function"),
                ("<tool_call>\n<function=weather>\n<parameter=", "days"),
                (
                    "<tool_call>\n<function=weather>\n<parameter=city>\nx\n</parameter>\n<parameter=",
                    "city",
                ),
                (
                    "<tool_call>\n<function=weather>\n<parameter=city>\nx\n</parameter>\n<parameter=days>\n",
                    "two",
                ),
                (
                    "<tool_call>\n<function=weather>\n<parameter=city>\nx\n</parameter>\n<parameter=days>\n1",
                    "1",
                ),
                (
                    "<tool_call>\n<function=weather>\n<parameter=city>\nx\n</parameter>\n<parameter=unit>\n",
                    "K",
                ),
            ],
            free: &[
                "<function=weather>",
                "<tool_calls>",
                "<think><tool_call>x</think>",
            ],
        },
        Family {
            name: "deepseek_v3_2",
            format: CallFormat::deepseek_v3_2,
            special: &["｜DSML｜"],
            right: &[
                "<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"weather\">\n<｜DSML｜parameter name=\"city\" string=\"true\">Oslo \"x\"</｜DSML｜parameter>\n<｜DSML｜parameter name=\"days\" string=\"false\">2</｜DSML｜parameter>\n<｜DSML｜parameter name=\"unit\" string=\"true\">C</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜function_calls>",
                "Yes\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"now\">\n</｜DSML｜invoke>\n<｜DSML｜invoke name=\"now\"></｜DSML｜invoke></｜DSML｜function_calls>",
            ],
            wrong: &[
                ("<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"", "other"),
                (
                    "<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"weather\">\n<｜DSML｜parameter name=\"",
                    "days",
                ),
                (
                    "<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"weather\">\n<｜DSML｜parameter name=\"city\" string=\"",
                    "f",
                ),
                (
                    "<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"weather\">\n<｜DSML｜parameter name=\"city\" string=\"true\">x</｜DSML｜parameter>\n<｜DSML｜parameter name=\"days\" string=\"",
                    "t",
                ),
                (
                    "<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"weather\">\n<｜DSML｜parameter name=\"city\" string=\"true\">x</｜DSML｜parameter>\n<｜DSML｜parameter name=\"days\" string=\"false\">",
                    "two",
                ),
                (
                    "<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"weather\">\n",
                    "</",
                ),
            ],
            free: &[
                "<｜DSML｜invoke name=\"weather\">",
                "<think><｜DSML｜function_calls>x</think>",
            ],
        },
        Family {
            name: "glm",
            format: CallFormat::glm,
            special: &[
                "<tool_call>",
                "</tool_call>",
                "<arg_key>",
                "</arg_key>",
                "<arg_value>",
                "</arg_value>",
            ],
            right: &[
                "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Oslo <b></arg_value>\n<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n</tool_call>",
                "Yes <tool_call>weather<arg_key>city</arg_key><arg_value></arg_value><arg_key>unit</arg_key><arg_value>F</arg_value></tool_call><tool_call>now</tool_call>",
                "<tool_call>now\n</tool_call>\n<tool_call>now\n</tool_call>",
            ],
            wrong: &[
                ("<tool_call>", "other"),
                ("<tool_call>weather\n<", "/"),
                ("<tool_call>weather\n<arg_key>", "days"),
                (
                    "<tool_call>weather<arg_key>city</arg_key><arg_value>x</arg_value><arg_key>days</arg_key><arg_value>",
                    "x",
                ),
                (
                    "<tool_call>weather<arg_key>city</arg_key><arg_value>x</arg_value><arg_key>unit</arg_key><arg_value>",
                    "c",
                ),
                ("<tool_call>now", "<arg_key>x"),
            ],
            free: &["<arg_key>x</arg_key>"],
        },
        Family {
            name: "minimax",
            format: CallFormat::minimax,
            special: &["<minimax:tool_call>", "</minimax:tool_call>"],
            right: &[
                "<minimax:tool_call>\n<invoke name=\"weather\">\n<parameter name=\"city\">Oslo</parameter>\n<parameter name=\"days\">2</parameter>\n</invoke>\n</minimax:tool_call>",
                "\n<minimax:tool_call>\n<invoke name=\"weather\"><parameter name=\"city\">a\nb</parameter></invoke>\n<invoke name=\"now\"></invoke>\n</minimax:tool_call>",
            ],
            wrong: &[
                ("<minimax:tool_call>\n<invoke name=\"", "other"),
                ("<minimax:tool_call>\n<invoke name=\"weather\">\n<", "/"),
                (
                    "<minimax:tool_call>\n<invoke name=\"weather\"><parameter name=\"city\">x</parameter><parameter name=\"days\">",
                    "x",
                ),
                ("<minimax:tool_call>\n<invoke name=\"now\"></invoke>", "x"),
            ],
            free: &["<invoke name=\"x\">"],
        },
    ]
}

pub(super) fn literals() -> Vec<Family> {
    vec![
        Family {
            name: "lfm2",
            format: CallFormat::lfm2,
            special: &["<|tool_call_start|>", "<|tool_call_end|>"],
            right: &[
                r#"<|tool_call_start|>[weather(city="Oslo", days=2, unit='C')]<|tool_call_end|>"#,
                r#"<|tool_call_start|>[weather(city='it\'s "x"',unit="F"), now()]<|tool_call_end|>Done."#,
                r#"Ok <|tool_call_start|>[ now( ) ]<|tool_call_end|><|tool_call_start|>[now()]<|tool_call_end|>"#,
            ],
            wrong: &[
                ("<|tool_call_start|>[", "other"),
                ("<|tool_call_start|>[weather", "s"),
                ("<|tool_call_start|>[weather(", ")"),
                ("<|tool_call_start|>[weather(", "days"),
                ("<|tool_call_start|>[weather(city=", "1"),
                ("<|tool_call_start|>[weather(city='x', ", "city"),
                ("<|tool_call_start|>[weather(city='x', days=", "'"),
                ("<|tool_call_start|>[weather(city='x', days=1", "1"),
                ("<|tool_call_start|>[weather(city='x', unit='", "K"),
                ("<|tool_call_start|>[now()", ")"),
            ],
            free: &["[weather()]", "<|tool_call_end|>"],
        },
        Family {
            name: "gemma",
            format: CallFormat::gemma,
            special: &["<start_function_call>", "<end_function_call>", "<escape>"],
            right: &[
                "<start_function_call>call:weather{city:<escape>Oslo {\"x\"}<escape>,days:2,unit:<escape>C<escape>}<end_function_call>",
                "<start_function_call>call:now{}<end_function_call><start_function_call>call:now{}<end_function_call>",
            ],
            wrong: &[
                ("<start_function_call>", "weather"),
                ("<start_function_call>call:", "other"),
                ("<start_function_call>call:weather{", "}"),
                ("<start_function_call>call:weather{city:", "\""),
                (
                    "<start_function_call>call:weather{city:<escape>x<escape>,days:",
                    "x",
                ),
                (
                    "<start_function_call>call:weather{city:<escape>x<escape>,unit:<escape>",
                    "K",
                ),
            ],
            free: &["call:weather{}"],
        },
        Family {
            name: "gemma4",
            format: CallFormat::gemma4,
            special: &[
                "<|tool_call>",
                "<tool_call|>",
                "<|\"|>",
                "<|channel>",
                "<channel|>",
            ],
            right: &[
                "<|channel>thought\n<|tool_call>x<channel|><|tool_call>call:weather{city:<|\"|>Oslo<|\"|>,days:2}<tool_call|>",
            ],
            wrong: &[
                ("<|tool_call>call:weather{city:", "<escape>"),
                ("<|tool_call>", "{"),
            ],
            free: &["<tool_call|>", "<|channel>thought\n<|tool_call>x"],
        },
    ]
}
