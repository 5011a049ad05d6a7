"""One path, and every other that some server is known to serve for it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpass.policy import names
from outpass.policy.readings import readings


@pytest.mark.parametrize("path", ["/", "/v1/charges", "/a%20b", "/a/", "/%C3%A9", "/a=b&c"])
def test_an_ordinary_path_has_one_reading(path: str) -> None:
    assert readings(path) == [path]


@pytest.mark.parametrize(
    "sentence, path, reading",
    [
        ("empty segments are merged", "/a//b", "/a/b"),
        ("also at the start", "//a/b", "/a/b"),
        ("two slashes begin an authority", "//host/admin/x", "/admin/x"),
        ("escaped slashes are slashes", "/a%2Fb", "/a/b"),
        ("and then merged", "/a/%2Fb", "/a/b"),
        ("parameters are dropped", "/a;x=1/b;y", "/a/b"),
        ("escaped ones too", "/a%3Bx/b", "/a/b"),
        ("a segment of a parameter alone is nothing", "/a/;x/b", "/a/b"),
        ("parameters end at an escaped slash", "/a;x%2Fb", "/a/b"),
        ("or they do not", "/a;x%2Fb/c", "/a/c"),
        ("a path of a parameter alone is the root", "/;x", "/"),
        ("escapes are decoded twice", "/%2561/b", "/a/b"),
        ("and the rest after that", "/a%253Bx/b%252Fc", "/a/b/c"),
        ("a slash at the end stays", "/a;x/", "/a/"),
    ],
)
def test_other_readings(sentence: str, path: str, reading: str) -> None:
    assert path in readings(path) and reading in readings(path), sentence


def test_what_is_no_path_when_decoded_twice_has_no_such_reading() -> None:
    assert readings("/a%25") == ["/a%25"]


@given(st.text("/a;%235BFb0", max_size=30))
def test_readings_are_few_and_are_paths(text: str) -> None:
    """Invariant: a path is its own first reading; each begins with a slash, and they stay few enough to try them all."""
    try:
        path = names.path("/" + text)
    except ValueError:
        return
    found = readings(path)
    assert found[0] == path and all(p.startswith("/") for p in found)
    assert len(found) == len(set(found)) <= 32
