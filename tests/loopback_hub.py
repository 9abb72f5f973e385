"""A Hugging Face hub on loopback: as much of its API as downloading models and data sets needs."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

_API = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.*))?)?$")
_FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)$")


class LoopbackHub:
    """Repositories as folders: `root/models/OWNER/NAME`, `root/datasets/OWNER/NAME`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: list[str] = []

    def folder(self, kind: str, repository: str) -> Path | None:
        folder = self.root / kind / repository
        return folder if folder.is_dir() else None

    def answer(self, path: str, query: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body for a GET or POST (or a HEAD, without the body)."""
        self.asked.append(path)
        if m := _API.match(path):
            folder = self.folder(m[1], m[2])
            if folder is None:
                return self._missing()
            if m[3] == "tree":
                found: Any = _tree(folder, m[5] or "", "recursive=true" in query.lower())
            elif m[3] == "paths-info":
                found = [_entry(folder, folder / path) for path in _paths(body) if (folder / path).exists()]
            else:
                found = _info(folder, m[2])
            return 200, {"Content-Type": "application/json"}, json.dumps(found).encode()
        if m := _FILE.match(path):
            folder = self.folder("datasets" if m[1] else "models", m[2])
            file = folder / m[4] if folder else None
            if folder is None or file is None or not file.is_file():
                return self._missing("EntryNotFound" if folder else "RepoNotFound")
            data = file.read_bytes()
            return 200, {"ETag": f'"{_sha(data)}"', "X-Repo-Commit": _commit(folder)}, data
        return self._missing()

    def _missing(self, code: str = "RepoNotFound") -> tuple[int, dict[str, str], bytes]:
        return 404, {"X-Error-Code": code, "X-Error-Message": "not here"}, b"{}"


def _tree(folder: Path, under: str, recursive: bool) -> list[dict[str, Any]]:
    return [_entry(folder, p) for p in sorted((folder / under).glob("**/*" if recursive else "*"))]


def _entry(folder: Path, path: Path) -> dict[str, Any]:
    where = {"path": path.relative_to(folder).as_posix()}
    if path.is_dir():
        return where | {"type": "directory", "size": 0, "oid": _commit(path)}
    return where | {"type": "file", "size": path.stat().st_size, "oid": _sha(path.read_bytes())}


def _paths(body: bytes) -> list[str]:
    """The paths that are asked for, as JSON or as a form."""
    text = body.decode()
    if text.startswith("{"):
        paths = json.loads(text)["paths"]
        return paths if isinstance(paths, list) else [paths]
    return parse_qs(text).get("paths", [])


def _info(folder: Path, name: str) -> dict[str, Any]:
    files = [p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*")) if p.is_file()]
    return {
        "_id": "0",
        "id": name,
        "sha": _commit(folder),
        "private": False,
        "gated": False,
        "tags": [],
        "siblings": [{"rfilename": file} for file in files],
    }


def _sha(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


def _commit(folder: Path) -> str:
    return _sha(str(folder).encode())


@contextmanager
def loopback_hub(root: Path) -> Iterator[tuple[LoopbackHub, str]]:
    """The hub and its address."""
    hub = LoopbackHub(root)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            sent, url = self.rfile.read(int(self.headers.get("Content-Length") or 0)), urlsplit(self.path)
            status, headers, body = hub.answer(unquote(url.path), url.query, sent)
            part = re.match(r"bytes=(\d+)-(\d*)$", self.headers.get("Range") or "")
            if status == 200 and part:
                start, end = int(part[1]), min(int(part[2] or len(body) - 1), len(body) - 1)
                headers["Content-Range"] = f"bytes {start}-{end}/{len(body)}"
                status, body = 206, body[start : end + 1]
            self.send_response(status)
            for name, value in {
                **headers,
                "Accept-Ranges": "bytes",
                "Content-Length": str(len(body)),
            }.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_POST = do_GET

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
