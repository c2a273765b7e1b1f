"""Renders templates with jinja2 set up as transformers sets it up, so that the
Rust side can be compared with it byte for byte.

Reads {"templates": {name: text}, "cases": [{"template": name, "variables": {}}]}
from stdin and writes a list with {"text": …} or {"error": …} for each case.
Needs jinja2 and nothing else.
"""

import datetime
import json
import sys

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment


class Generation(jinja2.ext.Extension):
    """The tag that marks what a model is trained on; it writes its body."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(
        x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def strftime_now(format):
    return datetime.datetime.now().strftime(format)


def main():
    env = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[Generation, jinja2.ext.loopcontrols],
    )
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = strftime_now

    work = json.load(sys.stdin)
    templates, results = {}, []
    for case in work["cases"]:
        name = case["template"]
        try:
            if name not in templates:
                templates[name] = env.from_string(work["templates"][name])
            results.append({"text": templates[name].render(**case["variables"])})
        except Exception as error:
            results.append({"error": f"{type(error).__name__}: {error}"})
    json.dump(results, sys.stdout)


main()
