"""A home of root's or of an ordinary user's, and `outpass run` in a jail from there.

Lives here: the directory, who owns it, one call that runs a command. May not live here: assertions.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from tests.support.jailed import Identity
from tests.support.runs import OUTPASS, Run, as_user, environment, outpass, records


class Home:
    """A directory of the identity's that only it and root can enter, with a project in it."""

    def __init__(self, who: Identity) -> None:
        self.who = who
        self.path = Path(os.path.realpath(tempfile.mkdtemp(prefix="opp-", dir="/tmp")))
        self.project = self.path / "project"
        self.project.mkdir()

    def put(self, name: str, content: str | bytes) -> Path:
        """A file below the home."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def own(self) -> None:
        """Everything in it is the identity's."""
        for path in (self.path, *self.path.rglob("*")):
            os.chown(path, self.who.uid, self.who.uid if self.who.uid != os.getuid() else os.getgid(), follow_symlinks=False)

    def start(self, policy: str, command: list[str], *options: str, **popen: Any) -> subprocess.Popen[str]:
        """`outpass run` in a jail, in the project, going on; its pipes are ours."""
        self.put("outpass.yaml", policy)
        self.own()
        whole = [*as_user(self.who.uid), OUTPASS, "run", "--policy", str(self.path / "outpass.yaml"), *options, "--", *command]
        given = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **popen}
        return subprocess.Popen(whole, text=True, cwd=self.project, env=environment(self.path), **given)

    def run(self, policy: str, command: list[str], *options: str, ca: Path | None = None, **extra: str) -> Run:
        """`outpass run` in a jail, in the project."""
        self.put("outpass.yaml", policy)
        trust = ["--upstream-ca", str(self.put("origin-ca.pem", ca.read_bytes()))] if ca else []
        self.own()
        args = ["--policy", str(self.path / "outpass.yaml"), *options, *trust]
        done = outpass(self.path, "run", *args, "--", *command, cwd=self.project, timeout=180, **extra)
        return Run(done.returncode, done.stdout, done.stderr, records(self.path))
