"""`git http-backend` behind TLS on loopback, under a real host name, with a log of what came in.

Lives here: the server that git clones from, fetches from and pushes to. May not live here: anything of outpass.
"""

from __future__ import annotations

import http.server
import os
import subprocess
from email.message import Message
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tests.support.https_server import HttpsServer


class Asked(NamedTuple):
    """One request."""

    method: str
    path: str
    encoding: str
    """Content-Encoding."""
    chunked: bool


class GitServer(HttpsServer):
    """`seen` holds every request."""

    def __init__(self, root: Path, host: str, where: Path) -> None:
        self.seen: list[Asked] = []
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                chunked = self.headers.get("Transfer-Encoding", "").lower() == "chunked"
                encoding = self.headers.get("Content-Encoding", "")
                server.seen.append(Asked(self.command, self.path, encoding, chunked))
                body = self._chunks() if chunked else self.rfile.read(int(self.headers.get("Content-Length", "0")))
                self._answer(_backend(root, self.command, self.path, self.headers, body))

            do_POST = do_GET

            def _chunks(self) -> bytes:
                body = b""
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return body

            def _answer(self, said: bytes) -> None:
                head, _, body = said.partition(b"\r\n\r\n")
                fields = [line.split(": ", 1) for line in head.decode().split("\r\n") if line]
                status = next((value for name, value in fields if name == "Status"), "200 OK")
                self.send_response(int(status.split()[0]))
                for name, value in fields:
                    if name != "Status":
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        super().__init__(host, where / "git-ca.pem", Handler)


def _backend(root: Path, method: str, target: str, headers: Message, body: bytes) -> bytes:
    """The CGI program's answer (git-http-backend(1))."""
    where = urlsplit(target)
    env = {
        "PATH": os.environ["PATH"],
        "GIT_PROJECT_ROOT": str(root),
        "GIT_HTTP_EXPORT_ALL": "1",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": "*",
        "REMOTE_USER": "tester",
        "REQUEST_METHOD": method,
        "PATH_INFO": where.path,
        "QUERY_STRING": where.query,
        "CONTENT_TYPE": headers.get("Content-Type", ""),
        "CONTENT_LENGTH": str(len(body)),
        "HTTP_CONTENT_ENCODING": headers.get("Content-Encoding", ""),
        "GIT_PROTOCOL": headers.get("Git-Protocol", ""),
    }
    return subprocess.run(["git", "http-backend"], input=body, env=env, capture_output=True, check=True).stdout


def bare(root: Path, branches: int) -> Path:
    """A bare repository `repo.git` below `root`, with so many branches of one commit each."""
    work, made = root / "work", root / "repo.git"
    who = {
        "GIT_AUTHOR_NAME": "t",
        "GIT_AUTHOR_EMAIL": "t@example.com",
        "GIT_COMMITTER_NAME": "t",
        "GIT_COMMITTER_EMAIL": "t@example.com",
    }

    def git(*args: str) -> None:
        subprocess.run(["git", *args], check=True, capture_output=True, env={**os.environ, **who})

    git("init", "-q", "-b", "main", str(work))
    for number in range(branches):
        git("-C", str(work), "commit", "-q", "--allow-empty", "-m", f"commit {number}")
        git("-C", str(work), "branch", f"b{number}")
    git("clone", "-q", "--mirror", str(work), str(made))
    return made
