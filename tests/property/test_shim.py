"""Properties of the shim's pure parts: what is local, what a target means, who owns a file.

Lives here: invariants, with hypothesis. May not live here: programs under the shim (tests/shim).
"""

from __future__ import annotations

import ipaddress
import string
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpass_shim import _guard, _http
from outpass_shim._registry import APP, UNKNOWN, Map

LABEL = st.text(string.ascii_letters + string.digits + "-", min_size=1, max_size=12)
NAME = st.lists(LABEL, min_size=1, max_size=4).map(".".join)
ADDRESS = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))
PORT = st.integers(1, 65535)


def loopback(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    inner = getattr(address, "ipv4_mapped", None) or address
    return bool(inner.is_loopback)


@given(ADDRESS)
def test_a_literal_is_local_exactly_if_it_is_loopback(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    """Invariant: without wildcards, local means loopback as the standard library defines it, mapped forms included."""
    assert _guard.is_local((str(address), 80), wildcard=False) is loopback(address)


@given(st.integers(0, 2**32 - 1), st.sampled_from(["{0}", "{0:#x}", "{1}.{2}", "{1:#o}.{2}"]))
def test_other_spellings_of_an_ipv4_address_are_the_address_that_they_are(number: int, form: str) -> None:
    """Invariant: inet_aton's spellings (RFC 6943, 3.1.1) never make an address local that is not, nor the reverse."""
    text = form.format(number, number >> 24, number & 0xFFFFFF)
    assert _guard.is_local((text.replace("0o", "0"), 80), wildcard=False) is loopback(ipaddress.ip_address(number))


@given(NAME)
def test_no_name_is_local_but_loopback_s_own(name: str) -> None:
    """Invariant: a name is never taken for an address because of how it begins."""
    if _guard._packed(name) is None and name.lower() not in ("localhost", "ip6-localhost", "ip6-loopback"):
        assert not _guard.is_local((name, 80))


@given(st.text(max_size=40))
def test_any_text_is_either_local_or_not(text: str) -> None:
    """Invariant: whatever a program passes as a host, the guard answers, and does not raise."""
    assert _guard.is_local((text, 80)) in (True, False)


@given(
    st.sampled_from(["http", "https", "HTTP"]),
    st.one_of(NAME, st.ip_addresses(v=6).map(lambda a: f"[{a}]")),
    st.none() | PORT,
    st.text(string.ascii_letters + "/?:@#.%", max_size=20),
)
def test_the_authority_of_a_target_is_that_of_its_url(scheme: str, host: str, port: int | None, rest: str) -> None:
    """Invariant: what a pass is asked for is where the URL leads, with the port that is meant."""
    url = f"{scheme}://{host}{'' if port is None else f':{port}'}/{rest}"
    tls = scheme == "https"
    assert _http.of_url(url) == (f"{host}:{urlsplit(url).port or (443 if tls else 80)}", tls)


PART = st.sampled_from(["a", "b", "site", "app", "lib"])
PATH = st.lists(PART, min_size=1, max_size=5).map(lambda parts: "/" + "/".join(parts) + ".py")
DIRS = st.dictionaries(
    st.lists(PART, min_size=1, max_size=4).map(lambda p: "/" + "/".join(p)), st.sampled_from(["x", "y"]), max_size=4
)


@given(PATH, DIRS, st.booleans(), st.booleans())
def test_what_lies_in_a_site_is_never_the_application(path: str, dirs: dict[str, str], site: bool, root: bool) -> None:
    """Invariant: a file below a site is its nearest owner's or nobody's, also where the site lies in a root."""
    content = {"built": 0.0, "files": {}, "dirs": dirs, "editable": {}, "sites": ["/site"] if site else []}
    owner = Map(content, {"roots": ["/site", "/app"] if root else [], "transparent": [], "instruments": []}).owner(path)
    above = [d for d in dirs if path.startswith(d + "/")]
    if path.startswith("/site/") and site:
        inside = [d for d in above if len(d) > len("/site")]  # the site itself is nobody's
        assert owner == (dirs[max(inside, key=len)] if inside else UNKNOWN)
    elif above:
        assert owner == dirs[max(above, key=len)]
    else:
        assert owner == (APP if root and path.startswith(("/site/", "/app/")) else None)


@pytest.mark.parametrize(
    "place, port, wanted",
    [
        ("a", 443, "a:443"),
        ("a:8443", 443, "a:8443"),
        ("[::1]", 80, "[::1]:80"),
        ("[::1]:81", 80, "[::1]:81"),
        ("a:", 80, "a:80"),
        ("0", 80, "0:80"),
    ],
)
def test_a_port_is_added_where_there_is_none(place: str, port: int, wanted: str) -> None:
    assert _http.with_port(place, port) == wanted
