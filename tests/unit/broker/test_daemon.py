"""The parts of the daemon that are values: overrides. The rest is in tests/integration/broker/test_daemon.py."""

from __future__ import annotations

import pytest

from outpass.broker.daemon import connect_to
from outpass.errors import StartError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("api.stripe.com:443:127.0.0.1:8443", ["api.stripe.com", 443, "127.0.0.1", 8443]),
        ("API.Stripe.com.:443:localhost:8443", ["api.stripe.com", 443, "localhost", 8443]),
        ("[::1]:443:[fe80::1]:1", ["::1", 443, "fe80::1", 1]),
        ("h:1:[::1]:2", ["h", 1, "::1", 2]),
    ],
)
def test_an_override_is_read(text: str, expected: list[str | int]) -> None:
    assert connect_to((text,)) == [expected]


@pytest.mark.parametrize(
    "text", ["", "h", "h:1", "h:1:a", "h:1:a:", "h:1:a:b:2", "h:x:a:2", "h:1:::1:2", "u@h:1:a:2", "h:1:a:2:3"]
)
def test_what_is_none_is_refused_with_its_form(text: str) -> None:
    with pytest.raises(StartError) as refused:
        connect_to((text,))
    assert "HOST:PORT:ADDR:PORT" in refused.value.hint
