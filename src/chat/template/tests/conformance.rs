//! Renders the same cases here and with Python's jinja2 and compares them.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value as Json, json};

use super::super::{guarded, in_system, jinja, messages, methods};
use super::conversations;
use crate::chat::{Message, ToolSpec};

/// Names the Python that has jinja2; `scripts/test` sets it.
const PYTHON: &str = "LLM_SERVER_TEST_PYTHON";

pub(super) struct Case<'a> {
    pub(super) template: &'a str,
    pub(super) variables: Json,
}

/// What jinja2 makes of the cases: a text, or an error's message.
fn in_python(templates: &BTreeMap<&str, &str>, cases: &[Case<'_>]) -> Vec<Result<String, String>> {
    let python = std::env::var(PYTHON).unwrap_or_else(|_| "python3".to_owned());
    let work = json!({
        "templates": templates,
        "cases": cases.iter().map(|case| json!({"template": case.template, "variables": case.variables})).collect::<Vec<_>>(),
    });
    let help = format!(
        "the comparison with Python's jinja2 did not run with {python:?}. Run scripts/test, which \
         installs jinja2 and names its Python in {PYTHON}"
    );
    let mut child = Command::new(&python)
        .arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/support/render_jinja.py"
        ))
        .env("PYTHONIOENCODING", "utf-8")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{help}: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    let work = work.to_string();
    // The script reads all of its input before it writes.
    if let Err(error) = stdin.write_all(work.as_bytes()) {
        panic!("{help}: {error}");
    }
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{help}");
    let results: Vec<Json> = serde_json::from_slice(&output.stdout).unwrap();
    results
        .into_iter()
        .map(|result| match result["text"].as_str() {
            Some(text) => Ok(text.to_owned()),
            None => Err(result["error"].to_string()),
        })
        .collect()
}

fn here(template: &str, variables: &Json) -> Result<String, String> {
    let env = jinja::environment().unwrap();
    let source = jinja::without_generation_tags(template);
    let template = env
        .template_from_named_str("chat_template", &source)
        .map_err(|error| error.to_string())?;
    // The root is a plain map: its names are variables, not a dict's attributes.
    let root = minijinja::Value::from_pairs(
        variables
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, value)| (name.clone(), methods::from_json(value))),
    );
    guarded(|| template.render(root)).map_err(|error| error.to_string())
}

fn compare(templates: &BTreeMap<&str, &str>, cases: &[Case<'_>]) {
    let mut different: Vec<_> = cases
        .iter()
        .zip(outcomes(templates, cases))
        .filter(|(_, outcome)| !outcome.agrees())
        .map(|(case, outcome)| format!("{}: {}\n", case.template, outcome.first_difference()))
        .collect();
    different.dedup();
    assert!(
        different.is_empty(),
        "{} of {} cases differ from jinja2:\n{}",
        different.len(),
        cases.len(),
        different.iter().take(12).cloned().collect::<String>()
    );
}

/// What a case comes to: a text, or an error's message.
pub(super) struct Outcome {
    pub(super) jinja2: Result<String, String>,
    pub(super) here: Result<String, String>,
}

/// What the cases come to, in their order.
pub(super) fn outcomes(templates: &BTreeMap<&str, &str>, cases: &[Case<'_>]) -> Vec<Outcome> {
    let expected = in_python(templates, cases);
    assert_eq!(expected.len(), cases.len());
    let outcome = |(case, jinja2): (&Case<'_>, _)| Outcome {
        jinja2,
        here: here(templates[case.template], &case.variables),
    };
    cases.iter().zip(expected).map(outcome).collect()
}

impl Outcome {
    /// Whether both have the same text, or both fail.
    pub(super) fn agrees(&self) -> bool {
        match (&self.jinja2, &self.here) {
            (Ok(expected), Ok(got)) => expected == got,
            (Err(_), Err(_)) => true,
            _ => false,
        }
    }

    pub(super) fn first_difference(&self) -> String {
        first_difference(&self.jinja2, &self.here)
    }
}

fn first_difference(expected: &Result<String, String>, got: &Result<String, String>) -> String {
    let (Ok(expected), Ok(got)) = (expected, got) else {
        let cut = |result: &Result<String, String>| {
            format!("{result:?}").chars().take(200).collect::<String>()
        };
        return format!("\n jinja2 {}\n here   {}", cut(expected), cut(got));
    };
    let mut at = expected
        .bytes()
        .zip(got.bytes())
        .take_while(|(a, b)| a == b)
        .count();
    while !expected.is_char_boundary(at) || !got.is_char_boundary(at) {
        at -= 1;
    }
    let mut from = at.saturating_sub(40);
    while !expected.is_char_boundary(from) {
        from -= 1;
    }
    let cut = |text: &str| text[from..].chars().take(120).collect::<String>();
    format!("\n jinja2 {:?}\n here   {:?}", cut(expected), cut(got))
}

#[test]
fn conversations_render_as_jinja2_renders_them() {
    let templates = BTreeMap::from([
        (
            "demo",
            include_str!("../../../../models/demo/chat_template.jinja"),
        ),
        (
            "qwen3",
            include_str!("../../../../tests/fixtures/templates/qwen3.jinja"),
        ),
        (
            "strict",
            include_str!("../../../../tests/fixtures/templates/strict.jinja"),
        ),
        (
            "indented",
            include_str!("../../../../tests/fixtures/templates/indented.jinja"),
        ),
        (
            "python",
            include_str!("../../../../tests/fixtures/templates/python.jinja"),
        ),
        ("phi4_mini", PHI4_MINI),
    ]);
    let mut cases = Vec::new();
    for (messages, tools) in conversations::random(150) {
        for template in templates.keys() {
            cases.push(Case {
                template,
                variables: variables(&messages, &tools),
            });
        }
        let mut in_system = variables(&messages, &[]);
        in_system["messages"] = in_system::messages(&messages, &tools);
        cases.push(Case {
            template: "phi4_mini",
            variables: in_system,
        });
    }
    compare(&templates, &cases);
}

const PHI4_MINI: &str = include_str!("../../../../tests/fixtures/templates/phi4_mini.jinja");

/// What a conversation is rendered with.
pub(super) fn variables(messages: &[Message], tools: &[ToolSpec]) -> Json {
    json!({
        "messages": messages::messages(messages),
        "tools": messages::tools(tools),
        "documents": null,
        "add_generation_prompt": true,
        "bos_token": "<s>",
        "eos_token": "</s>",
    })
}

/// One expression or construct each, over the variables of the test.
const SNIPPETS: &[&str] = &[
    "{{ x }}|{{ x.b }}|{{ x['b'] }}|{{ x.nothing }}|{{ x.nothing is defined }}",
    "{{ x.items is defined }} {{ x['items'] }} {{ x.items() | list }} {{ x | items | list }}",
    "{{ x.nothing.more }}",
    "{{ 'a' + nothing }}",
    "{{ nothing + 'a' }}",
    "{{ 'a' + 1 }}",
    "{{ 'a' ~ 1 ~ none ~ true ~ 1.5 ~ nothing }}",
    "{{ nothing | length }} {{ nothing | tojson if false else 'x' }}",
    "{{ nothing | tojson }}",
    "{% for y in nothing %}a{% else %}none{% endfor %}",
    "{{ 'x' in nothing }} {{ 'b' in x }} {{ 'ell' in 'hello' }} {{ 2 in [1, 2] }}",
    "{{ nothing == none }} {{ nothing is none }} {{ none == false }} {{ 1 == true }} {{ 1 == 1.0 }} {{ '1' == 1 }}",
    "{% for c in 'añb' %}{{ c }},{% endfor %}",
    "{% for k in x %}{{ k }},{% endfor %}",
    "{{ list[-1] }} {{ list[5] is defined }} {{ list[:-1] }} {{ list[::2] }} {{ list[1:][0] }} {{ list[::-1][0] }}",
    "{{ list[1:] | length }} {{ list[1:] is sequence }} {{ list[::-1] | tojson }} {{ list[::-1] | list }}",
    "{{ (1, 'a') }} {{ (1,) }} {{ () }} {{ {} }} {{ {'a': (1, 2)} | tojson }} {{ [none, true, 'x'] }}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set ns = namespace(x=1) %}{% set ns.x = ns.x + 1 %}{{ ns.x }}",
    "{% set y %}block {{ x.a }}{% endset %}{{ y }}|{{ y | upper }}",
    "{% macro m(a, b='d', c=none) %}[{{ a }}{{ b }}{{ c }}]{% endmacro %}{{ m(1) }}{{ m(1, c=3) }}{{ m(b=2, a=1) }}",
    "{% macro m() %}<{{ caller() }}>{% endmacro %}{% call m() %}in{% endcall %}",
    "{% for a in list %}{% if loop.first %}{% continue %}{% endif %}{% if loop.last %}{% break %}{% endif %}{{ a }}{% endfor %}",
    "{% for a in list %}{{ loop.previtem }}<{{ a }}>{{ loop.nextitem }}{{ loop.cycle('o', 'e') }}{{ loop.changed(a) }};{% endfor %}",
    "{% for a in list recursive %}{{ loop.depth }}{{ a }}{% endfor %}",
    "{% for a, b in [(1, 2), (3, 4)] %}{{ a }}-{{ b }} {% endfor %}{% for a in list if a is string %}{{ loop.index }}{% endfor %}",
    "{{ -7 // 2 }} {{ -7 % 3 }} {{ 7.5 // 2 }} {{ 1 / 3 }} {{ 2 ** 0.5 }} {{ 10 / 5 }} {{ 1e100 }} {{ 0.1 + 0.2 }}",
    "{{ 3 | float }} {{ '3.7' | int }} {{ 'x' | int }} {{ '12' | int + 1 }} {{ 2.5 | round }} {{ 2.567 | round(2) }} {{ true | int }}",
    "{{ 'abc' | first }} {{ list | last }} {{ [3, 1, 2] | sort }} {{ [3, 1, 2] | sort(reverse=true) }} {{ [3, 1] | max }} {{ [] | first }}",
    "{{ ['b', 'A'] | sort }} {{ ['b', 'A'] | sort(case_sensitive=true) }} {{ x | dictsort }} {{ [1, 1, 2] | unique | list }}",
    "{{ [1, 2, 3] | select('odd') | list }} {{ [{'a': 1}, {'a': 2}] | map(attribute='a') | list }} {{ [1, 2] | sum }} {{ [[1], [2]] | sum(start=[]) }}",
    "{{ 'a,b' | replace(',', ';') }} {{ ' x ' | trim }}| {{ 'xxaxx' | trim('x') }} {{ 'hello world' | title }} {{ 'hELLO' | capitalize }}",
    "{{ 'a\nb\n\nc' | indent }}|{{ 'a\nb' | indent(2, true) }}|{{ 'a\n\nb' | indent(width=3, blank=true) }}|{{ 'a\n' | indent(4, first=true) }}|{{ 'a\nb\n\n' | indent('> ') }}|{{ '' | indent(2, true) }}",
    "{{ ['a', 1, none] | join('-') }} {{ list | join }} {{ 'x' | default('y') }} {{ '' | default('y', true) }} {{ nothing | d('z') }}",
    "{{ 'x' if false }}|{{ 'x' if nothing else 'y' }}|{{ nothing or 'z' }}|{{ '' and 'q' }}|{{ not x }}",
    "{{ '%s-%d-%05.2f' | format('a', 3, 2.5) }} {{ '{}-{:>4}-{0}' if false else '{:>4}'.format('a') }} {{ '{0} {a}'.format(1, a=2) }}",
    "{{ 'a b'.split() }} {{ 'a--b--c'.split('--', 1) }} {{ 'a b c'.rsplit(' ', 1) }} {{ 'a\nb\r\nc\n'.splitlines() }} {{ ''.split() }} {{ ''.split(',') }}",
    "{{ 'abc'.find('c') }} {{ 'abc'.index('c') }} {{ 'aXbX'.rfind('X') }} {{ 'a'.join(['x', 'y']) }} {{ 'ab'.isupper() }} {{ '12'.isdigit() }} {{ ' \n'.isspace() }}",
    "{{ 'xxabcxx'.strip('x') }} {{ 'abc'.removesuffix('c') }} {{ 'a=b=c'.partition('=') }} {{ 'a=b=c'.rpartition('=') }} {{ 'abc'.startswith('a') }}",
    "{{ x.get('a') }} {{ x.get('zz', 5) }} {{ x.keys() | list }} {{ x.values() | list | length }} {{ list.index(2) }} {{ list.count('s') }}",
    "{{ list.append(1) }}",
    "{{ x.update({'q': 1}) }}",
    "{{ 'a'.nope() }}",
    "{{ nope() }}",
    "{{ 'a' | nope }}",
    "{{ raise_exception('x') }}",
    "{{ x is mapping }} {{ list is mapping }} {{ x is iterable }} {{ x is sequence }} {{ 'a' is sequence }} {{ 'a' is iterable }} {{ 1 is iterable }} {{ none is iterable }}",
    "{{ 1 is number }} {{ true is number }} {{ true is integer }} {{ 1.0 is integer }} {{ 1.0 is float }} {{ true is boolean }} {{ none is none }} {{ 'a' is string }} {{ 1 is odd }} {{ x is callable }}",
    "{{ 1 is eq 1 }} {{ 'a' is in ['a'] }} {{ 'a' is in 'abc' }} {{ 1 is sameas 1 }} {{ true is true }} {{ 1 is true }} {{ 0 is false }} {{ 4 is divisibleby 2 }} {{ 'A' is upper }}",
    "{{ range(3) | list }} {{ range(1, 10, 3) | list }} {{ range(3) | length }} {{ dict(a=1, b=2) }}",
    "{{ {'a': 1} == {'a': 1} }} {{ [1] + [2] }} {{ 'ab' * 2 }} {{ [0] * 2 }} {{ 'a' < 'b' }} {{ 1 < 2 < 3 }} {{ [1, 2] == (1, 2) }}",
    "  {% if true %}\n  x\n  {% endif %}\n  y {%- if true -%} z {%- endif +%}\n w\n",
    "a\n{# comment #}\nb{#- trimmed -#}\nc\n\n",
    "{% raw %}{{ x }}{% endraw %}\n{%- raw -%} {% if %} {%- endraw -%} end",
    "{% generation %}a{% set inner = 1 %}{% endgeneration %}|{{ inner }}|{%- generation -%} b {%- endgeneration -%} c",
    "{% filter upper %}abc{% endfilter %} {% with q = 1 %}{{ q }}{% endwith %}{{ q }}",
    "{% if x.b is defined and x.b and x.b[0] == 1 %}yes{% elif false %}{% else %}no{% endif %}",
    "{{ '\\n' }}|{{ '\\u00e9' }}|{{ \"\\\"\" }}|{{ '\\\\' }}|{{ '<｜tool▁call｜>' }}|{{ '\\x41' }}",
    "{{ floats }} {{ floats | tojson }} {% for f in floats %}{{ f }} {{ f | string }} {% endfor %}",
    "{{ ints }} {{ ints | tojson }} {% for i in ints %}{{ i }} {{ i + 1 }} {% endfor %}",
    "{{ x | tojson }} {{ x | tojson(indent=2) }} {{ x | tojson(indent='\t') }} {{ x | tojson(indent=0) }} {{ x | tojson(separators=(',', ':')) }}",
    "{{ {1: 'a', none: 'b', false: 'c', 1.5: 'd'} | tojson }} {{ [] | tojson(indent=4) }} {{ {} | tojson(indent=4) }} {{ '<&>\\'' | tojson }}",
    "{{ '<a>' | e }} {{ '<a>' | safe }} {{ '<a>' | string }} {{ ['<a>'] | string }} {{ x | string }} {{ none | string }}",
    "{{ strftime_now('%Y') }} {{ strftime_now('%d %B %Y %A %b %j') }}",
    "{{ list | map('string') | map('upper') | join(',') }} {{ list | reverse | list }} {{ 'abc' | reverse }} {{ list | batch(2) | list }}",
    "{{ [{'r': 'a', 'c': 1}, {'r': 'b'}] | selectattr('c', 'defined') | list }} {{ [{'r': 'a'}] | rejectattr('r', 'equalto', 'a') | list }} {{ [{'r': 'a'}, {'r': 'b'}] | groupby('r') | map('first') | list }}",
    "{{ x.a.__class__ }}",
    "{{ loop }}",
    "{{ 'abc'[1] }} {{ 'abc'[-1] }} {{ 'abc'[9] is defined }} {{ '日本語'[1:] }} {{ 'abc'[::-1] }} {{ 'abcdef'[1:5:2] }}",
    "{{ 12345678901234567890123 }} {{ 1_000 }} {{ 0x1f }}",
    "{{ '7' | int(3) }} {{ 'q' | int(3) }} {{ 'q' | int(default=3) }} {{ none | int }} {{ ' 8 ' | int }} {{ -3.9 | int }} {{ 'q' | float }} {{ '1e3' | float }} {{ false | float }}",
    "{{ {'a': {'b': [1]}}.a.b[0] }} {{ x['a'].upper() }} {{ (x.a ~ 'z').upper() }} {{ x.a | upper ~ 'z' }}",
    "{{ '\\u001f \\u00a0x\\u001c' | trim }}|{{ 'aba' | trim(chars='a') }}|{{ none | trim }}",
    "{{ 'a' 'b' }}",
    "{{ 'x' * 3 }}{{ '-' * (2 + 1) }} {{ 1 if x else 2 }} {{ [1, 2, 3][1:][::-1] | first }}",
    "{{ nothing() }}",
    "{{ x.a() }}",
    "{% set ns = namespace() %}{{ ns.q is defined }}{% for i in range(2) %}{% set v = i %}{% endfor %}{{ v }}",
    "{% for m in list %}{% set found = true %}{% endfor %}{{ found is defined }} {% if true %}{% set w = 1 %}{% endif %}{{ w }}",
];

#[test]
fn constructs_render_as_jinja2_renders_them() {
    let variables = json!({
        "x": {"b": [1, null, true, 2.0], "a": "it's \"ü\"\n\u{1}", "items": {"type": "é<"}, "n": {"é": {}}},
        "list": [1, 2, "s", "t"],
        "floats": [0.0, -0.0, 1.0, 1e15, 1e16, 1.5e16, 123456.789, 1e-4, 1e-5, 1.25e-7, 5e-324, 1.7976931348623157e308],
        "ints": [0, -1, 9007199254740993u64, u64::MAX, i64::MIN],
    });
    let templates: BTreeMap<_, _> = SNIPPETS.iter().map(|text| (*text, *text)).collect();
    let cases: Vec<Case> = SNIPPETS
        .iter()
        .map(|template| Case {
            template,
            variables: variables.clone(),
        })
        .collect();
    compare(&templates, &cases);
}
