"""Fixtures of the shim's tests. Lives here: the world. May not live here: anything that needs more than the standard library."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.shim.rig import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """An application directory, installed packages, a broker and a proxy."""
    made = World(tmp_path)
    yield made
    made.close()
