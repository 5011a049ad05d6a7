"""The gate's process: `python -m outpass.gate --control FD`. Starts the engine, then does what the broker says.

Lives here: the order of starting and ending, signals, the process's own settings. May not live here: operations (gate.py).

Whenever the broker is gone, for whatever reason, the process ends at once: its listeners go with it, and nothing gets out.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime
import gc
import logging
import os
import signal
import socket
import ssl
import sys
import time
from pathlib import Path
from typing import Any

from outpass import upstream
from outpass.errors import StartError
from outpass.gate import bounds, descriptors, shared, trust
from outpass.gate.addon import Addon
from outpass.gate.budget import Budgets
from outpass.gate.ca import GateTls, LeafStore
from outpass.gate.control import Control, ControlClosed, Packet
from outpass.gate.engine import install, options
from outpass.gate.gate import Gate
from outpass.gate.outgoing import Outgoing
from outpass.gate.pins import Overrides, Via
from outpass.gate.principal import Passes
from outpass.policy import names


def run(control_fd: int) -> int:
    """Serve until the broker says drain (0), SIGTERM (0), or is gone (1). Raises StartError when it cannot start."""
    _settings()
    sock = socket.socket(fileno=control_fd)
    if sock.type != socket.SOCK_SEQPACKET:
        raise StartError("--control is not a SEQPACKET socket")
    return asyncio.run(_serve(sock))


async def _serve(sock: socket.socket) -> int:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_unhandled)
    control = Control(sock)
    try:
        packet = await control.receive()
    except ControlClosed:
        return 1
    outgoing = Outgoing(sock, loop, lambda: os._exit(1))
    try:
        gate = _start(packet, outgoing)
    finally:
        packet.close()
    _named("outpass-gate")
    loop.add_signal_handler(signal.SIGTERM, gate.begin_drain)
    gc.collect()
    gc.freeze()  # nothing of what is loaded now dies before the process: keep the collector from walking it
    outgoing.post({"op": "ready", "pid": os.getpid()})
    listening = loop.create_task(_listen(control, gate))
    finished = loop.create_task(gate.finished.wait())
    await asyncio.wait((listening, finished), return_when=asyncio.FIRST_COMPLETED)
    if listening.done() and not listening.cancelled() and (error := listening.exception()) is not None:
        logging.getLogger("outpass.gate").error("outpass: error: the gate failed: %r", error)
    # No clean-up on the way out: whatever is still open is closed by the kernel, now.
    sys.stderr.flush()
    os._exit(0 if finished.done() else 1)


async def _listen(control: Control, gate: Gate) -> None:
    try:
        while True:
            await gate.handle(await control.receive())
    except ControlClosed:
        return


def _start(packet: Packet, outgoing: Outgoing) -> Gate:
    """Everything that `start` brings: keys, CA, trust, overrides, shared memory. Raises StartError."""
    message = packet.message
    if message["op"] != "start" or len(packet.fds) != 4:
        raise StartError("the gate's first message is not start with the ledger, the turn, the quota and the shares")
    try:
        keys = {str(kid): base64.b64decode(key, validate=True) for kid, key in message["keys"].items()}
        overrides = _overrides(message.get("connect_to") or [])
        proxy = upstream.of_message(message.get("upstream"))
        issuer, ca_key, ca_cert = str(message["iss"]), str(message["ca_key"]), str(message["ca_cert"])
        ledger, turn = shared.ledger_in(packet.fds[0]), shared.turn_in(packet.fds[1])
        kept = bounds.of(message.get("bounds") or {})
        budgets = Budgets(shared.quota_in(packet.fds[2]), time.monotonic_ns)
        index, count = int(message.get("gate", 0)), int(message.get("gates", 1))
        share = shared.Share(packet.fds[3], index, count) if count > 1 else None
    except (KeyError, TypeError, AttributeError, ValueError, OSError) as error:
        raise StartError(f"the gate cannot read its start message: {type(error).__name__}: {error}") from None
    install.install()
    store = LeafStore(ca_key, ca_cert, lambda: datetime.datetime.now(datetime.UTC))
    tls = GateTls(store, Addon.certificate_name, Addon.party)
    _, path = trust.joined(message.get("bundle"))
    gate = Gate(outgoing, overrides, turn, budgets, share, kept, _via(proxy, path))
    passes = Passes(keys, ledger, gate.ended, time.time, issuer)
    addon = Addon(passes, gate.recorder, gate.unavailable, gate.questions, gate.opener, budgets)
    gate.serve_with(addon, tls, options.start(tls, path))
    return gate


def _overrides(entries: list[Any]) -> Overrides:
    return {(names.host(h), int(p)): (names.host(address), int(port)) for h, p, address, port in entries}


def _via(proxy: upstream.Upstream | None, trusted: str) -> Via | None:
    if proxy is None:
        return None
    return Via(proxy, ssl.create_default_context(cafile=trusted) if proxy.scheme == "https" else None)


def _settings() -> None:
    """What the process does differently from any other Python program."""
    # ^C goes to the whole foreground group. The program in the jail decides what it means; the broker ends us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    descriptors.ask_for_more()
    logging.basicConfig(level=logging.ERROR, format="%(message)s", stream=sys.stderr)


def _named(name: str) -> None:
    """Call the process what it is now, for ps: one that waits in reserve is still called python."""
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(name)


def _unhandled(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """One line for what asyncio would print as a traceback."""
    error = context.get("exception")
    if isinstance(error, (ConnectionError, TimeoutError)):
        return  # a peer that went away while nobody waited for it
    logging.getLogger("outpass.gate").error("outpass: error: the gate: %s: %r", context.get("message"), error)
