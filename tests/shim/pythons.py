"""`python -m tests.shim.pythons`: the shim's whole suite on every CPython from 3.9 on that is found here.

Lives here: a virtualenv for each, and the run in it. May not live here: which interpreters there are (tools/smoke_shim.py), tests.
`make test` runs the suite on the Python that outpass runs on, and tries the installed wheel on all of them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
from smoke_shim import ROOT, interpreters

from tests.support.newest import newest

NEEDED = ("pytest", "pytest-timeout", "h11", "h2")


def run(version: str) -> str:
    """The last line of pytest's report, or why there is none; nothing of this checkout's settings, which want a newer pytest."""
    with tempfile.TemporaryDirectory(prefix="outpass-shim-") as made:
        venv = Path(made) / "venv"
        if not newest(venv, version, NEEDED):
            return "what the tests need cannot be had for it"
        env = {**os.environ, "PYTHONPATH": f"{ROOT / 'client_shim' / 'python'}:{ROOT}"}
        command = [
            str(venv / "bin" / "python"),
            "-m",
            "pytest",
            "-q",
            "-c",
            os.devnull,
            f"--rootdir={ROOT}",
            "-p",
            "no:cacheprovider",
        ]
        command += ["--import-mode=importlib", "-o", "timeout=120", "tests/shim"]
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            print(done.stdout[-6_000:])
        return (done.stdout.strip().splitlines() or [done.stderr.strip()])[-1]


def main() -> int:
    """1 when the suite failed on one of them."""
    found = {version: run(version) for version, python in interpreters().items() if python is not None}
    for version, said in found.items():
        print(f"{version}: {said}")
    return int(any("passed" not in said or "failed" in said or "error" in said for said in found.values()))


if __name__ == "__main__":
    sys.exit(main())
