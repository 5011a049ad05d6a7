"""Builds both wheels, looks into them, and installs and tries the shim's under every Python from 3.9 on that is found here.

Lives here: the packaging check that a release and tests/test_packaging.py run. May not live here: tests of behaviour.
`python tools/smoke_shim.py` prints one line an interpreter and exits with 1 if any failed; an absent version is only named.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from email.parser import HeaderParser
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
MINORS = range(9, 15)
"""3.9 to 3.14."""

# What a wheel that was installed must do: import, find its parts, refuse nothing, and install itself into a child.
PROGRAM = """
import os, subprocess, sys
import outpass_shim
assert outpass_shim.__version__ and issubclass(outpass_shim.EgressDenied, PermissionError)
where = os.path.dirname(outpass_shim.__file__)
for name in sorted(os.listdir(where)):
    if name.startswith("_") and name.endswith(".py") and name != "__init__.py":
        __import__("outpass_shim." + name[:-3])
env = {**os.environ, "PYTHONPATH": os.path.join(where, "inject")}
env.update(OUTPASS_MINT="/nonexistent/mint.sock", OUTPASS_PROXY="127.0.0.1:9")
code = '''
import http.client, socket, ssl, threading, asyncio, sys, os
assert http.client.HTTPConnection.endheaders.__module__ == "outpass_shim._http"
assert socket.getaddrinfo.__module__ == "outpass_shim._guard"
assert threading.Thread.start.__module__ == "outpass_shim._origin"
try: socket.create_connection(("192.0.2.1", 80), 1)
except PermissionError as e: print(type(e).__name__, e.reason)
'''
done = subprocess.run([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
assert done.stdout == b"EgressDenied broker_unavailable\\n", done
assert b"Traceback" not in done.stderr, done.stderr
print("ok")
"""


class Wheel(NamedTuple):
    """One built wheel: its file, its names inside, and the fields of its METADATA."""

    path: Path
    names: tuple[str, ...]
    fields: tuple[tuple[str, str], ...]

    def field(self, name: str) -> list[str]:
        """Values of a METADATA field, in order."""
        return [value for key, value in self.fields if key == name]


def build(project: Path, into: Path) -> Wheel:
    """Builds the wheel of a project with the hatchling that is installed here; nothing is fetched."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(into), str(project)]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = into.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        names = tuple(archive.namelist())
        metadata = next(n for n in names if n.endswith(".dist-info/METADATA"))
        fields = tuple(HeaderParser().parsestr(archive.read(metadata).decode()).items())
    return Wheel(path, names, fields)


def interpreters() -> dict[str, str | None]:
    """`3.N` → an interpreter of that version, or None where this machine has none."""
    home = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    found: dict[str, str | None] = {}
    for minor in MINORS:
        name = f"python3.{minor}"
        places = [str(p / "bin" / name) for p in sorted(home.glob(f"3.{minor}.*"), reverse=True)]
        places += [w for w in [shutil.which(name)] if w]
        found[f"3.{minor}"] = next((p for p in places if _runs(p, minor)), None)
    return found


def _runs(python: str, minor: int) -> bool:
    # A pyenv shim exists on PATH for versions that are installed but not selected: it must really start.
    probe = "import sys, venv; print(sys.version_info[1])"
    try:
        done = subprocess.run([python, "-c", probe], capture_output=True, text=True, timeout=30, check=False)
    except OSError:
        return False
    return done.stdout.strip() == str(minor)


def try_wheel(python: str, wheel: Path, where: Path) -> str:
    """Installs the wheel into a throw-away venv at `where` and runs PROGRAM there; "" or what went wrong."""
    subprocess.run([python, "-m", "venv", "--without-pip", str(where)], check=True, capture_output=True)
    (site,) = where.glob("lib/python3.*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)  # a pure wheel without scripts is its own installation (PEP 427)
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "OUTPASS_"))}
    command = [str(where / "bin" / "python"), "-c", PROGRAM]
    done = subprocess.run(command, env=clean, capture_output=True, text=True, timeout=120, check=False)
    return "" if done.stdout == "ok\n" else (done.stderr or done.stdout or f"exit {done.returncode}").strip()


def main() -> int:
    """The whole check, for people."""
    failed = 0
    with tempfile.TemporaryDirectory() as directory:
        base = Path(directory)
        wheel = build(ROOT / "client_shim" / "python", base / "dist")
        for version, python in interpreters().items():
            wrong = "absent" if python is None else try_wheel(python, wheel.path, base / version)
            failed += bool(wrong) and python is not None
            print(f"{version}: {wrong or 'ok'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
