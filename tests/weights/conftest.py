"""A server of files on this machine, with the faults that servers have."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


@dataclass
class Server:
    """What a server has, and what it was asked for.

    Attributes:
        files: Contents by path.
        cut: Paths whose contents break off half-way, and how many times more.
        requests: Method and path of every request so far.
        url: Its address.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    url: str = ''

    def put(self, path: str, content: bytes) -> str:
        """Add a file and return its address."""
        self.files[path] = content
        return self.url + path


@pytest.fixture
def server(tmp_path, monkeypatch) -> Iterator[Server]:
    """A running server; downloads go into a cache of the test's own."""
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.answer(with_body=False)

        def do_GET(self):
            self.answer(with_body=True)

        def answer(self, with_body: bool):
            state.requests.append(f'{self.command} {self.path}')
            content = state.files.get(self.path)
            if content is None:
                self.send_response(404)
                self.send_header('X-Error-Code', 'EntryNotFound')
                self.send_header('Content-Length', '0')
                self.end_headers()
                return
            self.send_response(200)
            self.send_header('Content-Length', str(len(content)))
            self.send_header('ETag', f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header('X-Repo-Commit', '0' * 40)
            self.end_headers()
            if not with_body:
                return
            if state.cut.get(self.path, 0) > 0:
                state.cut[self.path] -= 1
                content = content[: len(content) // 2]
                self.close_connection = True
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    http = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    state.url = f'http://127.0.0.1:{http.server_port}'
    monkeypatch.setenv('HIERA_MM_CACHE', str(tmp_path / 'cache'))
    for name in (
        'http_proxy',
        'https_proxy',
        'HTTP_PROXY',
        'HTTPS_PROXY',
        'all_proxy',
        'ALL_PROXY',
    ):
        monkeypatch.delenv(name, raising=False)
    yield state
    http.shutdown()
    http.server_close()
