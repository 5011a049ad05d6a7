"""Do all parsers that a URL meets on its way read it as we do? Ours is asked first; what it refuses cannot go wrong.

Lives here: the comparison of one URL, for the fuzzer and for tests/property. May not live here: how inputs come about.

Invariant: if we take U for (scheme, host, port, path), then every other parser takes U, and takes the raw path of U where an
origin would, for the same, or refuses it; and the C library takes the host for the same address, or for a name as we do.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes, urlsplit

import can_ada
import yarl
from mitmproxy.net.http import http1

from outpass.policy import addresses, names


class Reading(NamedTuple):
    """A URL as one parser reads it: host as written, path raw."""

    scheme: str
    host: str
    port: int
    path: str


def _whatwg(text: str) -> Reading:
    """The URL standard, as browsers and Node read (ada is Node's own parser)."""
    found = can_ada.parse(text)
    scheme = found.protocol.removesuffix(":")
    return Reading(scheme, found.hostname, int(found.port or names.DEFAULT_PORTS[scheme]), found.pathname)


def _yarl(text: str) -> Reading:
    """aiohttp's."""
    found = yarl.URL(text)
    if found.raw_host is None or found.port is None:
        raise ValueError("no host")
    return Reading(found.scheme, found.raw_host, found.port, found.raw_path or "/")


def _urllib(text: str) -> Reading:
    """The standard library's."""
    found = urlsplit(text)
    if not found.hostname:
        raise ValueError("no host")
    # An empty port is none, as RFC 3986 has it; urlsplit says None for both.
    return Reading(found.scheme, found.hostname, found.port or names.DEFAULT_PORTS[found.scheme], found.path or "/")


def _gate(text: str) -> Reading:
    """The gate's way with a target in absolute form: the engine reads it (and A-labels as Unicode), names.host what it read."""
    line = b"GET %s HTTP/1.1" % text.partition("#")[0].encode()
    data = http1.read_request_head([line]).data
    return Reading(data.scheme.decode(), names.host(data.host), data.port, data.path.decode().partition("?")[0])


REFUSALS: Final = (ValueError, TypeError, UnicodeError, KeyError, OverflowError)
"""What a parser raises for what is no URL; yarl lets the overflow of its punycode decoder through."""
_QUOTED: Final = re.compile(r"(?s)['\"].*['\"]|[0-9]+")
PARSERS: Final[dict[str, Callable[[str], Reading]]] = {"whatwg": _whatwg, "yarl": _yarl, "urllib": _urllib, "gate": _gate}


def segments(path: str) -> list[bytes]:
    """A raw path as decoded segments: what a path *is*, however it is escaped."""
    return [unquote_to_bytes(part) for part in path.split("/")]


def check_url(text: str) -> str:
    """One URL through all parsers; a few words about the outcome. Raises AssertionError when one differs from us."""
    try:
        ours = names.parse_url(text)
        path = names.path(ours.path)
    except ValueError as error:
        return "refused: " + _QUOTED.sub("", str(error))
    said = []
    for name, parse in PARSERS.items():
        try:
            theirs = parse(text)
        except REFUSALS:
            said.append(f"{name} refuses")
            continue
        _compare(name, text, ours, path, theirs)
    check_host(ours.host)
    check_path(ours.path)
    return f"{_kind(ours.host)} {'; '.join(said)}"


def _compare(name: str, text: str, ours: names.Target, path: str, theirs: Reading) -> None:
    try:
        host = names.host(theirs.host)
    except ValueError:
        host = f"{theirs.host!r}, which is none"
    assert theirs.scheme == ours.scheme, f"{name} reads another scheme | {text!r}: {theirs} {ours}"
    assert host == ours.host, f"{name} reads another host | {text!r}: {host} {ours}"
    assert theirs.port == ours.port, f"{name} reads another port | {text!r}: {theirs} {ours}"
    assert segments(theirs.path) == segments(path), f"{name} reads another path | {text!r}: {theirs.path!r} {path!r}"


def check_host(host: str) -> None:
    """A canonical host must be to the resolver what it is to us: the same address, or a name that it would look up."""
    assert host.isascii() and names.host(host) == host, f"the canonical host is not its own canonical form | {host!r}"
    try:
        found = socket.getaddrinfo(host, 443, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)[0][4][0]
    except (socket.gaierror, UnicodeError):
        assert not addresses.is_literal(host), f"an address to us, and not to the resolver | {host!r}"
        return
    assert addresses.is_literal(host), f"a name to us, and an address to the resolver | {host!r} {found}"
    assert addresses.canonical(str(found).partition("%")[0]) == host, f"another address to the resolver | {host!r} {found}"


def check_path(raw: str) -> None:
    """A path that we take must be that path to an origin that parses its target as a URL (Node, Deno, browsers' servers)."""
    path = names.path(raw)
    assert names.path(path) == path, f"the normal path is not its own normal form | {raw!r} {path!r}"
    for sent in {raw, path}:
        wire = "".join(c if c.isascii() else "".join(f"%{b:02X}" for b in c.encode()) for c in sent)
        for name in ("whatwg", "yarl", "urllib"):
            read = PARSERS[name](f"http://h{wire}").path
            assert segments(read) == segments(path), f"an origin with {name} reads another path | {raw!r}: {read!r} {path!r}"


def check_authority(text: str) -> str:
    """One Host, :authority or CONNECT target; as check_url."""
    try:
        host, port = names.authority(text, 443)
    except ValueError:
        return "refused authority"
    check_host(host)
    for name in ("whatwg", "yarl"):
        try:
            theirs = PARSERS[name](f"https://{text}/")
        except REFUSALS:
            continue
        assert (names.host(theirs.host), theirs.port) == (host, port), f"{name} reads another authority | {text!r}: {theirs}"
    return f"authority {_kind(host)}"


def _kind(host: str) -> str:
    return addresses.classify(host)[0].value if addresses.is_literal(host) else "punycode" if "xn--" in host else "name"


class Canonical:
    """Inputs are UTF-8 text: a URL, or with `@` in front an authority."""

    name = "canonical"
    words = tuple(
        w.encode()
        for w in (
            "http://", "https://", "HTTPS://", "//", "/", "\\", "?", "#", "@", ":", "::", "[", "]", "%", "%25", "%2e", "%2E%2e",
            "%2f", "%5c", "%00", "%0a", "%c0%ae", "%c0%af", "%e0%80%ae", ";", ";.", "/.", "/..", "/../", "/./", "..", "..;",
            "...", ".", "0x", "0x7f", "0177", "2130706433", "127.1", "127.0.0.1", "::1", "::ffff:", "64:ff9b::", "2002:", "1e2",
            "0", "00", "08", "0x0", "a.test", "a.test.", "xn--", "xn--a", "xn--ls8h", "ß", "ſ", "K", "。", "．", "｡", "０", "①", "／",
            "：", "＠", "％", "﹒", "\u00ad", "\u200d", "\u200b", "\u2060", "\u0130", "İ", "é", "e\u0301", "\t", "\n", "\r", "\0", " ", "\x7f",
            "+", "*", "^", "|", "{", "}", "`", '"', "<", ">", "'", "~", "_", "-", "--", "80", "443", "65535", "65536", ":0",
            ":00443", "%zone", "%25eth0", "\ud7ff", "\U0001f4a9", "\ufeff", "user:pw@", "localhost", "metadata.google.internal",
        )
    )  # fmt: skip

    def seeds(self) -> Iterable[bytes]:
        """One URL of each kind."""
        yield from (
            b"https://api.example.com/v1/charges?x=1#f", b"http://[::ffff:7f00:1]:8080/a//b/%2F;p=1/", b"http://0x7f.1/",
            "https://bücher.example/ü".encode(), b"https://a.test./a/%2e%2e/b", b"@a.test:443", b"@[::1]:80", b"@127.1",
        )  # fmt: skip

    def run(self, data: bytes) -> str:
        """As Target.run."""
        text = data.decode("utf-8", "replace")
        return check_authority(text[1:]) if text.startswith("@") else check_url(text)
