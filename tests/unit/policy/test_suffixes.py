"""How wide a wildcard is."""

from __future__ import annotations

import pytest

from outpass.policy.suffixes import Width, width


@pytest.mark.parametrize(
    "pattern, expected",
    [
        ("*.example.com", Width.OWN),
        ("**.a.example.co.uk", Width.OWN),
        ("*.com", Width.PUBLIC),
        ("**.co.uk", Width.PUBLIC),
        ("*.uk", Width.PUBLIC),
        ("*.kawasaki.jp", Width.PUBLIC),
        ("*.xn--p1ai", Width.PUBLIC),
        ("*.github.io", Width.MULTI_TENANT),
        ("**.s3.amazonaws.com", Width.MULTI_TENANT),
        ("**.amazonaws.com", Width.MULTI_TENANT),
        ("*.amazonaws.com", Width.OWN),
        ("**.cluster.local", Width.OWN),
        ("*.internal", Width.OWN),
        ("*.mycorp", Width.UNKNOWN_TLD),
        ("com", Width.OWN),
        ("github.io", Width.OWN),
    ],
)
def test_width(pattern: str, expected: Width) -> None:
    assert width(pattern) is expected
