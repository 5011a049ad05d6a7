"""The gate's listeners, opened inside the jail's network namespace and held by the gate outside of it.

Lives here: making one listening socket as its step says. May not live here: accepting on it, handing it over.
"""

from __future__ import annotations

import socket
from typing import Final

from outpass.jail.steps import Listen

BACKLOG: Final = 1024

_IP_TRANSPARENT: Final = 19
_IP_PKTINFO: Final = 8
_IPV6_RECVPKTINFO: Final = 49
_IPV6_TRANSPARENT: Final = 75
_IPV6_FREEBIND: Final = 78


def make(step: Listen) -> socket.socket:
    """The socket of `step`, listening (tcp) or bound (udp). Raises OSError; EADDRINUSE cannot happen in a new namespace."""
    family = socket.AF_INET6 if ":" in step.address else socket.AF_INET
    kind = socket.SOCK_STREAM if step.transport == "tcp" else socket.SOCK_DGRAM
    sock = socket.socket(family, kind)
    try:
        _prepare(sock, family, step)
        sock.bind((step.address, step.port))
        if step.transport == "tcp":
            sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _prepare(sock: socket.socket, family: int, step: Listen) -> None:
    if step.transport == "tcp":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    elif family == socket.AF_INET:
        # with packet information: the answer must come from the nameserver's address that the question was sent to
        sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
    if step.transparent:
        sock.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
