"""Programs of the machine that a test drives.

Lives here: finding one, or skipping by its name. May not live here: what is done with it.
"""

from __future__ import annotations

import shutil

import pytest


def needs(program: str) -> str:
    """Its path, or a skip by name."""
    found = shutil.which(program, path="/usr/local/bin:/usr/bin:/bin")
    if found is None:
        pytest.skip(f"{program} is not installed")
    return found
