"""An interpreter with database clients from PyPI.

Lives here: making the virtualenv, once. May not live here: servers.
"""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path

import pytest

from tests.support.apps import ROOT, application_venv


@functools.cache
def clients(*needs: str) -> Path:
    """The interpreter of the applications' virtualenv, if it has what is needed; the test is skipped, by name, if not."""
    python = application_venv(ROOT / ".venv-apps", ROOT / "constraints" / "e2e.txt")
    modules = [n.partition("[")[0] for n in needs]
    script = f"import importlib.util as u, sys; sys.exit(any(u.find_spec(m) is None for m in {modules!r}))"
    if subprocess.run([python, "-c", script], check=False).returncode:
        pytest.skip(f"constraints/e2e.txt does not name {', '.join(needs)}")
    return python
