"""Files of one directory over HTTPS on loopback, under a real host name, with a log of what was asked for.

Lives here: the server that git clones from. May not live here: anything of outpass.
"""

from __future__ import annotations

import functools
import http.server
import ssl
import subprocess
import threading
from pathlib import Path
from typing import Any

import trustme


class FilesServer:
    """`port` on 127.0.0.1; `ca_file` is whom to trust for it; `seen` holds the path of every request."""

    def __init__(self, directory: Path, host: str, where: Path) -> None:
        self.host = host
        self.seen: list[str] = []
        ca = trustme.CA()
        self.ca_file = where / "files-ca.pem"
        ca.cert_pem.write_to_path(str(self.ca_file))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ca.issue_cert(host).configure_cert(context)
        seen = self.seen

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                seen.append(self.path)
                super().do_GET()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(directory)))
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port: int = self._server.server_address[1]

    def __enter__(self) -> FilesServer:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def connect_to(self) -> list[str]:
        """The `--connect-to` option that leads its host here."""
        return ["--connect-to", f"{self.host}:443:127.0.0.1:{self.port}"]


def repository(where: Path) -> Path:
    """A bare repository with one commit, ready for git's dumb protocol (no CGI program needed)."""
    work, bare = where / "work", where / "repo.git"
    work.mkdir()
    (work / "README").write_text("hello\n")
    who = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
    for command in (
        ["git", "init", "-q", "-b", "main", str(work)],
        ["git", "-C", str(work), "add", "README"],
        ["git", "-C", str(work), *who, "commit", "-q", "-m", "one"],
        ["git", "clone", "-q", "--bare", str(work), str(bare)],
        ["git", "-C", str(bare), "update-server-info"],
    ):
        subprocess.run(command, check=True, capture_output=True)
    return where
