"""Fixtures of the tests of names and raw TCP. Lives here: one daemon for a module. May not live here: policies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import RunningDaemon, daemon
from tests.support.enclosed import possible
from tests.support.streams import Streams


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The daemon's directory."""
    return tmp_path_factory.mktemp("net")


@pytest.fixture(scope="module")
def streams() -> Iterator[Streams]:
    """Raw TCP servers outside of every jail."""
    with Streams() as made:
        yield made


@pytest.fixture(scope="module")
def outpassd(where: Path, streams: Streams) -> Iterator[RunningDaemon]:
    """A daemon whose gate finds `*.example.com` names at the servers of `streams`."""
    if not possible():
        pytest.skip("no network namespace can be made here")
    with daemon(where, *streams.connect_to()) as started:
        yield started
