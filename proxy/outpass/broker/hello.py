"""The shim's messages, read strictly: hello, mint, check, resolve (client_shim/PROTOCOL.md).

Lives here: shapes, limits, and the refusal of anything else. May not live here: what is done about a message.

The sender may be hostile. What is not of the documented shape is refused whole; fields without a name there are ignored.
"""

from __future__ import annotations

import ipaddress
import json
import re
from typing import Any, Final, NamedTuple

from outpass.broker import queries
from outpass.errors import SessionError
from outpass.model import Capability
from outpass.policy import addresses, names
from outpass.reasons import Reason

MAX_CHAIN: Final = 64
MAX_DST: Final = 300
"""Characters: a host of 253, brackets, a port."""

# What a chain entry of a shim may look like: names in PEP 503 form, the application, the unknown, the unproven. Never `*`,
# `unattributed` or `exe:…`: these are principals that a process with a session is not.
_ENTRY: Final = re.compile(
    r"!?(?:[a-z0-9](?:[a-z0-9-]{0,98}[a-z0-9])?|pkg:pypi/(?:app|unattributed)"
    r"|pkg:npm/(?:@[a-z0-9~-][a-z0-9._~-]{0,99}/)?[A-Za-z0-9~_-][A-Za-z0-9._~-]{0,99})|\?"
)
_RESERVED: Final = frozenset({"unattributed", "!unattributed"})

USES: Final[dict[str, frozenset[str]]] = {
    "request": frozenset({Capability.HTTP.value, Capability.FETCH.value}),
    "connect": frozenset({Capability.HTTP.value, Capability.FETCH.value}),
    "channel": frozenset({Capability.HTTP.value, Capability.FETCH.value, Capability.SOCKET.value}),
    "spawn": frozenset({Capability.HTTP.value}),
}
"""Use of a pass → capabilities that it can be asked for with."""
CHECKED: Final[dict[str, str]] = {
    Capability.SOCKET.value: "tcp",
    Capability.DNS.value: "dns",
    Capability.LISTEN.value: "listen",
}
"""Capability that `check` knows → scheme of the request that is decided."""


class Refused(Exception):
    """A message that gets `{"error": …}`; the connection stays open."""

    def __init__(self, reason: Reason, say: str) -> None:
        super().__init__(say)
        self.reason = reason
        self.say = say


class Connected(NamedTuple):
    """A connection that was made, in normal form."""

    client: tuple[str, int]
    server: tuple[str, int]


class Hello(NamedTuple):
    """A process asks for its session."""

    lang: str
    runtime: str
    shim: str
    paths: tuple[str, ...]
    argv: tuple[str, ...]
    cwd: str
    spawn: str | None
    fork_of: str | None


class Ask(NamedTuple):
    """A mint or a check, in normal form."""

    use: str
    """Empty for a check."""
    cap: str
    host: str
    port: int
    tls: bool
    chain: tuple[str, ...]
    gate: bool = False
    """A check of a connection that goes through the gate anyway."""
    name: str = ""
    """Of a check without a jail: what the program looked up to get the address in `host`."""


class Lookup(NamedTuple):
    """A resolve, in normal form."""

    name: str
    chain: tuple[str, ...]
    port: int
    """What the caller wants to connect to; 0 where it did not say."""
    rtype: str
    """The type of a real query; empty for an address."""


def read(data: bytes) -> dict[str, Any]:
    """One message as an object. Raises Refused."""
    try:
        message = json.loads(data)
    except (ValueError, RecursionError):
        raise Refused(Reason.BAD_REQUEST, "the message is not JSON") from None
    if not isinstance(message, dict):
        raise Refused(Reason.BAD_REQUEST, "the message is not a JSON object")
    return message


def read_hello(message: dict[str, Any]) -> Hello:
    """A hello. Raises SessionError: without a readable hello there is no session."""
    if message.get("v") != 1 or isinstance(message.get("v"), bool):
        raise SessionError(Reason.PROTOCOL_UNKNOWN, f"this broker speaks version 1, not {str(message.get('v'))[:20]}")
    paths, argv = message.get("paths", []), message.get("argv", [])
    for field in (paths, argv):
        if not isinstance(field, list) or not all(isinstance(x, str) for x in field):
            raise SessionError(Reason.SESSION_REFUSED, "paths and argv are lists of strings")
    spawn, fork_of = message.get("spawn"), message.get("fork_of")
    for optional in (spawn, fork_of):
        if not (optional is None or isinstance(optional, str)):
            raise SessionError(Reason.SESSION_REFUSED, "spawn and fork_of are strings or null")
    return Hello(
        lang=_short(message.get("lang")),
        runtime=_short(message.get("runtime")),
        shim=_short(message.get("shim")),
        paths=tuple(paths),
        argv=tuple(a[:200] for a in argv[:16]),
        cwd=_short(message.get("cwd"), 4096),
        spawn=spawn or None,
        fork_of=fork_of or None,
    )


def _short(value: Any, limit: int = 40) -> str:
    return value[:limit] if isinstance(value, str) else ""


def read_mint(message: dict[str, Any]) -> Ask:
    """A mint. Raises Refused."""
    use, cap, tls = message.get("use"), message.get("cap"), message.get("tls", False)
    if not isinstance(use, str) or use not in USES:
        raise Refused(Reason.PROTOCOL_UNKNOWN, "this use of a pass is not known")
    if not isinstance(cap, str) or cap not in USES[use]:
        raise Refused(Reason.PROTOCOL_UNKNOWN, "this capability cannot be asked for with this use")
    if not isinstance(tls, bool):
        raise Refused(Reason.BAD_REQUEST, "tls is true or false")
    host, port = ("*", 0) if use == "spawn" else _authority(message.get("dst"))
    return Ask(use, cap, host, port, tls, _chain(message.get("chain")))


def read_check(message: dict[str, Any]) -> Ask:
    """A check. Raises Refused."""
    cap = message.get("cap")
    if not isinstance(cap, str) or cap not in CHECKED:
        raise Refused(Reason.PROTOCOL_UNKNOWN, "this capability cannot be checked")
    dst = message.get("dst")
    chosen = cap == Capability.LISTEN and isinstance(dst, str) and dst.endswith(":0")  # the kernel chooses the port
    host, port = _authority(f"{dst}1" if chosen else dst)
    port = 0 if chosen else port
    gate = message.get("gate", False)
    if not isinstance(gate, bool) or (gate and cap != Capability.SOCKET.value):
        raise Refused(Reason.BAD_REQUEST, "gate is true or false, and for sockets only")
    return Ask("", cap, host, port, False, _chain(message.get("chain")), gate, _looked_up(message.get("name"), cap, host))


def _looked_up(name: object, cap: str, host: str) -> str:
    if name is None:
        return ""
    if not isinstance(name, str) or len(name) > MAX_DST or cap != Capability.SOCKET.value or not addresses.is_literal(host):
        raise Refused(Reason.BAD_REQUEST, "name is a host, and for sockets to an address only")
    try:
        return names.host(name)
    except ValueError:
        return ""  # no rule can name it


def read_lookup(message: dict[str, Any]) -> Lookup:
    """A resolve. Raises Refused."""
    name, port, rtype = message.get("name"), message.get("port", 0), message.get("rtype")
    if not isinstance(name, str) or len(name) > MAX_DST:
        raise Refused(Reason.BAD_HOST, "name is a host")
    try:
        host = names.host(name)
    except ValueError as e:
        raise Refused(Reason.BAD_HOST, f"name is a host; {e}") from None
    if not isinstance(port, int) or isinstance(port, bool) or not 0 <= port <= 65535:
        raise Refused(Reason.BAD_REQUEST, "port is a number, 0 where it is not known")
    kind = ""
    if rtype is not None:
        found = queries.kind(rtype)
        if found is None:
            raise Refused(Reason.DNS_TYPE, "rtype is the name of one record type, as TXT")
        if addresses.is_literal(host):
            raise Refused(Reason.BAD_HOST, "an address has no records")
        kind = found
    return Lookup(host, _chain(message.get("chain")), port, kind)


def read_connected(message: dict[str, Any]) -> Connected:
    """A connected. Raises Refused."""
    found = []
    for end in (message.get("client"), message.get("server")):
        if not isinstance(end, list) or len(end) != 2 or not isinstance(end[0], str) or type(end[1]) is not int:
            raise Refused(Reason.BAD_REQUEST, "client and server are [address, port]")
        try:
            found.append((str(ipaddress.ip_address(addresses.canonical(end[0][:64]))), names.port(str(end[1]))))
        except ValueError:
            raise Refused(Reason.BAD_REQUEST, "client and server are [address, port]") from None
    return Connected(found[0], found[1])


def _authority(dst: Any) -> tuple[str, int]:
    if not isinstance(dst, str) or len(dst) > MAX_DST:
        raise Refused(Reason.BAD_TARGET, "dst is host:port")
    try:
        return names.authority(dst, None)
    except ValueError as e:
        raise Refused(Reason.BAD_TARGET, f"dst is host:port; {e}") from None


def _chain(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise Refused(Reason.BAD_REQUEST, "chain is a list of names")
    for entry in value:
        if not isinstance(entry, str) or entry in _RESERVED or not _ENTRY.fullmatch(entry):
            raise Refused(Reason.BAD_REQUEST, "chain holds something that is not the name of a package")
    chain = tuple(value)
    # PROTOCOL.md: more are cut and end in `?`, which holds no rights: what was cut cannot be vouched for.
    return (*chain[: MAX_CHAIN - 1], "?") if len(chain) > MAX_CHAIN else chain or ("?",)
