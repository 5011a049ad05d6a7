"""What a person writes for a destination, parsed by component: never compared as a string prefix.

Lives here: the grammar of URL, socket, DNS and listen patterns and of path globs; each fault with the corrected text.
May not live here: matching (match.py), the public suffix list (suffixes.py), what a rule says besides its destination.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import ip_network
from typing import Final, NamedTuple

from outpass.policy import addresses, names

ANY_PATH: Final = "/**"
ANY_HOST: Final = ""
"""The host of a listen rule that names no address."""
_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110, section 5.6.2
_KNOWN_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"})
_SHORT: Final = re.compile(r"(?P<methods>[^\s:/]+)\s+(?P<url>\S+)")
_WILDCARD: Final = re.compile(r"(?P<stars>\*\*?)\.(?P<rest>[^*]+)")


class PatternError(ValueError):
    """A pattern that is refused: lower-case message, and `hint` with the corrected text where there is one."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class Pattern(NamedTuple):
    """A destination pattern in normal form. `host` may start with `*.` or `**.`, or be a network in CIDR form."""

    scheme: str
    host: str
    low: int
    high: int
    path: str
    methods: tuple[str, ...]


def http(text: str) -> Pattern:
    """`[METHOD[,METHOD] ]http(s)://host[:port][/path]`. Raises PatternError."""
    short = _SHORT.fullmatch(text.strip())
    if short is None:
        return url(text)
    found = tuple(method(m) for m in short["methods"].split(","))
    return url(short["url"])._replace(methods=found)


def method(text: str) -> str:
    """One HTTP method, exact case. Raises PatternError."""
    if not _TOKEN.fullmatch(text):
        raise PatternError(f"{text!r} is not an HTTP method", "write it in capitals, for example GET")
    if text.upper() in _KNOWN_METHODS and text not in _KNOWN_METHODS:
        raise PatternError(f"{text!r} is not an HTTP method: methods are compared in exact case", f"write {text.upper()}")
    return text


def url(text: str) -> Pattern:
    """A URL pattern without method. Raises PatternError."""
    if re.search(r"[\x00-\x20\x7f\\]", text):
        raise PatternError(f"{text!r} holds a space, a backslash or a control character")
    scheme, mark, rest = text.partition("://")
    if not mark:
        raise PatternError(f"{text!r} is not a URL: it has no scheme", f"write https://{text.lstrip('/')}")
    if scheme.lower() not in names.DEFAULT_PORTS:
        raise PatternError(f"{text!r}: the scheme is {scheme!r}", "only http and https; sockets have a list of their own")
    scheme = scheme.lower()
    cut = min((i for c in "/?#" if (i := rest.find(c)) >= 0), default=len(rest))
    where, tail = rest[:cut], rest[cut:]
    for sign, what in (("?", "queries are"), ("#", "fragments are")):
        if sign in tail:
            raise PatternError(f"{text!r}: {what} not matched", f"write {text.partition(sign)[0]}")
    if "@" in where:
        raise PatternError(f"{text!r} holds a user name or password", f"write {scheme}://{where.rpartition('@')[2]}{tail}")
    name, number = _split_port(where, text)
    low = names.DEFAULT_PORTS[scheme] if number is None else _port(number, text)
    return Pattern(scheme, host(name), low, low, glob(tail or "/"), ())


def _split_port(where: str, text: str) -> tuple[str, str | None]:
    if where.startswith("["):
        name, bracket, rest = where.partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise PatternError(f"{text!r}: the brackets round the address are not closed")
        return name + bracket, rest[1:] if rest else None
    if where.count(":") > 1:
        raise PatternError(f"{text!r}: an IPv6 address needs brackets", f"write [{where}]")
    name, colon, number = where.partition(":")
    return name, number if colon else None


def _port(number: str, text: str) -> int:
    try:
        return names.port(number)
    except ValueError as fault:
        raise PatternError(f"{text!r}: {fault}") from None


def host(text: str) -> str:
    """A host or a host wildcard (`*.x` one label, `**.x` one or more, never the apex). Raises PatternError."""
    try:
        if "*" not in text:
            return names.host(text)
        found = _WILDCARD.fullmatch(text)
        if found is None:
            raise PatternError(f"{text!r}: a wildcard stands for whole labels at the left end", _wildcard_hint(text))
        rest = names.host(found["rest"])
    except PatternError:
        raise
    except ValueError as fault:
        raise PatternError(str(fault), _host_hint(text)) from None
    if addresses.is_literal(rest):
        raise PatternError(f"{text!r}: an address takes no wildcard", "a socket list takes networks such as 10.0.0.0/8:5432")
    return f"{found['stars']}.{rest}"


def _wildcard_hint(text: str) -> str:
    if text in {"*", "**"}:
        return "for any public destination leave the whole list out; for one domain write *.example.com"
    rest = text.rpartition("*")[2].lstrip(".-")
    return f"write *.{rest}" if "." in rest else "write *.example.com"


def _host_hint(text: str) -> str:
    lowered = text.lower().strip(".").replace("..", ".")
    try:
        return f"write {names.host(lowered)}" if lowered and lowered != text else ""
    except ValueError:
        return ""


def glob(text: str) -> str:
    """A path glob in normal form: a trailing `/` means `/**`; `*` stays in one segment, `**` is a whole one."""
    try:
        normal = names.path(text)
    except ValueError as fault:
        raise PatternError(f"{text!r}: {fault}") from None
    for segment in normal.split("/"):
        if "**" in segment and segment != "**":
            fixed = re.sub(r"\*\*+", "*", segment)
            raise PatternError(f"{text!r}: ** must be a whole segment", f"write {normal.replace(segment, fixed)}")
    normal = normal + "**" if normal.endswith("/") else normal
    return re.sub(r"(?:/\*\*)+(?=/\*\*(?:/|$))", "", normal)  # `/**/**` says no more than `/**`


def socket(text: str) -> Pattern:
    """`[udp://]host:port`, `host:low-high`, `network/prefix:port`, `[v6]:port`. Raises PatternError."""
    scheme, mark, rest = text.partition("://")
    if not mark:
        scheme, rest = "tcp", text
    if scheme not in {"tcp", "udp"}:
        raise PatternError(f"{text!r}: a socket is tcp or udp", f"write {rest.partition('/')[0]}")
    where, number = _split_socket(rest, text)
    low, high = _ports(number, text)
    if "/" in where:
        try:
            return Pattern(scheme, str(ip_network(where.strip("[]"))), low, high, "", ())
        except ValueError as fault:
            raise PatternError(f"{text!r}: {str(fault).lower()}", _network_hint(where, number)) from None
    return Pattern(scheme, host(where), low, high, "", ())


def _network_hint(where: str, number: str) -> str:
    try:
        net = ip_network(where.strip("[]"), strict=False)
    except ValueError:
        return ""
    return f"write [{net}]:{number}" if net.version == 6 else f"write {net}:{number}"


def _split_socket(rest: str, text: str) -> tuple[str, str]:
    if rest.count(":") > 1 and not rest.startswith("["):
        raise PatternError(f"{text!r}: an IPv6 address needs brackets", "write [ADDRESS]:PORT")
    where, colon, number = rest.rpartition(":")
    if not colon or rest.endswith("]"):
        raise PatternError(f"{text!r} has no port", f"write {rest}:PORT, for example {rest}:5432")
    return where, number


def _ports(number: str, text: str) -> tuple[int, int]:
    if number == "*":
        return 1, 65535
    low, dash, high = number.partition("-")
    first = _port(low, text)
    last = _port(high, text) if dash else first
    if last < first:
        raise PatternError(f"{text!r}: the port range runs backwards", f"write {last}-{first}")
    return first, last


def dns(text: str) -> Pattern:
    """A name or a name wildcard; queries of any type for it. Raises PatternError."""
    if ":" in text or "/" in text:
        raise PatternError(f"{text!r}: a dns rule is a name", "write the name alone, for example **.cluster.local")
    found = host(text)
    if addresses.is_literal(found):
        raise PatternError(f"{text!r}: a dns rule is a name, not an address")
    return Pattern("dns", found, 53, 53, "", ())


def listen(text: str) -> Pattern:
    """`port`, `low-high`, `address:port`; a port alone is that port on any address. Raises PatternError."""
    if ":" not in text:
        low, high = _ports(text, text)
        return Pattern("listen", ANY_HOST, low, high, "", ())
    where, number = _split_socket(text, text)
    low, high = _ports(number, text)
    found = host(where)
    if "*" in found or not addresses.is_literal(found):
        raise PatternError(f"{text!r}: listen takes an address", "write the port alone for any address")
    return Pattern("listen", found, low, high, "", ())


PARSERS: Final[dict[str, Callable[[str], Pattern]]] = {
    "http": http,
    "fetch": http,
    "socket": socket,
    "dns": dns,
    "listen": listen,
}
"""Key of a destination list → its grammar."""
