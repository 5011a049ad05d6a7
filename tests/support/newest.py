"""A virtualenv with the newest versions that the index has, for tables that are written with their versions and a date.

Lives here: making it, and what it holds. May not live here: pinned ones (apps.py), what runs in it.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

from tests.support.apps import UV


def interpreter(python: str) -> str:
    """The newest of this series that this machine has, else its name, for uv to look for."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    places = sorted(root.glob(f"{python}.*"))
    return str(places[-1] / "bin" / "python") if places else python


def newest(venv: Path, python: str, packages: Iterable[str]) -> dict[str, str]:
    """Makes `venv` and installs wheels into it; version by package, {} where the Python or a package cannot be had."""
    env = {**os.environ, "UV_NO_PROGRESS": "1", "UV_PYTHON_DOWNLOADS": "never"}
    env.pop("VIRTUAL_ENV", None)
    made = subprocess.run([UV, "venv", "-q", "--clear", "--python", interpreter(python), venv], env=env, check=False)
    install = [UV, "pip", "install", "-q", "--only-binary", ":all:", "--python", venv, *packages]
    if made.returncode or subprocess.run(install, env=env, check=False).returncode:
        return {}
    listed = subprocess.run([UV, "pip", "list", "--format", "json", "--python", venv], env=env, capture_output=True, check=True)
    return {entry["name"]: entry["version"] for entry in json.loads(listed.stdout)}
