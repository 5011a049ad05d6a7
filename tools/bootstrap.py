"""Sets up .venv from nothing but a `python3`: finds or fetches Python 3.13/3.12, bootstraps uv, installs by hash.

Lives here: the one installer of this checkout. May not: need anything that is not in the standard library of Python 3.9+.
`--constraints` recompiles constraints/*.txt from constraints/*.in (needs an index).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BOOT = ROOT / ".bootstrap"
VENV = ROOT / ".venv"
UV = BOOT / "bin" / "uv"
WANTED = tuple(line.strip() for line in (ROOT / ".python-version").read_text().split() if line.strip())
ENV = {**os.environ, "UV_HTTP_TIMEOUT": os.environ.get("UV_HTTP_TIMEOUT", "180"), "UV_NO_PROGRESS": "1"}
ENV.pop("VIRTUAL_ENV", None)


def run(*args: object) -> None:
    """Runs one step; a failing step ends the set-up with the command that failed."""
    done = subprocess.run([str(a) for a in args], env=ENV, cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(f"outpass: error: set-up step failed ({done.returncode}): {' '.join(str(a) for a in args)}")


def version_of(python: Path | str) -> str | None:
    """`3.13` for a Python that really starts (pyenv's shims exist for versions that are not selected), else None."""
    probe = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run([str(python), "-c", probe], capture_output=True, text=True, timeout=20, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def find_python() -> str:
    """An interpreter of the first wanted version that this machine has; uv fetches one where there is none."""
    roots = [Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions", Path("/opt/pyenv/versions")]
    for wanted in WANTED:
        places = [p / "bin" / f"python{wanted}" for r in roots for p in sorted(r.glob(f"{wanted}.*"), reverse=True)]
        for candidate in [*places, shutil.which(f"python{wanted}")]:
            if candidate and version_of(candidate) == wanted:
                return str(candidate)
    print(f"outpass: no python {' or '.join(WANTED)} found here; fetching {WANTED[0]}", flush=True)
    run(UV, "python", "install", WANTED[0])
    found = subprocess.run([str(UV), "python", "find", WANTED[0]], env=ENV, capture_output=True, text=True, check=True)
    return found.stdout.strip()


def bootstrap_uv() -> None:
    """uv itself, by hash, into .bootstrap."""
    if not (BOOT / "bin" / "pip").exists():
        run(sys.executable, "-m", "venv", BOOT)
    if not UV.exists():
        run(BOOT / "bin" / "pip", "install", "-q", "--disable-pip-version-check", "--require-hashes", "-r", "constraints/uv.txt")


def compile_constraints() -> None:
    """Recompiles the pins; one file per Python, because the engine's caps differ between them."""
    bootstrap_uv()
    common = ["pip", "compile", "-q", "--generate-hashes", "--no-header", "--no-emit-index-url", "--upgrade"]
    for version in WANTED:
        out = f"constraints/py{version.replace('.', '')}.txt"
        run(UV, *common, "--python-version", version, "constraints/runtime.in", "constraints/dev.in", "-o", out)
    run(UV, *common, "--python-version", "3.9", "constraints/uv.in", "-o", "constraints/uv.txt")
    for name in ("bench", "service"):
        run(UV, *common, "--universal", "--python-version", "3.12", f"constraints/{name}.in", "-o", f"constraints/{name}.txt")


def main() -> None:
    """Idempotent: does nothing when the stamp says that the inputs have not changed."""
    if "--constraints" in sys.argv[1:]:
        return compile_constraints()
    inputs = [*sorted((ROOT / "constraints").glob("*.txt")), ROOT / "pyproject.toml", ROOT / "client_shim/python/pyproject.toml"]
    digest = hashlib.sha256(b"".join(p.read_bytes() for p in inputs) + str(ROOT).encode()).hexdigest()
    stamp = VENV / ".outpass-stamp"
    if stamp.exists() and stamp.read_text() == digest and (VENV / "bin" / "outpass").exists():
        return None
    print("outpass: setting up .venv (once)", flush=True)
    bootstrap_uv()
    python = find_python()
    run(UV, "venv", "-q", "--clear", "--python", python, VENV)
    pins = ROOT / "constraints" / f"py{(version_of(python) or '').replace('.', '')}.txt"
    run(UV, "pip", "install", "-q", "--compile-bytecode", "--python", VENV, "--require-hashes", "-r", pins)
    local = ["-e", ROOT / "client_shim/python", "-e", ROOT]
    run(UV, "pip", "install", "-q", "--python", VENV, "--no-deps", "--no-build-isolation", *local)
    run(VENV / "bin" / "python", "tools/compile_shim.py")
    stamp.write_text(digest)
    return None


if __name__ == "__main__":
    main()
