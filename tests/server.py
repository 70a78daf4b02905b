"""A server of files on this machine, with the faults that servers have."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

HUB_CODES = {401: 'RepoNotFound', 403: 'GatedRepo', 404: 'EntryNotFound'}
"""What the Hugging Face hub adds to its answers."""


@dataclass
class Server:
    """What a server has by path, and what it was asked for.

    Attributes:
        files: Contents.
        cut: Paths whose contents break off half-way.
        lengths: What is sent as the length if not the true one: a number, 'none', or 'chunked'.
        statuses: Answers other than 200 and 404.
        requests: Method and path of every request so far.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    cut: set[str] = field(default_factory=set)
    lengths: dict[str, int | str] = field(default_factory=dict)
    statuses: dict[str, int] = field(default_factory=dict)
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
        protocol_version = 'HTTP/1.1'

        def do_HEAD(self):
            self.answer(with_body=False)

        def do_GET(self):
            self.answer(with_body=True)

        def answer(self, with_body: bool):
            state.requests.append(f'{self.command} {self.path}')
            content = state.files.get(self.path)
            status = state.statuses.get(self.path, 404 if content is None else 200)
            if status != 200:
                content = b''
            length = state.lengths.get(self.path, len(content))
            self.close_connection = True
            self.send_response(status)
            self.send_header('Connection', 'close')
            if length == 'chunked':
                self.send_header('Transfer-Encoding', 'chunked')
            elif length != 'none':
                self.send_header('Content-Length', str(length))
            if status == 200:
                self.send_header('ETag', f'"{hashlib.sha256(content).hexdigest()}"')
                self.send_header('X-Repo-Commit', '0' * 40)
            elif status in HUB_CODES:
                self.send_header('X-Error-Code', HUB_CODES[status])
            self.end_headers()
            cut = self.path in state.cut
            body = content[: len(content) // 2] if cut else content
            if length == 'chunked':
                body = b'%x\r\n' % len(content) + body + (b'' if cut else b'\r\n0\r\n\r\n')
            if with_body:
                self.wfile.write(body)

        def log_message(self, *_):
            pass

    http = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    # Polled often, so that the fixture ends at once.
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    state.url = f'http://127.0.0.1:{http.server_port}'
    monkeypatch.setenv('HIERA_MM_CACHE', str(tmp_path / 'cache'))
    for name in ('http_proxy', 'https_proxy', 'all_proxy'):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    yield state
    http.shutdown()
    http.server_close()
