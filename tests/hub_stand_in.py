"""A stand-in of the Hugging Face Hub on loopback: what huggingface_hub asks for, from folders of this machine."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_right"


@dataclass
class Repository:
    """The files of each commit by name, and the branches and tags."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict[str, dict[str, bytes]])
    refs: dict[str, str] = field(default_factory=dict[str, str])
    gated: bool = False
    private: bool = False

    def commit(self, files: dict[str, bytes], ref: str = "main") -> str:
        """Adds a commit to a branch, and returns its name."""
        name = hashlib.sha1(f"{len(self.commits)}".encode() + b"".join(files.values())).hexdigest()
        self.commits[name] = files
        self.refs[ref] = name
        return name

    def resolve(self, revision: str) -> str | None:
        return revision if revision in self.commits else self.refs.get(revision)


class StandIn(ThreadingHTTPServer):
    """The server. `asked` has what was asked for, `down` is the status that it answers in place of
    everything, and one that `is_full` takes no files."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.uploads: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.down: int | None = None
        self.is_full = False
        self.url = f"http://127.0.0.1:{self.server_port}"

    def downloaded(self) -> list[str]:
        """The names of the files that were downloaded, each once, those in part with their bytes."""
        return sorted(
            {line.rpartition("/")[2] for line in self.asked if line.startswith("GET") and "/resolve/" in line}
        )


@contextmanager
def serve() -> Iterator[StandIn]:
    """Serves until the context is left."""
    server = StandIn()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StandIn

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._route()

    do_HEAD = do_POST = do_PUT = do_GET

    def _route(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else self._read_chunks()
        path = unquote(urlsplit(self.path).path)
        span = self.headers.get("Range")
        self.server.asked.append(f"{self.command} {path}{f' {span}' if span else ''}")
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if self.server.down is not None:
            return self._fail(self.server.down)
        if token not in ("", TOKEN):
            return self._fail(401, message="Invalid credentials in Authorization header")
        if self.command in ("POST", "PUT"):
            return self._write(path, body, token)
        for pattern, answer in (
            (r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", self._info),
            (r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", self._tree),
            (r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self._file),
        ):
            if match := re.fullmatch(pattern, path):
                name, revision, *rest = match.groups()
                return self._read(name, revision or "main", token, answer, *rest)
        return self._fail(404)

    def _read(self, name: str, revision: str, token: str, answer: Any, *rest: str) -> None:
        found = self.server.repositories.get(name)
        if found is None or (found.private and not token):
            return self._fail(404 if token else 401, "RepoNotFound")
        commit = found.resolve(revision)
        if commit is None:
            return self._fail(404, "RevisionNotFound")
        if found.gated and answer == self._file:
            return self._fail(403 if token else 401, "GatedRepo", "Access to it is restricted")
        return answer(name, found, commit, *rest)

    def _info(self, name: str, found: Repository, commit: str) -> None:
        siblings = [{"rfilename": file} for file in found.commits[commit]]
        self._json({"id": name, "sha": commit, "private": found.private, "gated": found.gated, "siblings": siblings})

    def _tree(self, name: str, found: Repository, commit: str) -> None:
        self._json(
            [
                {"type": "file", "path": file, "size": len(content), "oid": _name_blob(content)}
                for file, content in found.commits[commit].items()
            ]
        )

    def _file(self, name: str, found: Repository, commit: str, file: str) -> None:
        content = found.commits[commit].get(file)
        if content is None:
            return self._fail(404, "EntryNotFound")
        headers = {"ETag": f'"{_name_blob(content)}"', "X-Repo-Commit": commit, "X-Linked-Size": str(len(content))}
        if span := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or ""):
            first, last = int(span[1]), min(int(span[2]), len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            return self._answer(206, content[first : last + 1], "application/octet-stream", headers)
        return self._answer(200, content, "application/octet-stream", headers)

    def _write(self, path: str, body: bytes, token: str) -> None:
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if match := re.fullmatch(r"/upload/(\w+)", path):
            if self.server.is_full:
                return self._fail(403, message="Private repository storage limit reached")
            self.server.uploads[match[1]] = body
            return self._json({})
        if not token:
            return self._fail(401, message="Invalid username or password.")
        given: Any = [json.loads(line) for line in body.splitlines() if line]
        if path == "/api/repos/create":
            return self._create(given[0])
        if match := re.fullmatch(r"/api/models/(.+)/preupload/main", path):
            # As the Hub has it, tensors go to the large files, and text to git.
            modes = [
                {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular"}
                for f in given[0]["files"]
            ]
            return self._json({"files": [{**mode, "shouldIgnore": False} for mode in modes]})
        if path.endswith("/info/lfs/objects/batch"):
            upload = {"href": f"{self.server.url}/upload/"}
            objects = [
                {**each, "actions": {"upload": {**upload, "href": upload["href"] + each["oid"]}}}
                for each in given[0]["objects"]
            ]
            return self._json({"transfer": "basic", "objects": objects})
        if match := re.fullmatch(r"/api/models/(.+)/commit/main", path):
            return self._commit(match[1], given)
        return self._fail(404)

    def _create(self, given: dict[str, Any]) -> None:
        name = f"{given['organization']}/{given['name']}" if given.get("organization") else given["name"]
        if name.startswith("other/"):
            return self._fail(403, message="You don't have the rights to create a model under this namespace")
        if name in self.server.repositories:
            return self._answer(409, json.dumps({"url": f"{self.server.url}/{name}"}).encode(), "application/json", {})
        private = given.get("visibility") == "private" or bool(given.get("private"))
        self.server.repositories[name] = Repository(private=private)
        self.server.repositories[name].commit({".gitattributes": b""})
        return self._json({"url": f"{self.server.url}/{name}"})

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        found = self.server.repositories[name]
        files = dict(found.commits[found.refs["main"]])
        for line in lines:
            value = line["value"]
            match line["key"]:
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self.server.uploads[value["oid"]]
                case "deletedFile":
                    del files[value["path"]]
                case _:
                    pass
        commit = found.commit(files)
        self._json({"success": True, "commitOid": commit, "commitUrl": f"{self.server.url}/{name}/commit/{commit}"})

    def _read_chunks(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return b""
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _json(self, content: object) -> None:
        self._answer(200, json.dumps(content).encode(), "application/json", {})

    def _fail(self, status: int, code: str = "", message: str = "") -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": message}
        self._answer(status, b"{}", "application/json", {name: text for name, text in headers.items() if text})

    def _answer(self, status: int, content: bytes, kind: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, text in {"Content-Type": kind, "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _name_blob(content: bytes) -> str:
    """git's name of a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
