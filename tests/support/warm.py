"""One operator's daemon for many runs: half a second a run, where a daemon for each takes two.

Lives here: the daemon, its origins, and runs through it. May not live here: assertions.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.origin import Origin
from tests.support.packages import installed
from tests.support.runs import OUTPASS, environment


@dataclass
class Done:
    """What one run left: exit code, output, its summary, and the first label of each host that saw a request."""

    code: int
    out: str
    err: str
    summary: dict[str, Any]
    seen: list[str]

    def said(self) -> str:
        """Everything a person would have read, for messages of failed assertions."""
        return f"exit {self.code}\n--- out\n{self.out}\n--- err\n{self.err}\n--- summary\n{self.summary}\n--- seen {self.seen}"


class Warm:
    """Runs of `main.py` in a project of its own, with `alpha` and `evil` installed."""

    def __init__(self, home: Path, origin: Origin, env: dict[str, str], jail: bool) -> None:
        self.jail = jail
        self.home = home
        self.origin = origin
        self.env = env
        self.project = home / "project"
        self.project.mkdir()

    def site(self) -> Path:
        """The site-packages of the programs."""
        return next((self.home / "venv" / "lib").glob("python3.*/site-packages"))

    def run(
        self,
        policy: str,
        main: str,
        evil: str = "",
        *,
        command: Callable[[str], Sequence[str]] = lambda python: [python, "main.py"],
        files: Mapping[str, str | bytes] | None = None,
        stdin: str = "",
    ) -> Done:
        """One run; `files` are written into the project before it."""
        for old in (*self.project.glob("*.py"), *self.project.glob("__pycache__/*")):
            old.unlink()
        python = str(installed(self.home, evil))
        for name, content in {"outpass.yaml": policy, "main.py": main, **(files or {})}.items():
            (self.project / name).parent.mkdir(parents=True, exist_ok=True)
            (self.project / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        before = len(self.origin.seen)
        options = ["--policy", "outpass.yaml", *([] if self.jail else ["--no-jail"]), "-q", "--summary", "summary.json"]
        done = subprocess.run(
            [OUTPASS, "run", *options, "--", *command(python)],
            cwd=self.project, env=self.env, capture_output=True, text=True, timeout=90, check=False, input=stdin,
        )  # fmt: skip
        summary = json.loads((self.project / "summary.json").read_text())
        seen = [s.host.partition(".")[0] for s in self.origin.seen[before:]]
        return Done(done.returncode, done.stdout, done.stderr, summary, seen)


@contextmanager
def warm(home: Path, hosts: tuple[str, ...], *, jail: bool = False) -> Iterator[Warm]:
    """A daemon whose gate finds `hosts` at one local origin; `jail`: its runs are in jails."""
    with Origin(hosts) as origin, serving(home, *origin.connect_to(), "--upstream-ca", str(origin.ca_file)) as env:
        yield Warm(home, origin, env, jail)


@contextmanager
def serving(home: Path, *options: str) -> Iterator[dict[str, str]]:
    """An operator's daemon with its files below `home`; yields the environment of its runs."""
    home.mkdir(exist_ok=True)
    env = environment(home)
    with (home / "daemon.txt").open("wb") as said:
        process = subprocess.Popen([OUTPASS, "daemon", *options], env=env, stdout=said, stderr=said)
        try:
            control = home / "run" / "control.sock"
            end = time.monotonic() + 30
            while not control.exists():
                assert time.monotonic() < end and process.poll() is None, (home / "daemon.txt").read_text()
                time.sleep(0.02)
            yield {**env, "OUTPASS_SOCKET": os.fspath(control)}
        finally:
            process.terminate()
            process.wait(30)
