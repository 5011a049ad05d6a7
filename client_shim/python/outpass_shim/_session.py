"""hello, mint and check: what this process asks the broker for.

Lives here: the session and the three questions. May not live here: the transport (_wire), frames (_chain).

Nothing here raises into an HTTP library. Without a pass the request still goes to the gate, and the gate says in its answer
what is wrong; an exception would be taken for a network fault and retried.
"""

import _thread
import os
import sys
import time

from outpass_shim import __version__, _boot, _registry, _wire
from outpass_shim._chain import principals
from outpass_shim._registry import UNKNOWN, Any

_lock = _thread.RLock()
_sid: "str | None" = None
_fork_of: "str | None" = None
jailed = False
"""Whether this process is in a jail whose every connection comes to the gate."""
forward: "tuple[int, ...]" = ()
"""Ports of the jail's loopback that lead to the host's."""
_refused: "tuple[str, str] | None" = None
"""Reason and text of a hello that was refused, or of a broker that is gone."""
_refused_at = 0.0
AGAIN_S = 1.0
"""Seconds after a refusal in which no other hello is said: the broker may be back, and know this process again."""
_leave: "dict[tuple[tuple[str, ...], str], float]" = {}
"""Chain and destination → until when (time.monotonic) leave to send datagrams is not asked for again."""
LEAVE_S, MAX_LEAVE = 1.0, 1024
_greeting: Any = None
"""A connection on which hello was said and whose answer nobody has read yet."""


def _dumps(message: "dict[str, Any]") -> bytes:
    from json import dumps  # here and not above: json (and re) are not needed to start a program

    return dumps(message, separators=(",", ":")).encode("ascii")


def _loads(packet: bytes) -> "dict[str, Any]":
    from json import loads

    reply = loads(packet)
    return reply if isinstance(reply, dict) else {"error": "session_refused", "say": "the broker's answer is not an object"}


def _hello() -> bytes:
    try:
        cwd = os.getcwd()
    except OSError:
        cwd = ""
    spawn = None if _fork_of else _boot.SPAWN
    argv, paths = [a[:200] for a in getattr(sys, "argv", [])[:16]], list(map(str, sys.path))
    about = {"lang": "python", "runtime": ".".join(map(str, sys.version_info[:3])), "shim": __version__, "prefix": sys.prefix}
    return _dumps({"op": "hello", "v": 1, **about, "paths": paths, "argv": argv, "cwd": cwd, "spawn": spawn, "fork_of": _fork_of})


def greet() -> None:
    """Says hello without waiting for the answer."""
    global _greeting
    try:
        _greeting = _wire.connect(_boot.MINT)
        _greeting.send(_hello())
    except (_wire.Gone, OSError):
        _greeting = None  # ensure() tries again, and reports


def ensure() -> bool:
    """Whether this process has a session; says hello if nobody has. Never raises: no session means no passes."""
    if _sid is None and _may_ask():
        with _lock:
            if _sid is None and _may_ask():  # type: ignore[redundant-expr]  # another thread may have been first
                try:
                    _open()
                except _wire.Gone as e:
                    _refuse("broker_unavailable", f"the broker is gone ({e})")
                except Exception as e:
                    _refuse("session_refused", f"the broker's hello cannot be used ({type(e).__name__}: {e})")
    return _sid is not None


def _may_ask() -> bool:
    return _refused is None or time.monotonic() - _refused_at >= AGAIN_S


def _ask(message: "dict[str, Any]") -> "dict[str, Any]":
    """The broker's reply. Raises _wire.Gone. A broker that does not know this process hears a hello before the next question."""
    global _sid
    reply = _loads(_wire.ask(_boot.MINT, _dumps(message)))
    if reply.get("error") == "session_refused":
        _sid = None
        _wire.forget()
    return reply


def _open() -> None:
    global _greeting, _sid, _refused, jailed, forward
    sock, _greeting = _greeting, None
    packet = None if sock else _hello()
    sock = sock or _wire.connect(_boot.MINT)
    reply = _loads(_wire.exchange(sock, packet))
    if "error" in reply:
        sock.close()
        return _refuse(str(reply["error"]), str(reply.get("say", "")))
    with open(reply["map"], "rb") as file:
        content = _loads(file.read())
    _registry.adopt(_registry.Map(content, reply))
    jailed, forward = reply.get("jailed") is True, tuple(reply.get("forward", ()))
    _sid, _refused = reply["sid"], None
    _wire.give_back(sock)
    return None


def _refuse(reason: str, text: str) -> None:
    global _refused, _refused_at
    _refused, _refused_at = (reason, text), time.monotonic()
    _wire.say("error", f"this process has no session: {text or reason}")
    _wire.say("hint", "its requests carry no passes, and raw sockets, dns and listen are refused to it")


def mint(use: str, destination: str, tls: bool) -> "tuple[str, str] | None":
    """(pass, tunnel) for one request, CONNECT or child of whoever is calling; None without one: then the gate refuses."""
    try:
        if not ensure():
            return None
        chain = principals(sys._getframe())
        message = {"op": "mint", "use": use, "cap": "network:http", "dst": destination, "tls": tls, "chain": chain}
        reply = _ask(message)
        if "pass" in reply:
            return reply["pass"], reply.get("tunnel", "http")
        why = reply.get("say") or reply.get("error")
    except Exception as e:
        why = e
    _wire.say("hint", f"the broker gives no pass ({why}), so the gate refuses")
    return None


def check(
    capability: str, destination: str, gate: bool = False, lasting: bool = False, name: str = ""
) -> "tuple[tuple[str, ...], tuple[str, str] | None, str]":
    """(chain of whoever is calling, refusal as reason and text or None when allowed, tunnel). No answer is a refusal.

    tunnel: `http` where the gate will look into the connection, else `opaque`; a broker that does not say means that.
    `lasting`: leave that this chain was given in the last second is good enough, as for datagrams, of which there are many.
    `name`: what was looked up, where the destination is an address.
    """
    chain: tuple[str, ...] = (UNKNOWN,)
    if not ensure():
        return chain, _refused, "opaque"
    try:
        chain = principals(sys._getframe())
        if lasting and _leave.get((chain, destination), 0.0) > time.monotonic():
            return chain, None, "opaque"
        message = {"op": "check", "cap": capability, "dst": destination, "chain": chain, **({"name": name} if name else {})}
        reply = _ask({**message, "gate": True} if gate else message)
    except Exception as e:
        return chain, ("broker_unavailable", f"the broker that decides about {capability} is gone ({e})"), "opaque"
    if reply.get("allow") is True:
        if lasting:
            if len(_leave) >= MAX_LEAVE:
                _leave.clear()
            _leave[chain, destination] = time.monotonic() + LEAVE_S
        return chain, None, str(reply.get("tunnel", "opaque"))
    reason = str(reply.get("reason") or reply.get("error") or "internal")
    return chain, (reason, str(reply.get("say") or f"{capability} to {destination} is refused: {reason}")), "opaque"


def resolve(name: str, port: int) -> "tuple[tuple[str, ...], str, str, tuple[str, str] | None]":
    """(chain of whoever is calling, address that stands for a name and that chain, the name, refusal). In a jail only."""
    chain, reply, refusal = _look_up({"op": "resolve", "name": name, "port": port, "family": 4})
    return chain, str(reply.get("address", "")), str(reply.get("name", name)), refusal


def connected(client: "tuple[str, int]", server: "tuple[str, int]") -> None:
    """Says that a connection between these two ends is this process's. Nothing depends on the answer."""
    try:
        _ask({"op": "connected", "client": client, "server": server})
    except Exception:  # then the broker looks for it
        return


def query(name: str, rtype: str) -> "tuple[tuple[str, ...], dict[str, Any], tuple[str, str] | None]":
    """(chain of whoever is calling, the broker's answer to a real query, refusal)."""
    return _look_up({"op": "resolve", "name": name, "rtype": rtype})


def _look_up(message: "dict[str, Any]") -> "tuple[tuple[str, ...], dict[str, Any], tuple[str, str] | None]":
    chain: tuple[str, ...] = (UNKNOWN,)
    if not ensure():
        return chain, {}, _refused
    try:
        chain = principals(sys._getframe())
        reply = _ask({**message, "chain": chain})
    except Exception as e:
        return chain, {}, ("broker_unavailable", f"the broker that knows addresses is gone ({e})")
    if "address" in reply or "answers" in reply:
        return chain, reply, None
    reason = str(reply.get("reason") or reply.get("error") or "internal")
    return chain, {}, (reason, str(reply.get("say") or f"a look-up of {message['name']} is refused: {reason}"))


def forked() -> None:
    """In a child after fork(): a session of its own, asked for when it is needed, as the child of the parent's."""
    global _lock, _sid, _fork_of, _greeting
    _lock = _thread.RLock()  # another thread of the parent may have held it
    _leave.clear()
    _fork_of, _sid, _greeting = _sid or _fork_of, None, None
    _wire.forget()
