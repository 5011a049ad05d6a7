"""The virtualenvs of the programs that tests and the demo run: real packages from the index, by hash, never outpass's own.

Lives here: making them once. May not live here: what runs in them.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
UV = ROOT / ".bootstrap" / "bin" / "uv"


def application_venv(where: Path, pins: Path, python: str = sys.executable) -> Path:
    """A virtualenv at `where` with exactly `pins` in it; returns its interpreter. Made again when the pins change."""
    digest = hashlib.sha256(pins.read_bytes() + python.encode()).hexdigest()
    stamp = where / ".stamp"
    where.parent.mkdir(parents=True, exist_ok=True)
    env = {**os.environ, "UV_HTTP_TIMEOUT": "180", "UV_NO_PROGRESS": "1"}
    env.pop("VIRTUAL_ENV", None)
    with (where.parent / f".{where.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test runs at once make it once
        if not (stamp.exists() and stamp.read_text() == digest):
            subprocess.run([UV, "venv", "-q", "--clear", "--python", python, where], env=env, check=True)
            install = [UV, "pip", "install", "-q", "--compile-bytecode", "--python", where, "--require-hashes", "-r", pins]
            subprocess.run(install, env=env, check=True)
            stamp.write_text(digest)
    return where / "bin" / "python"
