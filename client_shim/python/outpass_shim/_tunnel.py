"""Raw sockets in a jail: a look-up gets an address that stands for the name and for whoever asked; to connect is for the gate.

Lives here: which address a name, a literal or a forwarded port is turned into. May not live here: what is local (_guard), the
decision, which is the broker's and then the gate's.

The address is asked for again at every connect, by the chain that connects: a pool may look up once, for everybody. C code that
connects to an address that Python looked up is charged to whoever looked it up.
"""

import _socket
from _contextvars import ContextVar

from outpass_shim import _session
from outpass_shim._registry import Any

HOST = "host.outpass.internal"
"""The loopback of the machine outside the jail."""

_names: "dict[str, str]" = {}
"""Address → what it stands for, for those that this process was given."""
MAX_NAMES = 8192

tunnels: "dict[str, str]" = {}
"""Authority → `http` or `opaque`, as the last CONNECT or connection to it was told: whether passes belong inside."""
opened: "ContextVar[tuple[str, str] | None]" = ContextVar("outpass_tunnel", default=None)
"""(authority, kind) of the tunnel that this context opened last."""
_direct: "dict[tuple[str, int], tuple[str, str]]" = {}
"""(address, port) that this process connected to → (authority, kind)."""


def authority(host: str, port: int) -> str:
    """`host:port` as it goes over the wire: A-labels, IPv6 in brackets."""
    host = host.strip("[]")
    if not host.isascii():
        host = host.encode("idna").decode("ascii")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def opening(address: str, port: int, kind: str) -> None:
    """A connection to an address of ours is about to be made, without a CONNECT."""
    found = (authority(meant(address), port).lower(), kind)
    if len(_direct) >= MAX_NAMES:
        _direct.clear()
    _direct[(address, port)] = found
    tunnels[found[0]] = kind
    opened.set(found)


def behind(sock: Any) -> "tuple[str, str] | None":
    """(authority, kind) of a connection that leads through the gate without a CONNECT; None for any other."""
    try:
        return at(sock.getpeername())
    except (OSError, AttributeError):
        return None


def at(peer: Any) -> "tuple[str, str] | None":
    """The same by the address that it is connected to."""
    if not _direct or not isinstance(peer, tuple) or len(peer) < 2:
        return None
    host = str(peer[0])
    return _direct.get((host[7:] if host.lower().startswith("::ffff:") else host, peer[1]))


def jailed() -> bool:
    """Whether connections to any address come to the gate by themselves."""
    return _session.ensure() and _session.jailed


def forwarded(port: object) -> bool:
    """Whether this port of the jail's loopback leads to the host's."""
    return port in _session.forward


def address_of(name: str, port: object) -> "tuple[tuple[str, ...], str, tuple[str, str] | None]":
    """(chain, address, refusal) of a name or a literal."""
    chain, address, full, refusal = _session.resolve(name, port if isinstance(port, int) else 0)
    if refusal is None:
        if len(_names) >= MAX_NAMES:
            _names.clear()
        _names[address] = full
    return chain, address, refusal


def meant(host: str) -> str:
    """What was meant by an address: the name that it stands for, else itself."""
    plain = host[7:] if host.lower().startswith("::ffff:") else host
    return _names.get(plain, host)


def synthetic(host: str) -> bool:
    """Whether an address is one of those that stand for a name."""
    plain = host[7:] if host.lower().startswith("::ffff:") else host
    return plain.startswith(("198.18.", "198.19."))


def connected(sock: Any, to: "tuple[Any, ...]") -> None:
    """Tells the broker that a connection to one of its addresses is this process's. Never raises: then it is looked for."""
    try:
        client = _socket.socket.getsockname(getattr(sock, "_sock", sock))[:2]  # gevent's has one inside
    except OSError:
        return
    if client[1]:
        _session.connected(client, to[:2])


def rewritten(family: int, original: "tuple[Any, ...]", address: str) -> "tuple[Any, ...]":
    """A socket address like `original`, to `address`."""
    host = "::ffff:" + address if family == _socket.AF_INET6 else address
    return (host, *original[1:2], 0, 0) if family == _socket.AF_INET6 else (host, *original[1:])
