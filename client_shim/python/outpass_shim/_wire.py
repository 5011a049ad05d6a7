"""One packet to the broker, one packet back: the transport of PROTOCOL.md.

Lives here: connections, deadlines, the two lines that the shim may print. May not live here: what the messages mean.

One connection per thread, and never two questions on one: a connection is *taken* while a question is open on it, so a signal
handler or a finalizer that asks in between finds none and opens another.
"""

import _socket
import _thread
import sys
import time

from outpass_shim._registry import Any

DEADLINE_S = 10.0
MAX_PACKET = 65536
"""Bytes, either way."""

_local = _thread._local()
_said: "set[str]" = set()
_silent_until = 0.0
"""After a deadline has passed: the next question would only wait as long again. time.monotonic()."""
SILENCE_S = 30.0


class Gone(Exception):
    """The broker does not answer. Whatever was asked for is refused."""


def say(kind: str, text: str) -> None:
    """One line on standard error, `outpass: error: …` or `outpass: hint: …`, each text once in a process."""
    if text not in _said and sys.stderr is not None:
        _said.add(text)
        try:
            sys.stderr.write(f"outpass: {kind}: {text}\n")
        except (OSError, ValueError):
            pass  # a closed standard error must not break the program


def connect(address: str) -> Any:
    """A connection to the broker (the C class: what the program or _guard do to `socket.socket` does not reach it)."""
    if _silent_until and time.monotonic() < _silent_until:
        raise Gone(f"it did not answer in {DEADLINE_S:.0f} s")
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    try:
        sock.settimeout(DEADLINE_S)
        sock.connect("\0" + address[1:] if address[0] == "@" else address)
    except OSError as e:
        sock.close()
        raise Gone(str(e)) from None
    return sock


def exchange(sock: Any, packet: "bytes | None") -> bytes:
    """The answer to `packet`, or with None to what was sent before. Raises Gone; a connection that failed is closed."""
    global _silent_until
    try:
        if packet is not None:
            sock.send(packet)
        reply: bytes = sock.recv(MAX_PACKET)
        if not reply:
            raise Gone("it closed the connection")
    except _socket.timeout:
        _silent_until = time.monotonic() + SILENCE_S
        sock.close()
        raise Gone(f"it did not answer in {DEADLINE_S:.0f} s") from None
    except BaseException as e:
        sock.close()
        if isinstance(e, OSError):
            raise Gone(str(e)) from None
        raise
    return reply


def ask(address: str, packet: bytes) -> bytes:
    """The answer to one packet, over this thread's connection, or where that is a dead broker's over a new one. Raises Gone."""
    sock = _local.__dict__.pop("sock", None)
    reply = None
    if sock is not None:
        try:
            reply = exchange(sock, packet)
        except Gone:
            sock = None
    if sock is None or reply is None:
        sock = connect(address)
        reply = exchange(sock, packet)
    give_back(sock)
    return reply


def give_back(sock: Any) -> None:
    """Makes `sock`, on which no question is open, the one of this thread."""
    if "sock" in _local.__dict__:
        sock.close()
    else:
        _local.sock = sock


def forget() -> None:
    """In a child after fork(): the connections are the parent's, and the broker closes them on a foreign pid."""
    global _local
    _local = _thread._local()
