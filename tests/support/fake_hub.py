#!/usr/bin/env python3
"""A local server that speaks the Hugging Face hub's API for one model, and can fail on purpose.

    python3 tests/support/fake_hub.py FOLDER [--repo org/name] [options]

serves the files of FOLDER as the repository and prints one line of JSON when it listens:
{"endpoint": "http://127.0.0.1:PORT", "commit": "..."}. Set HF_ENDPOINT to that endpoint.
It ends when its stdin closes, so it does not outlive the test that started it.

What it speaks (as Python's huggingface_hub and the crate hf-hub use it):
    GET      /api/models/REPO[/revision/REV]      the commit and the files
    GET      /api/models/REPO/tree/REV[/FOLDER]   files with their sizes, [?recursive=true]
    HEAD/GET /REPO/resolve/REV/FILE               the bytes; for large ones (--lfs) a redirect
    HEAD/GET /store/SHA256                        where the redirect leads, on this port or (--cdn) another
Ranges are honoured unless --no-range. The API files' ETags are git blob ids; those of large ones SHA-256.

The repository:
    --repo org/name    its name [org/tiny]         --revision NAME  a branch or tag besides main (repeatable)
    --lfs GLOB         which files are large (repeatable) [*.safetensors and tokenizer.json]
    --renamed-from R   the old name R redirects to the new one
    --token T          all of it needs this token: 401 without, with the code RepoNotFound
    --gated            the API is open, the files are refused: 401 without any token, 403 with one
    --cdn              the redirect leads to another port, that is, another host
    --log FILE         one JSON line for each request: method, path, range, authorization, status, server

One fault, at the files matching --file GLOB [*] or (status only) at the API with --file api:
    --fault cut        sends --at N bytes, then closes the connection
    --fault stall      sends N bytes, then nothing, and keeps the connection open
    --fault die        sends N bytes, then the whole server is gone
    --fault status     answers with --status S [503]
    --fault short      announces and sends N bytes less than the file has
    --fault long       announces and sends N bytes more
    --fault corrupt    the right number of bytes, with the byte at N changed
    --fault slow       sends N bytes every tenth of a second
    --times K          only the first K times, then all is well; 0 is always [1]
"""

import argparse
import fnmatch
import hashlib
import http.server
import json
import os
import sys
import threading
import time
import urllib.parse


def parse():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder")
    p.add_argument("--repo", default="org/tiny")
    p.add_argument("--revision", action="append", default=[])
    p.add_argument("--lfs", action="append", default=[])
    p.add_argument("--renamed-from")
    p.add_argument("--token")
    p.add_argument("--gated", action="store_true")
    p.add_argument("--cdn", action="store_true")
    p.add_argument("--no-range", action="store_true")
    p.add_argument("--port", type=int, default=0)
    p.add_argument("--log")
    p.add_argument("--fault", choices="cut stall die status short long corrupt slow".split())
    p.add_argument("--at", type=int, default=0)
    p.add_argument("--file", default="*")
    p.add_argument("--status", type=int, default=503)
    p.add_argument("--times", type=int, default=1)
    return p.parse_args()


class File:
    def __init__(self, args, path):
        with open(os.path.join(args.folder, path), "rb") as f:
            self.data = f.read()
        self.path = path
        self.lfs = any(fnmatch.fnmatch(path, g) for g in args.lfs or ["*.safetensors", "tokenizer.json"])
        self.sha256 = hashlib.sha256(self.data).hexdigest()
        self.oid = hashlib.sha1(b"blob %d\0" % len(self.data) + self.data).hexdigest()
        self.etag = self.sha256 if self.lfs else self.oid


class Repo:
    """The folder's files, read once, and the faults still to be made."""

    def __init__(self, args):
        self.args, self.lock, self.faults_made = args, threading.Lock(), 0
        paths = [
            os.path.relpath(os.path.join(folder, name), args.folder)
            for folder, _, names in os.walk(args.folder)
            for name in names
        ]
        self.files = {path: File(args, path) for path in sorted(paths)}
        summary = "".join(f"{f.path} {f.sha256}\n" for f in self.files.values())
        self.commit = hashlib.sha1(summary.encode()).hexdigest()
        self.revisions = ["main", self.commit, *args.revision]

    def fault(self, name, kinds):
        """The fault to make now at the file (or "api") called name, if it is of these kinds."""
        a = self.args
        if a.fault not in kinds or not fnmatch.fnmatch(name, a.file):
            return None
        with self.lock:
            if a.times and self.faults_made >= a.times:
                return None
            self.faults_made += 1
            return a.fault

    def tree(self, folder, recursive):
        entries, seen = [], set()
        for f in self.files.values():
            if folder and not f.path.startswith(folder + "/"):
                continue
            rest = f.path[len(folder) + 1 :] if folder else f.path
            if "/" in rest and not recursive:
                sub = (folder + "/" if folder else "") + rest.split("/")[0]
                if sub not in seen:
                    seen.add(sub)
                    entries.append({"type": "directory", "oid": "0" * 40, "size": 0, "path": sub})
                continue
            entry = {"type": "file", "oid": f.oid, "size": len(f.data), "path": f.path}
            if f.lfs:
                entry["lfs"] = {"oid": f.sha256, "size": len(f.data), "pointerSize": 134}
            entries.append(entry)
        return entries

    def info(self):
        return {
            "_id": "0" * 24,
            "id": self.args.repo,
            "modelId": self.args.repo,
            "author": self.args.repo.split("/")[0],
            "sha": self.commit,
            "private": bool(self.args.token),
            "gated": "manual" if self.args.gated else False,
            "disabled": False,
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "siblings": [{"rfilename": path} for path in self.files],
        }


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    repo = None  # set on subclasses, with server_name and cdn
    where = "hub"
    cdn = None

    def do_GET(self):
        self.route()

    do_HEAD = do_GET

    def route(self):
        repo, args = self.repo, self.repo.args
        url = urllib.parse.urlsplit(self.path)
        raw = [part for part in url.path.split("/") if part]
        parts = [urllib.parse.unquote(part) for part in raw]
        query = urllib.parse.parse_qs(url.query)
        if parts[:1] == ["store"] and len(parts) == 2:
            found = [f for f in repo.files.values() if f.sha256 == parts[1]]
            return self.body(found[0]) if found else self.fail(404, "EntryNotFound")
        if self.where == "cdn":
            return self.fail(404)
        api = parts[:2] == ["api", "models"]
        at = 2 if api else 0
        depth = len(args.repo.split("/"))
        name, rest = "/".join(parts[at : at + depth]), parts[at + depth :]
        if args.renamed_from and name == args.renamed_from:
            new = url.path.replace(args.renamed_from, args.repo, 1) + ("?" + url.query if url.query else "")
            return self.reply(307, b"", {"Location": new})
        authorized = self.headers.get("Authorization") == f"Bearer {args.token}"
        if name != args.repo:
            # As the real hub does: strangers are not told what does not exist.
            known = self.headers.get("Authorization") is not None
            return self.fail(404 if known else 401, "RepoNotFound")
        if args.token and not authorized:
            return self.fail(401, "RepoNotFound")
        if api:
            if repo.fault("api", {"status"}):
                return self.fail(args.status)
            if not rest:
                return self.json(repo.info())
            if rest[0] == "revision" and len(rest) == 2:
                ok = rest[1] in repo.revisions
                return self.json(repo.info()) if ok else self.fail(404, "RevisionNotFound")
            if rest[0] == "tree" and len(rest) >= 2:
                if rest[1] not in repo.revisions:
                    return self.fail(404, "RevisionNotFound")
                recursive = query.get("recursive", ["false"])[0].lower() in ("true", "1")
                return self.json(repo.tree("/".join(rest[2:]), recursive))
            return self.fail(404)
        if len(rest) >= 3 and rest[0] == "resolve":
            if args.gated:
                return self.fail(403 if self.headers.get("Authorization") else 401, "GatedRepo")
            if rest[1] not in repo.revisions:
                return self.fail(404, "RevisionNotFound")
            file = repo.files.get("/".join(rest[2:]))
            if file is None:
                return self.fail(404, "EntryNotFound", {"X-Repo-Commit": repo.commit})
            if not file.lfs:
                return self.body(file)
            headers = {
                "X-Repo-Commit": repo.commit,
                "X-Linked-Etag": f'"{file.sha256}"',
                "X-Linked-Size": str(len(file.data)),
                "Location": f"{self.cdn or ''}/store/{file.sha256}",
            }
            return self.reply(302, b"", headers)
        self.fail(404)

    def body(self, file):
        repo, args = self.repo, self.repo.args
        kinds = {"cut", "stall", "die", "status", "short", "long", "corrupt", "slow"}
        fault = repo.fault(file.path, kinds) if self.command == "GET" else None
        if fault == "status":
            return self.fail(args.status)
        data = file.data
        if fault == "short":
            data = data[: max(0, len(data) - args.at)]
        elif fault == "long":
            data = data + b"x" * args.at
        elif fault == "corrupt":
            data = data[: args.at] + bytes([data[args.at] ^ 1]) + data[args.at + 1 :]
        headers = {"ETag": f'"{file.etag}"', "Content-Type": "application/octet-stream"}
        if self.path.split("/")[1] != "store":
            headers["X-Repo-Commit"] = repo.commit
        status, wanted = 200, self.headers.get("Range")
        if wanted and not args.no_range:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            first, total = int(first), len(data)
            last = min(int(last), total - 1) if last else total - 1
            if first > last:
                return self.reply(416, b"", {"Content-Range": f"bytes */{total}"})
            status = 206
            headers["Content-Range"] = f"bytes {first}-{last}/{total}"
            data = data[first : last + 1]
        if fault not in ("cut", "stall", "die", "slow"):
            return self.reply(status, data, headers)
        self.start(status, len(data), headers)
        if fault == "slow":
            for at in range(0, len(data), args.at):
                self.send(data[at : at + args.at])
                time.sleep(0.1)
            return None
        self.send(data[: args.at])
        if fault == "die":
            time.sleep(0.2)  # until what was sent has arrived
            os._exit(0)
        if fault == "stall":
            time.sleep(600)
        self.close_connection = True
        return None

    def send(self, data):
        try:
            self.wfile.write(data)
            self.wfile.flush()
        except OSError:
            self.close_connection = True  # the client has gone

    def start(self, status, length, headers):
        self.note(status)
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(key, value)
        self.end_headers()

    def reply(self, status, data, headers):
        self.start(status, len(data), headers)
        if self.command != "HEAD":
            self.send(data)

    def json(self, value):
        self.reply(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def fail(self, status, code=None, headers=None):
        extra = {"X-Error-Code": code, "X-Error-Message": code} if code else {}
        self.reply(status, b'{"error": "no"}', {**(headers or {}), **extra, "Content-Type": "application/json"})

    def note(self, status):
        if self.repo.args.log:
            line = {
                "method": self.command,
                "path": self.path,
                "range": self.headers.get("Range"),
                "authorization": self.headers.get("Authorization"),
                "status": status,
                "server": self.where,
            }
            with self.repo.lock, open(self.repo.args.log, "a") as log:
                log.write(json.dumps(line) + "\n")

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        pass  # a client that goes away is part of the tests


def serve(port, **attributes):
    server = Server(("127.0.0.1", port), type("Bound", (Handler,), attributes))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_address[1]}"


def main():
    args = parse()
    repo = Repo(args)
    cdn = serve(0, repo=repo, where="cdn") if args.cdn else None
    endpoint = serve(args.port, repo=repo, cdn=cdn)
    print(json.dumps({"endpoint": endpoint, "commit": repo.commit}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
