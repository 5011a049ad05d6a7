"""What holds of every URL, whoever parses it: a few hundred of them at each run; tests/fuzz runs as long as it is told to."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from outpass.policy import names
from tests.fuzz import canonical

_PIECES = [w.decode() for w in canonical.Canonical.words]
pieces = st.lists(st.one_of(st.sampled_from(_PIECES), st.text(max_size=3)), max_size=6).map("".join)
urls = st.builds(
    lambda scheme, host, port, rest: f"{scheme}{host}{port}{rest}",
    st.sampled_from(["http://", "https://", "HTTP://"]),
    st.one_of(pieces, st.sampled_from(["a.test", "A.Test.", "127.1", "[::1]", "bücher.example", "a_b.ß.test"])),
    st.sampled_from(["", "", ":80", ":0443", ":"]),
    st.one_of(st.just(""), pieces.map(lambda p: f"/{p}")),
)


@given(urls)
@settings(max_examples=300)
@example("https://a_b.ß.test/")
@example("http://0x//")
def test_no_parser_reads_a_url_that_we_take_in_another_way(url: str) -> None:
    """Invariant: a URL that is taken has one host, port and path, to WHATWG's parser, yarl's, urllib's and the gate's alike."""
    canonical.check_url(url)


@given(pieces)
@settings(max_examples=300)
def test_no_parser_reads_an_authority_that_we_take_in_another_way(text: str) -> None:
    """Invariant: the same of Host, :authority and the target of CONNECT, and of the name that the resolver is asked for."""
    canonical.check_authority(text)


@pytest.mark.parametrize(
    "name, other",
    [
        ("whatwg", canonical.Reading("https", "evil.test", 443, "/a")),
        ("yarl", canonical.Reading("https", "a.test", 444, "/a")),
        ("urllib", canonical.Reading("https", "a.test", 443, "/b")),
        ("gate", canonical.Reading("http", "a.test", 443, "/a")),
    ],
)
def test_a_parser_that_differs_is_found(monkeypatch: pytest.MonkeyPatch, name: str, other: canonical.Reading) -> None:
    monkeypatch.setitem(canonical.PARSERS, name, lambda _: other)
    with pytest.raises(AssertionError, match=f"{name} reads another"):
        canonical.check_url("https://a.test/a")


def test_a_host_that_the_resolver_takes_for_another_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "host", lambda text: text)
    with pytest.raises(AssertionError, match="another address to the resolver"):
        canonical.check_host("0x7f000001")
