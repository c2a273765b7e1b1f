#!/usr/bin/env python3
"""A fake MCP server for the tests: well-behaved by default, broken in one
particular way for each option. Python 3.8 or newer, standard library only.

    python3 fake_mcp.py [OPTIONS]            speaks over stdin and stdout
    python3 fake_mcp.py --http PORT          speaks streamable HTTP at /mcp

Tools (all of them are listed unless --tools says otherwise):

    echo {text}          the text
    add {a, b}           the sum
    slow {seconds}       "slept N s", or {text}, after that time; other calls go on meanwhile
    big {bytes}          a text of that many letters "x"
    crash {}             the process ends at once, without an answer (exit code 3)
    hangup {}            stdout is closed but the process lives on
    fail {text}          a result with isError
    protocol_error {}    a JSON-RPC error in place of a result
    image {}             an image/png of 68 bytes
    audio {}             an audio/wav of 12 bytes
    resource {}          a text resource, a blob resource and a link
    structured {}        structuredContent without any text
    empty {}             a result without content
    env {name}           that environment variable, "(unset)" if there is none
    cwd {}               the working directory
    pid {}               the process id
    log {text}           sends notifications/message, then the result
    stderr {text}        writes the text to stderr, then the result
    garbage {}           prints every kind of garbage on stdout, then the result
    overflow {bytes}     one endless line of that many bytes that begins like a message
    malformed {}         an answer with the right id that is not valid JSON-RPC
    change {}            adds the tool "extra" and sends notifications/tools/list_changed
    extra {}             only there after "change"
    ask {method}         sends that request to the client; the result is the client's answer as JSON

Options:

    --name NAME          its name in serverInfo (default "fake"); version is "1.0"
    --tools A,B          lists only these tools
    --suffix S           added to every result of echo, to tell two servers apart
    --play NAME=TOOL[:J] offers a tool the demo model was trained with (get_temperature, get_current_time,
                         calculate, system_info) that behaves like TOOL with the arguments J (JSON) whatever
                         it is called with; only such tools are listed then. May be given more than once.
    --hang               never answers anything
    --hang-list          answers initialize, never tools/list
    --start-delay S      waits that many seconds before it answers anything
    --exit-at-start      writes a line to stderr and exits with code 7
    --fail-starts N      does that for the first N starts (needs --starts)
    --starts FILE        appends its process id to FILE at every start
    --record FILE        appends every message it receives to FILE, one JSON text a line
    --pages N            tools/list in N pages
    --endless-pages      tools/list never ends: every page has the same cursor
    --odd-schemas        adds tools with unusual schemas, one without a name, one twice
    --garbage            prints garbage on stdout before every message
    --flood-stderr N     writes N lines to stderr at start; 0 goes on for ever
    --long-stderr        writes a line of 1 MB to stderr at start
    --ignore-sigterm     ignores SIGTERM and the end of stdin
    --grandchild FILE    starts a process that sleeps for an hour, its id in FILE
    --http PORT          streamable HTTP on 127.0.0.1; 0 takes a free port
    --port-file FILE     the port is written to FILE
    --require-header H:V requests without this header get 401
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="
)


def schema(**properties):
    kinds = {int: "integer", float: "number", str: "string"}
    return {
        "type": "object",
        "properties": {name: {"type": kinds[kind]} for name, kind in properties.items()},
        "required": list(properties),
    }


TOOLS = {
    "echo": ("Repeats the text.", schema(text=str)),
    "add": ("Adds two numbers.", schema(a=float, b=float)),
    "slow": ("Sleeps.", schema(seconds=float)),
    "big": ("A long text.", schema(bytes=int)),
    "crash": ("Ends the process.", schema()),
    "hangup": ("Closes stdout.", schema()),
    "fail": ("Fails.", schema(text=str)),
    "protocol_error": ("A JSON-RPC error.", schema()),
    "image": ("A picture.", schema()),
    "audio": ("A sound.", schema()),
    "resource": ("Resources.", schema()),
    "structured": ("A structured result.", schema()),
    "empty": ("Nothing.", schema()),
    "env": ("Reads an environment variable.", schema(name=str)),
    "cwd": ("The working directory.", schema()),
    "pid": ("The process id.", schema()),
    "log": ("Sends a log message.", schema(text=str)),
    "stderr": ("Writes to stderr.", schema(text=str)),
    "garbage": ("Prints garbage.", schema()),
    "overflow": ("Prints an endless line.", schema(bytes=int)),
    "malformed": ("Answers with something that is no answer.", schema()),
    "change": ("Adds a tool.", schema()),
    "ask": ("Asks the client.", schema(method=str)),
}

# What --play may name: the demo model calls these reliably, so that a test can
# have a real model make a call that goes wrong.
PLAYED = {
    "get_temperature": ("Get the current temperature in a city.", schema(city=str)),
    "get_current_time": ("Get the current time in a timezone.", schema(timezone=str)),
    "calculate": ("Evaluate a math expression.", schema(expression=str)),
    "system_info": ("Get information about this computer.", schema()),
}

ODD = [
    {"name": "no_type", "inputSchema": {"properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {}}}},
    {"name": "bare", "inputSchema": {}},
    {"name": "no_schema"},
    {"name": "", "inputSchema": {"type": "object"}},
    {"name": "twice", "inputSchema": {"type": "object"}},
    {"name": "twice", "inputSchema": {"type": "object"}},
]


def text(value, **more):
    return dict({"content": [{"type": "text", "text": value}]}, **more)


class Server:
    def __init__(self, options):
        self.options = options
        self.lock = threading.Lock()
        self.played = {}  # the name offered -> (the tool it behaves like, its arguments)
        for played in options.play:
            name, _, tool = played.partition("=")
            tool, _, given = tool.partition(":")
            self.played[name] = (tool, json.loads(given or "{}"))
        self.names = options.tools.split(",") if options.tools else list(self.played or TOOLS)
        self.changed = False
        self.waiting = {}  # the id of a request to the client -> [event, answer]

    # -- over stdio -------------------------------------------------------

    def write(self, raw):
        with self.lock:
            sys.stdout.buffer.write(raw)
            sys.stdout.buffer.flush()

    def send(self, message):
        if self.options.garbage:
            self.print_garbage()
        self.write(json.dumps(dict(jsonrpc="2.0", **message)).encode() + b"\n")

    def print_garbage(self):
        self.write(
            b"Listening on stdio, have fun\n"
            b"\n"
            b"42\n"
            b'{"this": "is no message"}\n'
            b"{not json at all\n"
            b'[{"jsonrpc": "2.0", "method": "notifications/x"}]\n'
            b"\xff\xfe\x00 no text either\n" + b"y" * 1_000_000 + b"\n"
        )

    def serve_stdio(self):
        for line in sys.stdin:
            if not line.strip():
                continue
            message = json.loads(line)
            self.record(message)
            threading.Thread(target=self.take, args=(message,), daemon=True).start()
        while self.options.ignore_sigterm:
            time.sleep(60)

    def take(self, message):
        if self.options.hang:
            return
        if "method" not in message:
            event, answer = self.waiting[message["id"]]
            answer.append({key: message[key] for key in ("result", "error") if key in message})
            event.set()
            return
        reply = self.handle(message)
        if reply is not None:
            self.send(reply)

    def request(self, method):
        params = {}
        if method == "elicitation/create":
            params = {"message": "?", "requestedSchema": {"type": "object", "properties": {}}}
        elif method == "sampling/createMessage":
            params = {"messages": [], "maxTokens": 1}
        event, answer = threading.Event(), []
        ident = "ask-" + uuid.uuid4().hex
        self.waiting[ident] = (event, answer)
        self.send({"id": ident, "method": method, "params": params})
        return answer[0] if event.wait(10) else {"error": "no answer"}

    # -- both -------------------------------------------------------------

    def record(self, message):
        if self.options.record:
            with self.lock, open(self.options.record, "a") as file:
                file.write(json.dumps(message) + "\n")

    def handle(self, message):
        """The reply to a message, None for a notification."""
        if "id" not in message:
            return None
        method, params, ident = message["method"], message.get("params") or {}, message["id"]
        if method == "initialize":
            return {"id": ident, "result": {
                "protocolVersion": params["protocolVersion"],
                "capabilities": {"tools": {"listChanged": True}, "logging": {}},
                "serverInfo": {"name": self.options.name, "version": "1.0"},
            }}
        if method == "ping":
            return {"id": ident, "result": {}}
        if method == "tools/list":
            return None if self.options.hang_list else {"id": ident, "result": self.page(params)}
        if method == "tools/call":
            return self.call(ident, params["name"], params.get("arguments") or {})
        return {"id": ident, "error": {"code": -32601, "message": "no method " + method}}

    def page(self, params):
        names = self.names + (["extra"] if self.changed else [])
        known = dict(TOOLS, **PLAYED)
        tools = [
            {"name": name, "description": known[name][0], "inputSchema": known[name][1]}
            if name in known else {"name": name, "inputSchema": schema()}
            for name in names
        ]
        if self.options.odd_schemas:
            tools += ODD
        if self.options.endless_pages:
            return {"tools": tools[:1], "nextCursor": "again"}
        pages = self.options.pages
        at = int(params.get("cursor") or 0)
        size = -(-len(tools) // pages)
        result = {"tools": tools[at * size:(at + 1) * size]}
        if at + 1 < pages:
            result["nextCursor"] = str(at + 1)
        return result

    def call(self, ident, name, given):
        if name in self.played:
            name, given = self.played[name]
        if name == "malformed":
            self.write(b'{"jsonrpc": "2.0", "id": %d, "error": "just a string"}\n' % ident)
            return None
        if name == "overflow":
            self.write(b'{"jsonrpc": "2.0", "id": 1, "result": "')
            for _ in range(int(given["bytes"]) // 65536):
                self.write(b"z" * 65536)
            return None
        if name == "protocol_error":
            return {"id": ident, "error": {"code": -32602, "message": "these arguments are not to my taste"}}
        return {"id": ident, "result": self.result(name, given)}

    def result(self, name, given):
        if name == "echo":
            return text(str(given["text"]) + self.options.suffix)
        if name == "add":
            return text(json.dumps(given["a"] + given["b"]))
        if name == "slow":
            time.sleep(given["seconds"])
            return text(given.get("text", "slept %s s" % given["seconds"]))
        if name == "big":
            return text("x" * int(given["bytes"]))
        if name == "crash":
            os._exit(3)
        if name == "hangup":
            os.close(1)
            time.sleep(3600)
        if name == "fail":
            return text(given["text"], isError=True)
        if name == "image":
            return {"content": [{"type": "image", "mimeType": "image/png", "data": PNG}]}
        if name == "audio":
            return {"content": [{"type": "audio", "mimeType": "audio/wav", "data": "UklGRgAAAABXQVZF"}]}
        if name == "resource":
            return {"content": [
                {"type": "resource", "resource": {"uri": "note://1", "mimeType": "text/plain", "text": "a note"}},
                {"type": "resource", "resource": {"uri": "blob://1", "mimeType": "application/zip", "blob": "AAAA"}},
                {"type": "resource_link", "uri": "file:///x.txt", "name": "x.txt", "mimeType": "text/plain"},
            ]}
        if name == "structured":
            return {"content": [], "structuredContent": {"answer": 42}}
        if name == "empty":
            return {"content": []}
        if name == "env":
            return text(os.environ.get(given["name"], "(unset)"))
        if name == "cwd":
            return text(os.getcwd())
        if name == "pid":
            return text(str(os.getpid()))
        if name == "log":
            self.send({"method": "notifications/message",
                       "params": {"level": "warning", "logger": "fake", "data": given["text"]}})
            return text("logged")
        if name == "stderr":
            print(given["text"], file=sys.stderr, flush=True)
            return text("written")
        if name == "garbage":
            self.print_garbage()
            return text("printed")
        if name == "change":
            self.changed = True
            self.send({"method": "notifications/tools/list_changed"})
            return text("changed")
        if name == "extra":
            return text("extra")
        if name == "ask":
            return text(json.dumps(self.request(given["method"])))
        return text("there is no tool " + name, isError=True)


def serve_http(server, options):
    sessions = set()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def answer(self, status, body=None, **headers):
            body = b"" if body is None else json.dumps(body).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            if body:
                self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self):
            self.answer(405)

        def do_DELETE(self):
            sessions.discard(self.headers.get("Mcp-Session-Id"))
            self.answer(200)

        def do_POST(self):
            message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.record(message)
            if options.require_header:
                name, value = options.require_header.split(":", 1)
                if self.headers.get(name) != value:
                    return self.answer(401)
            session = self.headers.get("Mcp-Session-Id")
            extra = {}
            if message.get("method") == "initialize":
                session = uuid.uuid4().hex
                sessions.add(session)
                extra["Mcp_Session_Id"] = session
            elif session not in sessions:
                return self.answer(404)
            if options.hang:
                time.sleep(3600)
            reply = server.handle(message)
            if reply is None:
                return self.answer(202)
            self.answer(200, dict(jsonrpc="2.0", **reply), **extra)

    httpd = ThreadingHTTPServer(("127.0.0.1", options.http), Handler)
    httpd.daemon_threads = True
    if options.port_file:
        with open(options.port_file + ".part", "w") as file:
            file.write(str(httpd.server_address[1]))
        os.replace(options.port_file + ".part", options.port_file)
    httpd.serve_forever()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", default="fake")
    parser.add_argument("--tools")
    parser.add_argument("--suffix", default="")
    parser.add_argument("--play", action="append", default=[])
    for flag in ("hang", "hang-list", "exit-at-start", "endless-pages", "odd-schemas",
                 "garbage", "long-stderr", "ignore-sigterm"):
        parser.add_argument("--" + flag, action="store_true")
    parser.add_argument("--start-delay", type=float, default=0)
    parser.add_argument("--fail-starts", type=int, default=0)
    parser.add_argument("--starts")
    parser.add_argument("--record")
    parser.add_argument("--pages", type=int, default=1)
    parser.add_argument("--flood-stderr", type=int)
    parser.add_argument("--grandchild")
    parser.add_argument("--http", type=int)
    parser.add_argument("--port-file")
    parser.add_argument("--require-header")
    options = parser.parse_args()

    started = 1
    if options.starts:
        with open(options.starts, "a+") as file:
            file.write("%d\n" % os.getpid())
            file.flush()
            file.seek(0)
            started = len(file.readlines())
    if options.exit_at_start or started <= options.fail_starts:
        print("fake_mcp: told to fail at start", file=sys.stderr, flush=True)
        sys.exit(7)
    if options.ignore_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if options.grandchild:
        # It keeps none of our pipes, so that only a signal can end it.
        child = subprocess.Popen(
            ["sleep", "3600"], stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with open(options.grandchild, "w") as file:
            file.write(str(child.pid))
    if options.long_stderr:
        print("w" * 1_000_000, file=sys.stderr, flush=True)
    if options.flood_stderr is not None:
        def flood():
            line = 0
            while options.flood_stderr == 0 or line < options.flood_stderr:
                line += 1
                print("flood line %d" % line, file=sys.stderr)
            sys.stderr.flush()
        threading.Thread(target=flood, daemon=True).start()
    time.sleep(options.start_delay)

    server = Server(options)
    if options.http is not None:
        serve_http(server, options)
    else:
        server.serve_stdio()


if __name__ == "__main__":
    main()
