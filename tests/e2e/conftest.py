"""The homes that end-to-end tests run from.

Lives here: the fixture. May not live here: assertions.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.support.homes import Home
from tests.support.jailed import identities, impossible


@pytest.fixture(params=identities())
def home(request: pytest.FixtureRequest) -> Iterator[Home]:
    if why := impossible(request.param.uid):
        pytest.skip(f"no jail is possible here for {request.param.name}: {why}")
    made = Home(request.param)
    yield made
    shutil.rmtree(made.path, ignore_errors=True)
