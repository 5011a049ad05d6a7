"""Files of one directory over HTTPS on loopback, under a real host name, with a log of what was asked for.

Lives here: the server that git clones from. May not live here: anything of outpass.
"""

from __future__ import annotations

import functools
import http.server
import subprocess
from pathlib import Path
from typing import Any

from tests.support.https_server import HttpsServer


class FilesServer(HttpsServer):
    """`seen` holds the path of every request."""

    def __init__(self, directory: Path, host: str, where: Path) -> None:
        self.seen: list[str] = []
        seen = self.seen

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                seen.append(self.path)
                super().do_GET()

            def log_message(self, *_: Any) -> None:
                pass

        super().__init__(host, where / "files-ca.pem", functools.partial(Handler, directory=str(directory)))


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
