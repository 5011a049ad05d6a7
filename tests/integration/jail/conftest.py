"""One jail on this kernel, as root and as another user where that can be.

Lives here: the fixture. May not live here: how a jail is made (tests/support/jailed.py).
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.jailed import Identity, Place, identities, place


@pytest.fixture(params=identities())
def jail(request: pytest.FixtureRequest) -> Iterator[Place]:
    """A place to run in."""
    who: Identity = request.param
    with place(who) as made:
        yield made
