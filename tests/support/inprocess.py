"""A gate inside the test's process, with a policy that is any function, and the stock engine as a process beside it.

Lives here: what tests of the handler need that a real gate process does not let them do (a hook that raises, a resolver that
changes its mind). May not live here: expectations.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from outpass.broker import keys as broker_keys
from outpass.gate import listeners, trust
from outpass.gate.addon import Addon
from outpass.gate.budget import Budgets
from outpass.gate.ca import GateTls, LeafStore
from outpass.gate.engine import options
from outpass.gate.gate import Gate
from outpass.gate.jails import Decide, Jail
from outpass.gate.outgoing import Outgoing
from outpass.gate.pins import Overrides
from outpass.gate.principal import Passes
from outpass.model import Decision, EgressRequest, Tier, Verdict
from outpass.passes import ledger, quota
from outpass.policy import turn
from outpass.policy.turn import Turn
from outpass.reasons import Reason
from tests.support.engine import engine


def allow(request: EgressRequest) -> Decision:
    """A policy that allows everything."""
    return Decision(Verdict.ALLOW, Reason.ALLOWED, request, request.chain[0], None, None, None, None, "test")


@dataclass
class InProcess:
    """`with in_process(decide) as gate:`; `gate.port` is its listener."""

    port: int
    gate: Gate
    jail: Jail
    loop: asyncio.AbstractEventLoop
    records: list[dict[str, Any]] = field(default_factory=list)

    def wait_records(self, count: int, seconds: float = 10) -> list[dict[str, Any]]:
        """The records, once there are `count`."""
        end = time.monotonic() + seconds
        while len(self.records) < count:
            assert time.monotonic() < end, self.records
            time.sleep(0.01)
        return self.records


@contextmanager
def in_process(decide: Decide = allow, overrides: Overrides | None = None) -> Iterator[InProcess]:
    """A gate in a thread of this process, with one plain listener and no broker."""
    loop = asyncio.new_event_loop()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    listening = socket.create_server(("127.0.0.1", 0))
    keys = broker_keys.make(datetime.datetime.now(datetime.UTC))
    jail = Jail("j-in", Tier.ATTRIBUTED.value, "no-jail", decide)

    async def start() -> Gate:
        budgets = Budgets(quota.Quota(memoryview(bytearray(quota.SIZE_BYTES))), time.monotonic_ns)
        gate = Gate(Outgoing(ours, loop, loop.stop), overrides or {}, Turn(bytearray(turn.SIZE_BYTES)), budgets)
        store = LeafStore(keys.ca_key, keys.ca_cert, lambda: datetime.datetime.now(datetime.UTC))
        tls = GateTls(store, Addon.certificate_name, Addon.party)
        passes = Passes(
            {keys.kid: keys.key}, ledger.Ledger(memoryview(bytearray(ledger.SIZE_BYTES))), gate.ended, time.time, keys.iss
        )
        gate.serve_with(
            Addon(passes, gate.recorder, gate.unavailable, gate.questions, gate.opener, budgets),
            tls,
            options.start(tls, trust.system_bundle()),
        )
        gate.jails[jail.id] = jail
        await listeners.adopt(jail, listening, gate.accept)
        return gate

    with engine("ours"):
        gate = loop.run_until_complete(start())
        made = InProcess(listening.getsockname()[1], gate, jail, loop)
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()

        def read() -> None:
            while data := theirs.recv(1 << 17):
                made.records += json.loads(data)["records"]

        threading.Thread(target=read, daemon=True).start()
        try:
            yield made
        finally:
            loop.call_soon_threadsafe(jail.close_clients)
            loop.call_soon_threadsafe(jail.stop_accepting)
            loop.call_soon_threadsafe(loop.call_later, 0.05, loop.stop)
            thread.join(10)
            for sock in (ours, theirs):
                sock.close()


def _answers(port: int) -> bool:
    """Whether the stock engine serves. It listens before its addons are ready and drops what comes in between, so a connection
    is not enough: this asks for something no hook sees (a request in origin form) until it is answered."""
    try:
        with socket.create_connection(("127.0.0.1", port), 5) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
            return sock.recv(100).startswith(b"HTTP/1.1 400")
    except OSError:
        return False


@contextmanager
def stock(tmp_path: Path, script: str, *, trusted: Path | None = None) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """The engine as its makers ship it (mitmdump), with an addon script; yields its port and its process."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    (tmp_path / "script.py").write_text(script)
    command = [sys.executable, "-c", "from mitmproxy.tools.main import mitmdump; mitmdump()", "-q", "-p", str(port)]
    # Lazy, as the gate is: eager would mirror the origin's protocol to the client.
    command += [
        "--set",
        "connection_strategy=lazy",
        "-s",
        str(tmp_path / "script.py"),
        "--set",
        f"confdir={tmp_path / 'conf'}",
        "--listen-host",
        "127.0.0.1",
    ]
    if trusted is not None:
        command += ["--set", f"ssl_verify_upstream_trusted_ca={trusted}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 30
        while not _answers(port):
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.02)
        yield port, process
    finally:
        process.terminate()
        process.wait(10)
