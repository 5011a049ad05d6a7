"""The proxy that the user's network asks for: `--upstream-proxy`, else the `*_PROXY` variables that outpass was started with.

Lives here: reading those, NO_PROXY, and the form in which the gate is told. May not live here: dialling (gate/through.py), any
text with the credentials in it: messages show the proxy's URL without them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import unquote, urlsplit

from outpass.errors import StartError
from outpass.policy import addresses, names

VARIABLE: Final = "OUTPASS_UPSTREAM_PROXY"
"""As the option, and where a private daemon gets it from: a command line can be read by everybody on the machine."""
INHERITED: Final = ("HTTPS_PROXY", "ALL_PROXY", "HTTP_PROXY")
"""The first that is set counts, for every scheme; the lower-case spelling before the other, as curl has it."""
NONE: Final = "none"

_PORTS: Final = {"http": 80, "https": 443, "socks5": 1080}
_ALIASES: Final = {"socks5h": "socks5", "socks": "socks5"}
_LONGEST: Final = 255
"""Bytes of a user name or password (RFC 1929)."""


class Upstream(NamedTuple):
    """A proxy that stands between the gate and the internet."""

    scheme: str
    """`http`, `https` (HTTP over TLS to the proxy) or `socks5`."""
    host: str
    port: int
    user: str | None
    password: str
    exempt: tuple[str, ...]
    """Entries of NO_PROXY, lower case."""
    source: str
    """The option or variable that named it."""

    @property
    def shown(self) -> str:
        """Its URL, without credentials."""
        return f"{self.scheme}://{names.format_authority(self.host, self.port)}"

    @property
    def notice(self) -> str:
        """What a person is told of it."""
        return (
            f"upstream proxy {self.shown} (from {self.source}): it resolves the names, so the addresses behind them are not "
            "checked; --upstream-proxy none dials directly"
        )

    def message(self) -> dict[str, Any]:
        """As the gate's start message carries it."""
        return {**self._asdict(), "exempt": list(self.exempt)}

    def carries(self, host: str, port: int) -> bool:
        """Whether a canonical `host` is reached through it: not this machine itself, and nothing that NO_PROXY names."""
        if host in ("localhost", names.HOST) or host.endswith(".localhost"):
            return False
        literal = addresses.is_literal(host)
        if literal and addresses.classify(host)[0] is addresses.Kind.LOOPBACK:
            return False
        return not any(_exempts(entry, host, port, literal) for entry in self.exempt)


def of_message(message: Mapping[str, Any] | None) -> Upstream | None:
    """What `message` made. Raises KeyError, TypeError or ValueError."""
    if message is None:
        return None
    found = Upstream(**{**message, "exempt": tuple(message["exempt"])})
    if found.scheme not in _PORTS:
        raise ValueError("the upstream proxy has an unknown scheme")
    return found


def chosen(option: str | None, env: Mapping[str, str]) -> Upstream | None:
    """The upstream proxy, if there is one. StartError, without the text that may hold a password, where it makes no sense.

    A proxy that cannot be read is an error and not a direct connection: whoever has one is meant to go through it.
    """
    source, url = _named(option, env)
    place = url.rpartition("@")[2].rpartition("://")[2].strip("/")  # a spawn pass may stand before it
    if not url or url == NONE or (place and place == env.get("OUTPASS_PROXY")):
        return None  # the last: the gate that a jail around us leads to anyway
    exempt = tuple(entry.lower() for entry in _value(env, "NO_PROXY").replace(",", " ").split())
    return None if "*" in exempt else _parsed(url, source, exempt)


def _named(option: str | None, env: Mapping[str, str]) -> tuple[str, str]:
    if option is not None:
        return "--upstream-proxy", option.strip()
    if VARIABLE in env:
        return f"${VARIABLE}", env[VARIABLE].strip()
    for name in INHERITED:
        # What a web server puts there is a client's header (httpoxy, CVE-2016-5385).
        if (value := _value(env, name)) and not (name == "HTTP_PROXY" and "REQUEST_METHOD" in env):
            return f"${name}", value
    return "", ""


def _value(env: Mapping[str, str], name: str) -> str:
    return (env.get(name.lower()) or env.get(name) or "").strip()


def _parsed(url: str, source: str, exempt: tuple[str, ...]) -> Upstream:
    hint = "write http://, https:// or socks5://[USER:PASSWORD@]HOST[:PORT], or none"
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        scheme = _ALIASES.get(parts.scheme, parts.scheme)
        if scheme not in _PORTS:
            raise StartError(f"{source}: an upstream proxy of the scheme {scheme!r} is not supported", hint)
        host, port = names.authority(parts.netloc.rpartition("@")[2], _PORTS[scheme])
        if parts.path not in ("", "/") or parts.query or parts.fragment:
            raise ValueError
    except ValueError:
        raise StartError(f"{source} is not the URL of a proxy", hint) from None
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if max(len(user.encode()), len(password.encode())) > _LONGEST or ":" in user:
        raise StartError(
            f"{source}: the user name or password cannot be sent to a proxy", "at most 255 bytes, no colon in the name"
        )
    return Upstream(scheme, host, port, user if parts.username is not None else None, password, exempt, source)


def _exempts(entry: str, host: str, port: int, literal: bool) -> bool:
    """As Go and curl read NO_PROXY: a name covers what is below it, too; networks in CIDR form; a port narrows it."""
    name, colon, number = entry.rpartition(":")
    if colon and number.isdigit() and (":" not in name or name.endswith("]")):
        if int(number) != port:
            return False
        entry = name
    entry = entry.strip("[]").removeprefix("*").strip(".")
    if not literal:
        return bool(entry) and (host == entry or host.endswith(f".{entry}"))
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False
