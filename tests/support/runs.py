"""`outpass run` as a user types it, and what the audit log says afterwards.

Lives here: one call that runs a script behind outpass against local origins. May not live here: assertions.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.apps import ROOT, application_venv

OUTPASS = str(Path(sys.executable).parent / "outpass")


_AS_USER = """
hidden=$1 base=$2 uid=$3; shift 3
if [ -n "$hidden" ]; then
    mount --bind "$base" /mnt && mount -t tmpfs -o mode=755 none "$hidden" && mkdir -p "$base" && mount --move /mnt "$base" || exit 99
fi
exec setpriv --reuid "$uid" --regid "$uid" --clear-groups "$@"
"""


def as_user(uid: int) -> list[str]:
    """What to put before a command to run it as another user, who gets to see our interpreter wherever it lies."""
    if uid == os.getuid():
        return []
    base = Path(sys.base_prefix)
    closed = next((p for p in reversed([base, *base.parents]) if not p.stat().st_mode & 0o001), None)
    return ["unshare", "--mount", "sh", "-c", _AS_USER, "sh", str(closed or ""), str(base), str(uid)]


@dataclass
class Run:
    """What one run left: exit code, output, and the audit records in order."""

    code: int
    out: str
    err: str
    records: list[dict[str, Any]]

    def said(self) -> str:
        """Everything a person would have read, for messages of failed assertions."""
        return f"exit {self.code}\n--- out\n{self.out}\n--- err\n{self.err}\n--- records\n" + "\n".join(map(str, self.records))


def apps() -> Path:
    """The interpreter of the applications' virtualenv: requests, urllib3, httpx, boto3, stripe, openai, sentry-sdk, slack-sdk."""
    return application_venv(ROOT / ".venv-apps", ROOT / "constraints" / "e2e.txt")


def stacks() -> Path:
    """The interpreter of the virtualenv with one of each kind of network library (constraints/stacks.in)."""
    return application_venv(ROOT / ".venv-stacks", ROOT / "constraints" / "stacks.txt")


def environment(home: Path, **extra: str) -> dict[str, str]:
    """A user's environment with a home of its own: no trusted policies, no daemon, a fresh audit log."""
    dropped = ("OUTPASS_", "XDG_", "PYTHON")
    env = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
    return {
        **env,
        "HOME": str(home),
        "OUTPASS_STATE": str(home / "state" / "audit.db"),
        "OUTPASS_RUNTIME": str(home / "run"),
        **extra,
    }


def outpass(
    home: Path, *args: str, cwd: Path | None = None, timeout: float = 90, **extra: str
) -> subprocess.CompletedProcess[str]:
    """Any outpass command, as the user whose `home` is."""
    home.mkdir(exist_ok=True)
    env = environment(home, **extra)
    return subprocess.run(
        [*as_user(home.stat().st_uid), OUTPASS, *args],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=env,
        cwd=cwd or home,
        check=False,
    )


def records(home: Path, **extra: str) -> list[dict[str, Any]]:
    """The audit log, oldest first."""
    done = outpass(home, "log", "--json", "-n", "100000", **extra)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def run_script(
    home: Path,
    script: str,
    *options: str,
    policy: str | None = None,
    python: Path | None = None,
    name: str = "main.py",
    jail: bool = False,
    **extra: str,
) -> Run:
    """Writes `script` into a project of its own and runs it with the applications' Python behind outpass."""
    project = home / "project"
    project.mkdir(parents=True, exist_ok=True)
    (project / name).write_text(script)
    chosen: list[str] = []
    if policy is not None:
        (project / "outpass.yaml").write_text(policy)
        chosen = ["--policy", "outpass.yaml"]
    inside = [] if jail else ["--no-jail"]
    done = outpass(home, "run", *chosen, *inside, *options, "--", str(python or apps()), name, cwd=project, **extra)
    return Run(done.returncode, done.stdout, done.stderr, records(home))
