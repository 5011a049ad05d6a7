"""The one place where a package, a host, a path, a URL or an authority is put into normal form, or refused.

Lives here: canonical spellings, used alike for the policy, the request and the address dialled, because two parsers that
differ are the oldest way round an allowlist (CVE-2022-24825, CVE-2022-29188). May not live here: wildcards and rules
(pattern.py), what an address means (addresses.py), I/O. Every refusal is a ValueError with a lower-case message.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

import idna

from outpass.policy import addresses

APP: Final = "app"
ANY: Final = "*"
UNATTRIBUTED: Final = "unattributed"
UNKNOWN: Final = "?"
HOST: Final = "host.outpass.internal"
"""The loopback of the machine outside the jail. Only a rule that names it reaches it, as with literal loopback addresses."""
_RESERVED: Final = frozenset({APP, UNATTRIBUTED})
DEFAULT_PORTS: Final[dict[str, int]] = {"http": 80, "https": 443}

_PYPI: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_NPM: Final = re.compile(r"(?:@[a-z0-9~-][a-z0-9._~-]*/)?[A-Za-z0-9~_-][A-Za-z0-9._~-]*")
_EXE: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*")
_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_PLAIN_HOST: Final = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)*"
)
_PORT: Final = re.compile(r"[0-9]{1,5}")
_PLAIN_PATH: Final = re.compile(r"/[A-Za-z0-9._~!$&'()*+,;=:@/-]*")
_ESCAPE: Final = re.compile(r"%([0-9A-Fa-f]{2})?")
_UNRESERVED: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_ENCODE: Final = {ord(c): f"%{ord(c):02X}" for c in '"<>^`{|}[]#?'}
_CONTROL: Final = re.compile(r"[\x00-\x20\x7f]")
_OVERLONG: Final = re.compile(rb"(?:\xc0|\xe0\x80|\xf0\x80\x80)\xae|((?:\xc0|\xe0\x80|\xf0\x80\x80)\xaf|\xc1\x9c)")
"""Dot, and slash or backslash, in UTF-8 that is longer than it may be (RFC 3629, section 10; CVE-2008-2938)."""
_LONGEST_HOST: Final = 1024
"""Characters of a host as written; one that is valid has 253 in normal form, and one that is longer is an attack on the cache."""


class Target(NamedTuple):
    """A URL, taken apart: canonical host, port always set, path and query raw as they were written."""

    scheme: str
    host: str
    port: int
    path: str
    query: str


def package(text: str) -> str:
    """A principal's normal form: PEP 503 for PyPI names; `pkg:npm/x`, `exe:x`, `app`, `*`, `unattributed` as they are.

    A PyPI distribution whose own name is `app` or `unattributed` must be written (and is returned) as `pkg:pypi/app`:
    the bare word is the application. Raises ValueError; `?` and `!x` are no names that anyone can give (see `principal`).
    """
    if text in _RESERVED or text == ANY:
        return text
    if text.startswith("exe:"):
        if not _EXE.fullmatch(text[4:]):
            raise ValueError(f"{text!r} is not a program's name; write exe:NAME, for example exe:git")
        return text
    if text.startswith("pkg:npm/"):
        name = text[8:].replace("%40", "@", 1)
        if not _NPM.fullmatch(name):
            raise ValueError(f"{text!r} is not an npm package; write pkg:npm/NAME or pkg:npm/@SCOPE/NAME")
        return f"pkg:npm/{name}"
    if text.startswith("pkg:") and not text.startswith("pkg:pypi/"):
        raise ValueError(f"{text!r} is of a kind that outpass does not know; write pkg:pypi/NAME or pkg:npm/NAME")
    bare = text.removeprefix("pkg:pypi/")
    if not _PYPI.fullmatch(bare):
        raise ValueError(f"{text!r} is not a package name")
    return distribution(bare)


def distribution(name: str) -> str:
    """The chain entry of an installed PyPI distribution: its PEP 503 name, qualified where that would read as a principal.

    Anyone may publish a distribution called `app`; were its chain entry the bare word, it would hold the application's
    rights and end the chain.
    """
    normal = re.sub(r"[-_.]+", "-", name).lower()
    return f"pkg:pypi/{normal}" if normal in _RESERVED else normal


def principal(text: str) -> str:
    """As `package`, and also `?` (unknown) and `!name` (claimed, not proven), which occur in chains only."""
    if text == UNKNOWN:
        return text
    if text.startswith("!"):
        return "!" + package(text[1:])
    return package(text)


def purl(name: str, version: str | None) -> str:
    """The package URL of a chain entry, for `sub` claims and records; `exe:NAME` has none and stays."""
    if name.startswith("exe:"):
        return name
    special = {APP: "app", UNATTRIBUTED: "unattributed", ANY: "any", UNKNOWN: "unknown"}.get(name)
    if special or name.startswith("!"):
        return f"pkg:generic/{special or 'unproven'}"
    base = name.replace("@", "%40", 1) if name.startswith("pkg:") else f"pkg:pypi/{name}"
    return f"{base}@{version}" if version else base


@lru_cache(maxsize=16384)
def host(text: str) -> str:
    """A host in canonical form: lower-case A-labels without trailing dot, or an address without brackets.

    Every spelling of an address is that address: `0x7f.1`, `127.1`, `2130706433`, `[::ffff:127.0.0.1]` are `127.0.0.1`.
    Raises ValueError.
    """
    if len(text) > _LONGEST_HOST:
        raise ValueError("the host is too long")  # and not repeated: it goes into an answer and a record
    if text.startswith("[") or text.endswith("]") or ":" in text:
        inner = text[1:-1] if text.startswith("[") and text.endswith("]") else text
        if ":" not in inner or "[" in inner or "]" in inner:
            raise ValueError(f"{text!r} has brackets but is not an IPv6 address")
        return addresses.canonical(inner)
    name = text if text.isascii() else _remap(text)
    name = name.lower().removesuffix(".")
    if not name:
        raise ValueError("the host is empty")
    if not name.isascii():
        name = ".".join(_a_label(label, text) for label in name.split("."))
    if addresses.numeric(name):
        return addresses.canonical(name)
    if not _PLAIN_HOST.fullmatch(name):
        raise ValueError(_host_fault(text, name))
    return name


def _remap(text: str) -> str:
    try:  # UTS 46 first: full-width digits and the ideographic full stop must not hide an address
        return idna.uts46_remap(text, std3_rules=False, transitional=False)
    except idna.IDNAError:
        raise ValueError(f"{text!r} is not a valid internationalised host") from None


def _a_label(label: str, whole: str) -> str:
    # ASCII labels are held to IDNA too: parsers that find one bad label read the whole name by the older standard, in which
    # `ß` beside `a_b` is `ss`, another host (yarl does).
    try:
        return idna.alabel(label).decode("ascii")
    except idna.IDNAError:
        raise ValueError(f"{whole!r} is not a valid internationalised host") from None


def _host_fault(text: str, name: str) -> str:
    if "%" in name:
        return f"{text!r} is not a host: percent signs are not decoded in hosts"
    if ".." in name or name.startswith(".") or name.endswith("."):
        fixed = ".".join(part for part in name.split(".") if part)
        return f"{text!r} has an empty label" + (f"; write {fixed!r}" if _PLAIN_HOST.fullmatch(fixed) else "")
    bad = next((label for label in name.split(".") if not _LABEL.fullmatch(label)), name)
    return f"{text!r} is not a host: {bad[:80]!r} is not a valid label"


def path(raw: str) -> str:
    """A raw path (no query) as rules compare it: unreserved characters decoded, `%2F` still part of its segment.

    Raises ValueError unless it starts with `/`, and when its decoded form holds a `.` or `..` segment (also `..;`, as
    servers that know path parameters read it), a backslash or a control character, or when an escape is cut short.
    """
    if _PLAIN_PATH.fullmatch(raw) and "/." not in raw:
        return raw
    if not raw.startswith("/"):
        raise ValueError("the path does not start with a slash")
    if _CONTROL.search(raw):
        raise ValueError("the path holds a space or a control character")
    try:
        octets = raw.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("the path is not valid text") from None
    if any(found[1] is None for found in _ESCAPE.finditer(raw)):
        raise ValueError("the path holds a percent sign that starts no escape")
    decoded = unquote_to_bytes(octets)
    if any(c < 0x20 or c == 0x7F or c == 0x5C for c in decoded):
        raise ValueError("the path holds a backslash or a control character")
    if _has_dot_segment(decoded):
        raise ValueError("the path holds a dot segment")
    text = raw.translate(_ENCODE)
    if not text.isascii():
        text = "".join(c if c.isascii() else "".join(f"%{b:02X}" for b in c.encode()) for c in text)
    return _ESCAPE.sub(_escape, text)


def _has_dot_segment(decoded: bytes) -> bool:
    """Whether a decoded path leaves its directory: as it is, with overlong UTF-8 read leniently, or decoded once more.

    The last two are how lenient servers, and an origin behind a front that decodes too, have been walked out of (CVE-2021-42013).
    """
    forms = [decoded]
    if any(lead in decoded for lead in (b"\xc0", b"\xc1", b"\xe0\x80", b"\xf0\x80")):
        forms.append(_OVERLONG.sub(lambda found: b"/" if found[1] else b".", decoded))
    if b"%" in decoded:
        forms.append(unquote_to_bytes(decoded).replace(b"\\", b"/"))
    return any(part.partition(b";")[0] in {b".", b".."} for form in forms for part in form.split(b"/"))


def _escape(found: re.Match[str]) -> str:
    value = int(found[1], 16)
    return chr(value) if value in _UNRESERVED else f"%{value:02X}"


def port(text: str) -> int:
    """A port from 1 to 65535. Raises ValueError."""
    if not _PORT.fullmatch(text) or not 1 <= int(text) <= 65535:
        raise ValueError(f"{text!r} is not a port (1 to 65535)")
    return int(text)


def parse_url(url: str) -> Target:
    """An absolute http or https URL, taken apart. Raises ValueError: another scheme, userinfo, spaces, backslashes, no host."""
    if _CONTROL.search(url) or "\\" in url:
        raise ValueError("the URL holds a space, a backslash or a control character")
    scheme, mark, rest = url.partition("://")
    scheme = scheme.lower()
    if not mark or scheme not in DEFAULT_PORTS:
        raise ValueError(f"{url!r} is not an http or https URL")
    cut = min((i for c in "/?#" if (i := rest.find(c)) >= 0), default=len(rest))
    where, tail = rest[:cut], rest[cut:].partition("#")[0]
    if "@" in where:
        raise ValueError("the URL holds a user name or password")
    name, number = authority(where, DEFAULT_PORTS[scheme])
    raw, _, query = tail.partition("?")
    return Target(scheme, name, number, raw or "/", query)


def authority(text: str, default_port: int | None) -> tuple[str, int]:
    """`host`, `host:port` or `[v6]:port` as (canonical host, port). Raises ValueError, also when there is no port at all."""
    if text.startswith("["):
        name, bracket, rest = text.partition("]")
        name += bracket
        if rest and not rest.startswith(":"):
            raise ValueError(f"{text!r} is not host:port")
        number = rest[1:] if rest else None
    elif text.count(":") > 1:
        raise ValueError(f"{text!r} is not host:port; write an IPv6 address in brackets")
    else:
        name, colon, number_text = text.partition(":")
        number = number_text if colon else None
    if "@" in name:
        raise ValueError(f"{text!r} holds a user name")
    if number is None:
        if default_port is None:
            raise ValueError(f"{text!r} has no port")
        return host(name), default_port
    return host(name), port(number)


def format_authority(host: str, port: int) -> str:
    """`host:port`, with brackets round an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
